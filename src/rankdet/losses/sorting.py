"""The sorting error of Rank & Sort Loss over P positives: dense for few of them, O(P log P) time for many.

Legend: P positives in ascending order of their logits p, y their localization qualities, V distinct qualities.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses.error_driven import prefix_sums, soft_step

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
    weights = torch.stack([torch.ones_like(quality), 1 - quality])
    rank, total = order.window.steps_above(weights)
    worse, total_worse = order.steps_of_worse(weights)
    error, share = _error_and_share(rank, total, worse, total_worse)
    return Sorting(rank, error, order.steps_over_better(share) - share * worse)


def _error_and_share(rank: Tensor, total: Tensor, worse: Tensor, total_worse: Tensor) -> tuple[Tensor, Tensor]:
    """The error of each positive, and what each unit of H of a worse positive gets of it; each (P,)."""
    error = (total_worse * rank - total * worse) / (rank * (rank - worse))
    return error, torch.where(worse > EPSILON, error / worse.clamp(min=EPSILON), 0.0)


class Window:
    """Sums of soft steps among P positives in ascending order of their logits, in O(P log P).

    Parameters
    ----------
    logits
        (P,) float64, ascending.
    delta
        Half the width of the linear part of H, in logits.

    Examples
    --------
    >>> window = Window(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), delta=1.0)
    >>> ones = torch.ones(1, 3, dtype=torch.float64)
    >>> window.steps_above(ones), window.steps_below(ones)
    (tensor([[2.5000, 1.5000, 0.5000]], dtype=torch.float64), tensor([[0.5000, 1.5000, 2.5000]], dtype=torch.float64))
    """

    def __init__(self, logits: Tensor, delta: float) -> None:
        self.logits = logits
        self.delta = delta
        self.first = torch.searchsorted(logits, logits - delta)
        self.last = torch.searchsorted(logits, logits + delta, right=True)

    def steps_above(self, weights: Tensor) -> Tensor:
        """Σ_j H(p_j − p_i) w_j for each i; (…, P) for (…, P) weights."""
        counts, moments = prefix_sums(weights), prefix_sums(weights * self.logits)
        inside = counts[..., self.last] - counts[..., self.first]
        moment = moments[..., self.last] - moments[..., self.first]
        return counts[..., -1:] - counts[..., self.last] + self.linear(moment - self.logits * inside, inside)

    def steps_below(self, weights: Tensor) -> Tensor:
        """Σ_k H(p_i − p_k) w_k for each i; (…, P) for (…, P) weights."""
        counts, moments = prefix_sums(weights), prefix_sums(weights * self.logits)
        inside = counts[..., self.last] - counts[..., self.first]
        moment = moments[..., self.last] - moments[..., self.first]
        return counts[..., self.first] + self.linear(self.logits * inside - moment, inside)

    def linear(self, difference: Tensor, count: Tensor) -> Tensor:
        """The linear part of H summed, Σ (x / 2δ + 1/2); with δ = 0 the window holds ties only, and H(0) = 1."""
        return count if self.delta == 0 else difference / (2 * self.delta) + count / 2


class _Dominance:
    """Sums of soft steps over the positives of lower or of higher quality than one's own: a wavelet matrix.

    The positives stand in ascending order of their logits, so that H(p_j − p_i) is linear for the j in one range of
    positions, i's window, and 1 above it. Each level partitions the positions by one bit of their quality's rank,
    highest bit first. A query walks down the bits of its own rank, its window narrowing to those who agree so far;
    where its bit and another's part, the other is above (1 against 0) or below, and a prefix sum counts it.
    """

    def __init__(self, logits: Tensor, quality: Tensor, delta: float) -> None:
        self.logits = logits
        self.window = Window(logits, delta)
        ascending, by_quality = quality.sort()
        ranks = torch.empty_like(by_quality)
        ranks[by_quality] = functional.pad((ascending.diff() > 0).cumsum(0), (1, 0))
        order = torch.arange(len(logits), device=logits.device)
        bounds = torch.stack(
            [torch.zeros_like(order), self.window.first, self.window.last, torch.full_like(order, len(order))]
        )
        self.levels: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        """Order of the positions, their bits, each query's own bit, its window's bounds: (P,), (P,), (P,), (4, P)."""
        # As many bits as ranks can have: looking at the highest one would wait for a GPU.
        highest = int(ranks.max()) if ranks.device.type == "cpu" else len(ranks) - 1
        for bit in reversed(range(highest.bit_length())):
            own = (ranks >> bit) & 1
            bits = own[order]
            self.levels.append((order, bits, own, bounds))
            zeros_before = prefix_sums(1 - bits)
            num_zeros = zeros_before[-1]
            zeros = zeros_before[bounds]
            bounds = torch.where(own.bool(), num_zeros + bounds - zeros, zeros)
            # Stable: zeros first, then ones, each in the order in which they stood.
            place = torch.where(bits.bool(), num_zeros + torch.arange(len(bits), device=bits.device), 0)
            place += torch.where(bits.bool(), -zeros_before[:-1], zeros_before[:-1])
            order = torch.empty_like(order).scatter_(0, place, order)

    def steps_of_worse(self, weights: Tensor) -> Tensor:
        """(R, P): Σ_j H(p_j − p_i) w_j over the j of lower quality than i, for (R, P) weights w."""
        num = len(weights)
        weights = torch.cat([weights, weights * self.logits])
        above, inside = torch.zeros_like(weights), torch.zeros_like(weights)
        for order, bits, own, (_, first, last, end) in self.levels:
            sums = prefix_sums(weights[:, order] * (1 - bits))
            at_last = sums[:, last]
            above += (sums[:, end] - at_last) * own
            inside += (at_last - sums[:, first]) * own
        count, moment = inside[:num], inside[num:]
        return above[:num] + self.window.linear(moment - self.logits * count, count)

    def steps_over_better(self, weights: Tensor) -> Tensor:
        """(P,): Σ_k H(p_i − p_k) w_k over the k of higher quality than i, for (P,) weights w."""
        weights = torch.stack([weights, weights * self.logits])
        below, inside = torch.zeros_like(weights), torch.zeros_like(weights)
        for order, bits, own, (start, first, last, _) in self.levels:
            sums = prefix_sums(weights[:, order] * bits)
            at_first = sums[:, first]
            below += (at_first - sums[:, start]) * (1 - own)
            inside += (sums[:, last] - at_first) * (1 - own)
        return below[0] + self.window.linear(self.logits * inside[0] - inside[1], inside[0])
