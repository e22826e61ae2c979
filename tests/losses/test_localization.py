"""IoU, GIoU and Dice of pairs, against hand-worked numbers and torchvision; the labels made of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from rankdet.losses import (
    BinaryQuality,
    DiceQuality,
    GivenQuality,
    IoUQuality,
    MeanQuality,
    box_overlap,
    dice_coefficient,
    find_positives,
    localization,
)
from rankdet.losses.quality import Quality
from rankdet.structures import Candidates, Matched


def draw_boxes(seed: int, count: int, size: float = 100.0) -> Tensor:
    corner, opposite = size * torch.rand(2, count, 2, generator=torch.Generator().manual_seed(seed)).double()
    return torch.cat([torch.minimum(corner, opposite), torch.maximum(corner, opposite)], dim=1)


@pytest.mark.parametrize(
    ("predicted", "target", "iou", "giou"),
    [
        ([0, 0, 4, 4], [0, 0, 4, 4], 1, 1),
        ([0, 0, 4, 4], [0, 0, 4, 2], 1 / 2, 1 / 2),
        ([0, 0, 2, 2], [1, 1, 3, 3], 1 / 7, 1 / 7 - 2 / 9),
        ([0, 0, 2, 2], [2, 0, 4, 2], 0, 0),
        ([0, 0, 1, 1], [3, 0, 4, 1], 0, -1 / 2),
        ([-3, -3, -2, -2], [2, 2, 3, 3], 0, 2 / 36 - 1),
    ],
)
def test_overlaps_worked_out_by_hand(predicted: list[float], target: list[float], iou: float, giou: float) -> None:
    for first, second in ((predicted, target), (target, predicted)):
        overlap = box_overlap(torch.tensor([first]), torch.tensor([second]).float())
        assert overlap.iou.item() == pytest.approx(iou)
        assert overlap.giou.item() == pytest.approx(giou)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 30), size=st.sampled_from([0.5, 30.0, 2000.0]))
def test_overlaps_equal_those_of_torchvision(seed: int, count: int, size: float) -> None:
    predicted, target = draw_boxes(seed, count, size), draw_boxes(seed + 1, count, size)
    overlap = box_overlap(predicted, target)
    torch.testing.assert_close(overlap.iou, box_iou(predicted, target).diagonal())
    torch.testing.assert_close(overlap.giou, generalized_box_iou(predicted, target).diagonal())


def test_the_gradient_equals_that_of_torchvision() -> None:
    ours, theirs = (draw_boxes(3, 20).requires_grad_() for _ in range(2))
    target = draw_boxes(4, 20)
    box_overlap(ours, target).giou.sum().backward()
    generalized_box_iou(theirs, target).diagonal().sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_boxes_without_area_divide_by_no_zero() -> None:
    predicted = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [5, 5, 2, 2]], requires_grad=True)
    target = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 2], [0, 0, 2, 2]])
    overlap = box_overlap(predicted, target)
    assert overlap.iou.tolist() == [0, 0, 0]
    assert overlap.giou.isfinite().all()
    (overlap.iou + overlap.giou).sum().backward()
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("side", [1.0, 800.0, 10_000.0])
def test_overlaps_have_no_unit(side: float) -> None:
    """Boxes in parts of an image have the overlaps of their pixels, those of single pixels too."""
    predicted, target = draw_boxes(5, 40, side), draw_boxes(6, 40, side)
    target[:20] = predicted[:20] + 0.2 * (predicted[:20, 2:] - predicted[:20, :2]).repeat(1, 2)
    expected = box_overlap(predicted.double(), target.double())
    found = box_overlap(predicted.double() / side, target.double() / side)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert (expected.iou > 0.4).sum() >= 20


@pytest.mark.parametrize("size", [1e-4, 1e-6, 1e-7])
def test_a_tiny_box_in_a_large_image_overlaps_itself(size: float) -> None:
    box = torch.tensor([[0.0, 0.0, size, size]])
    half = torch.tensor([[0.0, 0.0, size, size / 2]])
    torch.testing.assert_close(box_overlap(box, box), localization.Overlap(torch.ones(1), torch.ones(1)))
    torch.testing.assert_close(
        box_overlap(half, box), localization.Overlap(torch.full((1,), 0.5), torch.full((1,), 0.5))
    )


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_gradients_of_boxes_without_area_are_finite_in_any_unit(scale: float) -> None:
    point, line, box = [1.0, 1, 1, 1], [1.0, 1, 1, 3], [0.0, 0, 2, 2]
    turned, far = [5.0, 5, 2, 2], [9.0, 9, 9, 9]
    kinds = torch.tensor([point, line, box, turned, far])
    predicted = (scale * kinds.repeat_interleave(5, 0)).requires_grad_()
    target = (scale * kinds.repeat(5, 1)).requires_grad_()
    overlap = box_overlap(predicted, target)
    assert overlap.iou.isfinite().all()
    assert (overlap.giou.abs() <= 1).all()
    (overlap.iou + overlap.giou).sum().backward()
    for boxes in (predicted, target):
        assert boxes.grad.isfinite().all()
        assert boxes.grad.abs().max() * scale < 10


def test_a_box_that_is_not_a_number_spoils_its_overlap() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [torch.nan, 0, 1, 1]])
    for overlap in (box_overlap(boxes, torch.ones(2, 4)), box_overlap(torch.zeros(2, 4), boxes)):
        assert overlap.iou.isnan().tolist() == overlap.giou.isnan().tolist() == [False, True]


def test_no_pairs_are_no_error() -> None:
    predicted = torch.zeros(0, 4, requires_grad=True)
    overlap = box_overlap(predicted, torch.zeros(0, 4))
    assert overlap.iou.shape == overlap.giou.shape == (0,)
    overlap.giou.sum().backward()
    assert predicted.grad.shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_boxes_are_compared_in_float32(dtype: torch.dtype) -> None:
    """An area of 1000 × 1000 pixels is beyond float16."""
    boxes = torch.tensor([[0.0, 0, 1000, 1000]]).to(dtype)
    overlap = box_overlap(boxes, boxes)
    assert overlap.iou.dtype == torch.float32
    assert overlap.iou.item() == overlap.giou.item() == 1
    assert box_overlap(boxes.double(), boxes).iou.dtype == torch.float64


def draw_masks(seed: int, count: int, side: int = 6) -> tuple[Tensor, Tensor]:
    """Float64 logits and bool targets."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, side, side + 1, generator=generator, dtype=torch.float64)
    return logits, torch.rand(count, side, side + 1, generator=generator) > 0.6


def dice_as_it_stands(logits: Tensor, target: Tensor, epsilon: float) -> Tensor:
    scores, inside = logits.sigmoid().flatten(1), target.to(logits.dtype).flatten(1)
    return 2 * (scores * inside).sum(1) / ((scores**2).sum(1) + (inside**2).sum(1) + epsilon)


@pytest.mark.parametrize("epsilon", [1e-5, 2e-3])
def test_dice_is_the_equation_and_so_is_its_gradient(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the masks are handled two at a time."""
    monkeypatch.setattr(localization, "MASK_CHUNK", 100)
    logits, target = draw_masks(0, 5)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    found, expected = dice_coefficient(ours, target, epsilon), dice_as_it_stands(theirs, target, epsilon)
    torch.testing.assert_close(found, expected)
    (weights * found).sum().backward()
    (weights * expected).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_gradient_of_dice_is_its_derivative() -> None:
    logits, target = draw_masks(1, 3, side=3)
    soft = torch.rand(3, 3, 4, dtype=torch.float64)
    for goal in (target, soft):
        assert torch.autograd.gradcheck(lambda x, goal=goal: dice_coefficient(x, goal), logits.requires_grad_())


@pytest.mark.parametrize(
    ("logits", "target", "epsilon", "expected"),
    [
        ([100.0, 100, -100], [1.0, 1, 0], 1e-5, 4 / (4 + 1e-5)),
        ([100.0, -100, -100], [1.0, 1, 0], 2e-3, 2 / (3 + 2e-3)),
        ([-100.0, -100, 100], [1.0, 1, 0], 1e-5, 0),
        ([-100.0, -100, -100], [0.0, 0, 0], 1e-5, 0),
        ([0.0, 0, 0], [0.5, 0, 0], 1e-5, 0.5 / (1 + 1e-5)),
    ],
)
def test_dice_worked_out_by_hand(logits: list[float], target: list[float], epsilon: float, expected: float) -> None:
    found = dice_coefficient(torch.tensor(logits)[None, None], torch.tensor(target)[None, None], epsilon)
    assert found.item() == pytest.approx(expected)


def test_pixels_outside_of_a_crop_get_no_gradient() -> None:
    logits = torch.tensor([[[0.5, -torch.inf], [1.0, -torch.inf]]], requires_grad=True)
    dice_coefficient(logits, torch.ones(1, 2, 2, dtype=torch.bool)).sum().backward()
    assert logits.grad.isfinite().all()
    assert (logits.grad != 0).tolist() == [[[True, False], [True, False]]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_masks_are_compared_in_float32(dtype: torch.dtype) -> None:
    """The sum over 300 × 300 pixels is beyond float16."""
    logits = torch.full((1, 300, 300), 20.0, dtype=dtype, requires_grad=True)
    dice = dice_coefficient(logits, torch.ones(1, 300, 300, dtype=torch.bool))
    assert dice.dtype == torch.float32
    assert dice.item() == pytest.approx(1)
    dice.backward()
    assert logits.grad.dtype == dtype


def test_no_masks_are_no_error() -> None:
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    dice_coefficient(logits, torch.zeros(0, 4, 4)).sum().backward()
    assert logits.grad.shape == (0, 4, 4)


def test_masks_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        dice_coefficient(torch.zeros(1, 4, 4), torch.zeros(1, 4, 5))


def labeled_candidates(rows: Tensor | None = None) -> Candidates:
    """One positive of IoU 1/2 whose mask has the Dice coefficient 2/3, and a negative."""
    return Candidates(
        "head",
        torch.zeros(2, 1),
        torch.tensor([1, 0]),
        1,
        boxes=Matched(torch.tensor([[0.0, 0, 4, 4]], requires_grad=True), torch.tensor([[0.0, 0, 4, 2]])),
        masks=Matched(torch.tensor([[[100.0, -100.0]]], requires_grad=True), torch.ones(1, 1, 2), rows),
        quality=torch.tensor([0.3]),
    )


@pytest.mark.parametrize(
    ("quality", "expected"),
    [
        (BinaryQuality(), 1),
        (IoUQuality(), 1 / 2),
        (DiceQuality(), 2 / 3),
        (MeanQuality(), 7 / 12),
        (GivenQuality(), 0.3),
    ],
)
def test_qualities_worked_out_by_hand(quality: Quality, expected: float) -> None:
    candidates = labeled_candidates()
    found = quality(candidates, find_positives(candidates))
    assert found.tolist() == pytest.approx([expected], abs=1e-5)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("quality", "missing"),
    [(IoUQuality(), "boxes"), (DiceQuality(), "masks"), (MeanQuality(), "boxes"), (GivenQuality(), "quality")],
)
def test_a_quality_names_what_a_head_does_not_hand(quality: Quality, missing: str) -> None:
    bare = Candidates("head", torch.zeros(1, 1), torch.tensor([0]), 1)
    with pytest.raises(ValueError, match=f"'head' passes no {missing}"):
        quality(bare, find_positives(bare))


def test_the_dice_label_needs_the_masks_of_all_positives() -> None:
    candidates = labeled_candidates(rows=torch.tensor([0]))
    with pytest.raises(ValueError, match="a part of its positives"):
        DiceQuality()(candidates, find_positives(candidates))


def test_a_quality_that_a_head_passes_is_one_for_each_positive() -> None:
    for labels in ([0, 0], [1, 1]):
        candidates = Candidates("head", torch.zeros(2, 1), torch.tensor(labels), 1, quality=torch.rand(1))
        with pytest.raises(ValueError, match=r"'head': . positives but a quality of shape \(1,\)"):
            GivenQuality()(candidates, find_positives(candidates))
