"""Anchors of a graph: their boxes, which of them lie in an image, and the best of each level.

Legend: B images, L levels, M anchors of an image, K anchors taken from an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.exporting.fixed import FixedImages, best, cells_inside, rows_of
from rankdet.heads import AnchorGenerator, BoxCoder, CenteredAnchors
from rankdet.heads.anchors import sizes_of


class FixedAnchors(NamedTuple):
    """Anchors (M, 4) in pixels, level by level, how many each level has, and which are valid, (B, M) bool."""

    boxes: Tensor
    num_per_level: list[int]
    valid: Tensor


class BestAnchors(NamedTuple):
    """The rows (B, K) of the best anchors of each level, their scores (B, K), levels (K,) and which are any, (B, K)."""

    rows: Tensor
    scores: Tensor
    levels: Tensor
    valid: Tensor


def corner_anchors(generator: AnchorGenerator, maps: Sequence[Tensor], images: FixedImages) -> FixedAnchors:
    """Return the anchors of L maps (B, channels, h, w)."""
    map_sizes, divisor = sizes_of(maps), generator.size_divisor
    padded = (images.sizes + divisor - 1) // divisor * divisor
    valid = [
        cells_inside(shape, (padded + stride - 1) // stride)[..., None]
        .expand(-1, -1, -1, generator.num_per_cell)
        .flatten(1)
        for stride, shape in zip(generator.strides, map_sizes, strict=True)
    ]
    boxes = generator.make_anchors(map_sizes, maps[0].device)
    return FixedAnchors(boxes, generator.num_per_level(map_sizes), torch.cat(valid, dim=1))


def centered_anchors(generator: CenteredAnchors, maps: Sequence[Tensor], images: FixedImages) -> FixedAnchors:
    """Return the anchors of L maps (B, channels, h, w) that cover the canvas."""
    map_sizes, (height, width) = sizes_of(maps), images.pixels.shape[-2:]
    boxes = generator.make_anchors(map_sizes, (height, width), maps[0].device)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    valid = (centers < images.limits()[..., :2]).all(dim=2)
    return FixedAnchors(boxes, generator.num_per_level(map_sizes), valid)


def best_anchors(scores: Tensor, anchors: FixedAnchors, per_level: int) -> BestAnchors:
    """Return those of scores or logits (B, M) that are highest in their level, at most ``per_level`` of each."""
    rows, values, levels, start = [], [], [], 0
    for level, own in enumerate(scores.where(anchors.valid, -torch.inf).split(anchors.num_per_level, dim=1)):
        highest, places = best(own, per_level)
        rows.append(places + start)
        values.append(highest)
        levels.append(torch.full((highest.shape[1],), level, device=scores.device))
        start = start + own.shape[1]
    of_all = torch.cat(values, dim=1)
    return BestAnchors(torch.cat(rows, dim=1), of_all, torch.cat(levels), of_all > -torch.inf)


def boxes_at(rows: Tensor, deltas: Tensor, anchors: FixedAnchors, coder: BoxCoder) -> Tensor:
    """Decode the boxes (B, K, 4) of some anchors, rows (B, K), from the deltas (B, M, 4) of all; not clipped."""
    return coder.decode(rows_of(deltas, rows), anchors.boxes[rows])
