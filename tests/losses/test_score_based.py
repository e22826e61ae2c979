"""The score-based baselines: hand-worked numbers, normalizers, ignored candidates."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from rankdet.losses import (
    CenternessCrossEntropyLoss,
    CenternessWeights,
    ConstantBalance,
    CountOrImages,
    CountPerImage,
    EqualizationLossV2,
    FocalLoss,
    GIoULoss,
    IoUCrossEntropyLoss,
    IoUWeights,
    L1Loss,
    NoWeights,
    PositiveCount,
    Processes,
    QualityFocalLoss,
    SigmoidCrossEntropyLoss,
    SmoothL1Loss,
    SoftmaxCrossEntropyLoss,
    Tasks,
    VarifocalLoss,
    focal_loss,
    quality_focal_loss,
    varifocal_loss,
)
from rankdet.structures import Candidates, Matched

DELTAS = torch.tensor([[0.5, -2.0, 0.0, 1.0], [0.0, 0.0, 0.25, 0.0]])
BOXES = torch.tensor([[0.0, 0, 4, 2], [1, 1, 3, 3]])
OBJECTS = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]])


def make_candidates(logits: Tensor, labels: list[int], num_classes: int, positives: int = 2) -> Candidates:
    return Candidates(
        "head",
        logits.requires_grad_(),
        torch.tensor(labels, dtype=torch.int64),
        num_classes,
        boxes=Matched(BOXES[:positives].clone().requires_grad_(), OBJECTS[:positives]),
        deltas=Matched(DELTAS[:positives].clone().requires_grad_(), torch.zeros(positives, 4)),
    )


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def test_sigmoid_cross_entropy_worked_out_by_hand() -> None:
    """An RPN: two positives, a negative, one ignored; three take part."""
    candidates = make_candidates(torch.tensor([[2.0], [-1.0], [0.5], [7.0]]), [0, 0, 1, -1], 1)
    terms, stats = SigmoidCrossEntropyLoss(L1Loss())(candidates)
    assert set(terms) == {"classification", "localization"}
    expected = -(log_sigmoid(2) + log_sigmoid(-1) + log_sigmoid(-0.5)) / 3
    assert terms["classification"].item() == pytest.approx(expected)
    assert terms["localization"].item() == pytest.approx(3.75 / 3)
    assert (stats["positives"], stats["negatives"]) == (2, 1)
    terms["classification"].backward()
    sigmoid = torch.tensor([2.0, -1.0, 0.5]).sigmoid()
    expected_gradient = (sigmoid - torch.tensor([1.0, 1.0, 0.0])) / 3
    torch.testing.assert_close(candidates.logits.grad[:3, 0], expected_gradient)
    assert candidates.logits.grad[3].item() == 0


def test_sigmoid_cross_entropy_sums_over_classes() -> None:
    candidates = make_candidates(torch.tensor([[1.0, -1.0], [0.0, 2.0]]), [0, 2], 2, positives=1)
    terms, stats = SigmoidCrossEntropyLoss(GIoULoss())(candidates)
    expected = -(log_sigmoid(1) + log_sigmoid(1) + log_sigmoid(0) + log_sigmoid(-2)) / 2
    assert terms["classification"].item() == pytest.approx(expected)
    assert (stats["positives"], stats["negatives"]) == (1, 3)


def test_softmax_cross_entropy_worked_out_by_hand() -> None:
    """An R-CNN head of two classes: the last column is the background; three of four take part."""
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 2.0], [5.0, 5.0, 5.0]])
    candidates = make_candidates(logits, [0, 1, 2, -1], 2)
    terms, stats = SoftmaxCrossEntropyLoss(SmoothL1Loss(1.0))(candidates)
    e = math.e
    expected = -(math.log(e / (e + 2)) + math.log(e**3 / (1 + e**3 + e)) + math.log(e**2 / (2 + e**2))) / 3
    assert terms["classification"].item() == pytest.approx(expected)
    assert terms["localization"].item() == pytest.approx((2.125 + 0.03125) / 3)
    assert (stats["positives"], stats["negatives"]) == (2, 4)
    sum(terms.values()).backward()
    assert not candidates.logits.grad[3].any()
    assert candidates.deltas.predicted.grad.any()


def test_softmax_needs_a_background_column() -> None:
    with pytest.raises(ValueError, match="no background column"):
        SoftmaxCrossEntropyLoss(L1Loss())(make_candidates(torch.zeros(3, 2), [0, 1, 2], 2))


def test_sigmoid_refuses_a_background_column() -> None:
    with pytest.raises(ValueError, match="background column"):
        SigmoidCrossEntropyLoss(L1Loss())(make_candidates(torch.zeros(3, 3), [0, 1, 2], 2))


def draw_problem(seed: int, count: int = 40, num_classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 logits, labels with some ignored, and the dense targets (NaN where ignored)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, num_classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, num_classes + 4, (count,), generator=generator).clamp(max=num_classes)
    targets = functional.one_hot(labels.clamp(min=0), num_classes + 1)[:, :-1].double()
    return logits, labels, targets.masked_fill((labels < 0)[:, None], torch.nan)


@pytest.mark.parametrize("alpha", [0.25, 0.6])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("chunk", [1, 17, 1 << 17])
def test_focal_loss_is_that_of_torchvision(
    alpha: float, gamma: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In value and gradient, also some rows at a time."""
    monkeypatch.setattr("rankdet.losses.focal.CPU_CHUNK", chunk)
    logits, labels, targets = draw_problem(0)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = focal_loss(ours, labels, alpha, gamma)
    used = labels >= 0
    expected = sigmoid_focal_loss(theirs[used], targets[used], alpha, gamma, reduction="sum")
    torch.testing.assert_close(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    single = focal_loss(logits.float(), labels, alpha, gamma)
    torch.testing.assert_close(single, expected.float())


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("chunk", [1, 17, 1 << 17])
def test_quality_focal_loss_is_the_equation(beta: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankdet.losses.focal.CPU_CHUNK", chunk)
    logits, labels, targets = draw_problem(1)
    quality = torch.rand(int((targets == 1).sum()), dtype=torch.float64)
    targets = targets.masked_scatter(targets == 1, quality)[labels >= 0]
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = quality_focal_loss(ours, labels, quality, beta)
    scores = theirs[labels >= 0].sigmoid()
    cross_entropy = -((1 - targets) * (1 - scores).log() + targets * scores.log())
    expected = ((targets - scores).abs() ** beta * cross_entropy).sum()
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize("alpha", [0.75, 1.5])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
@pytest.mark.parametrize("iou_weighted", [True, False])
@pytest.mark.parametrize("chunk", [1, 17, 1 << 17])
def test_varifocal_loss_is_the_equation(
    alpha: float, gamma: float, iou_weighted: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A positive of quality 0 is a negative."""
    monkeypatch.setattr("rankdet.losses.focal.CPU_CHUNK", chunk)
    logits, labels, targets = draw_problem(1)
    quality = torch.rand(int((targets == 1).sum()), dtype=torch.float64)
    quality[::3] = 0
    targets = targets.masked_scatter(targets == 1, quality)[labels >= 0]
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    found = varifocal_loss(ours, labels, quality, alpha, gamma, iou_weighted=iou_weighted)
    scores = theirs[labels >= 0].sigmoid()
    cross_entropy = -(targets * scores.log() + (1 - targets) * (1 - scores).log())
    positive = (targets if iou_weighted else 1) * cross_entropy
    expected = torch.where(targets > 0, positive, -alpha * scores**gamma * (1 - scores).log()).sum()
    torch.testing.assert_close(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_gradients_of_focal_losses_are_their_derivatives() -> None:
    logits, labels, targets = draw_problem(2, count=8)
    quality = torch.rand(int((targets == 1).sum()), dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels), logits)
    assert torch.autograd.gradcheck(lambda x: quality_focal_loss(x, labels, quality), logits)
    assert torch.autograd.gradcheck(lambda x: varifocal_loss(x, labels, quality), logits)


def test_focal_losses_take_the_positives_where_they_are_known() -> None:
    logits, labels, _ = draw_problem(3)
    rows = ((labels >= 0) & (labels < 5)).nonzero().squeeze(1)
    quality = torch.rand(len(rows), dtype=torch.float64)
    assert focal_loss(logits, labels, rows=rows) == focal_loss(logits, labels)
    for loss in (quality_focal_loss, varifocal_loss):
        assert loss(logits, labels, quality, rows=rows) == loss(logits, labels, quality)


def test_focal_losses_refuse_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"must be \(M, C\) and \(M,\)"):
        focal_loss(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    for loss in (quality_focal_loss, varifocal_loss):
        with pytest.raises(ValueError, match="1 positives among the labels but quality of shape"):
            loss(torch.zeros(2, 1), torch.tensor([0, 1]), torch.zeros(2))


@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_extreme_logits_give_finite_focal_losses(logit: float) -> None:
    logits = torch.full((3, 2), logit, requires_grad=True)
    labels = torch.tensor([0, 2, -1])
    quality = torch.tensor([0.5])
    losses = (
        focal_loss(logits, labels),
        *(loss(logits, labels, quality) for loss in (quality_focal_loss, varifocal_loss)),
    )
    sum(losses).backward()
    assert logits.grad.isfinite().all()


def test_a_logit_that_is_no_number_is_not_lost() -> None:
    for row in (0, 1):
        logits = torch.zeros(2, 2)
        logits[row, 0] = torch.nan
        assert focal_loss(logits, torch.tensor([0, 2])).isnan()
        for loss in (quality_focal_loss, varifocal_loss):
            assert loss(logits, torch.tensor([0, 2]), torch.tensor([0.5])).isnan()


def test_the_focal_loss_of_a_head_worked_out_by_hand() -> None:
    """Logits 0: a positive costs ln 2 / 16, a negative 3 ln 2 / 16; two positives and four negatives."""
    candidates = make_candidates(torch.zeros(4, 2), [0, 1, 2, -1], 2)
    terms, stats = FocalLoss()(candidates)
    assert terms["classification"].item() == pytest.approx((2 + 4 * 3) * math.log(2) / 16 / 2)
    giou_errors = [1 / 2, 1 - 1 / 7 + 2 / 9]
    assert terms["localization"].item() == pytest.approx(sum(giou_errors))
    assert (stats["positives"], stats["negatives"], stats["balance"]) == (2, 4, 1)
    terms, _ = FocalLoss(normalizer=PositiveCount(1))(candidates)
    assert terms["classification"].item() == pytest.approx((2 + 4 * 3) * math.log(2) / 16 / 3)


def test_the_rows_of_dense_detectors() -> None:
    """ATSS with centerness, PAA with IoU: weights of the boxes, factors, auxiliary terms."""
    giou_errors, ious = [1 / 2, 1 - 1 / 7 + 2 / 9], [1 / 2, 1 / 7]
    candidates = replace(
        make_candidates(torch.zeros(3, 2), [0, 1, 2], 2),
        centerness=torch.tensor([0.25, 1.0]),
        auxiliary={name: Matched(torch.zeros(2), torch.tensor([0.25, 1.0])) for name in ("centerness", "iou")},
    )
    atss = FocalLoss(
        tasks=Tasks(
            box_loss=GIoULoss(2.0),
            weighting=CenternessWeights(),
            balancing=ConstantBalance(),
            auxiliary=(CenternessCrossEntropyLoss(),),
        )
    )
    terms, _ = atss(candidates)
    assert terms["localization"].item() == pytest.approx(2 * (0.25 * giou_errors[0] + giou_errors[1]) / 1.25)
    assert terms["centerness"].item() == pytest.approx(math.log(2))
    paa = FocalLoss(
        tasks=Tasks(
            box_loss=GIoULoss(1.3),
            weighting=IoUWeights(),
            balancing=ConstantBalance(),
            auxiliary=(IoUCrossEntropyLoss(),),
        )
    )
    terms, _ = paa(candidates)
    expected = 1.3 * sum(w * error for w, error in zip(ious, giou_errors, strict=True)) / sum(ious)
    assert terms["localization"].item() == pytest.approx(expected)
    assert terms["iou"].item() == pytest.approx(math.log(2) / 2)


def test_the_quality_focal_loss_of_a_head_worked_out_by_hand() -> None:
    """Logits 0: a negative costs ln 2 / 4, a positive (y − 1/2)² ln 2."""
    candidates = make_candidates(torch.zeros(3, 2), [0, 1, 2], 2)
    terms, _ = QualityFocalLoss()(candidates)
    expected = (4 / 4 + 0 + (1 / 2 - 1 / 7) ** 2) * math.log(2) / 2
    assert terms["classification"].item() == pytest.approx(expected)
    assert terms["localization"].item() == pytest.approx(1 / 2 + 1 - 1 / 7 + 2 / 9)
    terms["classification"].backward()
    assert candidates.boxes.predicted.grad is None


def test_the_weights_of_varifocal_loss_may_be_constants_to_its_gradient() -> None:
    logits = torch.tensor([[-2.0, 1.0], [0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    labels, quality = torch.tensor([1, 0]), torch.tensor([0.6, 0.0])
    value = varifocal_loss(logits, labels, quality, constant_weights=True)
    (gradient,) = torch.autograd.grad(value, logits)
    scores = logits.detach().sigmoid()
    expected = 0.75 * scores**2 * scores
    expected[0, 1] = 0.6 * (scores[0, 1] - 0.6)
    torch.testing.assert_close(gradient, expected)
    assert value == varifocal_loss(logits, labels, quality)


def test_the_varifocal_loss_of_a_head_worked_out_by_hand() -> None:
    """Logits 0: a negative costs 3 ln 2 / 16, a positive q ln 2; boxes count as much as their IoU."""
    candidates = make_candidates(torch.zeros(3, 2), [0, 1, 2], 2)
    terms, _ = VarifocalLoss()(candidates)
    ious, giou_errors = [1 / 2, 1 / 7], [1 / 2, 1 - 1 / 7 + 2 / 9]
    assert terms["classification"].item() == pytest.approx((4 * 3 / 16 + sum(ious)) * math.log(2) / 2)
    expected = 2 * sum(w * error for w, error in zip(ious, giou_errors, strict=True)) / sum(ious)
    assert terms["localization"].item() == pytest.approx(expected)
    terms["classification"].backward()
    assert candidates.boxes.predicted.grad is None
    terms, _ = VarifocalLoss(alpha=0, iou_weighted=False)(candidates)
    assert terms["classification"].item() == pytest.approx(math.log(2))


class TwoProcesses(Processes):
    """Another process has nothing at all."""

    def mean(self, value: Tensor) -> Tensor:
        return value.detach() / 2


def test_images_without_positives_count_as_published() -> None:
    labels = torch.tensor([0, 1, 2, 2, -1, 2])  # two positives in the first image, none in the others
    candidates = Candidates("dense", torch.zeros(6, 2), labels, 2, per_image=(3, 1, 2))
    for per_image, normalizer, expected in (
        ((3, 1, 2), PositiveCount(), 2),
        ((3, 1, 2), PositiveCount(0.5), 2.5),
        ((3, 1, 2), CountPerImage(), 4),
        ((3, 1, 2), CountOrImages(), 3),
        ((1, 1, 4), CountOrImages(), 3),
        ((1, 1, 4), CountPerImage(), 3),
        ((6,), CountPerImage(), 2),
        ((), CountPerImage(), 0),
        (None, CountPerImage(), 2),
        (None, CountOrImages(), 2),
    ):
        if per_image == ():
            empty = Candidates("dense", torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), 2, per_image=())
            assert normalizer(empty, 0) == expected
        else:
            assert normalizer(replace(candidates, per_image=per_image), 2) == expected
    whole = focal_loss(candidates.logits, labels)
    boxes = Matched(torch.rand(2, 4), torch.rand(2, 4))
    auxiliary = {"centerness": Matched(torch.zeros(2), torch.ones(2))}
    candidates = replace(candidates, boxes=boxes, auxiliary=auxiliary)
    terms, _ = FocalLoss(
        normalizer=CountPerImage(),
        tasks=Tasks(
            box_loss=GIoULoss(2.0),
            weighting=NoWeights(),
            balancing=ConstantBalance(),
            auxiliary=(CenternessCrossEntropyLoss(),),
        ),
    )(candidates)
    torch.testing.assert_close(terms["classification"], whole / 4)
    torch.testing.assert_close(terms["centerness"], torch.tensor(2 * math.log(2) / 4))


def test_equalization_worked_out_by_hand() -> None:
    """Logits 0, two positives of class 0 and a background: at first the weights are 1, and each gradient is 1/2."""
    loss = EqualizationLossV2(L1Loss(), gamma=2, mu=0.5, alpha=3)
    candidates = make_candidates(torch.zeros(4, 2), [0, 0, 2, -1], 2)
    terms, stats = loss(candidates)
    assert terms["classification"].item() == pytest.approx(6 * math.log(2) / 3)
    assert terms["localization"].item() == pytest.approx(3.75 / 3)
    assert (stats["positives"], stats["background"], stats["negatives"]) == (2, 1, 4)
    assert loss.gradients.tolist() == [[1, 0], [1 / 2, 3 / 2]]
    ratios = torch.tensor([2.0, 0.0])
    negative = (2 * (ratios - 0.5)).sigmoid().double()
    found = loss.weights()
    torch.testing.assert_close(found, (1 + 3 * (1 - negative), negative))
    terms, _ = loss(candidates)
    total = 2 * found[0][0] + found[1][0] + 3 * found[1][1]
    assert terms["classification"].item() == pytest.approx(total.item() * math.log(2) / 3)
    terms["classification"].backward()
    expected = torch.stack([-found[0][0] / 2, found[1][1] / 2]).float() / 3
    torch.testing.assert_close(candidates.logits.grad[0], expected)
    assert loss.gradients[0, 0].item() == pytest.approx(1 + found[0][0].item())


def test_equalization_at_equal_weights_is_cross_entropy() -> None:
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    candidates = make_candidates(logits, [0, 3, 2, -1, 3, 3], 3)
    equalized = EqualizationLossV2(L1Loss())
    torch.testing.assert_close(equalized(candidates).terms, SigmoidCrossEntropyLoss(L1Loss())(candidates).terms)
    flat = EqualizationLossV2(L1Loss(), gamma=100, mu=0, alpha=0)  # classes that have positives have a weight of 1
    flat.gradients = torch.ones(2, 3, dtype=torch.float64)
    torch.testing.assert_close(flat(candidates).terms, SigmoidCrossEntropyLoss(L1Loss())(candidates).terms)


def test_a_class_without_objects_is_hardly_pushed_down() -> None:
    loss = EqualizationLossV2(L1Loss())
    for _ in range(2):
        candidates = make_candidates(torch.zeros(5, 3), [0, 3, 1, 3, 3], 3)
        loss(candidates).terms["classification"].backward()
    assert candidates.logits.grad[3, 2] < 1e-4 * 1 / 2 / 5
    assert loss.weights()[0][2] == pytest.approx(5, abs=1e-3)


def test_gradients_so_far_are_resumed_to_the_bit() -> None:
    def step(loss: EqualizationLossV2, seed: int) -> Tensor:
        logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed))
        candidates = make_candidates(logits, [0, 2, 4, 4, 4, -1, 4, 4, 4], 4)
        return loss(candidates).terms["classification"].detach()

    whole = EqualizationLossV2(L1Loss())
    for seed in range(3):
        step(whole, seed)
    resumed = EqualizationLossV2(L1Loss())
    resumed.load_state_dict(whole.state_dict())
    assert torch.equal(step(resumed, 4), step(whole, 4))
    assert torch.equal(resumed.gradients, whole.gradients)
    before = whole.gradients.clone()
    with torch.no_grad():
        step(whole, 5)  # an evaluation
    assert torch.equal(whole.gradients, before)
    fresh = EqualizationLossV2(L1Loss())
    fresh.load_state_dict(EqualizationLossV2(L1Loss()).state_dict())  # before the first iteration
    assert step(fresh, 0).isfinite()
    with pytest.raises(ValueError, match="head 'head' has 2 classes, but the loss has gradients of 4"):
        whole(make_candidates(torch.zeros(2, 2), [0, 1], 2))


@pytest.mark.parametrize("build", [FocalLoss, QualityFocalLoss, VarifocalLoss])
def test_normalizers_can_be_those_of_all_processes(
    build: type[FocalLoss | QualityFocalLoss | VarifocalLoss], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four positives here and none there: the values are the same, and the gradients twice as large, to be halved."""
    gradients, terms = [], []
    monkeypatch.setattr("rankdet.losses.focal.Processes", lambda sync: TwoProcesses() if sync else Processes())
    for loss in (build(), build(sync=True)):
        candidates = make_candidates(torch.zeros(4, 1), [0, 0, 0, 0], 1, positives=2)
        boxes = torch.cat([BOXES, BOXES]).requires_grad_()
        pairs = Matched(boxes, torch.cat([OBJECTS, OBJECTS]))
        terms.append(loss(replace(candidates, boxes=pairs, deltas=None)).terms)
        sum(terms[-1].values()).backward()
        gradients.append([candidates.logits.grad, boxes.grad])
    torch.testing.assert_close(terms[1], terms[0])
    torch.testing.assert_close(gradients[1], [2 * gradient for gradient in gradients[0]])


# One of them has a state: each call is that of a copy.
LOSSES = pytest.mark.parametrize(
    ("loss", "columns"),
    [
        (SigmoidCrossEntropyLoss(L1Loss()), 2),
        (EqualizationLossV2(L1Loss()), 2),
        (SoftmaxCrossEntropyLoss(GIoULoss()), 3),
        (FocalLoss(tasks=Tasks(box_loss=L1Loss(), weighting=NoWeights(), balancing=ConstantBalance())), 2),
        (QualityFocalLoss(tasks=Tasks(box_loss=L1Loss(), balancing=ConstantBalance())), 2),
        (VarifocalLoss(tasks=Tasks(box_loss=L1Loss(), balancing=ConstantBalance())), 2),
    ],
    ids=["sigmoid", "equalization", "softmax", "focal", "quality focal", "varifocal"],
)


@LOSSES
@pytest.mark.parametrize("noise", [1e4, -1e4, torch.inf, torch.nan])
def test_ignored_candidates_do_not_matter(loss: nn.Module, columns: int, noise: float) -> None:
    logits = torch.randn(6, columns, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, -1, 2, 1, -1, 2])
    noisy = make_candidates(logits.where(labels[:, None] >= 0, noise), labels.tolist(), 2)
    clean = make_candidates(logits[labels >= 0], labels[labels >= 0].tolist(), 2)
    for candidates in (noisy, clean):
        sum(deepcopy(loss)(candidates).terms.values()).backward()
    for name, term in deepcopy(loss)(noisy).terms.items():
        torch.testing.assert_close(term, deepcopy(loss)(clean).terms[name])
    torch.testing.assert_close(noisy.logits.grad[labels >= 0], clean.logits.grad)
    assert not noisy.logits.grad[labels < 0].any()


@LOSSES
@pytest.mark.parametrize("labels", [[], [-1, -1, -1]], ids=["empty", "all ignored"])
def test_where_nothing_takes_part_terms_are_connected_zeros(loss: nn.Module, columns: int, labels: list[int]) -> None:
    candidates = make_candidates(torch.randn(len(labels), columns), labels, 2, positives=0)
    terms, stats = deepcopy(loss)(candidates)
    assert [term.item() for term in terms.values()] == [0, 0]
    assert (stats["positives"], stats["negatives"]) == (0, 0)
    sum(terms.values()).backward()
    assert torch.equal(candidates.logits.grad, torch.zeros_like(candidates.logits))
    outputs = candidates.deltas.predicted.grad if columns == 2 else candidates.boxes.predicted.grad
    assert outputs.shape == (0, 4)


@LOSSES
def test_without_positives_the_background_still_counts(loss: nn.Module, columns: int) -> None:
    candidates = make_candidates(torch.zeros(4, columns), [2, 2, -1, 2], 2, positives=0)
    terms, _ = deepcopy(loss)(candidates)
    expected = {
        SigmoidCrossEntropyLoss: 2 * math.log(2),
        EqualizationLossV2: 2 * math.log(2),
        SoftmaxCrossEntropyLoss: math.log(3),
        FocalLoss: 6 * 3 / 16 * math.log(2),
        QualityFocalLoss: 6 / 4 * math.log(2),
        VarifocalLoss: 6 * 3 / 16 * math.log(2),
    }[type(loss)]
    assert terms["classification"].item() == pytest.approx(expected)
    assert terms["localization"].item() == 0
    assert terms["localization"].requires_grad


@LOSSES
def test_bfloat16_logits_are_taken_in_float32(loss: nn.Module, columns: int) -> None:
    logits = torch.randn(4, columns, generator=torch.Generator().manual_seed(1)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = deepcopy(loss)(make_candidates(logits.clone(), [0, 1, 2, -1], 2)).terms
    full = deepcopy(loss)(make_candidates(logits.float(), [0, 1, 2, -1], 2)).terms
    for name, term in half.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, full[name])
