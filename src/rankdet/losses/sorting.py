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
    worse = above * (quality < quality[:, None])
    weights = torch.stack([torch.ones_like(quality), 1 - quality], dim=1)
    rank, total = (above @ weights).unbind(1)
    num_worse, total_worse = (worse @ weights).unbind(1)
    error, share = _error_and_share(rank, total, num_worse, total_worse)
    return Sorting(rank, error, share @ worse - share * num_worse)


def _sparse(logits: Tensor, quality: Tensor, delta: float) -> Sorting:
    order = _Dominance(logits, quality, delta)
    ones = torch.ones_like(quality)
    weights = torch.stack([ones, 1 - quality])
    rank, total = order.steps_of_all(weights)
    num_worse, total_worse = order.steps_of_worse(weights)
    error, share = _error_and_share(rank, total, num_worse, total_worse)
    return Sorting(rank, error, order.steps_over_better(share) - share * num_worse)


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
            zeros_before = torch.nn.functional.pad((1 - bits).cumsum(0), (1, 0))
            zeros = zeros_before.index_select(0, bounds.flatten()).view_as(bounds)
            bounds = torch.where(own.bool(), zeros_before[-1] + bounds - zeros, zeros)
            order = order.index_select(0, torch.sort(bits, stable=True).indices)

    def steps_of_all(self, weights: Tensor) -> Tensor:
        """(K, P): Σ_j H(p_j − p_i) w_j over all j, for (K, P) weights w."""
        return self._up(*_range_sums(self._with_moments(weights), self.window))

    def steps_of_worse(self, weights: Tensor) -> Tensor:
        """(K, P): Σ_j H(p_j − p_i) w_j over the j of lower quality than i, for (K, P) weights w."""
        weights = self._with_moments(weights)
        total = torch.zeros_like(weights).expand(3, -1, -1).clone()
        for order, bits, own, bounds in self.levels:
            total += _range_sums(weights.index_select(1, order) * (1 - bits), bounds) * own
        return self._up(*total)

    def steps_over_better(self, weights: Tensor) -> Tensor:
        """(P,): Σ_k H(p_i − p_k) w_k over the k of higher quality than i, for (P,) weights w."""
        moments = self._with_moments(weights[None])
        total = torch.zeros_like(moments).expand(3, -1, -1).clone()
        for order, bits, own, bounds in self.levels:
            total += _range_sums(moments.index_select(1, order) * bits, bounds) * (1 - own)
        below, inside, _ = total
        count, moment = inside
        return below[0] + self._linear(self.logits * count - moment, count)

    def _with_moments(self, weights: Tensor) -> Tensor:
        return torch.cat([weights, weights * self.logits])

    def _up(self, below: Tensor, inside: Tensor, above: Tensor) -> Tensor:
        count, moment = inside.chunk(2)
        return above.chunk(2)[0] + self._linear(moment - self.logits * count, count)

    def _linear(self, difference: Tensor, count: Tensor) -> Tensor:
        """The linear part of H summed, Σ (x / 2δ + 1/2); with δ = 0 the window holds ties only, and H(0) = 1."""
        return count if self.delta == 0 else difference / (2 * self.delta) + count / 2


def _range_sums(weights: Tensor, bounds: Tensor) -> Tensor:
    """(B − 1, K, P): sums of the (K, P) weights over the positions between successive (B, P) bounds."""
    prefix = torch.nn.functional.pad(weights.cumsum(1), (1, 0))
    return prefix.index_select(1, bounds.flatten()).view(len(weights), *bounds.shape).diff(dim=1).movedim(1, 0)
