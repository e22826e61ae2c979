"""Sums of soft steps over millions of negatives in one pass: exact, in O((P + N) log P) time and O(P) memory.

The soft step H is piecewise linear. For P positives with logits p_i, the 2P edges p_i − δ and p_i + δ cut the axis into
2P + 1 cells. Inside a cell every H(s − p_i) is one linear function of s. Hence

* :math:`N_{FP}(i) = \\sum_j H(s_j - p_i)` follows from the number of negatives and the sum of their logits per cell,
* :math:`F(s) = \\sum_i w_i H(s - p_i)`, the gradient of a negative, is a slope and an offset per cell.

Nothing is approximated: the published speed-up by buckets replaces the negatives between two positives by their mean,
which changes the gradient wherever a bucket crosses an edge.

Legend: P positives, N values (negatives), E = 2P edges.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses.steps import prefix_sums

LANES = 8
"""Places for the values below all edges, used in turn: successive additions to one place would wait for each other."""


class PiecewiseLinear(NamedTuple):
    """A function F(s) = offset[k] + slope[k] · s in cell k, with values between 0 and ``total``.

    offset, slope
        (E + 1,) float64.
    total
        Scalar float64.
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
    """

    def __init__(self, positives: Tensor, delta: float, dtype: torch.dtype) -> None:
        low, high = _rounded_up(positives - delta, dtype), _rounded_up(positives + delta, dtype)
        self.edges, self.order = torch.cat([low, high]).sort(stable=True)
        self.positives = positives
        self.per_width = 0.0 if delta == 0 else 0.5 / delta
        # H(s − p_i) is linear in the cells [first, last) and 1 above. Between equal edges nothing lies, so that it does
        # not matter which of them is whose.
        after = torch.arange(1, len(self), device=low.device)
        self.first, self.last = torch.empty_like(self.order).scatter_(0, self.order, after).view(2, -1)

    def __len__(self) -> int:
        return len(self.edges) + 1

    @property
    def left(self) -> Tensor:
        """(E + 1,) float64: the left edge of each cell, and the lowest edge for what lies below all."""
        return torch.cat([self.edges[:1], self.edges]).double()

    def steps_over(self, counts: Tensor, sums: Tensor) -> Tensor:
        """(P,) float64 sums Σ_j H(s_j − p_i) of values, of which cell k has ``counts[k]`` with the sum ``sums[k]``.

        Sums run from the top down, so that a positive with nothing above it gets exactly 0.
        """
        # Values above all edges are inside of no window, and one large logit would swallow the sums of the others.
        sums = functional.pad(sums[:-1], (0, 1))
        from_top = prefix_sums(torch.stack([counts, sums]).flip(1)).flip(1)
        at_last, at_first = from_top[:, self.last], from_top[:, self.first]
        inside, inside_sum = at_first - at_last
        linear = (inside_sum - inside * self.positives) * self.per_width + inside * (0.5 * (self.per_width > 0))
        return at_last[0] + torch.where(inside > 0, linear, 0.0)

    def weighted_steps(self, weights: Tensor) -> PiecewiseLinear:
        """The function F(s) = Σ_i w_i H(s − p_i) for (P,) float64 weights w, no two of which differ in sign.

        The line of positive i begins at the edge p_i − δ and ends at p_i + δ, above which w_i is all that remains.
        """
        slopes = weights * self.per_width
        offsets = weights * (0.5 * (self.per_width > 0)) - slopes * self.positives
        rises = torch.stack([torch.cat([offsets, weights - offsets]), torch.cat([slopes, -slopes])])
        offset, slope = prefix_sums(rises[:, self.order]).unbind(0)
        # Above the last edge F is constant: no rounding may leave a slope there.
        total = weights.sum()
        offset, slope = torch.cat([offset[:-1], total[None]]), functional.pad(slope[:-1], (0, 1))
        return PiecewiseLinear(offset, slope, total)


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

    def __call__(self, values: Tensor, out: Tensor, spare: Spare) -> Tensor:
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
