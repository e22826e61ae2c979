"""Sums among positives: soft steps in their windows, and the sorting of many of them by trees of Fenwick."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from rankdet.losses.kernels.cpu.compiling import Array, borders_of, compiled
from rankdet.losses.pools import Runs, sort_in_pools
from rankdet.losses.sorting import EPSILON, Sorting, Window


@compiled
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


@compiled
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


@compiled
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


@compiled
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
        self._positives, self._borders = logits.numpy(), borders_of(self.runs)
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
