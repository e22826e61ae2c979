"""The two passes over the negatives that every ranking loss makes, and their implementation in torch.

Legend: P positives, P' those of all processes, E edges of their cells, N logits of all levels, K pools.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses.cells import LANES, Cells, PooledSearch, Search, Spare
from rankdet.losses.pools import Cycle, Runs
from rankdet.losses.roles import RankedCandidates, pools_of

CHUNK = 1 << 15
"""Logits handled at a time on a CPU: an operation of torch on no more runs on the thread that calls it. Waking other
threads between operations, as often as this would, takes longer than the operations themselves."""


class Counted(NamedTuple):
    """What the first pass finds.

    steps
        (P',) float64: N_FP, the soft number of negatives of its pool above each positive.
    not_finite
        (K,) float64: NaN for a pool in which the logit of a candidate that is not ignored is NaN or infinite, else 0.
    """

    steps: Tensor
    not_finite: Tensor


class Negatives(Protocol):
    """One pass over all logits that counts the negatives above each positive, and one that writes all gradients.

    Implementations are :class:`TorchNegatives`, ``TritonNegatives`` (``kernels/negatives.py``) and ``NumbaNegatives``
    (``kernels/cpu``), made of the candidates and the (P',) logits of all positives, ascending in each of their runs.
    """

    def count(self, own: Tensor) -> Counted:
        """Count the negatives; ``own`` are the (P,) float64 logits of the positives among the candidates."""

    def gradient(self, weights: Tensor, of_positives: Tensor) -> list[Tensor]:
        """F(s) = Σ_i w_i H(s − p_i) at every negative, 0 where ignored, and the (P,) ``of_positives``.

        Weights are (P',) float64, and no two of a pool differ in sign. Returns one tensor per level, shaped like it.

        A gradient that is not finite is NaN everywhere in its pool, or wherever it is written.
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

    def __init__(
        self, candidates: RankedCandidates, positives: Tensor, runs: Runs, delta: float, kept: Tensor | None = None
    ) -> None:
        self.candidates, self.logits = candidates, candidates.logits
        self.cells = cells = Cells(positives, delta, candidates.dtype, runs)
        self.kept = kept
        self.edges = cells.edges
        self.has_pools = len(candidates.pools) > 0
        # Below 0 the next number is denormal, which a process may take for 0 (`torch.set_flush_denormal`).
        lowest = self.edges.min() if self.has_pools else self.edges[0]
        below = lowest.nextafter(torch.full_like(lowest, -torch.inf))
        self.below = float(torch.minimum(below, lowest - torch.finfo(lowest.dtype).tiny))
        size = max(CHUNK, len(cells)) if self.edges.device.type == "cpu" else candidates.num_logits
        # A chunk holds whole rows of ``width`` logits, and no fewer logits than there are cells to be added up.
        self.size = max(size // self.candidates.width, 1) * self.candidates.width

    def count(self, own: Tensor) -> Counted:
        """See :meth:`Negatives.count`. Values that are not finite cannot be searched for: nothing is counted then."""
        not_finite = self._not_finite()
        if bool(not_finite.isnan().all()):
            return Counted(torch.zeros_like(self.cells.positives), not_finite)
        width, device = len(self.cells) + LANES - 1, self.edges.device
        search, spare = self._search(), Spare(self.edges, self.size)
        numbers = torch.empty(self.size, dtype=torch.int32, device=device)
        doubles = torch.empty(self.size, dtype=torch.float64, device=device)
        counts = torch.zeros(width, dtype=torch.int64, device=device)
        sums = torch.zeros(width, dtype=torch.float64, device=device)
        for chunk in self._chunks():
            size = chunk.values.shape[0]
            out = numbers[:size] if self.kept is None else self.kept[chunk.place]
            cell = search(chunk.values, out, spare, chunk.pools)
            sums += torch.bincount(cell, weights=doubles[:size].copy_(chunk.values), minlength=width)
            counts += torch.bincount(cell, minlength=width)
        # The positives were counted like negatives, which is faster than looking for them in every chunk.
        pools, own = pools_of(self.candidates), own.to(self.edges.dtype)
        rows = None if pools is None else pools[:, None]
        cell = search(own, torch.empty(len(own), dtype=torch.int32, device=device), Spare(self.edges, len(own)), rows)
        sums -= torch.bincount(cell, weights=own.double(), minlength=width)
        counts -= torch.bincount(cell, minlength=width)
        # Below all edges lie the negatives that no positive sees, and those that are none.
        counts[:LANES] = 0
        counts, sums = counts[LANES - 1 :].double(), sums.where(counts > 0, 0.0)[LANES - 1 :]
        return Counted(self.cells.steps_over(counts, sums), not_finite)

    def gradient(self, weights: Tensor, of_positives: Tensor) -> list[Tensor]:
        """See :meth:`Negatives.gradient`; in the memory of the kept cells, which are overwritten."""
        function = self.cells.weighted_steps(weights)
        if self.kept is None:
            gradients = [torch.empty_like(level, memory_format=torch.contiguous_format) for level in self.logits]
        else:
            gradients = in_place_of(self.kept, self.logits)
        if bool(function.total.isnan().all()):
            return [gradient.fill_(torch.nan) for gradient in gradients]
        offset, slope = (functional.pad(part, (LANES - 1, 0)) for part in function[:2])
        offset[:LANES] = slope[:LANES] = 0
        low, high = function.total.clamp(max=0), function.total.clamp(min=0)
        numbers = torch.empty(self.size, dtype=torch.int32, device=offset.device)
        gathered, result = offset.new_empty(self.size), offset.new_empty(self.size)
        if self.kept is None:
            search, spare = self._search(), Spare(self.edges, self.size)
        flat = [gradient.view(-1) for gradient in gradients]
        for chunk in self._chunks():
            size = len(chunk.values)
            if self.kept is None:
                cell = search(chunk.values, numbers[:size], spare, chunk.pools)
            else:
                cell = self.kept[chunk.place]
            part, spare_part = result[:size].copy_(chunk.values), gathered[:size]
            part *= torch.index_select(slope, 0, cell, out=spare_part)
            part += torch.index_select(offset, 0, cell, out=spare_part)
            # F lies between 0 and the sum of its weights: no rounding may leave that.
            if chunk.pools is None:
                part.clamp_(low, high)
            else:
                part.view(len(chunk.pools), -1).clamp_(low[chunk.pools], high[chunk.pools])
            flat[chunk.level][chunk.place_in_level].copy_(part)
        write_positives(gradients, self.candidates.positives, of_positives)
        return gradients

    def _search(self) -> Search | PooledSearch:
        return PooledSearch(self.edges, self.cells.edge_runs) if self.has_pools else Search(self.edges)

    def _not_finite(self) -> Tensor:
        poison = self.edges.new_zeros(self.candidates.num_pools, dtype=torch.float64)
        first_row = 0
        for number, level in enumerate(self.logits):
            if level.numel():
                low, high = level.aminmax()
                found = ((low - low) + (high - high)).double()
                if found.device.type != "cpu" or bool(found.isnan()):
                    # Something is not finite, or looking would wait for the device: perhaps only what is ignored.
                    rows = level.reshape(-1, self.candidates.width)
                    skipped = _within(self.candidates.ignored, first_row, first_row + len(rows))
                    rows = rows.index_fill(0, skipped - first_row, 0.0)
                    if self.has_pools:
                        places = rows.isfinite().logical_not_().view(-1).nonzero().squeeze(1)
                        cycle = Cycle.of(self.candidates.pools[number], level.shape)
                        poison[cycle.at(places)] = torch.nan
                    else:
                        poison = poison + (rows - rows).sum(dtype=torch.float64)
            first_row += level.numel() // self.candidates.width
        return poison

    def _chunks(self) -> Iterator[_Chunk]:
        """All logits, some at a time; ignored ones lie below every edge."""
        first, width = 0, self.candidates.width
        for number, level in enumerate(self.logits):
            flat = level.reshape(-1)
            cycle = Cycle.of(self.candidates.pools[number], level.shape) if self.has_pools else None
            for start, stop in self._parts(len(flat), cycle):
                skipped = _within(self.candidates.ignored, (first + start) // width, (first + stop) // width)
                values, pools = flat[start:stop].to(self.edges.dtype), None
                if cycle is not None:
                    # What is not finite spoils its own pool, and is kept from the search of the others.
                    values = values.nan_to_num(self.below, self.below, self.below)
                    pools = cycle.at(torch.arange(start, stop, cycle.width, device=flat.device))[:, None]
                if skipped.shape[0]:
                    values = values.clone()
                    values.view(-1, width).index_fill_(0, skipped - (first + start) // width, self.below)
                yield _Chunk(number, start, stop, first, values, pools)
            first += len(flat)

    def _parts(self, size: int, cycle: Cycle | None) -> Iterator[tuple[int, int]]:
        """Begin and end of the parts of a level that are read at a time: many rows of pools, or a part of one."""
        unit = self.candidates.width if cycle is None else max(self.candidates.width, cycle.width)
        step = max(self.size // unit, 1) * unit
        for begin in range(0, size, step):
            end = min(begin + step, size)
            for start in range(begin, end, self.size):
                yield start, min(start + self.size, end)


class _Chunk(NamedTuple):
    """Some logits of a level: their values, and the (r, 1) pools of the r rows that they are, of one pool each."""

    level: int
    start: int
    stop: int
    first: int
    values: Tensor
    pools: Tensor | None

    @property
    def place(self) -> slice:
        """Among the logits of all levels."""
        return slice(self.first + self.start, self.first + self.stop)

    @property
    def place_in_level(self) -> slice:
        return slice(self.start, self.stop)


def _within(ascending: Tensor, low: int, high: int) -> Tensor:
    """The entries in [low, high)."""
    if not ascending.shape[0]:
        return ascending
    first, last = torch.searchsorted(ascending, ascending.new_tensor([low, high])).tolist()
    return ascending[first:last]
