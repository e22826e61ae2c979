"""CARAFE (Wang et al., ICCV 2019, arXiv:1905.02188): enlarge a map with weights that are predicted from it.

Legend: B images, C channels, H, W height and width of the coarse map; the enlarged map has 2H × 2W cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag, pad, unfold

SCALE = 2
WINDOW = 5
REACH = WINDOW // 2
TAPS = WINDOW * WINDOW

SMALLEST_CHUNK = 2**18
CHUNKS = 16
"""A chunk has at least ``SMALLEST_CHUNK`` elements of the enlarged map, or a ``CHUNKS``-th of them.

These are few enough to stay in a cache of a CPU and to be negligible beside the whole map, and enough to fill a GPU.
"""


class CARAFE(nn.Module):
    """Module that doubles the size: a new cell is a weighted mean of the 5 x 5 cells around the one it lies in.

    A 1x1 convolution compresses the map to ``compressed_channels``, and a 3x3 convolution makes 25 logits for each of
    the 2 x 2 new cells of an old one. Their softmax gives the weights, which all channels share. Biases start at 0, the
    1x1 convolution Xavier uniform and the 3x3 normal with standard deviation 0.001, so that the weights start nearly
    equal.
    """

    def __init__(self, channels: int, compressed_channels: int = 64) -> None:
        super().__init__()
        self.compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.encoder = nn.Conv2d(compressed_channels, TAPS * SCALE**2, 3, padding=1)
        nn.init.xavier_uniform_(self.compressor.weight)
        nn.init.normal_(self.encoder.weight, std=0.001)
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Enlarge (B, C, H, W) to (B, C, 2H, 2W), in the memory format of the input."""
        return reassemble(features, self.weights(features).to(features.dtype))

    def weights(self, features: Tensor) -> Tensor:
        """Return the (B, 2H, 2W, 25) weights of the cells around each new cell, row by row; they sum to 1."""
        logits = self.encoder(self.compressor(features))
        batch, _, height, width = logits.shape
        # A pixel shuffle that leaves the 25 in the last place, where the softmax and the sums read them in a row.
        logits = logits.view(batch, TAPS, SCALE, SCALE, height, width).permute(0, 4, 2, 5, 3, 1)
        return logits.reshape(batch, SCALE * height, SCALE * width, TAPS).softmax(dim=-1)


def reassemble(features: Tensor, weights: Tensor) -> Tensor:
    r"""Return the weighted sums (B, C, 2H, 2W) of the cells around each new cell, in the memory format of the features.

    .. math::

        Y_{c,y,x} = \sum_{n=-2}^{2} \sum_{m=-2}^{2} w_{y,x,n,m}
            X_{c,\ \lfloor y/2 \rfloor + n,\ \lfloor x/2 \rfloor + m}

    (section 3 of the paper), where X = ``features`` (B, C, H, W) is zero outside of the map. The weights w (B, 2H, 2W,
    25) have the window of each new cell row by row; other shapes, or another dtype than that of X, raise ValueError. A
    tensor of 25 · C numbers per cell is never made. Y, the gradient of X and the derivatives for w are sums of weighted
    rows of a table, for a few rows of the map at a time. Only the inputs are kept for the gradient. Second derivatives
    do not exist.

    Examples
    --------
    >>> weights = torch.zeros(1, 2, 6, 25)
    >>> weights[..., 13] = 1  # the right neighbor of the old cell
    >>> reassemble(torch.tensor([[[[1.0, 2.0, 3.0]]]]), weights)
    tensor([[[[2., 2., 3., 3., 0., 0.],
              [2., 2., 3., 3., 0., 0.]]]])
    """
    batch, _, height, width = features.shape
    expected = batch, SCALE * height, SCALE * width, TAPS
    if weights.shape != expected or weights.dtype != features.dtype:
        raise ValueError(
            f"weights must be {expected} and {features.dtype}, not {tuple(weights.shape)} and {weights.dtype}"
        )
    enlarged: Tensor = _Reassembly.apply(features, weights)
    return enlarged


def reassemble_reference(features: Tensor, weights: Tensor) -> Tensor:
    """Compute :func:`reassemble` in the shape of the equation, with 25 · C numbers for each new cell."""
    batch, channels, height, width = features.shape
    windows = unfold(features, WINDOW, padding=REACH).view(batch, channels, TAPS, height, width)
    windows = windows.repeat_interleave(SCALE, dim=3).repeat_interleave(SCALE, dim=4)
    return (windows * weights.permute(0, 3, 1, 2).unsqueeze(1)).sum(dim=2)


class _Reassembly(torch.autograd.Function):
    """Autograd function of :func:`reassemble`, whose gradients are the same kind of sums."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(features, weights)
        batch, channels, height, width = features.shape
        is_channels_last = not features.is_contiguous() and features.is_contiguous(memory_format=torch.channels_last)
        enlarged = torch.empty(
            (batch, channels, SCALE * height, SCALE * width),
            dtype=features.dtype,
            device=features.device,
            memory_format=torch.channels_last if is_channels_last else torch.contiguous_format,
        )
        for first, last in _chunks(features):
            new = slice(SCALE * first, SCALE * last)
            sums = _enlarged(_rows(_cells(features), first, last, REACH), weights[:, new])
            enlarged[:, :, new] = sums.permute(0, 3, 1, 2)
        return enlarged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, weights = ctx.saved_tensors
        of_features, of_weights = torch.empty_like(features), torch.empty_like(weights)
        margin = SCALE * REACH
        for first, last in _chunks(features):
            new = slice(SCALE * first, SCALE * last)
            upstream = _rows(_cells(gradients), new.start, new.stop, margin)
            if ctx.needs_input_grad[0]:
                around = _rows(weights, new.start, new.stop, margin)
                of_features[:, :, first:last] = _returned(upstream, around).permute(0, 3, 1, 2)
            if ctx.needs_input_grad[1]:
                table = _rows(_cells(features), first, last, REACH)
                inside = upstream[:, margin:-margin, margin:-margin]
                with torch.enable_grad():
                    own = weights[:, new].detach().requires_grad_()
                    sums = _enlarged(table, own)
                (of_weights[:, new],) = torch.autograd.grad(sums, own, inside)
        return of_features, of_weights


def _chunks(features: Tensor) -> Iterator[tuple[int, int]]:
    """Yield the first and one past the last of the rows of the coarse map that are computed together."""
    height = features.shape[2]
    size = SCALE**2 * features.numel()
    rows = max(1, height * max(SMALLEST_CHUNK, size // CHUNKS) // max(size, 1))
    for first in range(0, height, rows):
        yield first, min(first + rows, height)


def _cells(maps: Tensor) -> Tensor:
    """Return a view (B, H, W, C) of (B, C, H, W)."""
    return maps.permute(0, 2, 3, 1)


def _rows(maps: Tensor, first: int, last: int, margin: int) -> Tensor:
    """Return rows first − margin … last + margin of (B, H, W, C), with as many columns on both sides, zero-padded."""
    top, bottom = first - margin, last + margin
    height = maps.shape[1]
    part = maps[:, max(top, 0) : min(bottom, height)]
    return pad(part, (0, 0, margin, margin, max(-top, 0), max(bottom - height, 0))).contiguous()


def _weighted_sums(table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Return (M, C) sums of K rows of a table (..., C), each times its weight; indices and weights are (M, K).

    An embedding bag is exactly this sum. It runs at the speed of the memory on CPU and GPU, and makes nothing else.
    """
    return embedding_bag(indices, table.flatten(end_dim=-2), per_sample_weights=weights, mode="sum")


def _places(*shape: int, like: Tensor) -> Tensor:
    """Return the index of each row in a table of this shape."""
    return torch.arange(torch.Size(shape).numel(), device=like.device).view(shape)


def _enlarged(table: Tensor, weights: Tensor) -> Tensor:
    """Return (B, 2h, 2w, C) new cells from (B, h + 4, w + 4, C) cells of a bordered map and (B, 2h, 2w, 25) weights."""
    batch, height, width = weights.shape[:3]
    windows = _places(*table.shape[:3], like=table).unfold(1, WINDOW, 1).unfold(2, WINDOW, 1).flatten(3)
    indices = windows.repeat_interleave(SCALE, dim=1).repeat_interleave(SCALE, dim=2)
    sums = _weighted_sums(table, indices.view(-1, TAPS), weights.reshape(-1, TAPS))
    return sums.view(batch, height, width, table.shape[-1])


def _returned(upstream: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient (B, h, w, C) of old cells: the weighted sum of those of the new cells that read them.

    These are the new cells of the 5 x 5 old cells around it. Gradients (B, 2h + 8, 2w + 8, C) and weights (B, 2h + 8,
    2w + 8, 25) are those of the new cells of a bordered map.
    """
    batch, height, width = upstream.shape[0], *(side // SCALE for side in upstream.shape[1:3])
    shape = batch, height, SCALE, width, SCALE
    # Seen from the new cells of a neighbor that lies (n, m) away, the old cell lies (−n, −m) away.
    from_neighbors = weights.view(*shape, WINDOW, WINDOW).flip(5, 6)
    around = from_neighbors.unfold(1, WINDOW, 1).unfold(3, WINDOW, 1)
    taps = around.diagonal(dim1=5, dim2=7).diagonal(dim1=5, dim2=6)
    places = _places(*shape, like=upstream).unfold(1, WINDOW, 1).unfold(3, WINDOW, 1)
    # Both are (B, h, 2, w, 2, 5, 5) now: a bag is a row of the four new cells of 25 neighbors.
    indices, own = (values.permute(0, 1, 3, 5, 6, 2, 4).reshape(-1, TAPS * SCALE**2) for values in (places, taps))
    return _weighted_sums(upstream, indices, own).view(batch, height - 2 * REACH, width - 2 * REACH, -1)


class CarafeFPN(nn.Module):
    """A feature pyramid whose top-down path enlarges by CARAFE: the "+" of RS-R-CNN+.

    It differs from :class:`FPN` in the coarser levels, which are laterals: 3x3 convolutions of stride 2, the first (P6)
    on the backbone's last map, each next one on the lateral before. They join the top-down path and have output
    convolutions of their own. An enlarged map is cut at the bottom and on the right to the size of the finer one. Each
    map of the backbone has at most twice the height and width of the next.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256, *, extra_levels: int = 1) -> None:
        super().__init__()
        self.channels = channels
        self.laterals = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        extra_channels = (in_channels[-1], *[channels] * extra_levels)[:extra_levels]
        self.coarser = nn.ModuleList(nn.Conv2d(count, channels, 3, stride=2, padding=1) for count in extra_channels)
        num_levels = len(in_channels) + extra_levels
        self.upsamplers = nn.ModuleList(CARAFE(channels) for _ in range(num_levels - 1))
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(num_levels))
        for convolution in (*self.laterals, *self.coarser, *self.outputs):
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return ``len(maps) + extra_levels`` maps (B, channels, H, W), finest first, from the maps of the backbone."""
        merged = [lateral(features) for lateral, features in zip(self.laterals, maps, strict=True)]
        coarsest = maps[-1]
        for convolution in self.coarser:
            coarsest = convolution(coarsest)
            merged.append(coarsest)
        for level in range(len(merged) - 1, 0, -1):
            finer = merged[level - 1]
            height, width = finer.shape[-2:]
            merged[level - 1] = finer + self.upsamplers[level - 1](merged[level])[..., :height, :width]
        return [output(features) for output, features in zip(self.outputs, merged, strict=True)]
