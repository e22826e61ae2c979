"""Overlap of pairs against that of all pairs."""

import torch
from torchvision.ops import box_iou, generalized_box_iou

from rankdet.label_assignment.overlap import aligned_giou, aligned_iou

from .scenes import make_target


def test_overlap_of_pairs_is_the_diagonal_of_that_of_all() -> None:
    boxes, others = make_target("crowded", 1).boxes, make_target("crowded", 2).boxes
    torch.testing.assert_close(aligned_iou(boxes, others), box_iou(boxes, others).diagonal())
    torch.testing.assert_close(aligned_giou(boxes, others), generalized_box_iou(boxes, others).diagonal())


def test_boxes_without_area_overlap_nothing() -> None:
    points = torch.ones(1, 4)
    assert aligned_iou(points, points).item() == 0
    assert aligned_giou(points, points).item() == 0
