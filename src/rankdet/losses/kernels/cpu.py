"""The two passes over the negatives on a CPU, and sums among positives, compiled by numba. numba only.

Values that come out are those of :class:`rankdet.losses.negatives.TorchNegatives` up to rounding of float64. Logits are
handled in sections, as many as follow from sizes alone, whose sums are added in order: the result does not depend on
the number of threads. These are as many as torch has, and run without Python's lock.

Functions are compiled once for float32 and once for float64, when they are first called, and kept on disk where numba
finds a place for that.

Legend: N logits, P positives, K pools. Edges lie pool by pool. The cell above the edge at place e has the number
e + ``LANES``; values below all edges of their pool take the numbers 0 … ``LANES`` − 1, the lanes, in turn.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numba import njit
from torch import Tensor

from rankdet.losses.cells import LANES
from rankdet.losses.negatives import Counted, in_place_of, write_positives
from rankdet.losses.pools import Cycle, Runs, sort_in_pools
from rankdet.losses.roles import RankedCandidates, pools_of
from rankdet.losses.sorting import EPSILON, Sorting, Window

Array = np.ndarray[Any, Any]

SECTION = 1 << 16
"""Logits below which no further thread is woken: that takes as long as counting a tenth of them."""
MOST_SECTIONS = 16
BLOCK = 1024
"""Logits whose bins are found at a time: by vector instructions, and kept in the first-level cache."""
LEAST_BINS, MOST_BINS = 1 << 6, 1 << 18

_TYPES = {torch.float32: np.float32, torch.float64: np.float64}

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    """The function by numba, without Python's lock; from the disk where it was compiled before."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder in which numba may write
        return njit(**options)(function)


@_compiled
def _place_edges(positives: Array, borders: Array, delta: float, edges: Array, places: Array) -> None:
    """Write the edges p_i − δ and p_i + δ, ascending in each pool, and the places of both of each positive.

    Edges are rounded up to their type: a value of that type lies on the same side of both. The place behind those of a
    pool is infinite.
    """
    limit = edges.dtype.type(np.inf)
    place = 0
    for pool in range(len(borders) - 1):
        lower, upper, end = borders[pool], borders[pool], borders[pool + 1]
        while upper < end:
            exact = positives[upper] + delta
            high = edges.dtype.type(exact)
            high = np.nextafter(high, limit) if high < exact else high
            edge, is_low = high, False
            if lower < end:
                exact = positives[lower] - delta
                low = edges.dtype.type(exact)
                low = np.nextafter(low, limit) if low < exact else low
                if low <= high:
                    edge, is_low = low, True
            edges[place] = edge
            if is_low:
                places[0, lower] = place
                lower += 1
            else:
                places[1, upper] = place
                upper += 1
            place += 1
        edges[place] = limit
        place += 1


@_compiled
def _fill_table(borders: Array, edges: Array, sizes: Array, axes: Array, first_bin: Array, table: Array) -> None:
    """Write, for each pool, how a value is scaled, its first bin, and the number at which each of its bins begins.

    Of a bin that edges cut it is the complement. Lanes are bins, too, and there is one more bin at the end.
    """
    begin = 0
    for pool in range(len(sizes)):
        size, place = sizes[pool], 2 * borders[pool] + pool
        end = 2 * borders[pool + 1] + pool
        lowest, scale, last = 0.0, 0.0, LANES - 1.0
        if end > place:
            lowest, last = edges[place], size + LANES - 1.0
            span = np.float64(edges[end - 1]) - np.float64(edges[place])
            # Finite in the dtype of the edges, however close they are.
            scale = min((size - 1) / span, np.finfo(edges.dtype).max) if span > 0 else 0.0
        axes[pool, 0], axes[pool, 1], axes[pool, 2], axes[pool, 3] = lowest, scale, LANES, last
        first_bin[pool] = begin
        for lane in range(LANES):
            table[begin + lane] = lane
        number, free = place + LANES - 1, LANES
        for i in range(place, end):
            scaled = (edges[i] - axes[pool, 0]) * axes[pool, 1] + axes[pool, 2]
            bin = np.int64(scaled if scaled < axes[pool, 3] else axes[pool, 3])
            while free < bin:
                table[begin + free] = number
                free += 1
            if free == bin:
                table[begin + free] = ~number
                free += 1
            number += 1
        while free <= size + LANES:
            table[begin + free] = number
            free += 1
        begin += size + LANES + 1


@_compiled
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
    bins, with the operations of :func:`_fill_table`; values below all edges take the lanes in turn.
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


@_compiled
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


@_compiled
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


@_compiled
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


@_compiled
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


@_compiled
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


@_compiled
def _find_windows(positives: Array, borders: Array, delta: float, windows: Array) -> None:
    """Write the places at which the window of each positive begins and before which it ends."""
    for pool in range(len(borders) - 1):
        first, last, end = borders[pool], borders[pool], borders[pool + 1]
        for i in range(borders[pool], end):
            while first < end and positives[first] < positives[i] - delta:
                first += 1
            while last < end and positives[last] <= positives[i] + delta:
                last += 1
            windows[0, i], windows[1, i] = first, last


@_compiled
def _add_steps(
    weights: Array, positives: Array, borders: Array, windows: Array, delta: float, is_above: bool, steps: Array
) -> None:
    """Write sums of weighted steps over the positives of its pool that are above each, or below; (R, P) both."""
    sums = np.empty((len(positives) + 1, 2))
    for row in range(len(weights)):
        for pool in range(len(borders) - 1):
            begin, end = borders[pool], borders[pool + 1]
            sums[begin, 0], sums[begin, 1] = 0.0, 0.0
            for i in range(begin, end):
                sums[i + 1, 0] = sums[i, 0] + weights[row, i]
                sums[i + 1, 1] = sums[i, 1] + weights[row, i] * positives[i]
            for i in range(begin, end):
                first, last = windows[0, i], windows[1, i]
                count, moment = sums[last, 0] - sums[first, 0], sums[last, 1] - sums[first, 1]
                outside = sums[end, 0] - sums[last, 0] if is_above else sums[first, 0]
                difference = moment - positives[i] * count
                difference = difference if is_above else -difference
                steps[row, i] = outside + (count if delta == 0 else difference / (2 * delta) + count / 2)


@_compiled
def _sums_before(
    order: Array,
    quality: Array,
    rows: Array,
    begin: int,
    end: int,
    bounds: Array,
    counts: Array,
    tree: Array,
    sums: Array,
) -> None:
    """Write to (B, P, R) sums, for each i of a pool, the rows of earlier quality before each of its (B, P) bounds.

    ``order`` has the places of the pool, from ``begin`` to ``end``, by quality, ascending or descending. One quality
    after another looks into a tree of Fenwick and enters it. Where nothing lies between two bounds their sums are equal
    to the bit.
    """
    num_bounds, _, width = sums.shape
    size = end - begin
    for place in range(size + 1):
        counts[place] = 0
        for column in range(width):
            tree[place, column] = 0.0
    first = begin
    while first < end:
        last = first
        while last < end and quality[order[last]] == quality[order[first]]:
            i, before = order[last], -1
            for bound in range(num_bounds):
                place, number = bounds[bound, i] - begin, 0
                for column in range(width):
                    sums[bound, i, column] = 0.0
                while place > 0:
                    number += counts[place]
                    for column in range(width):
                        sums[bound, i, column] += tree[place, column]
                    place -= place & -place
                if number == before:
                    for column in range(width):
                        sums[bound, i, column] = sums[bound - 1, i, column]
                before = number
            last += 1
        while first < last:
            place = order[first] - begin + 1
            while place <= size:
                counts[place] += 1
                for column in range(width):
                    tree[place, column] += rows[order[first], column]
                place += place & -place
            first += 1


@_compiled
def _sort_pools(
    positives: Array, quality: Array, order: Array, borders: Array, windows: Array, delta: float, found: Array
) -> None:
    """Write rank among positives, sorting error and its gradient, (3, P); ``order`` has each pool by quality.

    See :meth:`rankdet.losses.sorting.Window.sorting`.
    """
    num = len(positives)
    weights, above = np.empty((2, num)), np.empty((2, num))
    for i in range(num):
        weights[0, i], weights[1, i] = 1.0, 1 - quality[i]
    _add_steps(weights, positives, borders, windows, delta, True, above)
    rows, sums = np.empty((num, 4)), np.empty((3, num, 4))
    share, shared = np.empty(num), np.empty((3, num, 2))
    bounds = np.empty((3, num), np.int64)
    counts, tree = np.empty(num + 1, np.int64), np.empty((num + 1, 4))
    for i in range(num):
        rows[i, 0], rows[i, 1] = 1.0, weights[1, i]
        rows[i, 2], rows[i, 3] = positives[i], weights[1, i] * positives[i]
    for pool in range(len(borders) - 1):
        begin, end = borders[pool], borders[pool + 1]
        for i in range(begin, end):
            bounds[0, i], bounds[1, i], bounds[2, i] = windows[0, i], windows[1, i], end
        _sums_before(order, quality, rows, begin, end, bounds, counts, tree, sums)
    for i in range(num):
        worse, total_worse = sums[2, i, 0] - sums[1, i, 0], sums[2, i, 1] - sums[1, i, 1]
        count, total = sums[1, i, 0] - sums[0, i, 0], sums[1, i, 1] - sums[0, i, 1]
        moment, total_moment = sums[1, i, 2] - sums[0, i, 2], sums[1, i, 3] - sums[0, i, 3]
        if delta > 0:
            worse += (moment - positives[i] * count) / (2 * delta) + count / 2
            total_worse += (total_moment - positives[i] * total) / (2 * delta) + total / 2
        else:
            worse, total_worse = worse + count, total_worse + total
        rank = above[0, i]
        error = (total_worse * rank - above[1, i] * worse) / (rank * (rank - worse))
        share[i] = error / max(worse, EPSILON) if worse > EPSILON else 0.0
        found[0, i], found[1, i], found[2, i] = rank, error, -share[i] * worse
    rows, tree = np.empty((num, 2)), np.empty((num + 1, 2))
    for i in range(num):
        rows[i, 0], rows[i, 1] = share[i], share[i] * positives[i]
    best_first = np.empty(num, np.int64)
    for pool in range(len(borders) - 1):
        begin, end = borders[pool], borders[pool + 1]
        for i in range(begin, end):
            best_first[i] = order[begin + end - 1 - i]
            bounds[0, i], bounds[1, i], bounds[2, i] = begin, windows[0, i], windows[1, i]
        _sums_before(best_first, quality, rows, begin, end, bounds, counts, tree, shared)
    for i in range(num):
        below = shared[1, i, 0] - shared[0, i, 0]
        count, moment = shared[2, i, 0] - shared[1, i, 0], shared[2, i, 1] - shared[1, i, 1]
        found[2, i] += below + (count if delta == 0 else (positives[i] * count - moment) / (2 * delta) + count / 2)


class NumbaWindow(Window):
    """Sums among positives on a CPU."""

    def __init__(self, logits: Tensor, delta: float, runs: Runs | None = None) -> None:
        super().__init__(logits, delta, runs)
        self._positives, self._borders = logits.numpy(), _borders(self.runs)
        self._windows = np.empty((2, len(logits)), np.int64)
        _find_windows(self._positives, self._borders, delta, self._windows)

    @functools.cached_property
    def first(self) -> Tensor:
        """(P,) place at which each window begins."""
        return torch.from_numpy(self._windows[0])

    @functools.cached_property
    def last(self) -> Tensor:
        """(P,) place before which each window ends."""
        return torch.from_numpy(self._windows[1])

    def steps_above(self, weights: Tensor) -> Tensor:
        """Return what :meth:`rankdet.losses.sorting.Window.steps_above` does."""
        return self._steps(weights, True)

    def steps_below(self, weights: Tensor) -> Tensor:
        """Return what :meth:`rankdet.losses.sorting.Window.steps_below` does."""
        return self._steps(weights, False)

    def sorting(self, quality: Tensor) -> Sorting:
        """Return what :meth:`rankdet.losses.sorting.Window.sorting` does, by trees of Fenwick."""
        poison = self.runs.of_each(self.totals(quality - quality))
        quality = quality.nan_to_num(0.0, 0.0, 0.0)
        order = sort_in_pools(quality, self.runs.pools)[1]
        found = torch.empty(3, len(quality), dtype=torch.float64)
        _sort_pools(
            *(self._positives, quality.numpy(), order.numpy(), self._borders, self._windows, self.delta, found.numpy())
        )
        rank, error, gradient = found
        return Sorting(rank, error + poison, gradient + poison)

    def _steps(self, weights: Tensor, is_above: bool) -> Tensor:
        steps = torch.empty_like(weights)
        rows = weights.reshape(-1, len(self.logits)).numpy(), steps.view(-1, len(self.logits)).numpy()
        _add_steps(rows[0], self._positives, self._borders, self._windows, self.delta, is_above, rows[1])
        return steps


def _borders(runs: Runs) -> Array:
    """(K + 1,) places at which the runs begin and end."""
    return np.array([0, runs.size]) if runs.pools is None else runs.borders.numpy()


def _run(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """What the tasks return, in any order, by as many threads as torch has; this thread is one of them."""
    pending = list(tasks)

    def work() -> list[Any]:
        results: list[Any] = []
        while True:
            try:
                task = pending.pop()
            except IndexError:
                return results
            results.append(task())

    helpers = min(torch.get_num_threads(), len(tasks)) - 1
    if helpers < 1:
        return work()
    # A process that was forked off has none of the threads of its parent.
    threads = _threads(helpers, os.getpid())
    others = [threads.submit(work) for _ in range(helpers)]
    return work() + [result for other in others for result in other.result()]


@functools.cache
def _threads(number: int, _: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, "rankdet")


class _Level(NamedTuple):
    """The logits of a level, their pools (see ``Cycle``), its ignored rows, and its place among all levels."""

    values: Array
    pools: Array
    pool_width: int
    ignored: Array
    place: slice


class _Search(NamedTuple):
    """What finds the cell of a value.

    Edges, ascending in each pool and with one place more behind each; a table of bins, and for each pool (K, 4) lowest
    edge, scale, offset and last bin, and its first bin.
    """

    edges: Array
    table: Array
    axes: Array
    first_bin: Array


class NumbaNegatives:
    """The passes over the negatives by compiled functions, for levels on a CPU.

    Arguments are those of :class:`rankdet.losses.negatives.TorchNegatives`.
    """

    def __init__(
        self, candidates: RankedCandidates, positives: Tensor, runs: Runs, delta: float, kept: Tensor | None = None
    ) -> None:
        self.candidates, self.kept, self.delta = candidates, kept, delta
        self.positives, self.borders = positives.numpy(), _borders(runs)
        self.edges = np.empty(2 * len(positives) + candidates.num_pools, _TYPES[candidates.dtype])
        self.places = np.empty((2, len(positives)), np.int64)
        _place_edges(self.positives, self.borders, delta, self.edges, self.places)

    def count(self, own: Tensor) -> Counted:
        """Make the first pass; see :meth:`rankdet.losses.negatives.Negatives.count`."""
        search, num_pools = self._search(), self.candidates.num_pools
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
            _run(tasks)
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
        search = self._search() if kept is None else None
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
            _run(tasks)
            if len(level.ignored):
                gradient.view(-1, self.candidates.width)[level.ignored] = 0
            gradients.append(gradient.to(logits.dtype))
        write_positives(gradients, self.candidates.positives, of_positives)
        return gradients

    def _search(self) -> _Search:
        # A bin has few edges, and a table of many fits into the second-level cache.
        num_edges = 2 * np.diff(self.borders)
        sizes = (np.int64(1) << np.frexp(16 * num_edges + 1)[1]).clip(LEAST_BINS, MOST_BINS)
        axes, first_bin = np.empty((len(sizes), 4), self.edges.dtype), np.empty(len(sizes), np.int64)
        table = np.empty(sizes.sum() + len(sizes) * (LANES + 1), np.int32)
        _fill_table(self.borders, self.edges, sizes, axes, first_bin, table)
        return _Search(self.edges, table, axes, first_bin)

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
