"""Who is who among millions of logits, and the two passes over the negatives that every ranking loss makes.

Legend: M candidates, C classes, P positives, I ignored rows, E edges of the cells, N logits of all levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.cells import LANES, Cells, PiecewiseLinear, Search

CHUNK = 1 << 17
"""Logits handled at a time, or a sixteenth of all: their temporaries stay in the cache and small beside the logits."""
SMALLEST_CHUNK = 1 << 15
"""Below this, calling the operations takes longer than doing them."""


SPARSE = 0.3
"""Where fewer of the logits than this are above the lowest edge, they are picked out first: pruning is exact."""
SAMPLE = 1 << 12
"""Logits that are looked at to tell how many are."""


class Roles(NamedTuple):
    """Who is who among the logits of all levels, one after another.

    positives
        (P,) int64 indices into the flat logits.
    ignored
        (I,) int64 indices of the ignored rows of ``width`` logits, ascending. What is in neither is a negative.
    width
        Logits of a row.
    """

    positives: Tensor
    ignored: Tensor
    width: int


def not_finite(logits: Sequence[Tensor], roles: Roles) -> Tensor:
    """0, or NaN where the logit of a candidate that is not ignored is NaN or infinite; scalar float64."""
    poison = roles.positives.new_zeros((), dtype=torch.float64)
    first_row = 0
    for level in logits:
        if level.numel():
            low, high = level.aminmax()
            found = ((low - low) + (high - high)).double()
            if found.device.type != "cpu" or bool(found.isnan()):
                # Something is not finite, or looking would wait for the device: perhaps only what is ignored.
                rows = level.reshape(-1, roles.width)
                skipped = _within(roles.ignored, first_row, first_row + len(rows))
                rows = rows.index_fill(0, skipped - first_row, 0.0)
                found = (rows - rows).sum(dtype=torch.float64)
            poison = poison + found
        first_row += level.numel() // roles.width
    return poison


class Negatives:
    """One pass over all logits that counts the negatives of each cell, one that writes their gradient.

    The first pass can leave each logit's cell where the second will write its gradient: float32 gradients need no other
    memory than their own.

    Parameters
    ----------
    logits
        Levels (or chunks) of any shapes, which are read one after another, as if they stood in one tensor.
    roles
        Who is who among them.
    cells
        The cells of the positives.
    """

    def __init__(self, logits: Sequence[Tensor], roles: Roles, cells: Cells) -> None:
        self.logits = logits
        self.roles = roles
        self.cells = cells
        self.edges = cells.edges
        num_logits = sum(level.numel() for level in logits)
        # A chunk holds whole rows of ``width`` logits.
        self.size = max(min(CHUNK, max(SMALLEST_CHUNK, num_logits // 16)) // roles.width, 1) * roles.width
        every = max(num_logits // SAMPLE, 1)
        seen = sum(int((level.reshape(-1)[::every] >= self.edges[0]).sum()) for level in logits)
        self.is_sparse = seen * every < SPARSE * num_logits

    def count(self, mine: Tensor, found: Tensor | None) -> tuple[Tensor, Tensor]:
        """Number of negatives and sum of their logits per cell, each (E + 1,) float64.

        Parameters
        ----------
        mine
            (P,) float64 logits of the positives among these logits; the cells may be those of more.
        found
            (N,) int32 that receives the number of each logit's cell, unless few of them are seen; or None.
        """
        width = len(self.cells) + LANES - 1
        search = Search(self.edges, self.size)
        sums = self.edges.new_zeros(width, dtype=torch.float64)
        counts = torch.zeros_like(sums, dtype=torch.int64)
        doubles, numbers = sums.new_empty(self.size), counts.new_empty(self.size, dtype=torch.int32)
        for start, seen, values in self._chunks():
            size = len(values)
            kept = numbers if found is None or seen is not None else found[start:]
            cell = search(values, kept[:size])
            sums += torch.bincount(cell, weights=doubles[:size].copy_(values), minlength=width)
            counts += torch.bincount(cell, minlength=width)
        # The positives were counted like negatives, which is faster than looking for them in every chunk.
        for values in mine.to(self.edges.dtype).split(self.size):
            cell = search(values, numbers[: len(values)])
            sums -= torch.bincount(cell, weights=values.double(), minlength=width)
            counts -= torch.bincount(cell, minlength=width)
        # Below all edges lie the negatives that no positive sees, and those that are none.
        counts[:LANES] = 0
        return counts[LANES - 1 :].double(), sums.where(counts > 0, 0.0)[LANES - 1 :]

    def gradient(self, function: PiecewiseLinear, found: Tensor | None) -> list[Tensor]:
        """F(s) at every negative, 0 where ignored, anything at the positives; one tensor per level, shaped like it.

        Parameters
        ----------
        function
            F, for the cells of the positives.
        found
            What :meth:`count` wrote, for float32 logits: it is overwritten, as the gradients take its place. Where
            None, the cells are looked for again.
        """
        offset, slope = (torch.nn.functional.pad(part, (LANES - 1, 0)) for part in function[:2])
        offset[:LANES] = slope[:LANES] = 0
        bounds = sorted((0.0, float(function.total)))
        gathered, result = offset.new_empty(self.size), offset.new_empty(self.size)
        if found is None or self.is_sparse:
            search = Search(self.edges, self.size)
            numbers = offset.new_empty(self.size, dtype=torch.int32)
        if found is None:
            gradients = [torch.empty_like(level, memory_format=torch.contiguous_format) for level in self.logits]
        else:
            parts = found.view(torch.float32).split([level.numel() for level in self.logits])
            gradients = [part.view(level.shape) for part, level in zip(parts, self.logits, strict=True)]
        written = (part for level in gradients for part in level.view(-1).split(self.size))
        for (start, seen, values), out in zip(self._chunks(), written, strict=True):
            size = len(values)
            kept = None if seen is not None else found
            cell = search(values, numbers[:size]) if kept is None else kept[start : start + size]
            part, spare = result[:size].copy_(values), gathered[:size]
            part *= torch.index_select(slope, 0, cell, out=spare)
            part += torch.index_select(offset, 0, cell, out=spare)
            # F lies between 0 and the sum of its weights: no rounding may leave that.
            part.clamp_(*bounds)
            if seen is None:
                out.copy_(part)
            else:
                out.zero_().scatter_(0, seen, part.to(out.dtype))
        return gradients

    def _chunks(self) -> Iterator[tuple[int, Tensor | None, Tensor]]:
        """Where each chunk starts among all logits; the places in it of those that are seen, None for all; and these.

        All ignored ones lie below every edge.
        """
        below = float(self.edges[0].nextafter(self.edges.new_tensor(-torch.inf)))
        start, width = 0, self.roles.width
        for level in self.logits:
            for values in level.reshape(-1).split(self.size):
                size = len(values)
                skipped = _within(self.roles.ignored, start // width, (start + size) // width)
                values = values.to(self.edges.dtype)
                if len(skipped):
                    values = values.clone()
                    values.view(-1, width).index_fill_(0, skipped - start // width, below)
                seen = (values >= self.edges[0]).nonzero().squeeze(1) if self.is_sparse else None
                yield start, seen, values if seen is None else values.index_select(0, seen)
                start += size


def _within(ascending: Tensor, low: int, high: int) -> Tensor:
    """The entries in [low, high)."""
    if not len(ascending):
        return ascending
    first, last = torch.searchsorted(ascending, ascending.new_tensor([low, high])).tolist()
    return ascending[first:last]
