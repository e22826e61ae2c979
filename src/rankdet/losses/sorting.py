"""The sorting error of Rank & Sort Loss over P positives: dense for few of them, O(P log P) time for many.

Legend: P positives in ascending order of their logits p, y their localization qualities, V distinct qualities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.error_driven import soft_step

DENSE_UP_TO = 512
"""Up to this many positives the P × P form is the faster one."""
EPSILON = 1e-10
"""Errors below this hand out no gradient (the authors' code; an exact 0 would divide by 0)."""


class Sorting(NamedTuple):
    """Per positive, each (P,) float64: rank among positives, sorting error, and P × the gradient of its mean."""

    rank: Tensor
    error: Tensor
    gradient: Tensor


def sorting_errors(logits: Tensor, quality: Tensor, delta: float) -> Sorting:
    """Sorting error over its target, of every positive.

    .. math::

        \\ell_S(i) - \\ell_S^*(i) = \\frac{\\sum_{j} H(x_{ij})(1 - y_j)}{\\sum_{j} H(x_{ij})}
            - \\frac{\\sum_{j} H(x_{ij})[y_j \\ge y_i](1 - y_j)}{\\sum_{j} H(x_{ij})[y_j \\ge y_i]}

    ((S) and (S*) of :func:`rankdet.losses.rank_sort_loss`). With T and U the sums of H and of H (1 − y) over the
    positives that are *worse* than i, and R and A the same sums over all positives, this is
    (U R − A T) / (R (R − T)): exactly 0 where nothing worse stands above i, with no difference of two large numbers.

    Parameters
    ----------
    logits
        (P,) float64, ascending.
    quality
        (P,) float64 in [0, 1].
    delta
        Half the width of the linear part of H, in logits.
    """
    errors = _dense if len(logits) <= DENSE_UP_TO else _sparse
    return errors(logits, quality, delta)


def _dense(logits: Tensor, quality: Tensor, delta: float) -> Sorting:
    above = soft_step(logits - logits[:, None], delta)
    worse = above.masked_fill(quality >= quality[:, None], 0)
    weights = torch.stack([torch.ones_like(quality), 1 - quality], dim=1)
    rank, total = (above @ weights).unbind(1)
    num_worse, total_worse = (worse @ weights).unbind(1)
    error, share = _error_and_share(rank, total, num_worse, total_worse)
    return Sorting(rank, error, share @ worse - share * num_worse)


def _sparse(logits: Tensor, quality: Tensor, delta: float) -> Sorting:
    order = _Dominance(logits, quality, delta)
    weights = torch.complex(torch.ones_like(quality), 1 - quality)
    rank_and_total, worse_and_total = order.steps_of_all(weights), order.steps_of_worse(weights)
    error, share = _error_and_share(
        rank_and_total.real, rank_and_total.imag, worse_and_total.real, worse_and_total.imag
    )
    return Sorting(rank_and_total.real, error, order.steps_over_better(share) - share * worse_and_total.real)


def _error_and_share(rank: Tensor, total: Tensor, worse: Tensor, total_worse: Tensor) -> tuple[Tensor, Tensor]:
    """The error of each positive, and what each unit of H of a worse positive gets of it; each (P,)."""
    error = (total_worse * rank - total * worse) / (rank * (rank - worse))
    return error, torch.where(worse > EPSILON, error / worse.clamp(min=EPSILON), 0.0)


class _Dominance:
    """Sums of soft steps over the positives of lower or of higher quality than one's own: a wavelet matrix.

    The positives stand in ascending order of their logits, so that H(p_j − p_i) is linear for the j in one range of
    positions, i's window, and 1 above it. Each level partitions the positions by one bit of their quality's rank,
    highest bit first. A query walks down the bits of its own rank, its window narrowing to those who agree so far;
    where its bit and another's part, the other is above (1 against 0) or below, and a prefix sum counts it.

    Two sums at once are the real and the imaginary part of one.
    """

    def __init__(self, logits: Tensor, quality: Tensor, delta: float) -> None:
        self.logits = logits
        self.delta = delta
        distinct, ranks = torch.unique(quality, return_inverse=True)
        order = torch.arange(len(logits), device=logits.device)
        first, last = torch.searchsorted(logits, logits - delta), torch.searchsorted(logits, logits + delta, right=True)
        bounds = torch.stack([torch.zeros_like(first), first, last, torch.full_like(first, len(logits))])
        self.window = bounds
        self.levels: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        """Order of the positions, their bits, each query's own bit, its window's bounds: (P,), (P,), (P,), (4, P)."""
        for bit in reversed(range((len(distinct) - 1).bit_length())):
            own = (ranks >> bit) & 1
            bits = own.index_select(0, order)
            self.levels.append((order, bits, own, bounds))
            zeros_before = _prefix(1 - bits)
            num_zeros = zeros_before[-1]
            zeros = zeros_before.index_select(0, bounds.flatten()).view_as(bounds)
            bounds = torch.where(own.bool(), num_zeros + bounds - zeros, zeros)
            # Stable: zeros first, then ones, each in the order in which they stood.
            place = torch.where(bits.bool(), num_zeros + torch.arange(len(bits), device=bits.device), 0)
            place += torch.where(bits.bool(), -zeros_before[:-1], zeros_before[:-1])
            order = torch.empty_like(order).scatter_(0, place, order)

    def steps_of_all(self, weights: Tensor) -> Tensor:
        """(P,) complex: Σ_j H(p_j − p_i) w_j over all j, for (P,) complex weights w."""
        _, first, last, end = self.window
        counts, moments = _prefix(weights), _prefix(weights * self.logits)
        inside = counts[last] - counts[first]
        return counts[end] - counts[last] + self._linear(moments[last] - moments[first] - self.logits * inside, inside)

    def steps_of_worse(self, weights: Tensor) -> Tensor:
        """(P,) complex: Σ_j H(p_j − p_i) w_j over the j of lower quality than i, for (P,) complex weights w."""
        weighted_logits = weights * self.logits
        above, inside, moment = (torch.zeros_like(weights) for _ in range(3))
        for order, bits, own, bounds in self.levels:
            counted = (1 - bits).double()
            asking = own.double()
            at = _prefix(weights.index_select(0, order) * counted).index_select(0, bounds[1:].flatten()).view(3, -1)
            above += (at[2] - at[1]) * asking
            inside += (at[1] - at[0]) * asking
            at = _prefix(weighted_logits.index_select(0, order) * counted)
            moment += at.index_select(0, bounds[1:3].flatten()).view(2, -1).diff(dim=0)[0] * asking
        return above + self._linear(moment - self.logits * inside, inside)

    def steps_over_better(self, weights: Tensor) -> Tensor:
        """(P,): Σ_k H(p_i − p_k) w_k over the k of higher quality than i, for (P,) weights w."""
        weights_and_moments = torch.complex(weights, weights * self.logits)
        below, inside = torch.zeros_like(weights_and_moments), torch.zeros_like(weights_and_moments)
        for order, bits, own, bounds in self.levels:
            asking = (1 - own).double()
            at = _prefix(weights_and_moments.index_select(0, order) * bits.double())
            at = at.index_select(0, bounds[:3].flatten()).view(3, -1)
            below += (at[1] - at[0]) * asking
            inside += (at[2] - at[1]) * asking
        return below.real + self._linear(self.logits * inside.real - inside.imag, inside.real)

    def _linear(self, difference: Tensor, count: Tensor) -> Tensor:
        """The linear part of H summed, Σ (x / 2δ + 1/2); with δ = 0 the window holds ties only, and H(0) = 1."""
        return count if self.delta == 0 else difference / (2 * self.delta) + count / 2


def _prefix(values: Tensor) -> Tensor:
    """Sums of the values before each position, (P + 1,)."""
    return torch.nn.functional.pad(values.cumsum(0), (1, 0))
