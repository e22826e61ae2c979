"""Masks of objects as polygons, and masks of detections as small grids of scores.

Legend: G objects, E edges of an object, D detections, H, W height and width of an image in pixels, h, w those of a grid
in cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import Self


@dataclass(frozen=True)
class Outlines:
    """The masks of G objects as polygons: a few kB where bitmaps of an image take megabytes.

    Parameters
    ----------
    edges
        (G, E, 4) float32, from (x1, y1) to (x2, y2) in pixels: the edges of all polygons of an object, each polygon
        closed and all turning the same way. Edges without length fill the rows up. Inside is what any polygon encloses.
    """

    edges: Tensor

    def __post_init__(self) -> None:
        if self.edges.ndim != 3 or self.edges.shape[2] != 4:
            raise ValueError(f"edges of shape {tuple(self.edges.shape)} must be (G, E, 4)")

    def __len__(self) -> int:
        return len(self.edges)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return a copy on ``device``."""
        return replace(self, edges=self.edges.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Return a copy in page-locked memory."""
        return replace(self, edges=self.edges.pin_memory())


class MaskWindow(NamedTuple):
    """A mask (h, w) bool without the rows and columns of its image in which it has no pixels, and where it starts."""

    top: int
    left: int
    pixels: Tensor


@dataclass(frozen=True)
class MaskScores:
    """The masks of D detections in a compact form: a small grid of scores over a rectangle of the image for each.

    A bool mask of an image of 800 × 1333 pixels takes 1 MB, so a hundred take 100 MB per image; 28 × 28 scores take
    3 kB. Scores fit an image of any size without loss, where a mask in pixels would have to be resampled. They become
    pixels one mask at a time, each only inside of its rectangle.

    Parameters
    ----------
    scores
        (D, h, w) in [0, 1].
    regions
        (D, 4) xyxy in pixels: the rectangle that each grid covers, the box of a detection or the whole image.
    """

    scores: Tensor
    regions: Tensor

    def __post_init__(self) -> None:
        if self.scores.ndim != 3 or self.regions.shape != (len(self.scores), 4):
            raise ValueError(
                f"scores of shape {tuple(self.scores.shape)} and regions of shape {tuple(self.regions.shape)} "
                "must be (D, h, w) and (D, 4)"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on ``device``, in float32."""
        return replace(self, scores=self.scores.float().to(device), regions=self.regions.float().to(device))

    def select(self, rows: Tensor) -> Self:
        """Return some of the masks, by index or bool mask."""
        return replace(self, scores=self.scores[rows], regions=self.regions[rows])

    def windows(self, size: tuple[int, int], threshold: float = 0.5) -> Iterator[MaskWindow]:
        """Yield each mask in pixels of an image of ``size`` (H, W): where its score reaches ``threshold``.

        Scores are interpolated linearly between the centers of the grid's cells and fall to zero beyond its border, as
        in published code. No more than one mask is held at a time. On a GPU this waits for the device.
        """
        is_hit = self.scores >= threshold
        spans = (_spans(is_hit.any(dim=2)), _spans(is_hit.any(dim=1)))
        for grid, (left, top, right, bottom), rows, columns in zip(
            self.scores, self.regions.tolist(), *spans, strict=True
        ):
            padded = pad(grid.float(), (1, 1, 1, 1))
            first_row, place = _places(top, bottom, size[0], grid.shape[0], rows, grid.device)
            pixels = _interpolated(padded, place)
            first_column, place = _places(left, right, size[1], grid.shape[1], columns, grid.device)
            pixels = _interpolated(pixels.T, place).T
            yield MaskWindow(first_row, first_column, pixels >= threshold)

    def bitmaps(self, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
        """Return all masks (D, H, W) bool in pixels of an image of ``size``: for a few masks, or small images.

        Examples
        --------
        >>> masks = MaskScores(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        >>> masks.bitmaps((2, 4)).int()
        tensor([[[0, 1, 0, 0],
                 [0, 1, 1, 0]]], dtype=torch.int32)
        """
        pixels = self.scores.new_zeros((len(self), *size), dtype=torch.bool)
        for mask, (top, left, inside) in zip(pixels, self.windows(size, threshold), strict=True):
            mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return pixels

    def cropped(self, threshold: float = 0.5) -> Self:
        """Return the same masks at ``threshold`` in the smallest grids that hold each of them; all have one size.

        Grids over a whole image become as small as the objects. On a GPU this waits for the device.

        Examples
        --------
        >>> scores = torch.zeros(1, 40, 60)
        >>> scores[0, 10:12, 20:25] = 1
        >>> small = MaskScores(scores, torch.tensor([[0.0, 0.0, 60.0, 40.0]])).cropped()
        >>> small.scores.shape, small.regions
        (torch.Size([1, 4, 7]), tensor([[19.,  9., 26., 13.]]))
        """
        is_hit = self.scores >= threshold
        spans = [_spans(is_hit.any(dim=2)), _spans(is_hit.any(dim=1))]
        # One cell more on each side: pixels between a cell that is hit and one that is not come from both.
        height, width = (
            min(cells, max((last - first + 3 for first, last in span), default=0))
            for cells, span in zip(is_hit.shape[1:], spans, strict=True)
        )
        tops, lefts = (
            [min(max(first - 1, 0), cells - length) for first, _ in span]
            for cells, length, span in zip(is_hit.shape[1:], (height, width), spans, strict=True)
        )
        grids = [
            grid[top : top + height, left : left + width]
            for grid, top, left in zip(self.scores, tops, lefts, strict=True)
        ]
        scores = torch.stack(grids) if grids else self.scores[:, :height, :width]
        cell = self._cell()
        start = self.regions[:, :2] + cell * cell.new_tensor([lefts, tops]).T
        return replace(
            self, scores=scores, regions=torch.cat([start, start + cell * cell.new_tensor([width, height])], 1)
        )

    def extended(self, height: int, width: int) -> Self:
        """Return the same masks in larger grids (height, width): cells of score 0 are added on the right and below."""
        more = self.regions.new_tensor([width - self.scores.shape[2], height - self.scores.shape[1]])
        scores = pad(self.scores, (0, int(more[0]), 0, int(more[1])))
        end = self.regions[:, 2:] + self._cell() * more
        return replace(self, scores=scores, regions=torch.cat([self.regions[:, :2], end], dim=1))

    def _cell(self) -> Tensor:
        """(D, 2) width and height of a cell in pixels."""
        cells = self.regions.new_tensor([max(1, self.scores.shape[2]), max(1, self.scores.shape[1])])
        return (self.regions[:, 2:] - self.regions[:, :2]) / cells


def _spans(is_hit: Tensor) -> list[tuple[int, int]]:
    """Return the first and the last cell that is hit in each row (D, cells); (0, −1) where none is."""
    length = is_hit.shape[1]
    if not length:
        return [(0, -1)] * len(is_hit)
    first, last = is_hit.byte().argmax(dim=1), length - 1 - is_hit.flip(1).byte().argmax(dim=1)
    is_any = is_hit.any(dim=1)
    return list(zip(first.where(is_any, 0).tolist(), last.where(is_any, -1).tolist(), strict=True))


def _places(
    start: float, end: float, size: int, cells: int, span: tuple[int, int], device: torch.device
) -> tuple[int, Tensor]:
    """Return where pixels lie among the cells of a grid, along one axis of an image of ``size`` pixels.

    The grid covers the interval from ``start`` to ``end`` in pixels. Only pixels that interpolate from the cells of
    ``span``, first to last, are returned: the first of them, and the coordinates of all in cells, 0 at the center of
    the first cell.
    """
    cell = max(end - start, 1e-6) / cells
    reach = start + (span[0] - 0.5) * cell, start + (span[1] + 1.5) * cell
    first = min(max(math.floor(max(start, reach[0])), 0), size)
    last = min(max(math.ceil(min(end, reach[1])), first), size) if span[0] <= span[1] else first
    pixels = torch.arange(first, last, device=device) + 0.5
    return first, ((pixels - start) / cell - 0.5).clamp(-1, cells)


def _interpolated(padded: Tensor, place: Tensor) -> Tensor:
    """Return rows (n, …), interpolated at places (n,) from (cells + 2, …); the first and last lie beyond the border."""
    below = place.floor().clamp(max=len(padded) - 3)
    rows = below.long() + 1
    return padded[rows].lerp(padded[rows + 1], (place - below)[(...,) + (None,) * (padded.ndim - 1)])
