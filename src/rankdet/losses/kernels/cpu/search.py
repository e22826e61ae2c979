"""Where the edges of cells are, and the table by which a value finds its cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rankdet.losses.cells import LANES
from rankdet.losses.kernels.cpu.compiling import Array, compiled

LEAST_BINS, MOST_BINS = 1 << 6, 1 << 18


class Search(NamedTuple):
    """What finds the cell of a value.

    Edges, ascending in each pool and with one place more behind each; a table of bins, and for each pool (K, 4) lowest
    edge, scale, offset and last bin, and its first bin.
    """

    edges: Array
    table: Array
    axes: Array
    first_bin: Array


def search_of(edges: Array, borders: Array) -> Search:
    """What finds the cells of values between edges that belong to the positives within ``borders``."""
    # A bin has few edges, and a table of many fits into the second-level cache.
    sizes = (np.int64(1) << np.frexp(32 * np.diff(borders) + 1)[1]).clip(LEAST_BINS, MOST_BINS)
    axes, first_bin = np.empty((len(sizes), 4), edges.dtype), np.empty(len(sizes), np.int64)
    table = np.empty(sizes.sum() + len(sizes) * (LANES + 1), np.int32)
    _fill_table(borders, edges, sizes, axes, first_bin, table)
    return Search(edges, table, axes, first_bin)


@compiled
def place_edges(positives: Array, borders: Array, delta: float, edges: Array, places: Array) -> None:
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


@compiled
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
