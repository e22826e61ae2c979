"""The two passes over the negatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rankdet.losses.cells import LANES
from rankdet.losses.kernels.cpu.cells import Search, make_lines, make_search, steps_over
from rankdet.losses.kernels.cpu.compiling import Array, borders_of, compiled
from rankdet.losses.kernels.cpu.threads import run
from rankdet.losses.negatives import Counted
from rankdet.losses.pools import Cycle, Runs
from rankdet.losses.roles import RankedCandidates, pools_of

SECTION = 1 << 16
"""Logits below which no further thread is woken: that takes as long as counting a tenth of them."""
MOST_SECTIONS = 16
BLOCK = 1024
"""Logits whose bins are found at a time: by vector instructions, and kept in the first-level cache."""

_NONE: dict[torch.dtype, Array] = {torch.float32: np.empty(0, np.float32), torch.float64: np.empty(0, np.float64)}
_NOT_KEPT, _ONE_POOL = np.empty(0, np.int32), np.zeros(1, np.int64)


@compiled
def _find_cells(
    values: Array,
    start: int,
    edges: Array,
    table: Array,
    axes: Array,
    first_bin: Array,
    pools: Array,
    width: int,
    broken: Array,
    bins: Array,
    cells: Array,
) -> None:
    """Write the cells of up to ``BLOCK`` values, which begin at ``start``, and NaN for pools with one that is broken.

    A block at a time: a call counts references to its arrays, which takes longer than finding a cell. First come the
    bins, with the operations of ``_fill_table`` (``cells.py``); values below all edges take the lanes in turn. Then a
    step over the one edge that a bin may have, which needs no branch, and at last a search among more of them.
    """
    size, row = len(values), start // width
    turn, row_end, i = row % len(pools), (row + 1) * width - start, 0
    while i < size:
        pool, begin = pools[turn], i
        # Rows of one pool that follow each other are found together.
        while True:
            i = min(row_end, size)
            if i == size:
                break
            turn = turn + 1 if turn + 1 < len(pools) else 0
            row_end += width
            if pools[turn] != pool:
                break
        lowest, scale, offset, last = axes[pool, 0], axes[pool, 1], axes[pool, 2], axes[pool, 3]
        first, is_broken = np.int32(first_bin[pool]), False
        # Slices have no places below 0, so that these loops are made of vector instructions.
        own, own_bins = values[begin:i], bins[begin:i]
        for j in range(i - begin):
            scaled, lane = (own[j] - lowest) * scale + offset, np.float32(j & (LANES - 1))
            scaled = scaled if scaled > lane else lane  # NaN is below
            own_bins[j] = np.int32(scaled if scaled < last else last) + first
        for j in range(i - begin):
            is_broken |= not (abs(own[j]) < np.inf)
        if is_broken:
            broken[pool] = np.nan
    for i in range(size):
        cell = table[bins[i]]
        cells[i] = cell + np.uint32(edges[cell] <= values[i])
    for i in range(size):
        value = values[i]
        if edges[cells[i]] <= value:
            begin, end = cells[i] + 1, table[bins[i] + 1]
            while begin < end:
                middle = (begin + end) >> 1
                if edges[middle] <= value:
                    begin = middle + 1
                else:
                    end = middle
            cells[i] = begin


@compiled
def _count(
    values: Array,
    pools: Array,
    pool_width: int,
    begin: int,
    end: int,
    totals: Array,
    ignored: Array,
    width: int,
    edges: Array,
    table: Array,
    axes: Array,
    first_bin: Array,
    kept: Array,
    broken: Array,
) -> None:
    """Add number and sum of the logits of each cell to (…, 2) totals, and write NaN for pools of which one is broken.

    The logits are ``values[begin:end]`` without the rows that are ignored, which are ascending. Their cells are written
    to ``kept``, unless it is empty, and 0 for what is ignored.
    """
    bins, cells = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.uint32)
    keeps = len(kept) > 0
    skipped, after = 0, len(ignored)
    while skipped < after:
        middle = (skipped + after) >> 1
        if ignored[middle] * width < begin:
            skipped = middle + 1
        else:
            after = middle
    while begin < end:
        stop = end
        if skipped < len(ignored):
            stop = min(end, ignored[skipped] * width)
            skipped += 1
        for start in range(begin, stop, BLOCK):
            size = min(BLOCK, stop - start)
            part = values[start : start + size]
            _find_cells(part, start, edges, table, axes, first_bin, pools, pool_width, broken, bins, cells)
            if keeps:
                own_kept = kept[start : start + size]
                for i in range(size):
                    own_kept[i] = cells[i]
            for i in range(size):
                cell = np.uint64(cells[i])
                totals[cell, np.uint64(0)] += 1.0
                totals[cell, np.uint64(1)] += part[i]
        if keeps and stop < end:
            for i in range(stop, stop + width):
                kept[i] = 0
        begin = stop + width


@compiled
def _write_kept(
    values: Array,
    pools: Array,
    pool_width: int,
    begin: int,
    end: int,
    kept: Array,
    lines: Array,
    bounds: Array,
    out: Array,
) -> None:
    """Write F of ``values[begin:end]``, whose cells are known; ``out`` may lie in the memory of ``kept``."""
    row, start, cells = begin // pool_width, begin, np.empty(BLOCK, np.uint32)
    turn, row_end = row % len(pools), (row + 1) * pool_width
    while start < end:
        stop = min(min(row_end, start + BLOCK), end)
        # F lies between 0 and the sum of its weights: no rounding may leave that. NaN stays.
        low, high = bounds[pools[turn], 0], bounds[pools[turn], 1]
        # Slices, and cells that lie elsewhere: vector instructions.
        own, own_kept, own_out = values[start:stop], kept[start:stop], out[start:stop]
        for i in range(stop - start):
            cells[i] = own_kept[i]
        for i in range(stop - start):
            cell = cells[i]
            result = lines[cell, 0] + lines[cell, 1] * own[i]
            result = result if result > low else low
            own_out[i] = result if result < high else high
        start = stop
        if start == row_end:
            turn = turn + 1 if turn + 1 < len(pools) else 0
            row_end += pool_width


@compiled
def _write(
    values: Array,
    pools: Array,
    pool_width: int,
    begin: int,
    end: int,
    edges: Array,
    table: Array,
    axes: Array,
    first_bin: Array,
    lines: Array,
    bounds: Array,
    out: Array,
) -> None:
    """Write F of ``values[begin:end]``, whose cells are looked for."""
    bins, cells = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.uint32)
    broken = np.empty(len(bounds))
    for start in range(begin, end, BLOCK):
        size = min(BLOCK, end - start)
        part = values[start : start + size]
        _find_cells(part, start, edges, table, axes, first_bin, pools, pool_width, broken, bins, cells)
        row = start // pool_width
        turn, row_end = row % len(pools), (row + 1) * pool_width - start
        for i in range(size):
            if i == row_end:
                turn = turn + 1 if turn + 1 < len(pools) else 0
                row_end += pool_width
            low, high = bounds[pools[turn], 0], bounds[pools[turn], 1]
            result = lines[cells[i], 0] + lines[cells[i], 1] * part[i]
            result = result if result > low else low
            out[start + i] = result if result < high else high


@compiled
def _write_others(ignored: Array, width: int, places: Array, first: int, of_positives: Array, out: Array) -> None:
    """Write 0 for the rows of a level that are ignored, and what the positives get of which the places are in it."""
    for row in ignored:
        for i in range(row * width, (row + 1) * width):
            out[i] = 0
    for i in range(len(places)):
        if first <= places[i] < first + len(out):
            out[places[i] - first] = of_positives[i]


class _Level(NamedTuple):
    """The logits of a level, their pools (see ``Cycle``), its ignored rows, and its place among all levels."""

    values: Array
    pools: Array
    pool_width: int
    ignored: Array
    place: slice


class NumbaNegatives:
    """The passes over the negatives by compiled functions, for levels on a CPU.

    Arguments are those of :class:`rankdet.losses.negatives.TorchNegatives`.
    """

    def __init__(
        self, candidates: RankedCandidates, positives: Tensor, runs: Runs, delta: float, kept: Tensor | None = None
    ) -> None:
        self.candidates, self.kept, self.delta = candidates, kept, delta
        self.positives, self.borders, self.like = positives.numpy(), borders_of(runs), _NONE[candidates.dtype]

    def count(self, own: Tensor) -> Counted:
        """Make the first pass; see :meth:`rankdet.losses.negatives.Negatives.count`."""
        places, *found = make_search(*self._given(), self.like)
        search = Search(*found)
        kept: Array = _NOT_KEPT if self.kept is None else self.kept.numpy()
        levels, broken = list(self._levels()), np.zeros(self.candidates.num_pools)
        # All sections together hold no more cells than a fourth of the logits.
        most = min(MOST_SECTIONS, max(1, self.candidates.num_logits // (4 * len(search.edges))))
        sections = [list(_sections(level, self.candidates.width, most)) for level in levels]
        totals = np.zeros((max(map(len, sections)), len(search.edges), 2))
        for level, parts in zip(levels, sections, strict=True):
            given: tuple[Any, ...] = level.ignored, self.candidates.width, *search, kept[level.place], broken
            run([partial(_count, *level[:3], *part, of, *given) for part, of in zip(parts, totals, strict=False)])
        pools = pools_of(self.candidates)
        own_pools = np.zeros(len(own), np.int64) if pools is None else pools.numpy()
        steps = steps_over(totals, own.numpy(), own_pools, search.edges, places, *self._given())
        return Counted(torch.from_numpy(steps), torch.from_numpy(broken))

    def gradient(self, weights: Tensor, of_positives: Tensor) -> list[Tensor]:
        """See :meth:`rankdet.losses.negatives.Negatives.gradient`; in the memory of the kept cells."""
        lines, bounds = make_lines(weights.numpy(), *self._given(), self.like)
        kept = None if self.kept is None else self.kept.view(torch.float32)
        search = Search(*make_search(*self._given(), self.like)[1:]) if kept is None else None
        width, positives, of_each = self.candidates.width, self.candidates.positives.numpy(), of_positives.numpy()
        gradients = []
        for logits, level in zip(self.candidates.logits, self._levels(), strict=True):
            flat = kept[level.place] if kept is not None else torch.empty(logits.numel(), dtype=self.candidates.dtype)
            out = flat.numpy()
            tasks: list[Callable[[], None]] = []
            for part in _sections(level, width, MOST_SECTIONS):
                if search is not None:
                    tasks.append(partial(_write, *level[:3], *part, *search, lines, bounds, out))
                else:
                    tasks.append(partial(_write_kept, *level[:3], *part, out.view(np.int32), lines, bounds, out))
            run(tasks)
            _write_others(level.ignored, width, positives, level.place.start, of_each, out)
            gradients.append(flat.view(logits.shape).to(logits.dtype))
        return gradients

    def _given(self) -> tuple[Array, Array, float]:
        return self.positives, self.borders, self.delta

    def _levels(self) -> Iterator[_Level]:
        """Level by level, in the precision of the cells."""
        width, ignored, begin = self.candidates.width, self.candidates.ignored.numpy(), 0
        for number, level in enumerate(self.candidates.logits):
            end = begin + level.numel()
            values = level.detach().reshape(-1).to(self.candidates.dtype).numpy()
            pools, pool_width = _ONE_POOL, max(len(values), 1)
            if self.candidates.pools:
                cycle = Cycle.of(self.candidates.pools[number], level.shape)
                pools, pool_width = cycle.pools.numpy(), cycle.width
            here = ignored
            if len(ignored) and len(self.candidates.logits) > 1:
                first, last = np.searchsorted(ignored, (begin // width, end // width))
                here = ignored[first:last] - begin // width
            yield _Level(values, pools, pool_width, here, slice(begin, end))
            begin = end


def _sections(level: _Level, width: int, most: int) -> Iterator[tuple[int, int]]:
    """Begin and end of sections of a level, which are whole rows of it."""
    size = len(level.values)
    number = min(most, max(1, size // SECTION))
    rows = [size // width * part // number * width for part in range(number + 1)]
    return itertools.pairwise(rows)
