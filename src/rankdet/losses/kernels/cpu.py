"""The two passes over the negatives on a CPU, and sorting among positives, compiled by numba. numba only.

Values that come out are those of :class:`rankdet.losses.negatives.TorchNegatives` up to rounding of float64. Logits are
handled in sections, as many as follow from sizes alone, whose sums are added in order: the result does not depend on
the number of threads. These are as many as torch has, and run without Python's lock.

Functions are compiled once for float32 and once for float64, when they are first called, and kept on disk where numba
finds a place for that.

Legend: N logits, E edges of the cells of the positives.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numba import njit
from torch import Tensor

from rankdet.losses.cells import LANES, Cells, PiecewiseLinear
from rankdet.losses.negatives import Counted, in_place_of, write_positives
from rankdet.losses.roles import RankedCandidates
from rankdet.losses.sorting import Dominance, Window

Array = np.ndarray[Any, Any]

SECTION = 1 << 16
"""Logits below which no further thread is woken: that takes as long as counting a tenth of them."""
MOST_SECTIONS = 16
BLOCK = 1024
"""Logits whose bins are found at a time: by vector instructions, and kept in the first-level cache."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _compiled(function: _Function) -> _Function:
    """The function by numba, without Python's lock; from the disk where it was compiled before."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder in which numba may write
        return njit(**options)(function)


@_compiled
def _find_bins(values: Array, start: int, size: int, axis: Array, bins: Array) -> bool:
    """Write the bins of up to ``BLOCK`` values; whether one of these is not finite.

    By vector instructions, with the operations of :func:`_bins`. Values below all edges take the lanes in turn.
    """
    lowest, scale, offset, last = axis[0], axis[1], axis[2], axis[3]
    broken = False
    for i in range(size):
        value = values[start + i]
        scaled, lane = (value - lowest) * scale + offset, np.float32(i & (LANES - 1))
        scaled = scaled if scaled > lane else lane  # NaN is below
        bins[i] = np.uint32(scaled if scaled < last else last)
        broken |= not (abs(value) < np.inf)
    return broken


@_compiled
def _find_cells(values: Array, start: int, size: int, edges: Array, table: Array, axis: Array, cells: Array) -> bool:
    """Write the cells of up to ``BLOCK`` values; whether one of these is not finite.

    A block at a time: a call counts references to its arrays, which takes longer than finding a cell.
    """
    broken = _find_bins(values, start, size, axis, cells)
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
    return broken


@_compiled
def _count(
    values: Array,
    begin: int,
    end: int,
    next_ignored: int,
    width: int,
    ignored: Array,
    edges: Array,
    table: Array,
    axis: Array,
    kept: Array,
    totals: Array,
) -> bool:
    """Add number and sum of the logits of each cell to (E + LANES, 2) totals; whether one was not finite.

    The logits are ``values[begin:end]`` without the rows that are ignored, of which ``ignored[next_ignored]`` is the
    first. Their cells are written to ``kept``, unless it is empty, and 0 for what is ignored.
    """
    cells = np.empty(BLOCK, np.uint32)
    broken, keeps = False, len(kept) > 0
    while begin < end:
        stop = end
        if next_ignored < len(ignored):
            stop = min(end, ignored[next_ignored] * width)
            next_ignored += 1
        for start in range(begin, stop, BLOCK):
            size = min(BLOCK, stop - start)
            broken |= _find_cells(values, start, size, edges, table, axis, cells)
            for i in range(size):
                cell = np.uint64(cells[i])
                if keeps:
                    kept[start + i] = cell
                totals[cell, np.uint64(0)] += 1.0
                totals[cell, np.uint64(1)] += values[start + i]
        if keeps and stop < end:
            kept[stop : stop + width] = 0
        begin = stop + width
    return broken


@_compiled
def _write_kept(
    values: Array, begin: int, end: int, kept: Array, lines: Array, low: float, high: float, out: Array
) -> None:
    """Write F of ``values[begin:end]``, whose cells are known; ``out`` may lie in the memory of ``kept``."""
    for i in range(begin, end):
        cell = np.uint64(kept[i])
        result = lines[cell, np.uint64(0)] + lines[cell, np.uint64(1)] * values[i]
        result = result if result > low else low
        out[i] = result if result < high else high


@_compiled
def _write(
    values: Array,
    begin: int,
    end: int,
    edges: Array,
    table: Array,
    axis: Array,
    lines: Array,
    low: float,
    high: float,
    out: Array,
) -> None:
    """Write F of ``values[begin:end]``, whose cells are looked for."""
    cells = np.empty(BLOCK, np.uint32)
    for start in range(begin, end, BLOCK):
        stop = min(start + BLOCK, end)
        _find_cells(values, start, stop - start, edges, table, axis, cells)
        _write_kept(values[start:stop], 0, stop - start, cells, lines, low, high, out[start:stop])


@_compiled
def _sums_before(order: Array, quality: Array, rows: Array, bounds: Array, sums: Array) -> None:
    """Add to (B, P, R) sums, for each i, the rows of earlier quality than i's before each of its (B, P) bounds.

    ``order`` has the places by quality, ascending or descending. One quality after another looks into a tree of Fenwick
    and enters it. Where nothing lies between two bounds their sums are equal to the bit.
    """
    num_bounds, num, width = sums.shape
    tree, counts, numbers = np.zeros((num + 1, width)), np.zeros(num + 1, np.int64), np.zeros(num_bounds, np.int64)
    begin = 0
    while begin < num:
        end = begin
        while end < num and quality[order[end]] == quality[order[begin]]:
            i = order[end]
            for bound in range(num_bounds):
                place, number = bounds[bound, i], 0
                while place > 0:
                    number += counts[place]
                    for column in range(width):
                        sums[bound, i, column] += tree[place, column]
                    place -= place & -place
                numbers[bound] = number
                if bound > 0 and number == numbers[bound - 1]:
                    for column in range(width):
                        sums[bound, i, column] = sums[bound - 1, i, column]
            end += 1
        end = max(end, begin + 1)  # NaN equals nothing
        while begin < end:
            place = order[begin] + 1
            while place <= num:
                counts[place] += 1
                for column in range(width):
                    tree[place, column] += rows[order[begin], column]
                place += place & -place
            begin += 1


class NumbaDominance(Dominance):
    """Sums over positives of lower or of higher quality, with trees of Fenwick in place of the wavelet matrix."""

    def __init__(self, window: Window, quality: Tensor) -> None:
        self.window, self.quality = window, quality
        self.order = quality.argsort(stable=True)
        first, last = window.first, window.last
        self.bounds = torch.stack([torch.zeros_like(first), first, last, torch.full_like(last, len(last))])

    def sums(self, weights: Tensor, of_better: bool) -> Tensor:
        """Return what :meth:`rankdet.losses.sorting.Dominance.sums` does."""
        rows = torch.cat([weights, weights * self.window.logits]).T.contiguous()
        total = rows.new_zeros(3, *rows.shape)
        order, bounds = (self.order.flip(0), self.bounds[:3]) if of_better else (self.order, self.bounds[1:])
        _sums_before(*(tensor.numpy() for tensor in (order, self.quality, rows, bounds, total)))
        return total


class NumbaWindow(Window):
    """Sums among positives on a CPU."""

    def dominance(self, quality: Tensor) -> Dominance:
        """Return what :meth:`rankdet.losses.sorting.Window.dominance` does."""
        return NumbaDominance(self, quality)


class _Search(NamedTuple):
    """What finds the cell of a value: (E,) edges, a table of bins, and lowest edge, scale, offset and last bin, (4,).

    The table has the cell in which each bin begins, or its complement where edges cut the bin. Lanes are bins, too.
    """

    edges: Array
    table: Array
    axis: Array


def _search(edges: Array) -> _Search:
    num_bins = min(1 << 18, max(1 << 8, 1 << (16 * len(edges)).bit_length()))
    span = float(edges[-1]) - float(edges[0])
    # Finite in the dtype of the edges, however close they are.
    scale = min((num_bins - 1) / span, float(np.finfo(edges.dtype).max)) if span > 0 else 0.0
    axis = np.array([edges[0], scale, LANES, num_bins + LANES - 1], edges.dtype)
    filled = np.bincount(_bins(edges, axis), minlength=num_bins + LANES)
    begins = filled.cumsum() - filled + (LANES - 1)
    table = np.append(np.where(filled > 0, ~begins, begins), LANES - 1 + len(edges)).astype(np.int32)
    table[:LANES] = np.arange(LANES)
    return _Search(edges, table, axis)


def _bins(edges: Array, axis: Array) -> Array:
    """The bins of edges: monotone, and at least ``LANES`` where a value is not below the lowest edge."""
    lowest, scale, offset, last = axis
    return np.minimum((edges - lowest) * scale + offset, last).astype(np.int64)


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
    """The logits of a level, its ignored rows, and its place among all levels."""

    values: Array
    ignored: Array
    place: slice


class NumbaNegatives:
    """The passes over the negatives by compiled functions, for levels on a CPU.

    Arguments are those of :class:`rankdet.losses.negatives.TorchNegatives`.
    """

    def __init__(self, candidates: RankedCandidates, cells: Cells, kept: Tensor | None = None) -> None:
        self.candidates, self.cells, self.kept = candidates, cells, kept

    def count(self, own: Tensor) -> Counted:
        """See :meth:`rankdet.losses.negatives.Negatives.count`. Where a value is not finite nothing is counted."""
        edges, width = self.cells.edges.numpy(), self.candidates.width
        search = _search(edges)
        kept = np.empty(0, np.int32) if self.kept is None else self.kept.numpy()
        # All sections together hold no more cells than a fourth of the logits.
        most = min(MOST_SECTIONS, max(1, self.candidates.num_logits // (4 * len(self.cells))))
        totals = np.zeros((most, len(self.cells) + LANES - 1, 2))
        for level in self._levels():
            tasks = [
                partial(_count, level.values, *section, width, level.ignored, *search, kept[level.place], total)
                for section, total in zip(self._sections(level, most), totals, strict=False)
            ]
            if any(_run(tasks)):
                none = own.new_zeros(len(self.cells))
                return Counted(none, none, own.new_full((), torch.nan))
        counts, sums = totals.sum(0)[LANES - 1 :].T
        # The positives were counted like negatives, which is faster than looking for them in every section.
        mine = own.numpy()
        cell = np.searchsorted(edges, mine.astype(edges.dtype), "right")
        counts -= np.bincount(cell, minlength=len(counts))
        sums -= np.bincount(cell, mine, minlength=len(counts))
        counts[0] = 0  # what no positive sees, and the first of the lanes
        sums[counts == 0] = 0
        return Counted(torch.from_numpy(counts), torch.from_numpy(sums), own.new_zeros(()))

    def gradient(self, function: PiecewiseLinear, of_positives: Tensor) -> list[Tensor]:
        """See :meth:`rankdet.losses.negatives.Negatives.gradient`; in the memory of the kept cells."""
        total, dtype = float(function.total), self.cells.edges.dtype
        if math.isnan(total):
            return [torch.full(level.shape, torch.nan, dtype=level.dtype) for level in self.candidates.logits]
        lines = np.zeros((len(self.cells) + LANES - 1, 2))
        lines[LANES - 1 :] = torch.stack(function[:2], 1).numpy()
        shape = lines, min(0.0, total), max(0.0, total)
        kept = None if self.kept is None else in_place_of(self.kept, self.candidates.logits)
        search = _search(self.cells.edges.numpy()) if kept is None else None
        gradients = []
        for number, (logits, level) in enumerate(zip(self.candidates.logits, self._levels(), strict=True)):
            gradient = torch.empty(logits.shape, dtype=dtype) if kept is None else kept[number]
            out = gradient.view(-1).numpy()
            tasks: list[Callable[[], None]] = []
            for begin, end, _ in self._sections(level, MOST_SECTIONS):
                if search is not None:
                    tasks.append(partial(_write, level.values, begin, end, *search, *shape, out))
                else:
                    tasks.append(partial(_write_kept, level.values, begin, end, out.view(np.int32), *shape, out))
            _run(tasks)
            if len(level.ignored):
                gradient.view(-1, self.candidates.width)[level.ignored] = 0
            gradients.append(gradient.to(logits.dtype))
        write_positives(gradients, self.candidates.positives, of_positives)
        return gradients

    def _levels(self) -> Iterator[_Level]:
        """Level by level, in the precision of the cells."""
        width, ignored, begin = self.candidates.width, self.candidates.ignored.numpy(), 0
        for level in self.candidates.logits:
            end = begin + level.numel()
            here = slice(*np.searchsorted(ignored, (begin // width, end // width)))
            values = level.detach().reshape(-1).to(self.cells.edges.dtype).numpy()
            yield _Level(values, ignored[here] - begin // width, slice(begin, end))
            begin = end

    def _sections(self, level: _Level, most: int) -> Iterator[tuple[int, int, int]]:
        """Begin and end of sections of a level, whole rows of it, and how many ignored rows are before."""
        width, size = self.candidates.width, len(level.values)
        number = min(most, max(1, size // SECTION))
        rows = [size // width * part // number for part in range(number + 1)]
        skipped = np.searchsorted(level.ignored, rows[:-1]).tolist()
        for (begin, end), before in zip(itertools.pairwise(rows), skipped, strict=True):
            yield begin * width, end * width, before
