"""Noised queries: where positives and negatives lie, how many groups there are, how often classes change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_convert

from rankdet.heads import Denoising
from rankdet.label_assignment import PaddedObjects, pad_objects
from rankdet.structures import Target

SIZES = [(100, 200), (100, 200)]


def objects_of(*numbers: int) -> PaddedObjects:
    """So many objects in each image, in the middle of it."""
    boxes = torch.tensor([[80.0, 40.0, 120.0, 60.0]])
    targets = [Target(boxes.repeat(number, 1), torch.arange(number) % 3) for number in numbers]
    return pad_objects(targets, SIZES[: len(numbers)], 3)


def sides_moved(boxes: Tensor, objects: PaddedObjects) -> Tensor:
    """How far each side of a box (B, groups, 2, G, 4) has moved, in halves of the object's width or height."""
    sides = box_convert(boxes, "cxcywh", "xyxy") - box_convert(objects.centered, "cxcywh", "xyxy")[:, None, None]
    return sides.abs() / (objects.centered[..., 2:].repeat(1, 1, 2)[:, None, None] / 2)


@pytest.mark.parametrize("noise", [0.0, 0.4, 1.0])
def test_sides_of_positives_move_less_than_half_a_box_and_those_of_negatives_more(noise: float) -> None:
    torch.manual_seed(0)
    objects = objects_of(2, 2)
    noised = Denoising(3, 8, queries=100, box_noise=noise)(objects)
    moved = sides_moved(noised.boxes.view(2, 50, 2, 2, 4), objects)
    positive, negative = moved.unbind(dim=2)
    assert positive.max() <= noise + 1e-4
    # Where both sides of a box cross, they are kept in order by nobody: the box is small.
    assert ((negative >= noise - 1e-4) & (negative <= 2 * noise + 1e-4)).float().mean() == 1
    if noise:
        assert positive.mean() == pytest.approx(noise / 2, rel=0.05)
        assert negative.mean() == pytest.approx(1.5 * noise, rel=0.05)


def test_there_are_as_many_groups_as_make_the_number_of_queries_and_at_least_one() -> None:
    for number, groups in ((1, 10), (3, 3), (4, 2), (25, 1)):
        noised = Denoising(3, 8, queries=10)(objects_of(number, 0))
        assert noised.queries.shape == (2, groups * 2 * number, 8)
        assert noised.groups.unique().tolist() == list(range(groups))


def test_the_positives_are_those_of_the_labels_and_have_their_objects() -> None:
    objects = objects_of(3, 1)
    noised = Denoising(3, 8, queries=6)(objects)
    positive = (noised.labels >= 0) & (noised.labels < 3)
    assert torch.equal(noised.matching.rows, positive.nonzero().squeeze(1))
    assert torch.equal(objects.labels.flatten()[noised.matching.objects], noised.labels[positive])


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_a_class_is_drawn_anew_half_as_often_as_the_noise_says(noise: float) -> None:
    torch.manual_seed(0)
    denoising = Denoising(3, 1, queries=3000, label_noise=noise)
    with torch.no_grad():
        denoising.embedding.weight.copy_(torch.arange(4.0)[:, None])
    noised = denoising(objects_of(3))
    classes = noised.queries.view(-1, 3)  # of objects 0, 1 and 2
    share = (classes != torch.arange(3.0)).float().mean()
    assert share == pytest.approx(noise / 2 * 2 / 3, abs=0.02)


def test_boxes_end_at_the_image() -> None:
    torch.manual_seed(0)
    target = Target(torch.tensor([[0.0, 0.0, 200.0, 100.0]]), torch.tensor([0]))
    noised = Denoising(3, 8)(pad_objects([target], SIZES[:1], 3))
    corners = box_convert(noised.boxes, "cxcywh", "xyxy")
    assert corners.min() >= -1e-6
    assert corners.max() <= 1 + 1e-6
