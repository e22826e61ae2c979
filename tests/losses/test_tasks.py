"""The tail of every loss: weighted, normalized, balanced; by hand, empty, and over several processes."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rankdet.losses import (
    CenternessCrossEntropyLoss,
    ConstantBalance,
    EpochBalance,
    GIoULoss,
    IoUCrossEntropyLoss,
    IoUWeights,
    L1Loss,
    MagnitudeBalance,
    NoWeights,
    Positives,
    Processes,
    ScoreWeights,
    Tasks,
    ValueBalance,
)
from rankdet.losses.balancing import Balancing
from rankdet.losses.localization import saturated_share
from rankdet.structures import Candidates, LossOutput, Matched

BOXES = torch.tensor([[0.0, 0, 4, 4], [1, 1, 3, 3], [0, 0, 2, 2]])
OBJECTS = torch.tensor([[0.0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 2, 2]])
BOX_ERRORS = [1 / 2, 1 - 1 / 7 + 2 / 9, 0]
MASKS = torch.tensor([[[100.0, -100]], [[100, 100]], [[-100, 100]]])
MASK_TARGETS = torch.tensor([[[1.0, 1]], [[1, 1]], [[1, 0]]])
MASK_ERRORS = [1 / 3, 0, 1]
CLASSIFICATION = torch.tensor(0.6)
COUNTS = "positives", "background", "negatives"


def make_candidates(num_positives: int = 3, masks: bool = True, mask_rows: list[int] | None = None) -> Candidates:
    """The first positives of three, and a negative; all scores of positives are 1/2, 3/4 and 1/4."""
    logits = torch.tensor([[-9.0, 0.0], [math.log(3), -9.0], [-9.0, -math.log(3)], [5.0, 5.0]])
    rows = list(range(num_positives)) if mask_rows is None else mask_rows
    matched_rows = None if mask_rows is None else torch.tensor(mask_rows)
    return Candidates(
        "head",
        torch.cat([logits[:num_positives], logits[3:]]).requires_grad_(),
        torch.tensor([*[0, 1, 1][:num_positives], 2]),
        2,
        boxes=Matched(BOXES[:num_positives].clone().requires_grad_(), OBJECTS[:num_positives]),
        deltas=Matched(torch.ones(num_positives, 4, requires_grad=True), torch.zeros(num_positives, 4)),
        masks=Matched(MASKS[rows].clone().requires_grad_(), MASK_TARGETS[rows], matched_rows) if masks else None,
        auxiliary={
            name: Matched(torch.zeros(num_positives, requires_grad=True), torch.tensor([0.0, 1.0, 0.5])[:num_positives])
            for name in ("centerness", "iou")
        },
    )


def run(
    tasks: Tasks,
    candidates: Candidates,
    classification: Tensor = CLASSIFICATION,
    processes: Processes = Processes(),
) -> LossOutput:
    return tasks(candidates, tasks.find_positives(candidates), classification, processes=processes)


def test_box_and_mask_worked_out_by_hand() -> None:
    weights = [0.5, 0.75, 0.25]
    box = sum(w * error for w, error in zip(weights, BOX_ERRORS, strict=True)) / 1.5
    mask = sum(w * error for w, error in zip(weights, MASK_ERRORS, strict=True)) / 1.5
    terms, stats = run(Tasks(), make_candidates())
    assert {name: term.item() for name, term in terms.items()} == pytest.approx({"localization": 0.6, "mask": 0.6})
    assert {name: value.item() for name, value in stats.items()} == pytest.approx(
        {
            "positives": 3,
            "background": 1,
            "negatives": 5,
            "localization_error": box,
            "balance": 0.6 / box,
            "mask_error": mask,
            "mask_balance": 0.6 / mask,
            "masks_saturated": 1.0,
        },
        rel=1e-4,
    )
    assert not any(value.requires_grad for value in stats.values())


def test_parts_of_other_kinds_are_free_to_combine() -> None:
    tasks = Tasks(
        box_loss=GIoULoss(2.0),
        weighting=IoUWeights(),
        balancing=ConstantBalance(1.0),
        mask_balancing=ConstantBalance(3.0),
    )
    terms, _ = run(tasks, make_candidates())
    weights = [1 / 2, 1 / 7, 1]
    expected = 2 * sum(w * error for w, error in zip(weights, BOX_ERRORS, strict=True)) / sum(weights)
    assert terms["localization"].item() == pytest.approx(expected)
    expected = 3 * sum(w * error for w, error in zip(weights, MASK_ERRORS, strict=True)) / sum(weights)
    assert terms["mask"].item() == pytest.approx(expected, rel=1e-4)
    terms, _ = run(Tasks(box_loss=L1Loss(), weighting=NoWeights(), balancing=ConstantBalance(2.0)), make_candidates())
    assert terms["localization"].item() == pytest.approx(8)


def test_two_losses_of_the_boxes_are_two_tasks_each_balanced_by_itself() -> None:
    """Whatever their weights are, both get the value of the classification, and each its own part of the gradient."""
    for box_weight, delta_weight in ((1.0, 1.0), (2.0, 5.0)):
        candidates = make_candidates(masks=False)
        tasks = Tasks(box_loss=GIoULoss(box_weight), delta_loss=L1Loss(delta_weight), weighting=NoWeights())
        terms, stats = run(tasks, candidates)
        assert {name: term.item() for name, term in terms.items()} == pytest.approx(
            {"localization": 0.6, "deltas": 0.6}
        )
        box, delta = box_weight * sum(BOX_ERRORS) / 3, delta_weight * 4
        assert {name: value.item() for name, value in stats.items() if name not in COUNTS} == pytest.approx(
            {"localization_error": box, "balance": 0.6 / box, "deltas_error": delta, "deltas_balance": 0.6 / delta}
        )
        sum(terms.values()).backward()
        torch.testing.assert_close(candidates.deltas.predicted.grad, torch.full((3, 4), 0.6 / 4 / 3))
        assert candidates.boxes.predicted.grad.any()


def test_balances_of_two_losses_of_the_boxes_remember_their_own_values() -> None:
    one = Tasks(balancing=EpochBalance(start=1.0, iterations=1))
    assert not [name for name in one.state_dict() if name.startswith("delta_balancing")]
    tasks = Tasks(delta_loss=L1Loss(), weighting=NoWeights(), balancing=EpochBalance(start=1.0, iterations=1))
    for _ in range(2):
        _, stats = run(tasks, make_candidates(masks=False))
    box = sum(BOX_ERRORS) / 3
    assert stats["balance"].item() == pytest.approx((box + 0.6) / box)
    assert stats["deltas_balance"].item() == pytest.approx((4 + 0.6) / 4)


def test_a_head_of_masks_alone_has_no_second_loss_of_boxes_either() -> None:
    terms, _ = run(Tasks(delta_loss=L1Loss()), replace(make_candidates(), boxes=None, deltas=None))
    assert set(terms) == {"mask"}
    with pytest.raises(ValueError, match="'head' passes neither boxes nor masks"):
        run(Tasks(box_loss=None, delta_loss=L1Loss()), replace(make_candidates(masks=False), boxes=None, deltas=None))


def test_masks_of_a_part_get_the_weights_of_their_own_positives() -> None:
    terms, stats = run(Tasks(balancing=ConstantBalance()), make_candidates(mask_rows=[2, 0]))
    expected = (0.25 * 1 + 0.5 / 3) / 0.75
    assert stats["mask_error"].item() == pytest.approx(expected, rel=1e-4)
    assert terms["mask"].item() == pytest.approx(expected, rel=1e-4)


def test_a_head_of_masks_alone_has_no_box_term() -> None:
    terms, stats = run(Tasks(), replace(make_candidates(), boxes=None, deltas=None))
    assert set(terms) == {"mask"}
    assert set(stats) == {"positives", "background", "negatives", "mask_error", "mask_balance", "masks_saturated"}


def test_a_head_without_boxes_and_masks_is_refused() -> None:
    bare = Candidates("head", torch.zeros(2, 1), torch.tensor([0, 1]), 1)
    with pytest.raises(ValueError, match="'head' passes neither boxes nor masks"):
        run(Tasks(), bare)


def test_boxes_that_are_learned_elsewhere_have_no_term_and_need_not_be_there() -> None:
    tasks = Tasks(box_loss=None)
    bare = replace(make_candidates(), boxes=None, deltas=None, masks=None, auxiliary=None)
    for candidates in (bare, replace(bare, boxes=make_candidates().boxes)):
        terms, stats = run(tasks, candidates)
        assert terms == {}
        assert set(stats) == set(COUNTS)
    terms, stats = run(tasks, make_candidates())
    assert set(terms) == {"mask"}
    assert terms["mask"].item() == pytest.approx(0.6)
    assert "localization_error" not in stats


def test_boxes_that_are_learned_elsewhere_need_no_weights_of_their_own() -> None:
    bare = replace(make_candidates(), boxes=None, deltas=None, masks=None)
    tasks = Tasks(box_loss=None, weighting=IoUWeights(), auxiliary=(CenternessCrossEntropyLoss(),))
    assert set(run(tasks, bare).terms) == {"centerness"}


def test_a_box_loss_of_someone_else_finds_boxes_of_any_form() -> None:
    """Here rotated boxes of five numbers, which no loss of this package can compare."""

    def squared(candidates: Candidates, positives: Positives) -> Tensor:
        predicted, target, _ = candidates.deltas
        return (predicted - target).square().mean(dim=1)

    predicted = torch.ones(3, 5, requires_grad=True)
    candidates = replace(
        make_candidates(masks=False),
        boxes=None,
        deltas=Matched(predicted, torch.tensor([[0.0], [1], [3]]).expand(3, 5)),
    )
    terms, _ = run(Tasks(box_loss=squared, weighting=NoWeights(), balancing=ConstantBalance()), candidates)
    assert terms["localization"].item() == pytest.approx((1 + 0 + 4) / 3)
    terms["localization"].backward()
    assert predicted.grad.any(dim=1).tolist() == [True, False, True]


BALANCES = pytest.mark.parametrize(
    "balancing",
    [ConstantBalance(2.0), ValueBalance(), MagnitudeBalance(), EpochBalance(iterations=1)],
    ids=["constant", "value", "magnitude", "epoch"],
)


@BALANCES
def test_without_positives_all_terms_are_connected_zeros(balancing: Balancing) -> None:
    candidates = make_candidates(0)
    tasks = Tasks(balancing=balancing, auxiliary=(CenternessCrossEntropyLoss(), IoUCrossEntropyLoss()))
    terms, stats = run(tasks, candidates, 0 * candidates.logits.sum())
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(
        ["localization", "mask", "centerness", "iou"], 0
    )
    assert (stats["positives"], stats["negatives"]) == (0, 2)
    assert all(value.isfinite() for value in stats.values())
    sum(terms.values()).backward()
    assert candidates.boxes is not None
    assert candidates.masks is not None
    assert candidates.auxiliary is not None
    for pairs in (candidates.boxes, candidates.masks, *candidates.auxiliary.values()):
        assert pairs.predicted.grad is not None


@BALANCES
def test_one_positive_and_its_gradients_are_finite(balancing: Balancing) -> None:
    candidates = make_candidates(1)
    terms, _ = run(Tasks(balancing=balancing), candidates, (candidates.logits**2).sum())
    sum(terms.values()).backward()
    assert candidates.boxes is not None
    assert candidates.masks is not None
    assert candidates.boxes.predicted.grad.isfinite().all()
    assert candidates.boxes.predicted.grad.any()
    assert candidates.masks.predicted.grad.isfinite().all()


def test_weights_that_vanish_leave_connected_zeros() -> None:
    """IoU weights, where no box touches its object; score weights, where all scores are 0."""
    candidates = make_candidates(2, masks=False)
    assert candidates.boxes is not None
    apart = replace(candidates, boxes=candidates.boxes._replace(target=OBJECTS[:2] + 50))
    hopeless = replace(candidates, logits=torch.full_like(candidates.logits, -500.0))
    for weighting, found in ((IoUWeights(), apart), (ScoreWeights(), hopeless)):
        terms, stats = run(Tasks(weighting=weighting), found)
        assert terms["localization"].item() == stats["balance"].item() == 0
        terms["localization"].backward()
    assert not candidates.boxes.predicted.grad.any()


def test_boxes_that_touch_no_object_still_have_a_gradient() -> None:
    candidates = make_candidates(2, masks=False)
    assert candidates.boxes is not None
    apart = replace(candidates, boxes=candidates.boxes._replace(target=OBJECTS[:2] + 50))
    run(Tasks(), apart).terms["localization"].backward()
    assert candidates.boxes.predicted.grad.any()


def test_a_box_that_is_no_number_is_not_lost() -> None:
    candidates = make_candidates(2, masks=False)
    assert candidates.boxes is not None
    broken = replace(candidates, boxes=Matched(torch.full((2, 4), torch.nan), candidates.boxes.target))
    assert run(Tasks(), broken).terms["localization"].isnan()


def test_auxiliary_heads_worked_out_by_hand() -> None:
    """All their logits are 0, so each cross-entropy is ln 2, whatever the target."""
    tasks = Tasks(auxiliary=(CenternessCrossEntropyLoss(), IoUCrossEntropyLoss()))
    candidates = make_candidates()
    terms, _ = run(tasks, candidates)
    assert terms["centerness"].item() == pytest.approx(math.log(2))
    assert terms["iou"].item() == pytest.approx(math.log(2) / 2)
    (terms["centerness"] + terms["iou"]).backward()
    assert candidates.auxiliary is not None
    assert candidates.boxes is not None
    gradient = candidates.auxiliary["centerness"].predicted.grad
    assert gradient.tolist() == pytest.approx([0.5 / 3, -0.5 / 3, 0])
    gradient = candidates.auxiliary["iou"].predicted.grad
    assert gradient.tolist() == pytest.approx([0, (0.5 - 1 / 7) / 6, -0.5 / 6], abs=1e-7)
    assert candidates.boxes.predicted.grad is None


def test_auxiliary_heads_name_what_is_missing() -> None:
    bare = replace(make_candidates(), auxiliary=None)
    for head in (CenternessCrossEntropyLoss(), IoUCrossEntropyLoss()):
        with pytest.raises(ValueError, match=f"auxiliary output '{head.name}'"):
            run(Tasks(auxiliary=(head,)), bare)


def test_box_and_mask_remember_apart() -> None:
    tasks = Tasks(balancing=EpochBalance(start=1.0, iterations=1))
    run(tasks, make_candidates())
    _, stats = run(tasks, make_candidates())
    for error, balance in (("localization_error", "balance"), ("mask_error", "mask_balance")):
        assert stats[balance].item() == pytest.approx(1 + 0.6 / stats[error].item())
    assert len(tasks.state_dict()) == 8


def test_half_precision_outputs_give_float32_terms() -> None:
    candidates = make_candidates()
    assert candidates.boxes is not None
    assert candidates.masks is not None
    half = replace(
        candidates,
        logits=candidates.logits.half(),
        boxes=Matched(candidates.boxes.predicted.half(), candidates.boxes.target),
        masks=Matched(candidates.masks.predicted.half(), candidates.masks.target),
    )
    terms, stats = run(Tasks(), half)
    expected = run(Tasks(), candidates)
    for name, term in terms.items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, expected.terms[name])
    torch.testing.assert_close(stats["localization_error"], expected.stats["localization_error"], rtol=1e-3, atol=0)


class OfProcesses(Processes):
    """Hands out means over processes that were worked out before."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.means: Tensor | None = None

    def mean(self, value: Tensor) -> Tensor:
        self.seen.append(value.detach())
        return value.detach() if self.means is None else self.means


def test_the_mean_of_the_gradients_of_processes_is_that_of_one_pool() -> None:
    """Two processes of one and two positives, whose gradients are averaged, against one that has all three."""
    whole = make_candidates(masks=False)
    run(Tasks(), whole).terms["localization"].backward()
    assert whole.boxes is not None
    parts = []
    for rows in ([0], [1, 2]):
        boxes = Matched(BOXES[rows].clone().requires_grad_(), OBJECTS[rows])
        logits, labels = whole.logits.detach()[[*rows, 3]], whole.labels[[*rows, 3]]
        parts.append(Candidates("head", logits, labels, 2, boxes=boxes))
    reduction = OfProcesses()
    for part in parts:
        run(Tasks(), part, processes=reduction)
    reduction.means = torch.stack(reduction.seen).mean(dim=0)
    outputs = [run(Tasks(), part, processes=reduction) for part in parts]
    gradients = []
    for part, output in zip(parts, outputs, strict=True):
        output.terms["localization"].backward()
        assert part.boxes is not None
        gradients.append(part.boxes.predicted.grad / 2)
    torch.testing.assert_close(torch.cat(gradients), whole.boxes.predicted.grad)
    for output in outputs:
        torch.testing.assert_close(output.terms["localization"], torch.tensor(0.6))
        torch.testing.assert_close(output.stats, outputs[0].stats | {k: output.stats[k] for k in COUNTS})


def test_any_callable_of_the_same_arguments_serves_as_a_part() -> None:
    tasks = Tasks(
        box_loss=lambda candidates, positives: 1 - positives.overlap.iou,
        weighting=lambda candidates, positives, ranking: positives.rows + 1.0,
        balancing=lambda classification, task, candidates, processes: task.new_tensor(2.0),
    )
    terms, stats = run(deepcopy(tasks), make_candidates())
    errors = [1 / 2, 6 / 7, 0]
    expected = sum((row + 1) * error for row, error in enumerate(errors)) / 6
    assert stats["localization_error"].item() == pytest.approx(expected)
    assert terms["localization"].item() == pytest.approx(2 * expected)
    assert stats["mask_balance"] == 2


def test_boxes_at_the_clamp_and_masks_without_gradient_are_counted() -> None:
    candidates = replace(make_candidates(), limited=torch.tensor([True, False, False]))
    _, stats = run(Tasks(), candidates)
    assert stats["boxes_limited"].item() == pytest.approx(1 / 3)
    assert stats["masks_saturated"].item() == 1
    assert candidates.masks is not None
    soft = replace(candidates, masks=Matched(candidates.masks.predicted / 50, candidates.masks.target))
    assert run(Tasks(), soft)[1]["masks_saturated"].item() == 0


def test_right_masks_are_not_saturated_however_large_their_logits() -> None:
    logits = torch.tensor([[[50.0, -50.0, -torch.inf]]])
    assert saturated_share(logits, torch.tensor([[[True, False, True]]])).item() == 0


def test_a_head_without_positives_has_no_share_of_anything() -> None:
    candidates = replace(make_candidates(0), limited=torch.zeros(0, dtype=torch.bool))
    _, stats = run(Tasks(), candidates)
    assert stats["boxes_limited"].item() == stats["masks_saturated"].item() == 0
