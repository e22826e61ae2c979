"""Cells between the edges of soft steps: where they are, how values find them, and sums of steps from and for them.

The counterpart of ``rankdet/losses/cells.py`` for a CPU, in O(P).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rankdet.losses.cells import LANES
from rankdet.losses.kernels.cpu.compiling import Array, compiled

LEAST_BINS, MOST_BINS = 1 << 6, 1 << 18
"""Bins of a pool: 16 for each edge, so that few have two, but no more than fit into the second-level cache."""


class Search(NamedTuple):
    """What finds the cell of a value.

    edges
        Where each cell ends, a cell at each place: NaN for the lanes, then for each pool its edges, ascending, and NaN.
    table
        For each bin of each pool the cell in which it begins.
    axes
        (K, 4): lowest edge, scale, offset and last bin.
    first_bin
        (K,) int64.
    """

    edges: Array
    table: Array
    axes: Array
    first_bin: Array


@compiled
def _place_edges(positives: Array, borders: Array, delta: float, like: Array) -> tuple[Array, Array]:
    """The edges p_i − δ and p_i + δ, ascending in each pool, as :class:`Search` has them, and (2, P) where both are.

    Edges are rounded up to the type of values ``like`` these: such a value lies on the same side of both.
    """
    edges = np.empty(LANES + 2 * len(positives) + len(borders) - 1, like.dtype)
    places = np.empty((2, len(positives)), np.int64)
    limit, nan = edges.dtype.type(np.inf), edges.dtype.type(np.nan)
    for place in range(LANES):
        edges[place] = nan
    place = LANES
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
        edges[place] = nan
        place += 1
    return edges, places


@compiled
def _fill_table(borders: Array, edges: Array, sizes: Array, axes: Array, first_bin: Array, table: Array) -> None:
    """Write, for each pool, how a value is scaled, its first bin, and the cell in which each of its bins begins.

    Lanes are bins, too, and there is one more bin at the end.
    """
    begin = 0
    for pool in range(len(sizes)):
        size, place = sizes[pool], LANES + 2 * borders[pool] + pool
        end = LANES + 2 * borders[pool + 1] + pool
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
        free = LANES
        for i in range(place, end):
            scaled = (edges[i] - axes[pool, 0]) * axes[pool, 1] + axes[pool, 2]
            bin = np.int64(scaled if scaled < axes[pool, 3] else axes[pool, 3])
            while free <= bin:
                table[begin + free] = i
                free += 1
        while free <= size + LANES:
            table[begin + free] = end
            free += 1
        begin += size + LANES + 1


@compiled
def make_search(
    positives: Array, borders: Array, delta: float, like: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """The (2, P) places of the edges of each positive, and the fields of a :class:`Search` of values ``like`` these."""
    num_pools = len(borders) - 1
    edges, places = _place_edges(positives, borders, delta, like)
    sizes, total = np.empty(num_pools, np.int64), 0
    for pool in range(num_pools):
        size = LEAST_BINS
        while size < MOST_BINS and size <= 32 * (borders[pool + 1] - borders[pool]):
            size *= 2
        sizes[pool] = size
        total += size + LANES + 1
    table = np.empty(total, np.uint32)
    axes, first_bin = np.empty((num_pools, 4), like.dtype), np.empty(num_pools, np.int64)
    _fill_table(borders, edges, sizes, axes, first_bin, table)
    return places, edges, table, axes, first_bin


@compiled
def steps_over(
    totals: Array,
    own: Array,
    own_pools: Array,
    edges: Array,
    places: Array,
    positives: Array,
    borders: Array,
    delta: float,
) -> Array:
    """N_FP of each positive from (S, …, 2) totals, number and sum of the logits in each cell, which are overwritten.

    ``own`` are the positives among the logits, which were counted like negatives. Sums run from the top down, so that a
    positive with nothing above it gets exactly 0.
    """
    cells = totals[0]
    for section in range(1, len(totals)):
        for cell in range(LANES, len(edges)):
            cells[cell, 0] += totals[section, cell, 0]
            cells[cell, 1] += totals[section, cell, 1]
    for i in range(len(own)):
        pool, value = own_pools[i], edges.dtype.type(own[i])
        begin, end = LANES + 2 * borders[pool] + pool, LANES + 2 * borders[pool + 1] + pool
        # The search of `_find_cells` (passes.py), written out: compiled functions call none of another file.
        while begin < end:
            middle = (begin + end) >> 1
            if edges[middle] <= value:
                begin = middle + 1
            else:
                end = middle
        cells[begin, 0] -= 1.0
        cells[begin, 1] -= value
    steps = np.empty(len(positives))
    for pool in range(len(borders) - 1):
        begin, end = LANES + 2 * borders[pool] + pool, LANES + 2 * borders[pool + 1] + pool
        count, total = 0.0, 0.0
        for cell in range(end, begin, -1):
            number, sum = cells[cell, 0], cells[cell, 1]
            # What is above the edge at which the cell before this one ends.
            count += number
            # Values above all edges are inside of no window, and one large logit would swallow the sums of the others.
            if cell < end and number > 0:
                total += sum
            cells[cell, 0], cells[cell, 1] = count, total
        for i in range(borders[pool], borders[pool + 1]):
            first, last = places[0, i] + 1, places[1, i] + 1
            inside = cells[first, 0] - cells[last, 0]
            linear = 0.0
            if inside > 0 and delta > 0:
                linear = (cells[first, 1] - cells[last, 1] - inside * positives[i]) * (0.5 / delta) + inside * 0.5
            steps[i] = max(cells[last, 0] + linear, 0.0)
    return steps


@compiled
def make_lines(weights: Array, positives: Array, borders: Array, delta: float, like: Array) -> tuple[Array, Array]:
    """F as a line for each cell, (…, 2) offset and slope, and the (K, 2) lowest and highest value in each pool.

    The line of positive i begins at the edge p_i − δ and ends at p_i + δ, above which w_i is all that remains.
    """
    num_pools = len(borders) - 1
    edges, places = _place_edges(positives, borders, delta, like)
    lines, bounds = np.zeros((len(edges), 2)), np.empty((num_pools, 2))
    per_width = 0.5 / delta if delta > 0 else 0.0
    half = 0.5 if delta > 0 else 0.0
    for pool in range(num_pools):
        total = 0.0
        begin, end = LANES + 2 * borders[pool] + pool, LANES + 2 * borders[pool + 1] + pool
        for i in range(borders[pool], borders[pool + 1]):
            slope = weights[i] * per_width
            offset = weights[i] * half - slope * positives[i]
            total += weights[i]
            lines[places[0, i] + 1, 0] += offset
            lines[places[0, i] + 1, 1] += slope
            lines[places[1, i] + 1, 0] += weights[i] - offset
            lines[places[1, i] + 1, 1] -= slope
        for cell in range(begin + 1, end):
            lines[cell + 1, 0] += lines[cell, 0]
            lines[cell + 1, 1] += lines[cell, 1]
        if end > begin:
            # Above the last edge F is constant: no rounding may leave a slope there.
            lines[end, 0], lines[end, 1] = total, 0.0
        bounds[pool, 0], bounds[pool, 1] = total, total  # NaN stays
        if total > 0:
            bounds[pool, 0] = 0.0
        elif total < 0:
            bounds[pool, 1] = 0.0
    return lines, bounds
