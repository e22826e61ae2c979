"""Suppression in groups against a plain loop."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from rankdet.heads import grouped_nms, select_detections


@pytest.mark.parametrize("limit", [1, 3, 10, 500])
def test_the_best_few_are_those_of_a_full_suppression(limit: int) -> None:
    generator = torch.Generator().manual_seed(limit)
    corners = 100 * torch.rand(300, 2, generator=generator)
    boxes = torch.cat([corners, corners + 30 * torch.rand(300, 2, generator=generator) + 20], dim=1)
    scores = torch.randint(0, 50, (300,), generator=generator) / 50  # many ties
    groups = torch.randint(0, 2, (300,), generator=generator)
    iou, kept = box_iou(boxes.double(), boxes.double()), []
    for row in sorted(range(300), key=lambda row: (-float(scores[row]), row)):
        if all(groups[row] != groups[better] or iou[row, better] <= 0.5 for better in kept):
            kept.append(row)
    assert grouped_nms(boxes, scores, groups, iou=0.5, limit=limit).tolist() == kept[:limit]


def test_without_boxes_nothing_is_found() -> None:
    boxes, scores, labels = select_detections(torch.zeros(0, 3, 4), torch.zeros(0, 3), threshold=0.05, iou=0.5, limit=9)
    assert boxes.shape == (0, 4)
    assert scores.shape == labels.shape == (0,)


def test_one_box_may_be_detected_as_two_classes_but_not_at_the_threshold() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0]] * 3])
    _, scores, labels = select_detections(boxes, torch.tensor([[0.5, 0.05, 0.9]]), threshold=0.05, iou=0.5, limit=9)
    assert labels.tolist() == [2, 0]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.5]))


def test_of_many_equal_scores_the_first_come_first() -> None:
    left = 10.0 * torch.arange(3000)
    boxes = torch.stack([left, left, left + 5, left + 5], dim=1)
    groups = torch.arange(3000) % 7
    best = grouped_nms(boxes, torch.full((3000,), 0.5), groups, iou=0.5, limit=2500)
    assert torch.equal(best, torch.arange(2500))
