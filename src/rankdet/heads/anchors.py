"""Anchors: boxes of fixed shape at every cell of every level.

Legend: L levels, A anchors per cell, M anchors of an image = sum over levels of H · W · A.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rankdet.label_assignment import PyramidAnchors
from rankdet.ranges import Count, Positive, checked

MapSizes = tuple[tuple[int, int], ...]
"""(height, width) in cells of each level's map, finest first."""


class TensorCache:
    """The latest results of a function by their keys, at most ``most``; copies and pickles of it are empty."""

    def __init__(self, most: int = 16) -> None:
        self.most = most
        self.held: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """Return the tensor held under ``key``, or make it and hold it; the oldest of too many is dropped."""
        if key in self.held:
            return self.held[key]
        # Held tensors meet autograd later: they must not be inference tensors, even if the first call is in that mode.
        with torch.inference_mode(False):
            made = make()
        # Fake tensors of a tracer hold no numbers: later calls must not get them.
        if type(made) is Tensor:
            if len(self.held) >= self.most:
                del self.held[next(iter(self.held))]
            self.held[key] = made
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return TensorCache, (self.most,)


@checked
@dataclass(frozen=True)
class AnchorGenerator:
    """Anchors of every ratio and scale, centered on the top-left corner of each cell.

    The cell in row i and column j has its center at (j · stride, i · stride): no half stride is added and nothing is
    rounded. An anchor of ratio r = height / width and scale s is s · stride / √r wide and s · stride · √r high.

    Parameters
    ----------
    strides
        Pixels per cell of each level, finest first.
    scales
        Sides of the square anchors of a cell, in strides of their level.
    ratios
        Height over width of the anchors. Within a cell ratios are the outer loop, scales the inner one.
    size_divisor
        Images are padded to a multiple of this many pixels before they are batched; anchors beyond that padding are not
        valid (:meth:`valid`).

    Notes
    -----
    Differs from torchvision, which rounds the anchors of a cell.

    Examples
    --------
    >>> AnchorGenerator(strides=(4,), scales=(8.0,), ratios=(1.0,)).anchors(((1, 2),), torch.device("cpu"))
    tensor([[-16., -16.,  16.,  16.],
            [-12., -16.,  20.,  16.]])
    """

    strides: tuple[Count, ...]
    scales: tuple[Positive, ...] = (8.0,)
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    size_divisor: Count = 32
    _anchors: TensorCache = field(default_factory=TensorCache, init=False, repr=False, compare=False)
    _valid: TensorCache = field(default_factory=partial(TensorCache, 64), init=False, repr=False, compare=False)

    @property
    def num_per_cell(self) -> int:
        """Number of anchors per cell A."""
        return len(self.scales) * len(self.ratios)

    def num_per_level(self, map_sizes: MapSizes) -> list[int]:
        """Return the number of anchors of each level, L numbers that add up to M."""
        return [height * width * self.num_per_cell for height, width in map_sizes]

    def pyramid(self, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> PyramidAnchors:
        """Return the anchors of L maps (B, channels, H, W) of images whose sizes are (height, width) in pixels."""
        map_sizes = sizes_of(maps)
        return PyramidAnchors(
            self.anchors(map_sizes, maps[0].device),
            self.num_per_level(map_sizes),
            [self.valid(map_sizes, size, maps[0].device) for size in image_sizes],
        )

    def anchors(self, map_sizes: MapSizes, device: torch.device) -> Tensor:
        """Return anchors (M, 4) xyxy in pixels: by level, row, column, ratio, scale; cached, so read-only."""
        return self._anchors.get((map_sizes, device), lambda: self.make_anchors(map_sizes, device))

    def valid(self, map_sizes: MapSizes, image_size: tuple[int, int], device: torch.device) -> Tensor | None:
        """Return which anchors are valid, (M,) bool: False in the padding of the batch. None: all of them.

        A cell is valid when its index is below ceil(padded size / stride) in both directions. The padded size is the
        image's own (height, width) in pixels, rounded up to multiples of ``size_divisor``.
        """
        padded = [math.ceil(side / self.size_divisor) * self.size_divisor for side in image_size]
        limits = tuple(tuple(math.ceil(side / stride) for side in padded) for stride in self.strides)
        if all(
            height <= rows and width <= columns
            for (height, width), (rows, columns) in zip(map_sizes, limits, strict=True)
        ):
            return None
        return self._valid.get((map_sizes, limits, device), lambda: self._make_valid(map_sizes, limits, device))

    def make_anchors(self, map_sizes: MapSizes, device: torch.device) -> Tensor:
        """Return a new tensor of the anchors (M, 4); sizes may be numbers of a graph."""
        levels = []
        for stride, (height, width) in zip(self.strides, map_sizes, strict=True):
            shapes = [
                (scale * stride / math.sqrt(ratio), scale * stride * math.sqrt(ratio))
                for ratio in self.ratios
                for scale in self.scales
            ]
            rows, columns = (torch.arange(length, device=device) * stride for length in (height, width))
            levels.append(boxes_around(rows, columns, shapes))
        return torch.cat(levels)

    def _make_valid(self, map_sizes: MapSizes, limits: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
        levels = []
        for (height, width), (rows, columns) in zip(map_sizes, limits, strict=True):
            is_inside = torch.zeros(height, width, self.num_per_cell, dtype=torch.bool, device=device)
            is_inside[:rows, :columns] = True
            levels.append(is_inside.flatten())
        return torch.cat(levels)


@checked
@dataclass(frozen=True)
class CenteredAnchors:
    """Anchors of one side per level and every ratio, in the middle of cells that divide the image evenly (YOLACT).

    A map of h × w cells covers the canvas, the H × W pixels that the network sees. A cell is H / h pixels high and W /
    w wide, whole numbers or not. The cell in row i and column j has its center at ((j + ½) W / w, (i + ½) H / h). An
    anchor of ratio r = height / width is side / √r wide and side · √r high. Sides are in pixels, one for each level,
    finest first.

    Examples
    --------
    >>> CenteredAnchors(sides=(8.0,), ratios=(1.0,)).anchors(((1, 2),), (10, 20), torch.device("cpu"))
    tensor([[ 1.,  1.,  9.,  9.],
            [11.,  1., 19.,  9.]])
    """

    sides: tuple[Positive, ...]
    ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    _anchors: TensorCache = field(default_factory=TensorCache, init=False, repr=False, compare=False)

    @property
    def num_per_cell(self) -> int:
        """Number of anchors per cell A."""
        return len(self.ratios)

    def num_per_level(self, map_sizes: MapSizes) -> list[int]:
        """Return the number of anchors of each level, L numbers that add up to M."""
        return [height * width * self.num_per_cell for height, width in map_sizes]

    def pyramid(
        self, maps: Sequence[Tensor], canvas: tuple[int, int], image_sizes: Sequence[tuple[int, int]]
    ) -> PyramidAnchors:
        """Return the anchors of L maps (B, channels, h, w); canvas and sizes are (height, width) in pixels."""
        map_sizes = sizes_of(maps)
        anchors = self.anchors(map_sizes, canvas, maps[0].device)
        valid = [self.valid(anchors, canvas, size) for size in image_sizes]
        return PyramidAnchors(anchors, self.num_per_level(map_sizes), valid)

    def anchors(self, map_sizes: MapSizes, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """Return anchors (M, 4) xyxy in pixels: by level, row, column, ratio; cached, so read-only.

        The canvas is (height, width) in pixels.
        """
        key = (map_sizes, canvas, device)
        return self._anchors.get(key, lambda: self.make_anchors(*key))

    def valid(self, anchors: Tensor, canvas: tuple[int, int], image_size: tuple[int, int]) -> Tensor | None:
        """Return which anchors (M, 4) have their center in the image (height, width), (M,) bool; None: all of them."""
        if image_size == canvas:
            return None
        x, y = ((anchors[:, :2] + anchors[:, 2:]) / 2).unbind(dim=1)
        return (x < image_size[1]) & (y < image_size[0])

    def make_anchors(self, map_sizes: MapSizes, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """Return a new tensor of the anchors (M, 4); sizes may be numbers of a graph."""
        levels = []
        for side, (height, width) in zip(self.sides, map_sizes, strict=True):
            shapes = [(side / math.sqrt(ratio), side * math.sqrt(ratio)) for ratio in self.ratios]
            rows, columns = (
                (torch.arange(cells, device=device) + 0.5) * (pixels / cells)
                for cells, pixels in zip((height, width), canvas, strict=True)
            )
            levels.append(boxes_around(rows, columns, shapes))
        return torch.cat(levels)


def sizes_of(maps: Sequence[Tensor]) -> MapSizes:
    """Return (height, width) in cells of each map (B, channels, H, W)."""
    return tuple((features.shape[-2], features.shape[-1]) for features in maps)


def boxes_around(rows: Tensor, columns: Tensor, shapes: Sequence[tuple[float, float]]) -> Tensor:
    """Return the boxes (H · W · A, 4) of A shapes, (width, height) each, around every pair of a row and a column."""
    half = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in shapes], dtype=torch.float32, device=rows.device)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    centers = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (centers + half).reshape(-1, 4)
