"""Who is who among millions of logits, and the two passes over the negatives that every ranking loss makes.

Legend: M candidates, C classes, P positives, I ignored rows, E edges of the cells, N logits of all levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses.cells import LANES, Cells, PiecewiseLinear, Search, Spare

CHUNK = 1 << 15
"""Logits handled at a time on a CPU: an operation of torch on no more runs on the thread that calls it. To wake others,
many times between operations that use one core anyway, takes longer than the operations."""


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


def indices_of(mask: Tensor) -> Tensor:
    """(n,) int64 indices of the few entries of a (N,) mask that are set: eight at a time are looked at.

    Examples
    --------
    >>> indices_of(torch.tensor(12 * [False] + [True, False, True]))
    tensor([12, 14])
    """
    whole = len(mask) // 8 * 8
    words = mask[:whole].view(torch.int64).nonzero().squeeze(1)
    word, byte = mask[:whole].view(-1, 8).index_select(0, words).nonzero().unbind(1)
    return torch.cat([words[word] * 8 + byte, mask[whole:].nonzero().squeeze(1) + whole])


def in_place_of(found: Tensor, logits: Sequence[Tensor]) -> list[Tensor]:
    """The memory of (N,) int32 cells as float32 tensors of the shapes of the levels."""
    parts = found.view(torch.float32).split([level.numel() for level in logits])
    return [part.view(level.shape) for part, level in zip(parts, logits, strict=True)]


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
        self.below = float(self.edges[0].nextafter(torch.full_like(self.edges[0], -torch.inf)))
        num_logits = sum(level.numel() for level in logits)
        size = max(CHUNK, len(cells)) if self.edges.device.type == "cpu" else num_logits
        # A chunk holds whole rows of ``width`` logits, and no fewer logits than there are cells to be added up.
        self.size = max(size // roles.width, 1) * roles.width

    def count(self, mine: Tensor, found: Tensor | None) -> tuple[Tensor, Tensor]:
        """Number of negatives and sum of their logits per cell, each (E + 1,) float64.

        Parameters
        ----------
        mine
            (P,) float64 logits of the positives among these logits; the cells may be those of more.
        found
            (N,) int32 that receives the number of each logit's cell; or None.
        """
        width, device = len(self.cells) + LANES - 1, self.edges.device
        search, spare = Search(self.edges), Spare(self.edges, self.size)
        numbers = torch.empty(self.size, dtype=torch.int32, device=device)
        doubles = torch.empty(self.size, dtype=torch.float64, device=device)
        counts = torch.zeros(width, dtype=torch.int64, device=device)
        sums = torch.zeros(width, dtype=torch.float64, device=device)
        for chunk in self._chunks():
            size = chunk.values.shape[0]
            out = numbers[:size] if found is None else found[chunk.place]
            cell = search(chunk.values, out, spare)
            sums += torch.bincount(cell, weights=doubles[:size].copy_(chunk.values), minlength=width)
            counts += torch.bincount(cell, minlength=width)
        # The positives were counted like negatives, which is faster than looking for them in every chunk.
        mine = mine.to(self.edges.dtype)
        cell = search(mine, torch.empty(len(mine), dtype=torch.int32, device=device), Spare(self.edges, len(mine)))
        sums -= torch.bincount(cell, weights=mine.double(), minlength=width)
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
        offset, slope = (functional.pad(part, (LANES - 1, 0)) for part in function[:2])
        offset[:LANES] = slope[:LANES] = 0
        bounds = sorted((0.0, float(function.total)))
        if found is None:
            gradients = [torch.empty_like(level, memory_format=torch.contiguous_format) for level in self.logits]
        else:
            gradients = in_place_of(found, self.logits)
        numbers = torch.empty(self.size, dtype=torch.int32, device=offset.device)
        gathered, result = offset.new_empty(self.size), offset.new_empty(self.size)
        if found is None:
            search, spare = Search(self.edges), Spare(self.edges, self.size)
        written = (part for level in gradients for part in level.view(-1).split(self.size))
        for chunk, out in zip(self._chunks(), written, strict=True):
            size = chunk.values.shape[0]
            cell = search(chunk.values, numbers[:size], spare) if found is None else found[chunk.place]
            part, spare_part = result[:size].copy_(chunk.values), gathered[:size]
            part *= torch.index_select(slope, 0, cell, out=spare_part)
            part += torch.index_select(offset, 0, cell, out=spare_part)
            # F lies between 0 and the sum of its weights: no rounding may leave that.
            out.copy_(part.clamp_(*bounds))
        return gradients

    def _chunks(self) -> Iterator[_Chunk]:
        """All logits, some at a time; ignored ones lie below every edge."""
        start, width = 0, self.roles.width
        for level in self.logits:
            for values in level.reshape(-1).split(self.size):
                stop = start + values.shape[0]
                skipped = _within(self.roles.ignored, start // width, stop // width)
                values = values.to(self.edges.dtype)
                if skipped.shape[0]:
                    values = values.clone()
                    values.view(-1, width).index_fill_(0, skipped - start // width, self.below)
                yield _Chunk(slice(start, stop), values)
                start = stop


class _Chunk(NamedTuple):
    """Some logits: where they stand among all, and they themselves."""

    place: slice
    values: Tensor


def _within(ascending: Tensor, low: int, high: int) -> Tensor:
    """The entries in [low, high)."""
    if not ascending.shape[0]:
        return ascending
    first, last = torch.searchsorted(ascending, ascending.new_tensor([low, high])).tolist()
    return ascending[first:last]
