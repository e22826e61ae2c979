"""Who is who among millions of logits, and the two passes over the negatives that every ranking loss makes.

Legend: M candidates, C classes, P positives, I ignored rows, E edges of the cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.cells import Cells

CHUNK = 1 << 17
"""Logits handled at a time on a CPU, or a quarter of all: their temporaries stay in the cache and small beside them."""
SMALLEST_CHUNK = 1 << 15
"""Below this, calling the operations takes longer than doing them."""


class Roles(NamedTuple):
    """Who is who among the logits.

    positives
        (P,) int64 indices into the flat logits.
    quality
        (P,) localization qualities in [0, 1].
    ignored
        (I,) int64 indices of the ignored rows of ``width`` logits. Both index tensors ascend, and what is in neither is
        a negative.
    width
        Logits of a row.
    """

    positives: Tensor
    quality: Tensor
    ignored: Tensor
    width: int


def not_finite(logits: Tensor, roles: Roles) -> Tensor:
    """0, or NaN where the logit of a candidate that is not ignored is NaN or infinite; scalar float64."""
    low, high = logits.aminmax()
    poison = ((low - low) + (high - high)).double()
    if poison.device.type == "cpu" and not bool(poison.isnan()):
        return poison
    # Something is not finite, or looking would wait for the device: perhaps only what is ignored.
    rows = logits.reshape(-1, roles.width).index_fill(0, roles.ignored, 0.0)
    return (rows - rows).sum(dtype=torch.float64)


class Negatives:
    """One pass over all logits that counts the negatives of each cell, one that writes their gradient.

    The first pass leaves each logit's cell where the second will write its gradient: float32 gradients need no other
    memory than their own.
    """

    def __init__(self, roles: Roles, dtype: torch.dtype) -> None:
        self.roles = roles
        self.dtype = dtype
        self._found: Tensor | None = None

    def count(self, logits: Tensor, cells: Cells) -> tuple[Tensor, Tensor]:
        """Number of negatives and sum of their logits per cell, each (E + 1,) float64."""
        self._found = torch.empty(logits.numel(), dtype=torch.int32, device=logits.device)
        sums = torch.zeros(len(cells), dtype=torch.float64, device=logits.device)
        for part, values in self._chunks(logits, cells):
            found = cells.find(values, out=self._found[part])
            sums += torch.bincount(found, weights=values.double(), minlength=len(cells))
        counts = torch.bincount(self._found, minlength=len(cells)).double()
        # Below all edges lie the negatives that no positive sees, and those that are none.
        counts[0] = sums[0] = 0
        return counts, sums

    def gradient(self, logits: Tensor, cells: Cells, weights: Tensor | None) -> Tensor:
        """Σ_i weights[i] · H(s − p_i) at every logit, in the shape and dtype of the logits; zeros without weights."""
        if weights is None:
            return torch.zeros_like(logits, memory_format=torch.contiguous_format)
        found, self._found = self._found, None
        if found is None:  # a second backward pass through the same graph
            self.count(logits, cells)
            return self.gradient(logits, cells, weights)
        if logits.dtype == torch.float32:
            result = found.view(torch.float32)
        else:
            result = torch.empty(logits.numel(), dtype=logits.dtype, device=logits.device)
        left, value, slope = cells.weighted_steps(weights)
        for part, values in self._chunks(logits, cells):
            cell = found[part]
            # One gathered table at a time: the temporaries of a chunk count beside the gradient.
            values -= left.index_select(0, cell)
            values *= slope.index_select(0, cell)
            values += value.index_select(0, cell)
            result[part] = values
        return result.view(logits.shape)

    def _chunks(self, logits: Tensor, cells: Cells) -> Iterator[tuple[slice, Tensor]]:
        """Slices of the flat logits with a copy of each, in which all but negatives lie below every edge."""
        flat = logits.reshape(-1)
        positives, ignored, width = self.roles.positives, self.roles.ignored, self.roles.width
        size = flat.numel()
        if not logits.is_cuda:
            size = max(min(CHUNK, max(SMALLEST_CHUNK, size // 4)) // width, 1) * width
        for part, mine, skipped in zip(
            _slices(size, flat.numel()),
            _split(positives, size, flat.numel()),
            _split(ignored, size // width, flat.numel() // width),
            strict=True,
        ):
            values = cells.clamp(flat[part].to(self.dtype))
            if len(mine):
                values.index_fill_(0, mine - part.start, cells.bounds[0])
            if len(skipped):
                values.view(-1, width).index_fill_(0, skipped - part.start // width, cells.bounds[0])
            yield part, values


def _slices(size: int, length: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def _split(ascending: Tensor, size: int, length: int) -> list[Tensor]:
    """The indices that fall into each slice of ``size``."""
    if size >= length:
        return [ascending]
    starts = torch.arange(0, length + size, size, device=ascending.device)
    bounds = torch.searchsorted(ascending, starts).tolist()
    return [ascending[first:last] for first, last in pairwise(bounds)]
