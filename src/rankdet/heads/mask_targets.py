"""Masks of objects → the masks that a head learns.

Legend: G objects of an image of H × W pixels, E edges of an object, P RoIs, S cells per side of the target of a RoI.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.ops import clip_boxes_to_image, roi_align

from rankdet.structures import Outlines

MAX_PIXELS = 2**24
"""Most pixels of masks, or crossings of outlines, in one piece, as float32: 64 MiB."""


def crop_masks(masks: Tensor, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
    """Return the part of an object's mask that lies in each box, in ``size`` × ``size`` cells: (P, S, S) bool.

    A cell belongs to the mask where at least half of it is covered. RoIAlign with its half-pixel shift measures that,
    as in the published implementation of the loss, and in most others. Masks are (G, H, W) bool, boxes (P, 4) xyxy in
    pixels, which are clipped to the image, and ``objects`` (P,) int64 the mask of each box.

    Examples
    --------
    >>> masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    >>> masks[:, :, 2:5] = True
    >>> crop_masks(masks, torch.tensor([[0.0, 0.0, 8.0, 4.0]]), torch.tensor([0]), 4)[0, 0]
    tensor([False,  True,  True, False])
    """
    boxes = clip_boxes_to_image(boxes.float(), (masks.shape[1], masks.shape[2]))
    targets = torch.zeros(len(boxes), size, size, dtype=torch.bool, device=boxes.device)
    # Objects, which are few, become float32 some at a time, not a copy for each RoI.
    step, first = max(1, MAX_PIXELS // max(1, masks.shape[1] * masks.shape[2])), 0
    for part in masks.split(step):
        rows = objects - first
        is_here = (rows >= 0) & (rows < len(part))
        rois = torch.cat([rows.clamp(0, len(part) - 1)[:, None].float(), boxes], dim=1)
        covered = roi_align(part[:, None].float(), rois, size, 1.0, 0, aligned=True)[:, 0] >= 0.5
        targets |= covered & is_here[:, None, None]
        first += len(part)
    return targets


def resize_masks(masks: Tensor | Outlines, canvas: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """Return all masks (G, rows, columns) bool of an image in other sizes, for detectors whose masks cover it all.

    A bitmap (G, h, w) is interpolated linearly between the centers of its pixels, without antialiasing. It covers a
    cell where it exceeds ½, as in the published code of YOLACT and of its RS form. Outlines are rasterized into the
    cells. The new sizes, (rows, columns) each, cover the canvas of (height, width) in pixels: the image in the top-left
    corner, and padding.

    Examples
    --------
    >>> masks = torch.zeros(1, 4, 4, dtype=torch.bool)
    >>> masks[:, :, 2:] = True
    >>> resize_masks(masks, (4, 4), [(1, 2)])
    [tensor([[[False,  True]]])]
    """
    if isinstance(masks, Outlines):
        whole = masks.edges.new_tensor([[0.0, 0.0, canvas[1], canvas[0]]]).expand(len(masks), 4)
        rows = torch.arange(len(masks), device=masks.edges.device)
        return [crop_outlines(masks, whole, rows, size) for size in sizes]
    parts: list[list[Tensor]] = [[masks.new_zeros(0, *size)] for size in sizes]
    margin = (0, canvas[1] - masks.shape[2], 0, canvas[0] - masks.shape[1])
    for part in masks.split(max(1, MAX_PIXELS // max(1, canvas[0] * canvas[1]))) if len(masks) else ():
        pixels = pad(part.float(), margin)[None]
        for resized, size in zip(parts, sizes, strict=True):
            resized.append(interpolate(pixels, size, mode="bilinear")[0] > 0.5)
    return [torch.cat(resized) for resized in parts]


def crop_outlines(outlines: Outlines, boxes: Tensor, objects: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Return the part of an object that lies in each box, rasterized straight into cells: (P, rows, columns) bool.

    A cell belongs to the mask where its center is inside of the outline: where the polygons wind around it. The edges
    cross each row of centers at points that split it; no mask of the size of the image is made. Boxes are (P, 4) xyxy
    in pixels, ``objects`` (P,) int64 the object of each box, ``size`` is (rows, columns) or one number for both.

    Examples
    --------
    >>> triangle = Outlines(torch.tensor([[[0.0, 0, 4, 0], [4, 0, 0, 4], [0, 4, 0, 0]]]))
    >>> crop_outlines(triangle, torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([0]), 3).int()
    tensor([[[1, 1, 0],
             [1, 0, 0],
             [0, 0, 0]]], dtype=torch.int32)
    """
    num_rows, num_columns = (size, size) if isinstance(size, int) else size
    step = max(1, MAX_PIXELS // max(1, max(outlines.edges.shape[1], num_columns) * num_rows))
    parts = zip(boxes.float().split(step), objects.split(step), strict=True)
    return torch.cat([_wound(outlines.edges[chosen], part, num_rows, num_columns) for part, chosen in parts])


def fill_outlines(outlines: Outlines, size: tuple[int, int]) -> Tensor:
    """Return the bitmaps (G, H, W) bool of outlines in an image of ``size`` (H, W): the pixels with centers inside.

    Examples
    --------
    >>> triangle = Outlines(torch.tensor([[[0.0, 0, 4, 0], [4, 0, 0, 4], [0, 4, 0, 0]]]))
    >>> fill_outlines(triangle, (2, 5)).int()
    tensor([[[1, 1, 1, 0, 0],
             [1, 1, 0, 0, 0]]], dtype=torch.int32)
    """
    whole = outlines.edges.new_tensor([[0.0, 0.0, size[1], size[0]]]).expand(len(outlines), 4)
    return crop_outlines(outlines, whole, torch.arange(len(outlines), device=outlines.edges.device), size)


def shrink_masks(masks: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return masks (G, H, W) bool at a ``stride``-th of their size, in ``size`` (h, w) cells: (G, h, w) bool.

    A cell belongs to the mask where at least two of the four pixels around its center do. That is linear interpolation
    between them, rounded, as published code of SOLO resizes masks. The cells may reach beyond the image. An odd stride
    raises ValueError.

    Examples
    --------
    >>> masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    >>> masks[:, :2, :6] = True
    >>> shrink_masks(masks, 4, (1, 3)).int()
    tensor([[[1, 0, 0]]], dtype=torch.int32)
    """
    if stride < 2 or stride % 2:
        raise ValueError(f"masks are shrunk by an even stride, not by {stride}")
    count = torch.zeros((len(masks), *size), dtype=torch.uint8, device=masks.device)
    for row in (stride // 2 - 1, stride // 2):
        for column in (stride // 2 - 1, stride // 2):
            pixels = masks[:, row::stride, column::stride][:, : size[0], : size[1]]
            count[:, : pixels.shape[1], : pixels.shape[2]] += pixels
    return count >= 2


def _wound(edges: Tensor, boxes: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Return which centers of cells edges (P, E, 4) wind around, (P, rows, columns) bool."""
    left, top, right, bottom = boxes[:, None, None].unbind(dim=-1)
    by_width, by_height = num_columns / (right - left).clamp(min=1e-6), num_rows / (bottom - top).clamp(min=1e-6)
    # Coordinates in cells of the target: (P, 1, E) each, beside the rows (S, 1).
    x1, y1, x2, y2 = edges[:, None].unbind(dim=-1)
    x1, x2 = (x1 - left) * by_width, (x2 - left) * by_width
    y1, y2 = (y1 - top) * by_height, (y2 - top) * by_height
    rows = (torch.arange(num_rows, device=edges.device) + 0.5)[:, None]
    turns = (y1 <= rows).int() - (y2 <= rows).int()  # ±1 where an edge crosses the row of centers
    x = x1 + (rows - y1) / (y2 - y1).where(turns != 0, 1) * (x2 - x1)
    # The first center to the right of each crossing; those further right are wound around, too.
    columns = (x - 0.5).where(turns != 0, 0).clamp(0, num_columns).ceil().long()
    winding = torch.zeros(len(boxes), num_rows, num_columns + 1, dtype=turns.dtype, device=edges.device)
    winding.scatter_add_(2, columns, turns)
    return winding.cumsum(dim=2, dtype=turns.dtype)[..., :num_columns] != 0
