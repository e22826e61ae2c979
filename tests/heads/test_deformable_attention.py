"""Deformable attention against its equation, one point after the other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rankdet.heads import DeformableAttention, sample_levels

SHAPES = ((5, 7), (3, 4), (1, 2))
"""(height, width) of the maps."""


def interpolated(features: Tensor, x: float, y: float) -> Tensor:
    """The value (channels,) at a place of a map (H, W, channels), from 0 to 1, with zeros outside of it."""
    height, width, _ = features.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros_like(features[0, 0])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += features[i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def test_points_of_all_levels_are_interpolated_weighted_and_added_up() -> None:
    torch.manual_seed(0)
    heads, size, points = 2, 3, 4
    values = [torch.randn(2, *shape, heads * size, dtype=torch.float64) for shape in SHAPES]
    places = 1.4 * torch.rand(2, 5, heads, len(SHAPES), points, 2, dtype=torch.float64) - 0.2  # some are outside
    weights = torch.rand(places.shape[:-1], dtype=torch.float64)
    expected = torch.zeros(2, 5, heads * size, dtype=torch.float64)
    for image, query, head, level, point in torch.cartesian_prod(*map(torch.arange, places.shape[:-1])).tolist():
        own = slice(head * size, (head + 1) * size)
        x, y = places[image, query, head, level, point].tolist()
        weight = weights[image, query, head, level, point]
        expected[image, query, own] += weight * interpolated(values[level][image][..., own], x, y)
    torch.testing.assert_close(sample_levels(values, places, weights), expected)


def test_gradients_are_those_of_differences() -> None:
    torch.manual_seed(0)
    values = [torch.randn(1, *shape, 2, dtype=torch.float64, requires_grad=True) for shape in SHAPES[1:]]
    places = torch.rand(1, 2, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(1, 2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *args: sample_levels(args[2:], *args[:2]), (places, weights, *values))


def test_offsets_are_halves_of_a_box_over_the_number_of_points_and_start_around_it() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, 2, heads=4, points=2)
    # One head and one level alone have values; they are the column of a cell, so that the output tells the place.
    columns = (torch.arange(100) + 0.5) / 100
    maps = [torch.zeros(1, 1, 100, 8), columns.view(1, 1, 100, 1).expand(-1, -1, -1, 8)]
    with torch.no_grad():
        attention.values.weight.copy_(torch.eye(8))
        attention.output.weight.copy_(torch.eye(8))
    box = torch.tensor([[[0.5, 0.5, 0.2, 1e-6]]])
    found = attention(torch.randn(1, 1, 8), box, maps)[0, 0].view(4, 2)
    # Heads look right, down, left and up, one and two steps of a quarter of the width far; the other level is zeros.
    steps = torch.tensor([1.0, 0, -1, 0]) * (0.2 / 4) * (1 + 2) / 2
    torch.testing.assert_close(found, ((0.5 + steps) / 2)[:, None].expand(-1, 2), atol=1e-4, rtol=0)


def test_cells_outside_of_the_image_are_zeros_whatever_they_hold() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(8, 1, heads=2, points=4)
    queries, boxes = torch.randn(2, 3, 8), torch.rand(2, 3, 4)
    whole = torch.randn(2, 4, 6, 8)
    inside = torch.zeros(2, 4, 6, dtype=torch.bool)
    inside[:, :4, :3] = True
    small = boxes * torch.tensor([0.5, 1, 0.5, 1])
    wide = attention(queries, small, [whole], [inside])
    other = attention(queries, small, [torch.where(inside[..., None], whole, 1e3)], [inside])
    torch.testing.assert_close(wide, other)
    torch.testing.assert_close(wide, attention(queries, boxes, [whole[:, :, :3]]), atol=1e-5, rtol=1e-5)


def test_channels_that_heads_cannot_share_are_refused() -> None:
    with pytest.raises(ValueError, match="channels = 10 is no multiple of heads = 4"):
        DeformableAttention(10, 1, heads=4)
