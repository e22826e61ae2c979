"""Suppression in groups against a plain loop."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import box_iou

from rankdet.heads import fast_nms, grouped_nms, select_detections


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


def fast_nms_by_hand(boxes, scores, threshold, iou, limit, per_class):  # type: ignore[no-untyped-def]
    found = []
    for label in range(scores.shape[1]):
        order = sorted(range(len(boxes)), key=lambda row: (-float(scores[row, label]), row))[:per_class]
        for place, row in enumerate(order):
            better = [box_iou(boxes[row : row + 1], boxes[other : other + 1]).item() for other in order[:place]]
            if scores[row, label] > threshold and all(overlap <= iou for overlap in better):
                found.append((float(scores[row, label]), row, label))
    return sorted(found, key=lambda entry: (-entry[0], entry[1], entry[2]))[:limit]


@pytest.mark.parametrize("pairs", [2**22, 300])
@pytest.mark.parametrize(("limit", "per_class"), [(1, 5), (30, 12), (1000, 200)])
def test_fast_suppression_is_that_of_a_plain_loop(
    limit: int, per_class: int, pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rankdet.heads.nms.MAX_PAIRS", pairs)
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        corners = 40 * torch.rand(40, 2, generator=generator)
        boxes = torch.cat([corners, corners + 30 * torch.rand(40, 2, generator=generator)], dim=1)
        scores = torch.rand(40, 5, generator=generator) * torch.tensor([1.0, 0.5, 0.1, 0.04, 1.0])
        if seed % 2:
            scores = (20 * scores).round() / 20  # many ties, and some at the threshold
        rows, found, labels = fast_nms(boxes, scores, threshold=0.05, iou=0.3, limit=limit, per_class=per_class)
        expected = fast_nms_by_hand(boxes, scores, 0.05, 0.3, limit, per_class)
        assert list(zip(found.tolist(), rows.tolist(), labels.tolist(), strict=True)) == expected
        assert 3 not in labels


def test_fast_suppression_of_nothing_finds_nothing() -> None:
    for boxes, scores in ((torch.zeros(0, 4), torch.zeros(0, 3)), (torch.rand(7, 4), torch.full((7, 3), 0.05))):
        rows, found, labels = fast_nms(boxes, scores, threshold=0.05, iou=0.5, limit=9)
        assert rows.shape == found.shape == labels.shape == (0,)
        assert rows.dtype == labels.dtype == torch.int64
