"""The two passes over the negatives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rankdet.losses.cells import LANES
from rankdet.losses.kernels.cpu.compiling import Array, borders_of, compiled
from rankdet.losses.kernels.cpu.search import place_edges, search_of
from rankdet.losses.kernels.cpu.threads import run
from rankdet.losses.negatives import Counted, in_place_of, write_positives
from rankdet.losses.pools import Cycle, Runs
from rankdet.losses.roles import RankedCandidates, pools_of

SECTION = 1 << 16
"""Logits below which no further thread is woken: that takes as long as counting a tenth of them."""
MOST_SECTIONS = 16
BLOCK = 1024
"""Logits whose bins are found at a time: by vector instructions, and kept in the first-level cache."""

_TYPES = {torch.float32: np.float32, torch.float64: np.float64}


@compiled
def _find_cells(
    values: Array,
    start: int,
    size: int,
    edges: Array,
    table: Array,
    axes: Array,
    first_bin: Array,
    pools: Array,
    width: int,
    broken: Array,
    cells: Array,
) -> None:
    """Write the numbers of the cells of up to ``BLOCK`` values, and mark pools of which one is not finite.

    A block at a time: a call counts references to its arrays, which takes longer than finding a cell. First come the
    bins, with the operations of ``_fill_table`` (``search.py``); values below all edges take the lanes in turn.
    """
    row = start // width
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
        first, is_broken = np.uint32(first_bin[pool]), False
        for j in range(begin, i):  # by vector instructions
            value = values[start + j]
            scaled, lane = (value - lowest) * scale + offset, np.float32(j & (LANES - 1))
            scaled = scaled if scaled > lane else lane  # NaN is below
            cells[j] = np.uint32(scaled if scaled < last else last) + first
            is_broken |= not (abs(value) < np.inf)
        if is_broken:
            broken[pool] = True
    for i in range(size):
        begin = table[cells[i]]
        if begin < 0:
            value, begin, end = values[start + i], ~begin, table[cells[i] + 1]
            end = end if end >= 0 else ~end
            while begin < end:
                middle = (begin + end) >> 1
                if edges[middle - (LANES - 1)] <= value:
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
    next_ignored: int,
    width: int,
    ignored: Array,
    edges: Array,
    table: Array,
    axes: Array,
    first_bin: Array,
    kept: Array,
    broken: Array,
    totals: Array,
) -> None:
    """Add number and sum of the logits of each cell to (…, 2) totals, and mark pools of which one is not finite.

    The logits are ``values[begin:end]`` without the rows that are ignored, of which ``ignored[next_ignored]`` is the
    first. Their cells are written to ``kept``, unless it is empty, and 0 for what is ignored.
    """
    cells = np.empty(BLOCK, np.uint32)
    keeps = len(kept) > 0
    while begin < end:
        stop = end
        if next_ignored < len(ignored):
            stop = min(end, ignored[next_ignored] * width)
            next_ignored += 1
        for start in range(begin, stop, BLOCK):
            size = min(BLOCK, stop - start)
            _find_cells(values, start, size, edges, table, axes, first_bin, pools, pool_width, broken, cells)
            for i in range(size):
                cell = np.uint64(cells[i])
                if keeps:
                    kept[start + i] = cell
                totals[cell, np.uint64(0)] += 1.0
                totals[cell, np.uint64(1)] += values[start + i]
        if keeps and stop < end:
            for i in range(stop, stop + width):
                kept[i] = 0
        begin = stop + width


@compiled
def _steps_over(
    totals: Array,
    own: Array,
    own_pools: Array,
    edges: Array,
    places: Array,
    positives: Array,
    borders: Array,
    delta: float,
) -> Array:
    """N_FP of each positive from the totals of all logits; ``own`` are positives, which were counted like negatives.

    Sums run from the top down, so that a positive with nothing above it gets exactly 0.
    """
    for i in range(len(own)):
        pool, value = own_pools[i], edges.dtype.type(own[i])
        begin, end = 2 * borders[pool] + pool, 2 * borders[pool + 1] + pool
        while begin < end:
            middle = (begin + end) >> 1
            if edges[middle] <= value:
                begin = middle + 1
            else:
                end = middle
        totals[begin + LANES - 1, 0] -= 1.0
        totals[begin + LANES - 1, 1] -= value
    steps = np.empty(len(positives))
    above = np.empty((len(edges), 2))
    for pool in range(len(borders) - 1):
        begin, end = 2 * borders[pool] + pool, 2 * borders[pool + 1] + pool
        count, total = 0.0, 0.0
        for place in range(end - 1, begin - 1, -1):
            count += totals[place + LANES, 0]
            # Values above all edges are inside of no window, and one large logit would swallow the sums of the others.
            if place < end - 1 and totals[place + LANES, 0] > 0:
                total += totals[place + LANES, 1]
            above[place, 0], above[place, 1] = count, total
        for i in range(borders[pool], borders[pool + 1]):
            first, last = places[0, i], places[1, i]
            inside = above[first, 0] - above[last, 0]
            linear = 0.0
            if inside > 0 and delta > 0:
                linear = (above[first, 1] - above[last, 1] - inside * positives[i]) * (0.5 / delta) + inside * 0.5
            steps[i] = max(above[last, 0] + linear, 0.0)
    return steps


@compiled
def _weighted_steps(
    weights: Array, places: Array, positives: Array, borders: Array, delta: float, lines: Array, bounds: Array
) -> None:
    """Write F as a line for each cell, (…, 2) offset and slope, and the lowest and the highest value in each pool.

    The line of positive i begins at the edge p_i − δ and ends at p_i + δ, above which w_i is all that remains.
    """
    per_width = 0.5 / delta if delta > 0 else 0.0
    half = 0.5 if delta > 0 else 0.0
    for pool in range(len(borders) - 1):
        total = 0.0
        begin, end = 2 * borders[pool] + pool + LANES, 2 * borders[pool + 1] + pool + LANES
        for i in range(borders[pool], borders[pool + 1]):
            slope = weights[i] * per_width
            offset = weights[i] * half - slope * positives[i]
            total += weights[i]
            lines[places[0, i] + LANES, 0] += offset
            lines[places[0, i] + LANES, 1] += slope
            lines[places[1, i] + LANES, 0] += weights[i] - offset
            lines[places[1, i] + LANES, 1] -= slope
        for place in range(begin + 1, end):
            lines[place, 0] += lines[place - 1, 0]
            lines[place, 1] += lines[place - 1, 1]
        if end > begin:
            # Above the last edge F is constant: no rounding may leave a slope there.
            lines[end - 1, 0], lines[end - 1, 1] = total, 0.0
        bounds[pool, 0], bounds[pool, 1] = total, total  # NaN stays
        if total > 0:
            bounds[pool, 0] = 0.0
        elif total < 0:
            bounds[pool, 1] = 0.0


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
    row = begin // pool_width
    turn, start = row % len(pools), begin
    while start < end:
        stop = min((row + 1) * pool_width, end)
        # F lies between 0 and the sum of its weights: no rounding may leave that. NaN stays.
        low, high = bounds[pools[turn], 0], bounds[pools[turn], 1]
        for i in range(start, stop):
            cell = np.uint64(kept[i])
            result = lines[cell, np.uint64(0)] + lines[cell, np.uint64(1)] * values[i]
            result = result if result > low else low
            out[i] = result if result < high else high
        turn = turn + 1 if turn + 1 < len(pools) else 0
        row, start = row + 1, stop


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
    cells, broken = np.empty(BLOCK, np.uint32), np.zeros(len(bounds), np.bool_)
    for start in range(begin, end, BLOCK):
        size = min(BLOCK, end - start)
        _find_cells(values, start, size, edges, table, axes, first_bin, pools, pool_width, broken, cells)
        row = start // pool_width
        turn, row_end = row % len(pools), (row + 1) * pool_width - start
        for i in range(size):
            if i == row_end:
                turn = turn + 1 if turn + 1 < len(pools) else 0
                row_end += pool_width
            low, high = bounds[pools[turn], 0], bounds[pools[turn], 1]
            result = lines[cells[i], 0] + lines[cells[i], 1] * values[start + i]
            result = result if result > low else low
            out[start + i] = result if result < high else high


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
        self.positives, self.borders = positives.numpy(), borders_of(runs)
        self.edges = np.empty(2 * len(positives) + candidates.num_pools, _TYPES[candidates.dtype])
        self.places = np.empty((2, len(positives)), np.int64)
        place_edges(self.positives, self.borders, delta, self.edges, self.places)

    def count(self, own: Tensor) -> Counted:
        """Make the first pass; see :meth:`rankdet.losses.negatives.Negatives.count`."""
        search, num_pools = search_of(self.edges, self.borders), self.candidates.num_pools
        kept = np.empty(0, np.int32) if self.kept is None else self.kept.numpy()
        # All sections together hold no more cells than a fourth of the logits.
        most = min(MOST_SECTIONS, max(1, self.candidates.num_logits // (4 * len(self.edges))))
        totals = np.zeros((most, len(self.edges) + LANES - 1, 2))
        broken = np.zeros(num_pools, np.bool_)
        width = self.candidates.width
        for level in self._levels():
            cells = level.values, level.pools, level.pool_width
            tasks = [
                partial(_count, *cells, *section, width, level.ignored, *search, kept[level.place], broken, total)
                for section, total in zip(self._sections(level, most), totals, strict=False)
            ]
            run(tasks)
        pools = pools_of(self.candidates)
        own_pools = np.zeros(len(own), np.int64) if pools is None else pools.numpy()
        arrays = self.edges, self.places, self.positives, self.borders
        steps = _steps_over(totals.sum(0), own.numpy(), own_pools, *arrays, self.delta)
        return Counted(torch.from_numpy(steps), torch.from_numpy(np.where(broken, np.nan, 0.0)))

    def gradient(self, weights: Tensor, of_positives: Tensor) -> list[Tensor]:
        """See :meth:`rankdet.losses.negatives.Negatives.gradient`; in the memory of the kept cells."""
        lines = np.zeros((len(self.edges) + LANES - 1, 2))
        bounds = np.empty((self.candidates.num_pools, 2))
        _weighted_steps(weights.numpy(), self.places, self.positives, self.borders, self.delta, lines, bounds)
        kept = None if self.kept is None else in_place_of(self.kept, self.candidates.logits)
        search = search_of(self.edges, self.borders) if kept is None else None
        gradients = []
        for number, (logits, level) in enumerate(zip(self.candidates.logits, self._levels(), strict=True)):
            gradient = torch.empty(logits.shape, dtype=self.candidates.dtype) if kept is None else kept[number]
            out = gradient.view(-1).numpy()
            tasks: list[Callable[[], None]] = []
            for begin, end, _ in self._sections(level, MOST_SECTIONS):
                part = level.values, level.pools, level.pool_width, begin, end
                if search is not None:
                    tasks.append(partial(_write, *part, *search, lines, bounds, out))
                else:
                    tasks.append(partial(_write_kept, *part, out.view(np.int32), lines, bounds, out))
            run(tasks)
            if len(level.ignored):
                gradient.view(-1, self.candidates.width)[level.ignored] = 0
            gradients.append(gradient.to(logits.dtype))
        write_positives(gradients, self.candidates.positives, of_positives)
        return gradients

    def _levels(self) -> Iterator[_Level]:
        """Level by level, in the precision of the cells."""
        width, ignored, begin = self.candidates.width, self.candidates.ignored.numpy(), 0
        for number, level in enumerate(self.candidates.logits):
            end = begin + level.numel()
            here = slice(*np.searchsorted(ignored, (begin // width, end // width)))
            values = level.detach().reshape(-1).to(self.candidates.dtype).numpy()
            pools, pool_width = np.zeros(1, np.int64), max(len(values), 1)
            if self.candidates.pools:
                cycle = Cycle.of(self.candidates.pools[number], level.shape)
                pools, pool_width = cycle.pools.numpy(), cycle.width
            yield _Level(values, pools, pool_width, ignored[here] - begin // width, slice(begin, end))
            begin = end

    def _sections(self, level: _Level, most: int) -> Iterator[tuple[int, int, int]]:
        """Begin and end of sections of a level, whole rows of it, and how many ignored rows are before."""
        width, size = self.candidates.width, len(level.values)
        number = min(most, max(1, size // SECTION))
        rows = [size // width * part // number for part in range(number + 1)]
        skipped = np.searchsorted(level.ignored, rows[:-1]).tolist()
        for (begin, end), before in zip(itertools.pairwise(rows), skipped, strict=True):
            yield begin * width, end * width, before
