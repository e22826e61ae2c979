"""Sums of soft steps over millions of negatives in one pass: exact, in O((P + N) log P) time and O(P) memory.

The soft step H is piecewise linear. For P positives with logits p_i, the 2P edges p_i − δ and p_i + δ cut the axis into
2P + 1 cells, and inside a cell every H(s − p_i) is one linear function of s. Hence

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


class PiecewiseLinear(NamedTuple):
    """F(s) = value[k] + slope[k] · (s − left[k]) in cell k; each (E + 1,), in the dtype of the values.

    Anchored at the left edge of each cell, so that no large numbers cancel in single precision.
    """

    left: Tensor
    value: Tensor
    slope: Tensor


class Cells:
    """The cells that the edges of P soft steps cut the axis of logits into.

    Parameters
    ----------
    positives
        (P,) finite logits p_i in float64, P ≥ 1.
    delta
        Half the width of the linear part of H, in logits.
    dtype
        The dtype of the values that will be put into cells.
    """

    def __init__(self, positives: Tensor, delta: float, dtype: torch.dtype) -> None:
        low, high = _rounded_up(positives - delta, dtype), _rounded_up(positives + delta, dtype)
        self.edges = torch.cat([low, high]).sort().values
        self.positives = positives
        self.per_width = 0.0 if delta == 0 else 0.5 / delta
        # A value s lies in cell k where k edges are ≤ s: H(s − p_i) is linear in the cells [first, last), 1 above.
        self.first, self.last = torch.searchsorted(self.edges, torch.stack([low, high]), right=True)
        # Just below the lowest edge is the first cell, in which every H is 0.
        below, highest = self.edges[0].nextafter(self.edges.new_tensor(-torch.inf)), self.edges[-1]
        self.search = _Search(self.edges) if positives.device.type == "cpu" else None
        # Numbers clamp at ten times the speed of tensors, where reading them waits for no device.
        self.bounds = (below, highest) if self.search is None else (below.item(), highest.item())

    def __len__(self) -> int:
        return len(self.edges) + 1

    def clamp(self, values: Tensor) -> Tensor:
        """A copy, moved to the edge where values lie beyond all edges: no H can tell, and infinities go."""
        return values.clamp(*self.bounds)

    def find(self, values: Tensor, out: Tensor | None = None) -> Tensor:
        """(N,) int32, written to ``out`` where given: the cell of each clamped value; on a CPU none may be NaN."""
        if self.search is not None:
            return self.search(values, out)
        return torch.bucketize(values, self.edges, out_int32=True, right=True, out=out)

    def steps_over(self, counts: Tensor, sums: Tensor) -> Tensor:
        """(P,) float64: Σ_j H(s_j − p_i) of values of which cell k holds ``counts[k]`` with the sum ``sums[k]``.

        Sums run from the top down, so that a positive with nothing above it gets exactly 0.
        """
        counts, sums = (torch.nn.functional.pad(x.flip(0).cumsum(0).flip(0), (0, 1)) for x in (counts, sums))
        above = counts[self.last]
        inside = counts[self.first] - above
        inside_sum = sums[self.first] - sums[self.last]
        return above + (inside_sum - inside * self.positives) * self.per_width + inside * (0.5 * (self.per_width > 0))

    def weighted_steps(self, weights: Tensor) -> PiecewiseLinear:
        """F(s) = Σ_i w_i H(s − p_i) for (P,) float64 weights w."""
        slope = self.positives.new_zeros(len(self))
        offset = torch.zeros_like(slope)
        slopes = weights * self.per_width
        offsets = weights * (0.5 * (self.per_width > 0)) - slopes * self.positives
        slope.index_add_(0, self.first, slopes).index_add_(0, self.last, -slopes)
        offset.index_add_(0, self.first, offsets).index_add_(0, self.last, weights - offsets)
        slope, offset = slope.cumsum(0), offset.cumsum(0)
        left = torch.cat([self.edges[:1], self.edges])
        value = offset + slope * left
        # F has the sign of its weights (they have one): no rounding may turn it where F begins.
        value = value.where(~(value * weights.sum() < 0), 0.0)
        # Below the first edge and above the last one F is constant: no rounding may leave a slope there.
        slope[0] = slope[-1] = value[0] = 0
        return PiecewiseLinear(left, value.to(left.dtype), slope.to(left.dtype))


def _rounded_up(edges: Tensor, dtype: torch.dtype) -> Tensor:
    """The lowest number of ``dtype`` that is not below the edge: a value of that type lies on the same side of both."""
    rounded = edges.to(dtype)
    return torch.where(rounded < edges, rounded.nextafter(rounded.new_tensor(torch.inf)), rounded)


class _Search:
    """Finds cells on a CPU: a table narrows the search to the edges that share a bin with the value.

    A binary search over random values mispredicts a branch at each level; a uniform table, followed by as many
    branch-free halvings as the fullest bin needs, is several times as fast. The result is that of the binary search,
    for any edges: value and edges go through the same monotone function, so an edge in a lower bin is below the value
    and an edge in a higher bin above it.
    """

    def __init__(self, edges: Tensor) -> None:
        num_bins = min(1 << 15, max(1 << 8, 1 << (16 * len(edges)).bit_length()))
        self.origin = edges[0]
        span = edges[-1] - edges[0]
        self.scale = torch.where(span > 0, (num_bins - 1) / span, 0.0)
        filled = torch.bincount(self._bins(edges, torch.empty_like(edges)), minlength=num_bins)
        self.table = (filled.cumsum(0) - filled).to(torch.int32)
        self.halvings = int(filled.max()).bit_length()
        # A probe may look past the last edge by almost all that its bin could hold.
        self.edges = torch.cat([edges, edges.new_full((1 << self.halvings,), torch.inf)])

    def _bins(self, values: Tensor, spare: Tensor) -> Tensor:
        return torch.sub(values, self.origin, out=spare).mul_(self.scale).to(torch.int32)

    def __call__(self, values: Tensor, out: Tensor | None) -> Tensor:
        spare = torch.empty_like(values)
        cells = torch.index_select(self.table, 0, self._bins(values, spare), out=out)
        for halving in reversed(range(self.halvings)):
            step = 1 << halving
            probe = cells if step == 1 else cells + (step - 1)
            torch.index_select(self.edges, 0, probe, out=spare)
            # Floats compare at vector speed; booleans do not.
            reached = torch.ge(values, spare, out=spare)
            cells.add_(reached.to(torch.int32), alpha=step)
        return cells
