"""RoIAlign on a CPU, as weighted sums of the cells of a map that lie under each box.

Legend: K RoIs of all images, k of them that are read alike, S cells per side of the pooled features, n points and m
cells of a map in such a cell and direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag


def roi_align_by_sums(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    *,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    half_pixel_shift: bool,
) -> Tensor:
    """Return for each RoI what ``torchvision.ops.roi_align`` reads from its map, up to rounding.

    A cell of the output is a mean of points, each interpolated between four cells of the map. So it is a weighted sum
    of the cells in a window, whose weights are those of its rows times those of its columns. Neighboring points share
    cells: n × n points need (n + 1) × (n + 1) terms in place of 4 n². An embedding bag adds them up, all channels at a
    time, and its derivative is the same sum the other way around. torchvision goes through the channels one by one, and
    on a CPU finds the place of each point anew in each.

    Parameters
    ----------
    maps
        L maps (B, C, h, w) float32. Each is copied unless it lies in memory in the order of channels last.
    rois
        (K, 5) float32: the number of the image in the batch, and xyxy in pixels.
    levels
        (K,) int64, the map that each RoI is read from.
    strides
        Pixels per cell of each map.
    output_size, sampling_ratio, half_pixel_shift
        Those of `RoIPooling`.

    Returns
    -------
    Tensor
        (K, C, S, S) float32.

    Examples
    --------
    >>> maps, rois = [torch.arange(16.0).view(1, 1, 4, 4)], torch.tensor([[0.0, 0.0, 0.0, 8.0, 8.0]])
    >>> options = {"strides": [2], "output_size": 2, "sampling_ratio": 0, "half_pixel_shift": True}
    >>> roi_align_by_sums(maps, rois, torch.tensor([0]), **options)[0, 0]
    tensor([[ 2.5000,  4.5000],
            [10.5000, 12.5000]])
    """
    channels = maps[0].shape[1]
    with torch.no_grad():
        scales = torch.tensor([1 / stride for stride in strides])[levels]
        limits = torch.tensor([features.shape[2:] for features in maps])[levels]
        corners = rois[:, 1:] * scales[:, None] - (0.5 if half_pixel_shift else 0.0)
        columns, rows = (
            _Axis.of(corners[:, side::2], limits[:, 1 - side], output_size, sampling_ratio, half_pixel_shift)
            for side in (0, 1)
        )
        # In the order of the terms that they have, so that few tensors hold all of them.
        kinds = torch.stack([levels, rows.num_cells, columns.num_cells], dim=1)
        kinds, kind_of, counts = kinds.unique(dim=0, return_inverse=True, return_counts=True)
        order = kind_of.argsort(stable=True)
        terms = [_Terms([], [], []) for _ in maps]
        for (level, *num_cells), chosen in zip(kinds.tolist(), order.split(counts.tolist()), strict=True):
            height, width = maps[level].shape[2:]
            y, of_y = rows.window(chosen, num_cells[0])
            x, of_x = columns.window(chosen, num_cells[1])
            y = (y + rois[chosen, 0].int()[:, None, None] * height) * width
            # (k, S, S, rows, columns) of the windows.
            terms[level].cells.append((y[:, :, None, :, None] + x[:, None, :, None, :]).flatten())
            terms[level].weights.append((of_y[:, :, None, :, None] * of_x[:, None, :, None, :]).flatten())
            terms[level].counts.append(torch.full([len(chosen) * output_size**2], num_cells[0] * num_cells[1]))
    # A level without boxes is read all the same, so that every map is part of the graph in every step.
    sums = [
        of_level.sums(features).view(-1, output_size**2, channels)
        for of_level, features in zip(terms, maps, strict=True)
    ]
    return _InOrder.apply(order, *sums).view(-1, channels, output_size, output_size)


class _InOrder(torch.autograd.Function):
    """Join values (k, S², C) of levels to (K, C, S²); row i of all of them together goes to row ``order[i]``.

    Each value is copied once, and its gradient once. As operators of torch this is joining them, selecting rows, and
    the layout that the layers of a head read; and the gradient of a selection is added to zeros.
    """

    @staticmethod
    def forward(ctx: Any, order: Tensor, *levels: Tensor) -> Tensor:
        ctx.rows = order.split([len(values) for values in levels])
        joined = levels[0].new_empty(len(order), levels[0].shape[2], levels[0].shape[1])
        for rows, values in zip(ctx.rows, levels, strict=True):
            joined[rows] = values.transpose(1, 2)
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_cell = gradients.transpose(1, 2)
        return None, *(by_cell.index_select(0, rows) for rows in ctx.rows)


class _Terms(NamedTuple):
    """What is added up from a map, in pieces that follow each other."""

    cells: list[Tensor]
    """int32 numbers of cells, by image, row and column."""
    weights: list[Tensor]
    counts: list[Tensor]
    """How many terms each sum has."""

    def sums(self, features: Tensor) -> Tensor:
        """Return a row (C,) for each sum of cells of a map (B, C, h, w)."""
        table = features.permute(0, 2, 3, 1).flatten(0, 2)
        if not self.cells:
            return table[:0]
        counts = torch.cat(self.counts)
        offsets = (counts.cumsum(0) - counts).int()
        weights = torch.cat(self.weights)
        return embedding_bag(torch.cat(self.cells), table, offsets, per_sample_weights=weights, mode="sum")


class _Axis(NamedTuple):
    """Where the points of K RoIs lie along an axis of their maps, in cells."""

    start: Tensor
    """(K,) where the RoI begins."""
    side: Tensor
    """(K,) side of a cell of the output."""
    num_points: Tensor
    """(K,) n, whole numbers in float32; 0 in a RoI without area."""
    num_cells: Tensor
    """(K,) int64, m: the cells that the points lie between, at most."""
    limit: Tensor
    """(K,) int64, cells of the map."""
    output_size: int

    @classmethod
    def of(cls, ends: Tensor, limit: Tensor, output_size: int, sampling_ratio: int, half_pixel_shift: bool) -> _Axis:
        """Return the points of RoIs that begin and end at ``ends`` (K, 2)."""
        start, length = ends[:, 0], ends[:, 1] - ends[:, 0]
        if not half_pixel_shift:  # as in torchvision: no RoI is without area then
            length = length.clamp(min=1)
        side = length / output_size
        num_points = side.ceil().clamp(min=0) if sampling_ratio == 0 else torch.full_like(side, sampling_ratio)
        # From the first point to the last one, and the cell behind it.
        spread = side.abs() * (num_points - 1).clamp(min=0) / num_points.clamp(min=1)
        num_cells = torch.minimum(spread.ceil().long() + 2, limit + 1)
        return cls(start, side, num_points, num_cells, limit, output_size)

    def window(self, chosen: Tensor, num_cells: int) -> tuple[Tensor, Tensor]:
        """Return cells (k, S, m) int32 of chosen RoIs with m = ``num_cells``, and their weights (k, S, m)."""
        start, side, num_points, limit = (values[chosen, None, None] for values in self[:3] + self[4:5])
        divisor = num_points.clamp(min=1)
        numbers = torch.arange(int(divisor.max()))
        # In the order of torchvision, so that points are rounded alike.
        points = start + torch.arange(self.output_size)[:, None] * side
        points = points + (numbers + 0.5) * side / divisor
        # Beyond the map by more than a cell there is nothing; up to that, what is at the border.
        is_counted = (numbers < num_points) & (points >= -1) & (points <= limit)
        points = points.clamp(min=0).minimum(limit - 1)
        first = points.where(numbers < divisor, limit).amin(dim=2, keepdim=True).floor()
        cells = first + torch.arange(num_cells)
        shares = 1 - (points[:, :, None] - cells[:, :, :, None]).abs()
        weights = (shares.clamp(min=0) * is_counted[:, :, None]).sum(dim=3) / divisor
        return cells.minimum(limit - 1).int(), weights
