"""Hybrid encoder of RT-DETR (Zhao et al., "DETRs Beat YOLOs on Real-time Object Detection", CVPR 2024,
arXiv:2304.08069, section 4.2).

Legend: B images, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rankdet.ranges import Count, CountOrZero, Positive, checked

TEMPERATURE = 10000.0
"""The wavelengths of positions go from 2π cells to 2π times this."""


@checked
class HybridEncoder(nn.Module):
    """Pyramid of self-attention on the coarsest map, then convolutions from coarse to fine and back.

    Attention between all cells is cheap on the coarsest map alone, and what the finer maps need of it reaches them
    through the convolutions. Every map is first projected to D channels. Weights start as those of torch.

    Parameters
    ----------
    in_channels
        Channels of the backbone's maps, finest first.
    channels
        D, a multiple of 4 and of ``heads``.
    layers
        Transformer layers on the coarsest map.
    heads
        Heads of their attention.
    feedforward
        Channels inside of their feed-forward parts.
    expansion
        Channels inside of the fusions of two maps, over D.
    blocks
        Pairs of a 3x3 and a 1x1 convolution, added up, in each fusion.
    groups
        Groups of the normalization of all convolutions. None: batch normalization, as published, which depends on the
        mode of the module.

    Raises
    ------
    ValueError
        When D is no multiple of 4, of ``heads`` or of ``groups``.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: Count = 256,
        *,
        layers: CountOrZero = 1,
        heads: Count = 8,
        feedforward: Count = 1024,
        expansion: Positive = 1.0,
        blocks: Count = 3,
        groups: Count | None = None,
    ) -> None:
        super().__init__()
        for name, divisor in (("4", 4), (f"heads = {heads}", heads), (f"groups = {groups}", groups or 1)):
            if channels % divisor:
                raise ValueError(f"channels = {channels} is no multiple of {name}")
        self.channels = channels
        self.num_blocks = blocks
        steps = range(len(in_channels) - 1)
        self.projections = nn.ModuleList(convolution(count, channels, 1, groups=groups) for count in in_channels)
        self.layers = nn.ModuleList(EncoderLayer(channels, heads, feedforward) for _ in range(layers))
        # Both from the coarsest level on.
        self.laterals = nn.ModuleList(convolution(channels, channels, 1, nn.SiLU(), groups=groups) for _ in steps)
        self.top_down = nn.ModuleList(Fusion(channels, expansion, blocks, groups) for _ in steps)
        # Both from the finest level on.
        self.downsampling = nn.ModuleList(
            convolution(channels, channels, 3, nn.SiLU(), stride=2, groups=groups) for _ in steps
        )
        self.bottom_up = nn.ModuleList(Fusion(channels, expansion, blocks, groups) for _ in steps)

    def forward(self, maps: Sequence[Tensor], inside: Tensor | None = None) -> list[Tensor]:
        """Return a map (B, D, H, W) for each map of the backbone, finest first.

        ``inside`` (B, H, W) bool says which cells of the coarsest map lie in their image: no attention is paid to
        others. None: all.
        """
        levels = [projection(features) for projection, features in zip(self.projections, maps, strict=True)]
        levels[-1] = self._attended(levels[-1], inside)
        for step, (lateral, fusion) in enumerate(zip(self.laterals, self.top_down, strict=True)):
            place = len(levels) - 1 - step
            levels[place] = lateral(levels[place])
            enlarged = interpolate(levels[place], size=levels[place - 1].shape[-2:], mode="nearest")
            levels[place - 1] = fusion(enlarged, levels[place - 1])
        for place, (downsampling, fusion) in enumerate(zip(self.downsampling, self.bottom_up, strict=True)):
            levels[place + 1] = fusion(downsampling(levels[place]), levels[place + 1])
        return levels

    def _attended(self, features: Tensor, inside: Tensor | None) -> Tensor:
        """Return the map (B, D, H, W) after the transformer layers."""
        height, width = features.shape[-2:]
        cells = features.flatten(2).transpose(1, 2)
        positions = cell_positions(height, width, self.channels, cells)
        ignored = None if inside is None else ~inside.flatten(1)
        for layer in self.layers:
            cells = layer(cells, positions, ignored)
        return cells.transpose(1, 2).unflatten(2, (height, width))


class EncoderLayer(nn.Module):
    """Self-attention of cells and a feed-forward part, each added to its input and normalized."""

    def __init__(self, channels: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.attention_norm = nn.LayerNorm(channels)
        self.feedforward = nn.Sequential(nn.Linear(channels, feedforward), nn.GELU(), nn.Linear(feedforward, channels))
        self.feedforward_norm = nn.LayerNorm(channels)

    def forward(self, cells: Tensor, positions: Tensor, ignored: Tensor | None) -> Tensor:
        """Return cells (B, M, D) of cells (B, M, D) at positions (M, D); ``ignored`` (B, M) bool are not attended."""
        placed = cells + positions
        attended, _ = self.attention(placed, placed, cells, key_padding_mask=ignored, need_weights=False)
        cells = self.attention_norm(cells + attended)
        return self.feedforward_norm(cells + self.feedforward(cells))


class Fusion(nn.Module):
    """Two maps → one: a sum of 1x1 convolutions of both together, one of them refined by ``blocks`` blocks.

    A block is the sum of a 3x3 and a 1x1 convolution (RepVGG), and the whole a stage of CSPNet.
    """

    def __init__(self, channels: int, expansion: float, blocks: int, groups: int | None) -> None:
        super().__init__()
        inner = int(channels * expansion)
        self.refined = convolution(2 * channels, inner, 1, nn.SiLU(), groups=groups)
        self.plain = convolution(2 * channels, inner, 1, nn.SiLU(), groups=groups)
        self.blocks = nn.Sequential(*(Block(inner, groups) for _ in range(blocks)))
        self.last = convolution(inner, channels, 1, nn.SiLU(), groups=groups) if inner != channels else nn.Identity()

    def forward(self, features: Tensor, others: Tensor) -> Tensor:
        """Return a map (B, D, H, W) of two maps of its shape."""
        both = torch.cat([features, others], dim=1)
        return self.last(self.blocks(self.refined(both)) + self.plain(both))


class Block(nn.Module):
    """Sum of a 3x3 and a 1x1 convolution, each normalized, before the activation."""

    def __init__(self, channels: int, groups: int | None) -> None:
        super().__init__()
        self.wide = convolution(channels, channels, 3, groups=groups)
        self.narrow = convolution(channels, channels, 1, groups=groups)
        self.activation = nn.SiLU()

    def forward(self, features: Tensor) -> Tensor:
        """Return a map of the shape of ``features``."""
        return self.activation(self.wide(features) + self.narrow(features))


def convolution(
    in_channels: int,
    channels: int,
    size: int,
    activation: nn.Module | None = None,
    *,
    stride: int = 1,
    groups: int | None,
) -> nn.Sequential:
    """Return a convolution without bias, its normalization by groups or (None) by batches, and an activation if any."""
    norm = nn.BatchNorm2d(channels) if groups is None else nn.GroupNorm(groups, channels)
    layers = [nn.Conv2d(in_channels, channels, size, stride, padding=size // 2, bias=False), norm]
    return nn.Sequential(*layers, *([] if activation is None else [activation]))


def cell_positions(height: int, width: int, channels: int, like: Tensor) -> Tensor:
    """Return (H · W, D) sines and cosines of the rows of cells, then of their columns, on the device of ``like``.

    Examples
    --------
    >>> cell_positions(1, 2, 4, torch.zeros(0))
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.0000, 1.0000, 0.8415, 0.5403]])
    """
    parts = channels // 4
    steps = torch.arange(parts, device=like.device, dtype=torch.float64) / parts
    frequencies = TEMPERATURE**-steps
    rows, columns = (
        torch.arange(length, device=like.device, dtype=torch.float64)[:, None] * frequencies
        for length in (height, width)
    )
    of_rows = torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, width, -1)
    of_columns = torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(height, -1, -1)
    return torch.cat([of_rows, of_columns], dim=2).flatten(0, 1).to(like.dtype)
