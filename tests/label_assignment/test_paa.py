"""Assignment by a mixture of costs against a plain transcription of the rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou, sigmoid_focal_loss

from rankdet.label_assignment import PAAAssigner, PyramidAnchors
from rankdet.label_assignment.paa import cheap_ones
from rankdet.structures import Target

from .scenes import KINDS, NUM_CLASSES, SCALES, make_anchors, make_target
from .test_mixture import fit_plainly, normal_log_density

ASSIGNERS = {"standard": PAAAssigner(giou_weight=1.3, added_variance=1e-6), "ranking": PAAAssigner()}


def focal(logits: list[float], label: int) -> float:
    total = 0.0
    for index, logit in enumerate(logits):
        probability = 1 / (1 + math.exp(-logit))
        if index == label:
            total -= 0.25 * (1 - probability) ** 2 * math.log(probability)
        else:
            total -= 0.75 * probability**2 * math.log(1 - probability)
    return total


def positives_plainly(costs: list[float], added: float) -> list[int]:
    """Which of the rising costs of one object are positives."""
    if len(costs) < 2:
        return []
    weights, means, variances = fit_plainly(costs, added)
    first, densities = [], []
    for index, cost in enumerate(costs):
        parts = [weights[k] * math.exp(normal_log_density(cost, means[k], variances[k])) for k in (0, 1)]
        if parts[0] >= parts[1]:
            first.append(index)
            densities.append(sum(parts))
    # Densities that differ by rounding alone are equal.
    highest = [density >= max(densities) * (1 - 1e-9) for density in densities]
    return first[: highest.index(True) + 1] if first else []


def assign_plainly(
    assigner: PAAAssigner, anchors: PyramidAnchors, valid: Tensor | None, target: Target, logits: Tensor, boxes: Tensor
) -> tuple[list[int], list[int]]:
    """The six steps of the rules for one image, one object at a time."""
    num_anchors, num_objects = len(anchors.boxes), len(target.labels)
    usable = list(range(num_anchors)) if valid is None else valid.nonzero().squeeze(1).tolist()
    labels, matched = [-1] * num_anchors, [0] * num_anchors
    for row in usable:
        labels[row] = NUM_CLASSES
    if not num_objects:
        return labels, matched
    iou = box_iou(anchors.boxes, target.boxes)
    owner: dict[int, int] = {}
    for row in usable:
        best = int(iou[row].argmax())
        if iou[row, best] >= 0.1:
            owner[row] = best
    for index in range(num_objects):
        best_iou = iou[usable, index].max()
        for row in usable:
            if iou[row, index] == best_iou:
                owner[row] = index
    giou = generalized_box_iou(boxes.double(), target.boxes.double())
    level_of = [level for level, count in enumerate(anchors.num_per_level) for _ in range(count)]
    for index, label in enumerate(target.labels.tolist()):
        pooled = []
        for level in range(len(anchors.num_per_level)):
            costs = [
                (focal(logits[row].tolist(), label) + assigner.giou_weight * (1 - float(giou[row, index])), row)
                for row, own in owner.items()
                if own == index and level_of[row] == level
            ]
            pooled += sorted(costs)[: assigner.candidates_per_level]
        pooled.sort()
        for position in positives_plainly([cost for cost, _ in pooled], assigner.added_variance):
            labels[pooled[position][1]] = label
            matched[pooled[position][1]] = index
    return labels, matched


def predict(anchors: PyramidAnchors, num_images: int, seed: int) -> tuple[Tensor, Tensor]:
    """Logits (B, M, C) and boxes (B, M, 4) of a network that is not quite sure."""
    generator = torch.Generator().manual_seed(seed)
    shape = num_images, len(anchors.boxes)
    logits = torch.randn(*shape, NUM_CLASSES, generator=generator) * 2 - 1
    boxes = anchors.boxes + torch.randn(*shape, 4, generator=generator)
    return logits, torch.cat([boxes[..., :2], torch.maximum(boxes[..., 2:], boxes[..., :2] + 1)], dim=2)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ASSIGNERS)
def test_assignment_equals_a_plain_transcription_of_the_rules(form: str, kind: str, scales: str) -> None:
    anchors = make_anchors(scales, [(64, 96), (64, 96), (33, 40)])
    found = 0
    for seed in range(2):
        targets = [make_target("few", 50 + seed), make_target(kind, seed), make_target(kind, 100 + seed)]
        logits, boxes = predict(anchors, 3, seed)
        assignment = ASSIGNERS[form](anchors, targets, NUM_CLASSES, logits, boxes)
        first_object = 0
        for image, (valid, target) in enumerate(zip(anchors.valid, targets, strict=True)):
            labels, matched = (part.view(3, -1)[image] for part in assignment)
            expected_labels, expected_matched = assign_plainly(
                ASSIGNERS[form], anchors, valid, target, logits[image], boxes[image]
            )
            assert labels.tolist() == expected_labels
            is_positive = (labels >= 0) & (labels < NUM_CLASSES)
            expected = torch.tensor(expected_matched) + first_object
            assert torch.equal(matched[is_positive], expected[is_positive])
            assert not matched[~is_positive].any()
            first_object += len(target.labels)
            found += int(is_positive.sum())
    assert found > 0


def test_an_object_with_fewer_than_two_candidates_gets_no_positive() -> None:
    anchors = PyramidAnchors(torch.tensor([[0.0, 0, 8, 8], [0, 1, 8, 9], [40, 40, 48, 48]]), [3], [None])
    target = Target(torch.tensor([[0.0, 0, 8, 8], [40, 40, 48, 48]]), torch.tensor([1, 0]))
    labels, matched = PAAAssigner()(anchors, [target], 2, torch.zeros(1, 3, 2), anchors.boxes[None])
    assert labels[2] == 2
    assert 1 in labels[:2].tolist()
    assert matched.tolist() == [0, 0, 0]


@pytest.mark.parametrize("added", [1e-5, 1e-6])
def test_positives_of_many_rows_of_costs_equal_those_of_each_alone(added: float) -> None:
    generator = torch.Generator().manual_seed(1)
    costs = torch.full((200, 45), torch.inf)
    for row in range(200):
        count = row % 46
        near = torch.rand(count, generator=generator) + (torch.rand(count, generator=generator) < 0.5) * (row % 5)
        costs[row, :count] = near.sort().values
    found = cheap_ones(costs, costs < torch.inf, added_variance=added)
    for row in range(200):
        own = costs[row][costs[row] < torch.inf].tolist()
        assert found[row].nonzero().squeeze(1).tolist() == positives_plainly(own, added)


def test_equal_costs_give_one_positive() -> None:
    assert cheap_ones(torch.ones(1, 9), torch.ones(1, 9, dtype=torch.bool), added_variance=1e-5).tolist() == [
        [True] + [False] * 8
    ]


def test_predictions_that_are_no_numbers_give_labels_all_the_same() -> None:
    anchors = make_anchors("one anchor", [(64, 96)])
    logits, boxes = predict(anchors, 1, 0)
    labels, _ = PAAAssigner()(anchors, [make_target("few", 0)], NUM_CLASSES, logits * torch.nan, boxes)
    assert set(labels.tolist()) <= set(range(NUM_CLASSES + 1))


def test_batch_without_objects_is_background() -> None:
    anchors = make_anchors("one anchor", [(64, 96), (33, 40)])
    logits, boxes = predict(anchors, 2, 0)
    labels, matched = PAAAssigner()(anchors, [make_target("none", 0)] * 2, NUM_CLASSES, logits, boxes)
    assert (labels[: len(anchors.boxes)] == NUM_CLASSES).all()
    assert set(labels[len(anchors.boxes) :].tolist()) == {-1, NUM_CLASSES}
    assert not matched.any()


def test_costs_are_focal_loss_and_giou() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(30, NUM_CLASSES, generator=generator) * 4
    labels = torch.randint(0, NUM_CLASSES, (30,), generator=generator)
    boxes, objects = make_target("crowded", 1).boxes[:30], make_target("crowded", 2).boxes[:30]
    one_hot = torch.nn.functional.one_hot(labels, NUM_CLASSES).float()
    expected = sigmoid_focal_loss(logits, one_hot).sum(dim=1) + 1.3 * (
        1 - generalized_box_iou(boxes, objects).diagonal()
    )
    torch.testing.assert_close(PAAAssigner(giou_weight=1.3).costs(logits, labels, boxes, objects), expected)
