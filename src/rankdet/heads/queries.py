"""Cells of a pyramid as places for queries, and what queries predict.

Boxes are centered here: x and y of the center, width and height, each as a part of the image, 0 … 1.

Legend: B images, L levels, M cells of an image on all levels, Q queries of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_convert

from rankdet.heads.anchors import MapSizes
from rankdet.label_assignment import Matching, PaddedObjects
from rankdet.structures import Candidates, Matched

MARGIN = 0.01
"""A cell whose anchor comes nearer than this to 0 or 1 is no place for a query."""
LOGIT_MARGIN = 1e-5
"""Numbers of boxes are kept this far from 0 and 1 where their logits are taken."""


class QueryOutputs(NamedTuple):
    """Logits (B, Q, C) and centered boxes (B, Q, 4) of queries; boxes are in float32 or better."""

    logits: Tensor
    boxes: Tensor


def query_candidates(
    head: str, outputs: QueryOutputs, matching: Matching, objects: PaddedObjects, labels: Tensor | None = None
) -> Candidates:
    """Return one pool of the queries of all images.

    Their boxes are in pixels, and as deltas centered, as parts of the image. ``labels`` (B · Q,) are known of noised
    queries; None: a query that is no positive is background.
    """
    num_images, num_queries, num_classes = outputs.logits.shape
    rows = matching.rows
    if labels is None:
        background = torch.full((num_images * num_queries,), num_classes, device=rows.device)
        labels = background.index_copy(0, rows, objects.labels.flatten()[matching.objects])
    centered = outputs.boxes.flatten(0, 1)[rows]
    scales = objects.scales.expand(-1, num_queries, -1).flatten(0, 1)[rows]
    return Candidates(
        head=head,
        logits=outputs.logits.flatten(0, 1),
        labels=labels,
        num_classes=num_classes,
        boxes=Matched(box_convert(centered, "cxcywh", "xyxy") * scales, objects.boxes.flatten(0, 1)[matching.objects]),
        deltas=Matched(centered, objects.centered.flatten(0, 1)[matching.objects]),
        per_image=(num_queries,) * num_images,
        rows=rows,
    )


class Padding(NamedTuple):
    """Where images lie in the canvas that they share: the pixels (height, width) of the batch.

    Attributes
    ----------
    ratios
        (B, 1, 4) sides of images over those of the canvas: width, height, width, height.
    inside
        (B, H, W) bool for each level: which cells begin inside of their image.
    """

    ratios: Tensor
    inside: list[Tensor]


def padding_of(
    map_sizes: MapSizes, canvas: tuple[int, int], image_sizes: Sequence[tuple[int, int]], device: torch.device
) -> Padding | None:
    """Return where images of these (height, width) lie in the canvas; None where each of them fills it.

    Examples
    --------
    >>> padding = padding_of(((1, 4),), (8, 32), [(8, 17)], torch.device("cpu"))
    >>> padding.inside
    [tensor([[[ True,  True,  True, False]]])]
    """
    if all(tuple(size) == tuple(canvas) for size in image_sizes):
        return None
    ratios = [[width / canvas[1], height / canvas[0]] * 2 for height, width in image_sizes]
    # One copy to the device for all levels; rows and columns of the first cell beyond each image.
    ends = torch.tensor(
        [
            [[-(-side * cells // pixels) for side, cells, pixels in zip(size, shape, canvas, strict=True)]]
            for size in image_sizes
            for shape in map_sizes
        ]
    )
    ends = ends.view(len(image_sizes), len(map_sizes), 2).to(device, non_blocking=True)
    inside = []
    for level, (height, width) in enumerate(map_sizes):
        rows, columns = (
            torch.arange(cells, device=device) < ends[:, level, axis, None]
            for axis, cells in enumerate((height, width))
        )
        inside.append(rows[:, :, None] & columns[:, None])
    return Padding(torch.tensor(ratios)[:, None].to(device, non_blocking=True), inside)


def cell_anchors(
    map_sizes: MapSizes, anchor_size: float, padding: Padding | None, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Return centered boxes (B or 1, M, 4) of cells as logits, level by level, and which are valid, (B or 1, M) bool.

    An anchor lies in the middle of its cell; its sides are ``anchor_size`` of those of the image on the finest level,
    and twice as much from one level to the next. It is valid where all four numbers are between 0.01 and 0.99, which
    leaves out the padding. Those of other anchors are clamped. Device and type are those of ``like``, the type at least
    float32.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    levels = []
    for level, shape in enumerate(map_sizes):
        y, x = ((torch.arange(cells, device=like.device, dtype=dtype) + 0.5) / cells for cells in shape)
        centers = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)
        levels.append(torch.cat([centers, torch.full_like(centers, anchor_size * 2**level)], dim=1))
    anchors = torch.cat(levels)[None]
    if padding is not None:
        centers, sides = anchors.split(2, dim=2)
        anchors = torch.cat([centers / padding.ratios[..., :2], sides.expand(padding.ratios.shape[0], -1, -1)], dim=2)
    is_valid = ((anchors > MARGIN) & (anchors < 1 - MARGIN)).all(dim=2)
    return anchors.clamp(MARGIN, 1 - MARGIN).logit(), is_valid
