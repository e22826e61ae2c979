"""Sums of soft steps over millions of negatives in one pass: exact, in O((P + N) log P) time and O(P) memory.

The soft step H is piecewise linear. For P positives with logits p_i, the 2P edges p_i − δ and p_i + δ cut the axis into
2P + 1 cells. Inside a cell every H(s − p_i) is one linear function of s. Hence

* :math:`N_{FP}(i) = \\sum_j H(s_j - p_i)` follows from the number of negatives and the sum of their logits per cell,
* :math:`F(s) = \\sum_i w_i H(s - p_i)`, the gradient of a negative, is a slope and an offset per cell.

Nothing is approximated: the published speed-up by buckets replaces the negatives between two positives by their mean,
which changes the gradient wherever a bucket crosses an edge.

Legend: P positives, N values (negatives), E = 2P edges, K pools.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses.pools import Runs, sort_in_pools

LANES = 8
"""Places for the values below all edges, used in turn: successive additions to one place would wait for each other."""


class PiecewiseLinear(NamedTuple):
    """A function F(s) = offset[c] + slope[c] · s in cell c, with values between 0 and ``total`` of its pool.

    offset, slope
        (E + 1,) float64.
    total
        (K,) float64.
    """

    offset: Tensor
    slope: Tensor
    total: Tensor


class Cells:
    """The cells that the edges of P soft steps cut the axis of logits into.

    A value s lies in cell k where k edges are ≤ s; below all edges is cell 0, in which every H is 0.

    Parameters
    ----------
    positives
        (P,) finite logits p_i in float64, ascending, P ≥ 1.
    delta
        Half the width of the linear part of H, in logits.
    dtype
        The dtype of the values that will be put into cells.
    runs
        The pools of the positives. Each pool has cells of its own, between edges of its own, but for cell 0, which is
        below the edges of all. None: one pool.
    """

    def __init__(self, positives: Tensor, delta: float, dtype: torch.dtype, runs: Runs | None = None) -> None:
        low, high = _rounded_up(positives - delta, dtype), _rounded_up(positives + delta, dtype)
        self.runs = Runs.single(len(positives)) if runs is None else runs
        pools = self.runs.pools
        self.edges, self.order = sort_in_pools(torch.cat([low, high]), None if pools is None else pools.repeat(2))
        self.positives = positives
        self.per_width = 0.0 if delta == 0 else 0.5 / delta
        # H(s − p_i) is linear between the edges ``first`` and ``last``, and 1 above. Between equal edges nothing lies,
        # so that it does not matter which of them is whose.
        places = torch.arange(len(self.edges), device=low.device)
        self.first, self.last = torch.empty_like(self.order).scatter_(0, self.order, places).view(2, -1)

    def __len__(self) -> int:
        return len(self.edges) + 1

    @functools.cached_property
    def edge_runs(self) -> Runs:
        """The pools of the edges."""
        return self.runs.doubled()

    @property
    def is_highest(self) -> Tensor:
        """(E,) bool: whether an edge is the highest of its pool."""
        places = torch.arange(1, len(self), device=self.edges.device)
        return places == (len(self.edges) if self.runs.pools is None else self.edge_runs.end)

    @property
    def left(self) -> Tensor:
        """(E + 1,) float64: the left edge of each cell, and the lowest edge for what lies below all."""
        return torch.cat([self.edges[:1], self.edges]).double()

    def steps_over(self, counts: Tensor, sums: Tensor) -> Tensor:
        """(P,) float64 sums Σ_j H(s_j − p_i) of values, of which cell k has ``counts[k]`` with the sum ``sums[k]``.

        Sums run from the top down, so that a positive with nothing above it gets exactly 0.
        """
        counts, sums = counts[1:], sums[1:]
        # Values above all edges are inside of no window, and one large logit would swallow the sums of the others.
        sums = functional.pad(sums[:-1], (0, 1)) if self.runs.pools is None else sums.masked_fill(self.is_highest, 0)
        from_top = self.edge_runs.flipped().sums_before(torch.stack([counts, sums]).flip(1)).flip(1)
        at_last, at_first = from_top[:, self.last], from_top[:, self.first]
        inside, inside_sum = at_first - at_last
        linear = (inside_sum - inside * self.positives) * self.per_width + inside * (0.5 * (self.per_width > 0))
        return at_last[0] + torch.where(inside > 0, linear, 0.0)

    def weighted_steps(self, weights: Tensor) -> PiecewiseLinear:
        """The function F(s) = Σ_i w_i H(s − p_i) for (P,) float64 weights w, no two of a pool differing in sign.

        The sum is over the positives of the pool in whose cell s is. The line of positive i begins at the edge p_i − δ
        and ends at p_i + δ, above which w_i is all that remains.
        """
        slopes = weights * self.per_width
        offsets = weights * (0.5 * (self.per_width > 0)) - slopes * self.positives
        rises = torch.stack([torch.cat([offsets, weights - offsets]), torch.cat([slopes, -slopes])])
        offset, slope = self.edge_runs.sums_before(rises[:, self.order]).unbind(0)
        # Above the last edge F is constant: no rounding may leave a slope there.
        total = self.runs.totals(weights)
        if self.runs.pools is None:
            return PiecewiseLinear(torch.cat([offset[:-1], total]), functional.pad(slope[:-1], (0, 1)), total)
        is_highest = functional.pad(self.is_highest, (1, 0))
        of_edges = functional.pad(self.edge_runs.of_each(total), (1, 0))
        return PiecewiseLinear(of_edges.where(is_highest, offset), slope.masked_fill(is_highest, 0), total)


class Search:
    """A search for the cells of many values, between (E,) ascending edges.

    A binary search over random values mispredicts a branch at each level; a uniform table, followed by as many
    branch-free halvings as the fullest bin needs, is several times as fast. The result is that of the binary search,
    for any edges: value and edges go through the same monotone function, so an edge in a lower bin is below the value
    and an edge in a higher bin above it.

    Values below all edges are put into lanes 0 … ``LANES`` − 1, so that cell k > 0 has the number k + ``LANES`` − 1.
    """

    def __init__(self, edges: Tensor) -> None:
        num_bins = min(1 << 16, max(1 << 8, 1 << (16 * len(edges)).bit_length()))
        self.lowest, span = float(edges[0]), float(edges[-1].double() - edges[0].double())
        # Finite in the dtype of the edges, however close they are.
        self.scale = min((num_bins - 1) / span, torch.finfo(edges.dtype).max) if span > 0 else 0.0
        self.last_bin = edges.new_tensor(num_bins + LANES - 1)
        bins = self._scaled(edges, torch.empty_like(edges)).clamp_(max=self.last_bin).to(torch.int32)
        filled = torch.bincount(bins, minlength=num_bins + LANES)
        self.table = (filled.cumsum(0) - filled + (LANES - 1)).to(torch.int32)
        self.table[:LANES] = torch.arange(LANES)
        halvings = int(filled.max()).bit_length()
        # A probe may look past the last edge by almost all that its bin could hold.
        padded = functional.pad(edges, (LANES - 1, 1 << halvings), value=torch.inf)
        self.probes = [(1 << halving, padded[(1 << halving) - 1 :]) for halving in reversed(range(halvings))]

    def _scaled(self, values: Tensor, out: Tensor) -> Tensor:
        """Monotone, and at least ``LANES`` where a value is not below the lowest edge."""
        return torch.sub(values, self.lowest, out=out).mul_(self.scale).add_(LANES)

    def __call__(self, values: Tensor, out: Tensor, spare: Spare, _: Tensor | None = None) -> Tensor:
        """Write the numbers of the cells of (n,) finite values to ``out``, (n,) int32."""
        size = len(values)
        numbers, floats = spare.numbers[:size], spare.floats[:size]
        torch.clamp(self._scaled(values, floats), spare.lanes[:size], self.last_bin, out=floats)
        torch.index_select(self.table, 0, numbers.copy_(floats), out=out)
        for step, edges in self.probes:
            torch.index_select(edges, 0, out, out=floats)
            torch.ge(values, floats, out=floats)  # as floats, which are compared at vector speed
            if step > 1:
                floats.mul_(step)
            out.add_(numbers.copy_(floats))
        return out


class PooledSearch:
    """The same search for values of several pools, each between the edges of its own; their tables lie side by side.

    The cell of the highest edge that a value of any pool reaches has a number, and lanes are for values that reach
    none of their own pool.
    """

    def __init__(self, edges: Tensor, runs: Runs) -> None:
        begin, end = runs.borders[:-1], runs.borders[1:]
        is_empty = begin == end
        num_bins = (32 * (end - begin)).clamp(1 << 6, 1 << 16)
        lowest, highest = edges[begin.where(~is_empty, 0)], edges[(end - 1).where(~is_empty, 0)]
        span = highest.double() - lowest.double()
        # Finite in the dtype of the edges, however close they are.
        scale = ((num_bins - 1) / span).clamp(max=torch.finfo(edges.dtype).max)
        self.lowest, self.scale = lowest, scale.masked_fill(is_empty | (span <= 0), 0.0).to(edges.dtype)
        self.last_bin = (num_bins + LANES - 1).masked_fill(is_empty, LANES - 1).to(edges.dtype)
        self.first_bin = (num_bins + LANES).cumsum(0) - (num_bins + LANES)
        # The places of a pool are its lanes, the last of which is the cell below its edges, and its other cells.
        first_place = begin + LANES * torch.arange(len(begin), device=edges.device)
        self.last_place = (first_place + (end - begin) + (LANES - 1)).to(torch.int32)
        pools = runs.pool_of
        place_of_edge = torch.arange(len(edges), device=edges.device) + LANES * pools + LANES - 1
        self.edges = edges.new_full((len(edges) + LANES * len(begin),), torch.inf)
        self.edges[place_of_edge] = edges
        lane_of_pool = first_place[:, None] + torch.arange(LANES, device=edges.device)
        self.numbers = torch.zeros(len(self.edges), dtype=torch.int32, device=edges.device)
        self.numbers[lane_of_pool] = torch.arange(LANES, dtype=torch.int32, device=edges.device)
        numbers = torch.arange(LANES, LANES + len(edges), dtype=torch.int32, device=edges.device)
        self.numbers[place_of_edge + 1] = numbers
        bins = self._scaled(edges, pools, torch.empty_like(edges)).minimum(self.last_bin[pools]).long()
        filled = torch.bincount(bins + self.first_bin[pools], minlength=int(num_bins.sum()) + LANES * len(begin))
        pool_of_bin = torch.arange(len(begin), device=edges.device).repeat_interleave(num_bins + LANES)
        table = filled.cumsum(0) - filled + LANES * pool_of_bin + LANES - 1
        table[self.first_bin[:, None] + torch.arange(LANES, device=edges.device)] = lane_of_pool
        self.table, self.first_bin = table.to(torch.int32), self.first_bin.to(torch.int32)
        self.halvings = int(filled.max()).bit_length()

    def _scaled(self, values: Tensor, pools: Tensor, out: Tensor) -> Tensor:
        """Monotone in each pool, and at least ``LANES`` where a value is not below the lowest edge."""
        return torch.sub(values, self.lowest[pools], out=out).mul_(self.scale[pools]).add_(LANES)

    def __call__(self, values: Tensor, out: Tensor, spare: Spare, pools: Tensor | None = None) -> Tensor:
        """Write the numbers of the cells of (n,) finite values, r rows of one pool each, to ``out``; (r, 1) pools."""
        assert pools is not None
        size, values = len(values), values.view(len(pools), -1)
        numbers, floats, lanes = (part[:size].view_as(values) for part in (spare.numbers, spare.floats, spare.lanes))
        torch.clamp(self._scaled(values, pools, floats), lanes, self.last_bin[pools], out=floats)
        numbers.copy_(floats).add_(self.first_bin[pools])
        torch.index_select(self.table, 0, numbers.view(-1), out=out)
        last_place = self.last_place[pools]
        for halving in reversed(range(self.halvings)):
            step = 1 << halving
            # Never among the edges of the next pool: the last place of each has none.
            torch.minimum(torch.add(out.view_as(values), step - 1, out=numbers), last_place, out=numbers)
            torch.index_select(self.edges, 0, numbers.view(-1), out=floats.view(-1))
            torch.ge(values, floats, out=floats).mul_(step)
            out.add_(numbers.copy_(floats).view(-1))
        return out.copy_(torch.index_select(self.numbers, 0, out, out=numbers.view(-1)))


class Spare:
    """Memory for the temporaries of a search of up to ``size`` values like ``edges``, used for many of them."""

    def __init__(self, edges: Tensor, size: int) -> None:
        self.numbers = torch.empty(size, dtype=torch.int32, device=edges.device)
        self.floats = torch.empty(size, dtype=edges.dtype, device=edges.device)
        lanes = torch.arange(LANES, dtype=edges.dtype, device=edges.device)
        self.lanes = lanes.repeat(-(-size // LANES))


def _rounded_up(edges: Tensor, dtype: torch.dtype) -> Tensor:
    """The lowest number of ``dtype`` that is not below the edge: a value of that type lies on the same side of both."""
    rounded = edges.to(dtype)
    # Not a tensor of a number of the host: its copy would wait for a GPU.
    return torch.where(rounded < edges, rounded.nextafter(torch.full_like(rounded, torch.inf)), rounded)
