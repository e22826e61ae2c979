"""Mask losses per mask, and the term that the standard losses make of them: hand-worked numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rankdet.losses import (
    ALRPLoss,
    APLoss,
    BucketedAPLoss,
    BucketedRankSortLoss,
    ConstantBalance,
    DiceLoss,
    DiceQuality,
    EqualizationLossV2,
    FocalLoss,
    GIoULoss,
    L1Loss,
    MagnitudeBalance,
    MaskCrossEntropyLoss,
    NoWeights,
    PositiveCount,
    QualityFocalLoss,
    RankSortLoss,
    SemanticCrossEntropyLoss,
    SigmoidCrossEntropyLoss,
    SoftmaxCrossEntropyLoss,
    Tasks,
    ValueBalance,
    VarifocalLoss,
    alrp_loss_of_labels,
    dice_coefficient,
    find_positives,
    focal_loss,
    mask_cross_entropy,
    rank_sort_loss_of_labels,
)
from rankdet.structures import Candidates, Matched

LOGITS = torch.tensor([[[2.0, 0.0], [-1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
TARGET = torch.tensor([[[True, True], [False, False]], [[True, False], [False, False]]])


def make_candidates(masks: Matched | None, columns: int = 3) -> Candidates:
    """Two positives and a negative of two classes."""
    return Candidates(
        "rcnn",
        torch.zeros(3, columns, requires_grad=True),
        torch.tensor([0, 2, 1]),
        2,
        deltas=Matched(torch.ones(2, 4, requires_grad=True), torch.zeros(2, 4)),
        masks=masks,
    )


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


FIRST = (softplus(-2) + softplus(-1) + 2 * math.log(2)) / 4
LOSSES = pytest.mark.parametrize(("kind", "columns"), [(SoftmaxCrossEntropyLoss, 3), (SigmoidCrossEntropyLoss, 2)])


def test_mask_losses_worked_out_by_hand() -> None:
    candidates = make_candidates(Matched(LOGITS.clone().requires_grad_(), TARGET))
    positives = find_positives(candidates)
    cross_entropy, dice = MaskCrossEntropyLoss(3.0)(candidates, positives), DiceLoss(2.0)(candidates, positives)
    assert cross_entropy.tolist() == pytest.approx([3 * FIRST, 3 * math.log(2)])
    assert dice.tolist() == pytest.approx((2 - 2 * dice_coefficient(LOGITS, TARGET)).tolist())
    assert dice[1].item() == pytest.approx(2 * (1 - 2 * 0.5 / (1 + 1 + 1e-5)))
    (cross_entropy.sum() + dice.sum()).backward()
    assert candidates.masks.predicted.grad.all()


@LOSSES
def test_the_mask_term_is_the_mean_over_the_masks(kind: type[nn.Module], columns: int) -> None:
    loss = kind(L1Loss())
    candidates = make_candidates(Matched(LOGITS.clone().requires_grad_(), TARGET), columns)
    terms, _ = loss(candidates)
    assert set(terms) == {"classification", "localization", "mask"}
    assert terms["mask"].item() == pytest.approx((FIRST + math.log(2)) / 2)
    part = replace(candidates, masks=Matched(LOGITS[1:].clone().requires_grad_(), TARGET[1:], torch.tensor([1])))
    assert loss(part).terms["mask"].item() == pytest.approx(math.log(2))
    assert kind(L1Loss(), DiceLoss())(part).terms["mask"].item() == pytest.approx(0.5, abs=1e-5)


@LOSSES
def test_a_head_without_masks_has_no_mask_term(kind: type[nn.Module], columns: int) -> None:
    assert set(kind(L1Loss())(make_candidates(None, columns)).terms) == {"classification", "localization"}


@LOSSES
@pytest.mark.parametrize("mask_loss", [MaskCrossEntropyLoss(), DiceLoss()], ids=["cross-entropy", "Dice"])
def test_no_masks_are_a_connected_zero(kind: type[nn.Module], columns: int, mask_loss: nn.Module) -> None:
    logits: Tensor = torch.zeros(0, 28, 28, requires_grad=True)
    masks = Matched(logits, torch.zeros(0, 28, 28, dtype=torch.bool), torch.zeros(0, dtype=torch.int64))
    term = kind(L1Loss(), mask_loss)(make_candidates(masks, columns)).terms["mask"]
    assert term.item() == 0
    term.backward()
    assert logits.grad is not None


@pytest.mark.parametrize("mask_loss", [MaskCrossEntropyLoss(), DiceLoss()], ids=["cross-entropy", "Dice"])
def test_mask_losses_need_masks(mask_loss: nn.Module) -> None:
    bare = make_candidates(None)
    with pytest.raises(ValueError, match="'rcnn' passes no masks"):
        mask_loss(bare, find_positives(bare))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cross_entropy_and_its_gradient_are_those_of_torch_inside_of_a_crop(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankdet.losses.localization.MASK_CHUNK", 100)  # a mask at a time
    torch.manual_seed(0)
    logits, target = 5 * torch.randn(6, 7, 9, dtype=torch.float64), torch.rand(6, 7, 9) > 0.5
    is_inside = torch.rand(6, 7, 9) > 0.3
    logits = logits.to(dtype).masked_fill(~is_inside, -torch.inf).requires_grad_()
    loss = mask_cross_entropy(logits, target)
    weights = torch.rand(6, dtype=loss.dtype)
    (loss * weights).sum().backward()
    plain = logits.detach().double().masked_fill(~is_inside, 0).requires_grad_()
    pixels = torch.nn.functional.binary_cross_entropy_with_logits(plain, target.double(), reduction="none")
    expected = (pixels * is_inside).mean(dim=(1, 2))
    (expected * weights).sum().backward()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
    tolerance = max(tolerance, 1e-2 * (dtype == torch.bfloat16))
    torch.testing.assert_close(logits.grad.double(), plain.grad, rtol=tolerance, atol=1e-6)
    assert not logits.grad[~is_inside].any()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_masks_over_the_size_of_their_boxes_worked_out_by_hand() -> None:
    shares = torch.tensor([0.25, 0.1])
    candidates = replace(make_candidates(Matched(LOGITS.clone().requires_grad_(), TARGET)), box_shares=shares)
    loss = MaskCrossEntropyLoss(6.125, over_box_size=True)
    expected = [6.125 * FIRST / 0.25, 6.125 * math.log(2) / 0.1]
    assert loss(candidates, find_positives(candidates)).tolist() == pytest.approx(expected)
    part = replace(candidates, masks=Matched(LOGITS[1:], TARGET[1:], torch.tensor([1])))
    assert loss(part, find_positives(part)).tolist() == pytest.approx(expected[1:])
    bare = replace(candidates, box_shares=None)
    with pytest.raises(ValueError, match="passes no box_shares"):
        loss(bare, find_positives(bare))
    with pytest.raises(ValueError, match=r"box_shares \(1,\) must be one per positive"):
        replace(candidates, box_shares=shares[:1])
    with pytest.raises(ValueError, match="must have one shape"):
        mask_cross_entropy(LOGITS, TARGET[:1])


def test_semantic_maps_are_learned_class_by_class_and_pixel_by_pixel() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(3, 2, 4, 5, requires_grad=True), torch.rand(3, 2, 4, 5) > 0.7
    candidates = replace(make_candidates(None), auxiliary={"semantic": Matched(logits, target)})
    loss = SoftmaxCrossEntropyLoss(L1Loss(), auxiliary=(SemanticCrossEntropyLoss(2.0),))
    total = torch.nn.functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="sum")
    found = loss(candidates).terms["semantic"]
    torch.testing.assert_close(found, 2 * total / (3 * 4 * 5))  # over images and pixels, not over classes
    found.backward()
    assert logits.grad.all()
    focal = FocalLoss(
        tasks=Tasks(
            box_loss=L1Loss(),
            weighting=NoWeights(),
            balancing=ConstantBalance(),
            auxiliary=(SemanticCrossEntropyLoss(2.0),),
        )
    )
    torch.testing.assert_close(focal(replace(candidates, logits=candidates.logits[:, :2])).terms["semantic"], found)
    with pytest.raises(ValueError, match="no auxiliary maps 'semantic'"):
        loss(make_candidates(None))


WITHOUT_BOXES = {
    "rank & sort": RankSortLoss(quality=DiceQuality()),
    "rank & sort, by magnitude": RankSortLoss(quality=DiceQuality(), tasks=Tasks(balancing=MagnitudeBalance())),
    "average precision": APLoss(),
    "aLRP": ALRPLoss(balancing=ValueBalance()),
    "focal": FocalLoss(),
    "quality focal": QualityFocalLoss(quality=DiceQuality()),
    "varifocal": VarifocalLoss(quality=DiceQuality(), tasks=Tasks(weighting=NoWeights())),
    "bucketed rank & sort": BucketedRankSortLoss(quality=DiceQuality()),
    "bucketed average precision": BucketedAPLoss(),
    "sigmoid": SigmoidCrossEntropyLoss(L1Loss(), DiceLoss()),
    "equalization": EqualizationLossV2(L1Loss(), DiceLoss()),
    "softmax": SoftmaxCrossEntropyLoss(L1Loss(), DiceLoss()),
}


def masks_alone(name: str, num_positives: int = 2) -> Candidates:
    """A head without boxes: two positives, or none, and two negatives."""
    torch.manual_seed(0)
    columns = 3 if name == "softmax" else 2
    labels = [0, 2, 1, 2] if num_positives else [2, 2]
    return Candidates(
        "grid",
        torch.randn(len(labels), columns, requires_grad=True),
        torch.tensor(labels),
        2,
        masks=Matched(LOGITS[:num_positives].clone().requires_grad_(), TARGET[:num_positives]),
    )


@pytest.mark.parametrize("name", WITHOUT_BOXES)
def test_every_loss_works_on_a_head_of_masks_alone(name: str) -> None:
    candidates = masks_alone(name)
    terms, stats = WITHOUT_BOXES[name](candidates)
    assert ("localization" in terms) == (name == "aLRP")  # whose localization is then that of the masks
    assert all(value.isfinite() for value in (*terms.values(), *stats.values()))
    sum(terms.values()).backward()
    assert candidates.logits.grad.any()
    assert candidates.masks.predicted.grad.any()
    assert candidates.masks.predicted.grad.isfinite().all()


@pytest.mark.parametrize("name", WITHOUT_BOXES)
def test_without_boxes_and_positives_masks_stay_connected(name: str) -> None:
    candidates = masks_alone(name, 0)
    terms, _ = WITHOUT_BOXES[name](candidates)
    assert all(value.isfinite() for value in terms.values())
    sum(terms.values()).backward()
    assert candidates.logits.grad is not None
    assert candidates.masks.predicted.grad is not None


def test_solov2_is_what_its_losses_say() -> None:
    """Focal loss over one positive more, three times the mean of 1 − D; or ranks and sorts by D, weighted by scores."""
    candidates = masks_alone("focal")
    dice = dice_coefficient(LOGITS, TARGET, 2e-3)
    loss = FocalLoss(
        normalizer=PositiveCount(1.0),
        tasks=Tasks(
            box_loss=GIoULoss(2.0),
            weighting=NoWeights(),
            balancing=ConstantBalance(),
            mask_balancing=ConstantBalance(3.0),
            dice_epsilon=2e-3,
        ),
    )
    terms, _ = loss(candidates)
    torch.testing.assert_close(terms["classification"], focal_loss(candidates.logits, candidates.labels) / 3)
    torch.testing.assert_close(terms["mask"], 3 * (1 - dice).mean())
    terms, stats = RankSortLoss(quality=DiceQuality(), tasks=Tasks(dice_epsilon=2e-3))(candidates)
    ranking, sorting = rank_sort_loss_of_labels(candidates.logits, candidates.labels, dice)
    torch.testing.assert_close(terms["ranking"], ranking)
    torch.testing.assert_close(terms["sorting"], sorting)
    weights = candidates.logits[[0, 2]].amax(dim=1).sigmoid().detach()
    torch.testing.assert_close(stats["mask_error"], ((weights * (1 - dice)).sum() / weights.sum()).detach())
    torch.testing.assert_close(terms["mask"], ranking + sorting)


def test_a_positive_with_two_masks_counts_twice_among_the_masks() -> None:
    candidates = masks_alone("focal")
    rows = torch.tensor([0, 0, 1])
    pairs = Matched(LOGITS[rows], torch.stack([TARGET[0], TARGET[1], TARGET[1]]), rows)
    terms, _ = FocalLoss(
        tasks=Tasks(
            box_loss=GIoULoss(2.0),
            weighting=NoWeights(),
            balancing=ConstantBalance(),
            mask_balancing=ConstantBalance(3.0),
        )
    )(replace(candidates, masks=pairs))
    torch.testing.assert_close(terms["mask"], 3 * (1 - dice_coefficient(pairs.predicted, pairs.target)).mean())
    with pytest.raises(ValueError, match="several of one; the quality Dice needs one of each"):
        RankSortLoss(quality=DiceQuality())(replace(candidates, masks=pairs))
    with pytest.raises(ValueError, match="2 positives but 3 pairs of masks"):
        ALRPLoss(balancing=ValueBalance())(replace(candidates, masks=pairs))


def test_alrp_is_localized_by_masks_where_there_are_no_boxes() -> None:
    candidates = masks_alone("aLRP")
    terms, _ = ALRPLoss(tau=0.7, balancing=ConstantBalance())(candidates)
    errors = (1 - dice_coefficient(LOGITS, TARGET)) / (1 - 0.7)
    expected = alrp_loss_of_labels(candidates.logits, candidates.labels, errors)
    torch.testing.assert_close(terms["classification"], expected.classification)
    torch.testing.assert_close(terms["localization"], expected.localization)
    with pytest.raises(ValueError, match="passes no boxes"):
        ALRPLoss(balancing=ValueBalance())(replace(candidates, masks=None))
