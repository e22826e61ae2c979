"""The two passes over the negatives that every ranking loss makes, and their implementation in torch.

Legend: P positives, E edges of their cells, N logits of all levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses.cells import LANES, Cells, PiecewiseLinear, Search, Spare
from rankdet.losses.roles import RankedCandidates

CHUNK = 1 << 15
"""Logits handled at a time on a CPU: an operation of torch on no more runs on the thread that calls it. Waking other
threads between operations, as often as this would, takes longer than the operations themselves."""


class Counted(NamedTuple):
    """The negatives of each cell, and whether a logit was not finite.

    counts, sums
        (E + 1,) float64: number of negatives and sum of their logits; 0 in the cell below all edges.
    not_finite
        Scalar float64: NaN where the logit of a candidate that is not ignored is NaN or infinite, else 0.
    """

    counts: Tensor
    sums: Tensor
    not_finite: Tensor


class Negatives(Protocol):
    """One pass over all logits that counts the negatives of each cell, and one that writes all gradients.

    Implementations are :class:`TorchNegatives`, ``TritonNegatives`` (``kernels/negatives.py``) and ``NumbaNegatives``
    (``kernels/cpu.py``), made of the candidates and the cells of all positives.
    """

    def count(self, own: Tensor) -> Counted:
        """The negatives of each cell; ``own`` are the (P,) float64 logits of the positives among the candidates."""

    def gradient(self, function: PiecewiseLinear, of_positives: Tensor) -> list[Tensor]:
        """F(s) at every negative, 0 where ignored, and the (P,) ``of_positives``; one tensor per level, shaped like it.

        A gradient that is not finite is NaN everywhere, or wherever it is written.
        """


def in_place_of(kept: Tensor, logits: Sequence[Tensor]) -> list[Tensor]:
    """The memory of (N,) int32 cells as float32 tensors of the shapes of the levels."""
    parts = kept.view(torch.float32).split([level.numel() for level in logits])
    return [part.view(level.shape) for part, level in zip(parts, logits, strict=True)]


def write_positives(gradients: Sequence[Tensor], positives: Tensor, of_positives: Tensor) -> None:
    """Put one value at each of the (P,) positives, whose indices run over all levels."""
    start = 0
    for level in gradients:
        flat = level.view(-1)
        if len(gradients) == 1:
            flat[positives] = of_positives.to(flat.dtype)
        elif len(flat):
            here = (positives >= start) & (positives < start + len(flat))
            flat[positives[here] - start] = of_positives[here].to(flat.dtype)
        start += len(flat)


class TorchNegatives:
    """The passes over the negatives by operations of torch, some logits at a time.

    Levels (or chunks) of any shapes are read one after another, as if they were one tensor. The first pass leaves the
    cell of each logit in ``kept``, (N,) int32, and the second writes its float32 gradient there: no other memory is
    needed. Without ``kept`` the second pass looks for the cells again.
    """

    def __init__(self, candidates: RankedCandidates, cells: Cells, kept: Tensor | None = None) -> None:
        self.candidates, self.logits = candidates, candidates.logits
        self.cells = cells
        self.kept = kept
        self.edges = cells.edges
        # Below 0 the next number is denormal, which a process may take for 0 (`torch.set_flush_denormal`).
        lowest = self.edges[0]
        below = lowest.nextafter(torch.full_like(lowest, -torch.inf))
        self.below = float(torch.minimum(below, lowest - torch.finfo(lowest.dtype).tiny))
        size = max(CHUNK, len(cells)) if self.edges.device.type == "cpu" else candidates.num_logits
        # A chunk holds whole rows of ``width`` logits, and no fewer logits than there are cells to be added up.
        self.size = max(size // self.candidates.width, 1) * self.candidates.width

    def count(self, own: Tensor) -> Counted:
        """See :meth:`Negatives.count`. Values that are not finite cannot be searched for: nothing is counted then."""
        not_finite = self._not_finite()
        if bool(not_finite.isnan()):
            none = own.new_zeros(len(self.cells))
            return Counted(none, none, not_finite)
        width, device = len(self.cells) + LANES - 1, self.edges.device
        search, spare = Search(self.edges), Spare(self.edges, self.size)
        numbers = torch.empty(self.size, dtype=torch.int32, device=device)
        doubles = torch.empty(self.size, dtype=torch.float64, device=device)
        counts = torch.zeros(width, dtype=torch.int64, device=device)
        sums = torch.zeros(width, dtype=torch.float64, device=device)
        for place, values in self._chunks():
            size = values.shape[0]
            out = numbers[:size] if self.kept is None else self.kept[place]
            cell = search(values, out, spare)
            sums += torch.bincount(cell, weights=doubles[:size].copy_(values), minlength=width)
            counts += torch.bincount(cell, minlength=width)
        # The positives were counted like negatives, which is faster than looking for them in every chunk.
        own = own.to(self.edges.dtype)
        cell = search(own, torch.empty(len(own), dtype=torch.int32, device=device), Spare(self.edges, len(own)))
        sums -= torch.bincount(cell, weights=own.double(), minlength=width)
        counts -= torch.bincount(cell, minlength=width)
        # Below all edges lie the negatives that no positive sees, and those that are none.
        counts[:LANES] = 0
        return Counted(counts[LANES - 1 :].double(), sums.where(counts > 0, 0.0)[LANES - 1 :], not_finite)

    def gradient(self, function: PiecewiseLinear, of_positives: Tensor) -> list[Tensor]:
        """See :meth:`Negatives.gradient`; in the memory of the kept cells, which are overwritten."""
        if self.kept is None:
            gradients = [torch.empty_like(level, memory_format=torch.contiguous_format) for level in self.logits]
        else:
            gradients = in_place_of(self.kept, self.logits)
        if bool(function.total.isnan()):
            return [gradient.fill_(torch.nan) for gradient in gradients]
        offset, slope = (functional.pad(part, (LANES - 1, 0)) for part in function[:2])
        offset[:LANES] = slope[:LANES] = 0
        bounds = sorted((0.0, float(function.total)))
        numbers = torch.empty(self.size, dtype=torch.int32, device=offset.device)
        gathered, result = offset.new_empty(self.size), offset.new_empty(self.size)
        if self.kept is None:
            search, spare = Search(self.edges), Spare(self.edges, self.size)
        written = (part for gradient in gradients for part in gradient.view(-1).split(self.size))
        for (place, values), out in zip(self._chunks(), written, strict=True):
            size = values.shape[0]
            cell = search(values, numbers[:size], spare) if self.kept is None else self.kept[place]
            part, spare_part = result[:size].copy_(values), gathered[:size]
            part *= torch.index_select(slope, 0, cell, out=spare_part)
            part += torch.index_select(offset, 0, cell, out=spare_part)
            # F lies between 0 and the sum of its weights: no rounding may leave that.
            out.copy_(part.clamp_(*bounds))
        write_positives(gradients, self.candidates.positives, of_positives)
        return gradients

    def _not_finite(self) -> Tensor:
        poison = self.candidates.positives.new_zeros((), dtype=torch.float64)
        first_row = 0
        for level in self.logits:
            if level.numel():
                low, high = level.aminmax()
                found = ((low - low) + (high - high)).double()
                if found.device.type != "cpu" or bool(found.isnan()):
                    # Something is not finite, or looking would wait for the device: perhaps only what is ignored.
                    rows = level.reshape(-1, self.candidates.width)
                    skipped = _within(self.candidates.ignored, first_row, first_row + len(rows))
                    rows = rows.index_fill(0, skipped - first_row, 0.0)
                    found = (rows - rows).sum(dtype=torch.float64)
                poison = poison + found
            first_row += level.numel() // self.candidates.width
        return poison

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """The place and the values of all logits, some at a time; ignored ones lie below every edge."""
        start, width = 0, self.candidates.width
        for level in self.logits:
            for values in level.reshape(-1).split(self.size):
                stop = start + values.shape[0]
                skipped = _within(self.candidates.ignored, start // width, stop // width)
                values = values.to(self.edges.dtype)
                if skipped.shape[0]:
                    values = values.clone()
                    values.view(-1, width).index_fill_(0, skipped - start // width, self.below)
                yield slice(start, stop), values
                start = stop


def _within(ascending: Tensor, low: int, high: int) -> Tensor:
    """The entries in [low, high)."""
    if not ascending.shape[0]:
        return ascending
    first, last = torch.searchsorted(ascending, ascending.new_tensor([low, high])).tolist()
    return ascending[first:last]
