"""The sorting error of Rank & Sort Loss over P positives: dense for few of them, O(P log P) time for many.

Legend: P positives in ascending order of their logits p, y their localization qualities, V distinct qualities.
"""

from __future__ import annotations

from collections.abc import Callable
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
    sums, worse_sums = above @ weights, worse @ weights
    error, share = _error_and_share(sums, worse_sums)
    return Sorting(sums[:, 0], error, share @ worse - share * worse_sums[:, 0])


def _sparse(logits: Tensor, quality: Tensor, delta: float) -> Sorting:
    weights = torch.stack([torch.ones_like(quality), 1 - quality], dim=1)
    order = _Dominance(quality)
    first, last = (torch.searchsorted(logits, edge) for edge in (logits - delta, logits + delta))
    end = torch.full_like(last, len(logits))

    def steps(range_sums: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """Σ_j H(p_j − p_i) w_j, (P, 2): 1 beyond i's window, linear inside."""
        inside = range_sums(torch.cat([weights, weights * logits[:, None]], dim=1), first, last)
        difference = inside[:, 2:] - inside[:, :2] * logits[:, None]
        return range_sums(weights, last, end) + _linear(difference, inside[:, :2], delta)

    sums, worse_sums = steps(_range_sums), steps(order.sums_below)
    error, share = _error_and_share(sums, worse_sums)
    # Σ_k share_k H(p_i − p_k) over the better k that i stands above: the same windows, seen from the other side.
    handed = torch.stack([share, share * logits], dim=1)
    first = torch.searchsorted(logits, logits - delta, right=True)
    full = order.sums_above(handed[:, :1], torch.zeros_like(first), first)[:, 0]
    inside = order.sums_above(handed, first, last)
    received = full + _linear(inside[:, 0] * logits - inside[:, 1], inside[:, 0], delta)
    return Sorting(sums[:, 0], error, received - share * worse_sums[:, 0])


def _linear(difference: Tensor, count: Tensor, delta: float) -> Tensor:
    """The linear part of H summed: Σ (x / 2δ + 1/2)."""
    return torch.zeros_like(count) if delta == 0 else difference / (2 * delta) + count / 2


def _error_and_share(sums: Tensor, worse_sums: Tensor) -> tuple[Tensor, Tensor]:
    """The error of each positive, and what each unit of H of a worse positive gets of it; each (P,)."""
    (rank, total), (worse, worse_total) = sums.unbind(1), worse_sums.unbind(1)
    error = (worse_total * rank - total * worse) / (rank * (rank - worse))
    return error, torch.where(worse > EPSILON, error / worse.clamp(min=EPSILON), 0.0)


class _Dominance:
    """Sums over ranges of positions, of those whose quality is below or above the asking position's: a wavelet matrix.

    Each level partitions the positions by one bit of their quality's rank, highest bit first, and remembers how many
    zeros stand before each position. A query walks down its own rank's bits: where its bit and another's part, the
    other is above (1 against 0) or below, and a prefix sum counts it.
    """

    def __init__(self, quality: Tensor) -> None:
        distinct, self.ranks = torch.unique(quality, return_inverse=True)
        order = torch.arange(len(quality), device=quality.device)
        self.levels: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for bit in reversed(range((len(distinct) - 1).bit_length())):
            bits = (self.ranks >> bit) & 1
            ones = bits[order]
            self.levels.append((bits.bool(), order, ones.bool(), _prefix(1 - ones)))
            order = order[torch.sort(ones, stable=True).indices]

    def sums_below(self, weights: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """(P, K): row i sums the (P, K) weights over first[i] ≤ j < last[i] with a quality below that of i."""
        return self._sums(weights, first, last, above=False)

    def sums_above(self, weights: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """(P, K): row i sums the (P, K) weights over first[i] ≤ j < last[i] with a quality above that of i."""
        return self._sums(weights, first, last, above=True)

    def _sums(self, weights: Tensor, first: Tensor, last: Tensor, above: bool) -> Tensor:
        result = torch.zeros_like(weights)
        for turned, order, ones, zeros_before in self.levels:
            counted = weights[order] * (ones == above)[:, None]
            result += _range_sums(counted, first, last) * (turned != above)[:, None]
            first, last = (
                torch.where(turned, zeros_before[-1] + position - zeros_before[position], zeros_before[position])
                for position in (first, last)
            )
        return result


def _range_sums(weights: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """(Q, K): sums of the (P, K) weights over the positions first ≤ j < last."""
    prefix = _prefix(weights)
    return prefix[last] - prefix[first]


def _prefix(values: Tensor) -> Tensor:
    """Sums of the values before each position, (P + 1, …)."""
    return torch.cat([torch.zeros_like(values[:1]), values.cumsum(0)])
