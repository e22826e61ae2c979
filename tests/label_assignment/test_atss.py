"""Adaptive thresholds against a plain transcription of the rules."""

from __future__ import annotations

import statistics

import pytest
import torch
from torchvision.ops import box_iou

from rankdet.label_assignment import ATSSAssigner, PyramidAnchors
from rankdet.structures import Target

from .scenes import KINDS, NUM_CLASSES, SCALES, make_anchors, make_target


def assign_plainly(anchors: PyramidAnchors, valid: torch.Tensor | None, target: Target) -> tuple[list[int], list[int]]:
    """One object, one level and one anchor at a time."""
    num_anchors, objects = len(anchors.boxes), target.boxes.tolist()
    usable = [True] * num_anchors if valid is None else valid.tolist()
    all_iou = box_iou(anchors.boxes, target.boxes).tolist()
    owner: list[int | None] = [None] * num_anchors
    center = (anchors.boxes[:, :2] + anchors.boxes[:, 2:]) / 2
    # In float32: what ties, and what only almost does, is a matter of rounding.
    away = center[:, None] - (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
    squared = away[..., 0] ** 2 + away[..., 1] ** 2
    for index, (x1, y1, x2, y2) in enumerate(objects):
        candidates, start = [], 0
        for count in anchors.num_per_level:
            level = [row for row in range(start, start + count) if usable[row]]
            candidates += sorted(level, key=lambda row: (float(squared[row, index]), row))[:9]
            start += count
        iou = [all_iou[row][index] for row in candidates]
        threshold = statistics.mean(iou) + statistics.stdev(iou)
        for row, value in zip(candidates, iou, strict=True):
            x, y = center[row].tolist()
            is_inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0.01
            before = owner[row]
            if value >= threshold and is_inside and (before is None or value > all_iou[row][before]):
                owner[row] = index
    labels = [NUM_CLASSES if index is None else int(target.labels[index]) for index in owner]
    labels = [label if use else -1 for label, use in zip(labels, usable, strict=True)]
    return labels, [index or 0 for index in owner]


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("kind", KINDS)
def test_assignment_equals_a_plain_transcription_of_the_rules(kind: str, scales: str) -> None:
    anchors = make_anchors(scales, [(64, 96), (64, 96), (33, 40)])
    found = 0
    for seed in range(4):
        targets = [make_target("few", 50 + seed), make_target(kind, seed), make_target(kind, 100 + seed)]
        assignment = ATSSAssigner()(anchors, targets, NUM_CLASSES)
        first_object = 0
        parts = zip(assignment.labels.view(3, -1), assignment.matched.view(3, -1), anchors.valid, targets, strict=True)
        for labels, matched, valid, target in parts:
            expected_labels, expected_matched = assign_plainly(anchors, valid, target)
            assert labels.tolist() == expected_labels
            is_positive = (labels >= 0) & (labels < NUM_CLASSES)
            expected = torch.tensor(expected_matched) + first_object
            assert torch.equal(matched, expected.where(is_positive, 0))
            first_object += len(target.labels)
            found += sum(0 <= label < NUM_CLASSES for label in expected_labels)
    assert found > 0


def test_levels_with_fewer_anchors_than_candidates_give_all_they_have() -> None:
    anchors = make_anchors("one anchor", [(64, 96)])
    assert anchors.num_per_level[-1] == 2
    every = ATSSAssigner(candidates_per_level=1000)(anchors, [make_target("crowded", 0)], NUM_CLASSES)
    assert every.labels.shape == (512,)


def test_an_anchor_that_two_objects_want_goes_to_the_one_it_overlaps_most() -> None:
    anchors = PyramidAnchors(torch.tensor([[0.0, 0, 8, 8], [20, 0, 28, 8], [40, 0, 48, 8]]), [3], [None])
    target = Target(torch.tensor([[0.0, 0, 8, 10], [0, 0, 8, 9], [0, 0, 8, 9]]), torch.tensor([0, 1, 2]))
    labels, matched = ATSSAssigner()(anchors, [target], 3)
    assert labels.tolist() == [1, 3, 3]
    assert matched.tolist() == [1, 0, 0]


def test_a_center_on_the_side_of_an_object_is_not_inside() -> None:
    anchors = PyramidAnchors(torch.tensor([[0.0, 0, 8, 8], [20, 0, 28, 8], [40, 0, 48, 8]]), [3], [None])
    for edge, label in ((4.0, 1), (4.005, 1), (3.98, 0)):
        target = Target(torch.tensor([[edge, 0.0, 12.0, 8.0]]), torch.tensor([0]))
        assert ATSSAssigner()(anchors, [target], 1).labels.tolist() == [label, 1, 1]


def test_a_single_candidate_is_its_own_threshold() -> None:
    anchors = PyramidAnchors(torch.tensor([[0.0, 0, 8, 8]]), [1], [None])
    target = Target(torch.tensor([[2.0, 0.0, 12.0, 8.0]]), torch.tensor([0]))
    assert ATSSAssigner()(anchors, [target], 1).labels.tolist() == [0]
