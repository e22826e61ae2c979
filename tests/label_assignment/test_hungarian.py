"""One-to-one matching: its costs, that none is cheaper, images of different numbers of objects."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from rankdet.label_assignment import HungarianAssigner, PaddedObjects, pad_objects
from rankdet.structures import Target

SIZES = [(40, 60), (32, 32), (50, 20)]
NUM_CLASSES = 3


def objects_of(numbers: list[int], seed: int = 0) -> PaddedObjects:
    """Random objects, so many in each image."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for number, (height, width) in zip(numbers, SIZES, strict=False):
        corners = torch.rand(number, 2, 2, generator=generator).sort(dim=1).values * torch.tensor([width, height])
        labels = torch.randint(NUM_CLASSES, (number,), generator=generator)
        targets.append(Target(corners.flatten(1), labels))
    return pad_objects(targets, SIZES[: len(numbers)], NUM_CLASSES)


def predictions(heads: int, images: int, queries: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    logits = 3 * torch.randn(heads, images, queries, NUM_CLASSES, generator=generator)
    return logits, 0.05 + 0.9 * torch.rand(heads, images, queries, 4, generator=generator)


def cost_by_hand(logits: Tensor, box: Tensor, target: Tensor, label: int, size: tuple[int, int]) -> float:
    """The equation, for one query and one object in pixels."""
    score = 1 / (1 + math.exp(-float(logits[label])))
    focal = -0.25 * (1 - score) ** 2 * math.log(score) + 0.75 * score**2 * math.log(1 - score)
    height, width = size
    scale = torch.tensor([width, height, width, height])
    distance = float((box - box_convert(target / scale, "xyxy", "cxcywh")).abs().sum())
    giou = float(generalized_box_iou(box_convert(box, "cxcywh", "xyxy")[None] * scale, target[None]))
    return 2 * focal + 5 * distance - 2 * giou


def test_costs_are_those_of_the_equation() -> None:
    objects, (logits, boxes) = objects_of([2, 0, 3]), predictions(2, 3, 4)
    costs = HungarianAssigner().costs(logits, boxes, objects)
    assert costs.shape == (2, 3, 4, 3)
    for head, image, query in itertools.product(range(2), range(3), range(4)):
        for row in range(objects.numbers[image]):
            expected = cost_by_hand(
                logits[head, image, query],
                boxes[head, image, query],
                objects.boxes[image, row],
                int(objects.labels[image, row]),
                SIZES[image],
            )
            assert float(costs[head, image, query, row]) == pytest.approx(expected, abs=1e-4)


def test_no_other_matching_of_an_image_is_cheaper() -> None:
    objects, (logits, boxes) = objects_of([3, 0, 2]), predictions(2, 3, 5)
    assigner = HungarianAssigner()
    costs = assigner.costs(logits, boxes, objects)
    for head, matching in enumerate(assigner(logits, boxes, objects)):
        assert torch.equal(matching.rows, matching.rows.sort().values)
        assert len(matching.rows.unique()) == len(matching.objects.unique()) == 5
        for image, number in enumerate(objects.numbers):
            own = matching.rows // 5 == image
            assert torch.equal(matching.objects[own].sort().values, image * 3 + torch.arange(number))
            total = costs[head, image][matching.rows[own] % 5, matching.objects[own] % 3].sum()
            others = [
                costs[head, image][list(queries), range(number)].sum()
                for queries in itertools.permutations(range(5), number)
            ]
            assert float(total) == pytest.approx(float(min(others)), abs=1e-5)


def test_of_more_objects_than_queries_each_query_gets_one() -> None:
    objects, (logits, boxes) = objects_of([6]), predictions(1, 1, 4)
    (matching,) = HungarianAssigner()(logits, boxes, objects)
    assert matching.rows.tolist() == [0, 1, 2, 3]
    assert len(matching.objects.unique()) == 4


def test_images_without_objects_have_no_positives() -> None:
    objects, (logits, boxes) = objects_of([0, 0]), predictions(2, 2, 4)
    for matching in HungarianAssigner()(logits, boxes, objects):
        assert matching.rows.shape == matching.objects.shape == (0,)
        assert matching.rows.dtype == torch.int64


def test_a_query_that_is_not_finite_is_matched_last() -> None:
    objects, (logits, boxes) = objects_of([2]), predictions(1, 1, 3)
    logits[0, 0, 1] = torch.nan
    (matching,) = HungarianAssigner()(logits, boxes, objects)
    assert matching.rows.tolist() == [0, 2]


def test_tiny_objects_of_a_large_image_have_their_own_overlap() -> None:
    target = Target(torch.tensor([[100.0, 100.0, 101.0, 101.0]]), torch.tensor([0]))
    objects = pad_objects([target], [(4000, 4000)], 1)
    costs = HungarianAssigner(class_cost=0.0, l1_cost=0.0).costs(
        torch.zeros(1, 1, 1, 1), objects.centered[None], objects
    )
    assert float(costs) == pytest.approx(-2, abs=0.01)
