"""Anchors: boxes of fixed shape at every cell of every level.

Legend: L levels, A anchors per cell, M anchors of a picture = sum over levels of H · W · A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MapSizes = tuple[tuple[int, int], ...]
"""(height, width) in cells of each level's map, finest first."""


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
        Side of a square anchor in strides.
    ratios
        Height by width. Within a cell ratios are the outer loop, scales the inner one.
    size_divisor
        A picture is padded to a multiple of this many pixels before it meets others in a batch; what the batch adds
        to that is no place for anchors (:meth:`valid`).

    Notes
    -----
    Differs from torchvision, which rounds the anchors of a cell.

    Examples
    --------
    >>> AnchorGenerator(strides=(4,), scales=(8.0,), ratios=(1.0,)).anchors(((1, 2),), torch.device("cpu"))
    tensor([[-16., -16.,  16.,  16.],
            [-12., -16.,  20.,  16.]])
    """

    strides: tuple[int, ...]
    scales: tuple[float, ...] = (8.0,)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    size_divisor: int = 32

    @property
    def num_per_cell(self) -> int:
        """A."""
        return len(self.scales) * len(self.ratios)

    def num_per_level(self, map_sizes: MapSizes) -> list[int]:
        """Anchors of each level, L numbers that add up to M."""
        return [height * width * self.num_per_cell for height, width in map_sizes]

    def anchors(self, map_sizes: MapSizes, device: torch.device) -> Tensor:
        """(M, 4) xyxy in pixels: by level, row, column, ratio, scale. Kept for the next call: do not write into it."""
        return _anchors(self, map_sizes, device)

    def valid(self, map_sizes: MapSizes, image_size: tuple[int, int], device: torch.device) -> Tensor | None:
        """(M,) bool: False for anchors of cells that lie in the padding of the batch; None where all are valid.

        A cell is valid when its index is below ceil(padded size / stride) in both directions, where the picture's own
        (height, width) in pixels is padded to a multiple of ``size_divisor``.
        """
        padded = [math.ceil(side / self.size_divisor) * self.size_divisor for side in image_size]
        limits = tuple(tuple(math.ceil(side / stride) for side in padded) for stride in self.strides)
        if all(
            height <= rows and width <= columns
            for (height, width), (rows, columns) in zip(map_sizes, limits, strict=True)
        ):
            return None
        return _valid(self, map_sizes, limits, device)


# Pictures come in a limited number of sizes: the last few are kept. Kept tensors meet autograd later, so they must
# not become inference tensors when the first call happens to run in inference mode.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _anchors(generator: AnchorGenerator, map_sizes: MapSizes, device: torch.device) -> Tensor:
    levels = []
    for stride, (height, width) in zip(generator.strides, map_sizes, strict=True):
        shapes = [
            (scale * stride / math.sqrt(ratio), scale * stride * math.sqrt(ratio))
            for ratio in generator.ratios
            for scale in generator.scales
        ]
        half = torch.tensor([[-w / 2, -h / 2, w / 2, h / 2] for w, h in shapes], dtype=torch.float32)
        y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing="ij")
        centers = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        levels.append((centers + half).reshape(-1, 4))
    return torch.cat(levels).to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _valid(
    generator: AnchorGenerator, map_sizes: MapSizes, limits: Sequence[tuple[int, ...]], device: torch.device
) -> Tensor:
    levels = []
    for (height, width), (rows, columns) in zip(map_sizes, limits, strict=True):
        is_inside = torch.zeros(height, width, generator.num_per_cell, dtype=torch.bool)
        is_inside[:rows, :columns] = True
        levels.append(is_inside.flatten())
    return torch.cat(levels).to(device)
