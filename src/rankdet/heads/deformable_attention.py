"""Deformable attention over the levels of a pyramid (Zhu et al., "Deformable DETR", ICLR 2021, arXiv:2010.04159).

Legend: B images, Q queries of an image, D channels, A heads, L levels, K points of a head on each level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from rankdet.ranges import Count, checked


@checked
class DeformableAttention(nn.Module):
    r"""Attention of queries to a few points of every level, whose places and weights they choose themselves.

    .. math:: o_q = W' \; \mathrm{concat}_a \sum_l \sum_k \alpha_{qalk} \, (W x_l)_a(p_{qalk}), \qquad
        p_{qalk} = c_q + \tfrac{1}{2K} \Delta_{qalk} \, s_q

    with the center c and the size s of the box of a query; α sums to 1 over the points of a head, and maps are
    interpolated bilinearly, with zeros outside. Offsets Δ start in A directions, 1 … K far, with equal weights.

    Parameters
    ----------
    channels
        D, a multiple of ``heads``.
    levels
        L, the number of maps.
    heads
        A.
    points
        K.

    Raises
    ------
    ValueError
        When D is no multiple of ``heads``.
    """

    def __init__(self, channels: Count, levels: Count, *, heads: Count = 8, points: Count = 4) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels = {channels} is no multiple of heads = {heads}")
        self.levels, self.heads, self.points = levels, heads, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.values = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.values, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        angles = torch.arange(heads) * (2 * math.pi / heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions = directions / directions.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1, points + 1)
        start = directions[:, None, None] * steps[:, None]  # (A, 1, K, 2)
        with torch.no_grad():
            self.offsets.bias.copy_(start.expand(-1, levels, -1, -1).flatten())

    def forward(
        self, queries: Tensor, boxes: Tensor, maps: Sequence[Tensor], inside: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Return outputs (B, Q, D) of queries (B, Q, D) with their boxes (B, Q, 4) on L maps (B, H, W, D).

        A box is the x and y of its center, its width and height, as parts of the maps. ``inside`` has (B, H, W) bool
        for each level: other cells are zeros, as beyond a map. None: all cells are inside.
        """
        split = (self.heads, self.levels, self.points)
        offsets = self.offsets(queries).to(boxes.dtype).unflatten(2, (*split, 2))
        weights = self.weights(queries).unflatten(2, (self.heads, -1)).softmax(dim=3).unflatten(3, split[1:])
        centers, sizes = boxes[:, :, None, None, None].split(2, dim=-1)
        values = [self.values(features) for features in maps]
        if inside is not None:
            values = [level.where(cells[..., None], 0) for level, cells in zip(values, inside, strict=True)]
        return self.output(sample_levels(values, centers + offsets * sizes / (2 * self.points), weights))


def sample_levels(values: Sequence[Tensor], places: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sums of points of all levels, (B, Q, D), the channels of the first head first.

    Arithmetic is that of float32 or better.

    Parameters
    ----------
    values
        L maps (B, H, W, D).
    places
        (B, Q, A, L, K, 2): x and y of points, from 0 at the left or upper side of a map to 1 at the other.
    weights
        (B, Q, A, L, K).

    Examples
    --------
    Between two cells of a map that are 2 and 4:

    >>> values = [torch.tensor([2.0, 4.0]).view(1, 1, 2, 1)]
    >>> sample_levels(values, torch.full((1, 1, 1, 1, 1, 2), 0.5), torch.ones(1, 1, 1, 1, 1))
    tensor([[[3.]]])
    """
    heads = places.shape[2]
    sums = None
    for level, features in enumerate(values):
        # (B · A, D / A, H, W), (B · A, Q, K, 2) and (B · A, 1, Q, K): a head of an image is an image of its own.
        own = features.unflatten(3, (heads, -1)).permute(0, 3, 4, 1, 2).flatten(0, 1)
        own = own.to(torch.promote_types(own.dtype, torch.float32))
        grid = places[:, :, :, level].transpose(1, 2).flatten(0, 1).to(own.dtype)
        sampled = grid_sample(own, 2 * grid - 1, mode="bilinear", padding_mode="zeros", align_corners=False)
        own_weights = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None].to(own.dtype)
        own_sum = (sampled * own_weights).sum(dim=3)
        sums = own_sum if sums is None else sums + own_sum
    assert sums is not None  # there is a level
    return sums.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2)
