"""The order of numbers, sums among positives in their windows, and the sorting of many of them by trees of Fenwick."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rankdet.losses.kernels.cpu.compiling import Array, borders_of, compiled
from rankdet.losses.pools import Runs
from rankdet.losses.sorting import EPSILON, Sorting, Window

_LOWEST = np.int64(-(2**63))
_ONE_POOL = np.empty(0, np.int64)


@compiled
def _order(values: Array, pools: Array) -> Array:
    """The order that sorts (n,) float64 values, pool by pool in each of their (n,) pools, if any; stable.

    By one digit after another, the lowest first. Digits in which all agree are left out: those that numbers which were
    float32 do not have. NaN comes last, and both zeros are one number.
    """
    num = len(values)
    found = np.empty(num)
    keys = found.view(np.int64)
    order, spare = np.empty(num, np.int64), np.empty(num, np.int64)
    counts = np.zeros((8, 256), np.int64)
    for i in range(num):
        order[i] = i
        found[i] = np.nan if np.isnan(values[i]) else values[i] + 0.0
        # Ascending as unsigned numbers.
        keys[i] ^= (keys[i] >> 63) | _LOWEST
        for digit in range(8):
            counts[digit, (keys[i] >> (8 * digit)) & 255] += 1
    for digit in range(8):
        if num == 0 or counts[digit, (keys[0] >> (8 * digit)) & 255] == num:
            continue
        before = 0
        for i in range(256):
            number = int(counts[digit, i])
            counts[digit, i] = before
            before += number
        for place in order:
            value = (keys[place] >> (8 * digit)) & 255
            spare[counts[digit, value]] = place
            counts[digit, value] += 1
        order, spare = spare, order
    if len(pools) == 0:
        return order
    num_pools = 0
    for pool in pools:
        num_pools = max(num_pools, pool + 1)
    starts = np.zeros(num_pools + 1, np.int64)
    for pool in pools:
        starts[pool + 1] += 1
    for i in range(num_pools):
        starts[i + 1] += starts[i]
    for place in order:
        spare[starts[pools[place]]] = place
        starts[pools[place]] += 1
    return spare


@compiled
def _sorted(values: Array, pools: Array) -> tuple[Array, Array]:
    """The values in that order, and the order."""
    order = _order(values, pools)
    ascending = np.empty(len(values))
    for i in range(len(values)):
        ascending[i] = values[order[i]]
    return ascending, order


@compiled
def _find_windows(positives: Array, borders: Array, delta: float) -> Array:
    """The (2, P) places at which the window of each positive begins and before which it ends."""
    windows = np.empty((2, len(positives)), np.int64)
    for pool in range(len(borders) - 1):
        first, last, end = borders[pool], borders[pool], borders[pool + 1]
        for i in range(borders[pool], end):
            while first < end and positives[first] < positives[i] - delta:
                first += 1
            while last < end and positives[last] <= positives[i] + delta:
                last += 1
            windows[0, i], windows[1, i] = first, last
    return windows


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
def _steps(weights: Array, positives: Array, borders: Array, delta: float, is_above: bool, steps: Array) -> None:
    _add_steps(weights, positives, borders, _find_windows(positives, borders, delta), delta, is_above, steps)


@compiled
def _sums_before(
    order: Array, quality: Array, rows: Array, begin: int, end: int, windows: Array, tree: Array, sums: Array
) -> None:
    """Write to (3, P, 4) sums, for each i of a pool, the rows of earlier quality before its window, before the end of
    its window, and in its pool.

    ``order`` has the places of the pool, from ``begin`` to ``end``, by quality, ascending or descending. One quality
    after another looks into a tree of Fenwick and enters it. A row begins with 1, so that a sum begins with how many
    are in it: where nothing lies between two bounds their sums are equal to the bit.
    """
    size = end - begin
    for place in range(size + 1):
        for column in range(4):
            tree[place, column] = 0.0
    first = begin
    while first < end:
        last = first
        while last < end and quality[order[last]] == quality[order[first]]:
            i = order[last]
            for bound in range(3):
                place = windows[bound, i] - begin if bound < 2 else size
                sum_0, sum_1, sum_2, sum_3 = 0.0, 0.0, 0.0, 0.0
                while place > 0:
                    sum_0 += tree[place, 0]
                    sum_1 += tree[place, 1]
                    sum_2 += tree[place, 2]
                    sum_3 += tree[place, 3]
                    place -= place & -place
                sums[bound, i, 0], sums[bound, i, 1], sums[bound, i, 2], sums[bound, i, 3] = sum_0, sum_1, sum_2, sum_3
            for bound in range(1, 3):
                if sums[bound, i, 0] == sums[bound - 1, i, 0]:
                    for column in range(4):
                        sums[bound, i, column] = sums[bound - 1, i, column]
            last += 1
        while first < last:
            i = order[first]
            row_0, row_1, row_2, row_3 = rows[i, 0], rows[i, 1], rows[i, 2], rows[i, 3]
            place = i - begin + 1
            while place <= size:
                tree[place, 0] += row_0
                tree[place, 1] += row_1
                tree[place, 2] += row_2
                tree[place, 3] += row_3
                place += place & -place
            first += 1


@compiled
def _sort_pools(positives: Array, qualities: Array, borders: Array, delta: float, found: Array) -> None:
    """Write rank among positives, sorting error and its gradient, (3, P).

    See :meth:`rankdet.losses.sorting.Window.sorting`. A quality that is no number makes error and gradient of its pool
    NaN.
    """
    num, num_pools = len(positives), len(borders) - 1
    quality, pools, poison = np.empty(num), np.empty(num, np.int64), np.zeros(num_pools)
    weights, above = np.empty((2, num)), np.empty((2, num))
    for pool in range(num_pools):
        for i in range(borders[pool], borders[pool + 1]):
            pools[i] = pool
            quality[i] = qualities[i] if abs(qualities[i]) < np.inf else 0.0
            poison[pool] += qualities[i] - qualities[i]
            weights[0, i], weights[1, i] = 1.0, 1 - quality[i]
    windows = _find_windows(positives, borders, delta)
    _add_steps(weights, positives, borders, windows, delta, True, above)
    order = _order(quality, pools if num_pools > 1 else pools[:0])
    rows, sums, tree, share = np.empty((num, 4)), np.empty((3, num, 4)), np.empty((num + 1, 4)), np.empty(num)
    for i in range(num):
        rows[i, 0], rows[i, 1] = 1.0, weights[1, i]
        rows[i, 2], rows[i, 3] = positives[i], weights[1, i] * positives[i]
    for pool in range(num_pools):
        _sums_before(order, quality, rows, borders[pool], borders[pool + 1], windows, tree, sums)
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
        found[0, i], found[1, i] = rank, error + poison[pools[i]]
        found[2, i] = poison[pools[i]] - share[i] * worse
    for i in range(num):
        rows[i, 1], rows[i, 2], rows[i, 3] = share[i], share[i] * positives[i], 0.0
    for pool in range(num_pools):
        begin, end = borders[pool], borders[pool + 1]
        for i in range((end - begin) // 2):  # best first
            order[begin + i], order[end - 1 - i] = order[end - 1 - i], order[begin + i]
        _sums_before(order, quality, rows, begin, end, windows, tree, sums)
    for i in range(num):
        below = sums[0, i, 1]
        count, moment = sums[1, i, 1] - sums[0, i, 1], sums[1, i, 2] - sums[0, i, 2]
        found[2, i] += below + (count if delta == 0 else (positives[i] * count - moment) / (2 * delta) + count / 2)


def sort_in_pools(values: Tensor, pools: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what :func:`rankdet.losses.pools.sort_in_pools` does, for float64 values."""
    ascending, order = _sorted(values.numpy(), _ONE_POOL if pools is None else pools.numpy())
    return torch.from_numpy(ascending), torch.from_numpy(order)


class NumbaWindow(Window):
    """Sums among positives on a CPU."""

    def __init__(self, logits: Tensor, delta: float, runs: Runs | None = None) -> None:
        super().__init__(logits, delta, runs)
        self._positives, self._borders = logits.numpy(), borders_of(self.runs)

    def steps_above(self, weights: Tensor) -> Tensor:
        """Return what :meth:`rankdet.losses.sorting.Window.steps_above` does."""
        return self._steps(weights, True)

    def steps_below(self, weights: Tensor) -> Tensor:
        """Return what :meth:`rankdet.losses.sorting.Window.steps_below` does."""
        return self._steps(weights, False)

    def sorting(self, quality: Tensor) -> Sorting:
        """Return what :meth:`rankdet.losses.sorting.Window.sorting` does, by trees of Fenwick."""
        found = torch.empty(3, len(quality), dtype=torch.float64)
        _sort_pools(self._positives, quality.numpy(), self._borders, self.delta, found.numpy())
        return Sorting(*found.unbind())

    def _steps(self, weights: Tensor, is_above: bool) -> Tensor:
        steps = torch.empty_like(weights)
        rows = weights.reshape(-1, len(self.logits)).numpy(), steps.view(-1, len(self.logits)).numpy()
        _steps(rows[0], self._positives, self._borders, self.delta, is_above, rows[1])
        return steps
