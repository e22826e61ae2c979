"""IoU and GIoU of pairs, against hand-worked numbers and torchvision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from rankdet.losses import box_overlap


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
