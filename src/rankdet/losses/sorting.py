"""The sorting error of Rank & Sort Loss over P positives: dense for few of them, O(P log P) time for many.

Legend: P positives in ascending order of their logits p, y their localization qualities, K pools.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses.pools import Runs, sort_in_pools
from rankdet.losses.steps import soft_step

DENSE_UP_TO = 192
"""Up to this many positives the P × P form is the faster one on a CPU."""
DENSE_UP_TO_ON_GPU = 2048
"""The same on a GPU, where each of the many small operations of the other form costs its launch. The P × P matrices
then take 32 MB each."""
LEVELS_AT_ONCE = 1 << 10
"""Positives times levels of the other form that are summed at a time."""
EPSILON = 1e-10
"""Errors below this pass no gradient (the authors' code; an exact 0 would divide by 0)."""


class Sorting(NamedTuple):
    """Per positive, each (P,) float64: rank among positives, sorting error, and P × the gradient of its mean."""

    rank: Tensor
    error: Tensor
    gradient: Tensor


class Window:
    """Sums of soft steps among P positives in ascending order of their logits, in O(P log P).

    Logits are (P,) float64, and δ is half the width of the linear part of H. Positives of several pools lie pool by
    pool, ascending in each, and see none but their own pool.

    Examples
    --------
    >>> window = Window(torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64), delta=1.0)
    >>> ones = torch.ones(1, 3, dtype=torch.float64)
    >>> window.steps_above(ones), window.steps_below(ones)
    (tensor([[2.5000, 1.5000, 0.5000]], dtype=torch.float64), tensor([[0.5000, 1.5000, 2.5000]], dtype=torch.float64))
    """

    def __init__(self, logits: Tensor, delta: float, runs: Runs | None = None) -> None:
        self.logits = logits
        self.delta = delta
        self.runs = Runs.single(len(logits)) if runs is None else runs

    @functools.cached_property
    def first(self) -> Tensor:
        """(P,) place at which each window begins."""
        if self.runs.pools is None:
            return torch.searchsorted(self.logits, self.logits - self.delta)
        # Before logits that are equal to an edge.
        return self._places([self.logits - self.delta, self.logits])[0]

    @functools.cached_property
    def last(self) -> Tensor:
        """(P,) place before which each window ends."""
        if self.runs.pools is None:
            return torch.searchsorted(self.logits, self.logits + self.delta, right=True)
        return self._places([self.logits, self.logits + self.delta])[1]

    def _places(self, values: list[Tensor]) -> Tensor:
        """(2, P): of two ascending sequences, how many of the other one are before each, those of earlier pools too."""
        _, order = sort_in_pools(torch.cat(values), self.runs.pool_of.repeat(2))
        places = torch.arange(len(order), device=order.device)
        return torch.empty_like(order).scatter_(0, order, places).view(2, -1) - places[: len(self.logits)]

    @property
    def count(self) -> Tensor | int:
        """How many positives are in the pool of each: (P,) int64, or P where there is one pool."""
        return self.runs.count

    def means(self, values: Tensor) -> Tensor:
        """(…, K) means of (…, P) values over the positives of each pool."""
        return self.runs.means(values)

    def totals(self, values: Tensor) -> Tensor:
        """(…, K) sums of (…, P) values over the positives of each pool."""
        return self.runs.totals(values)

    def cumulative(self, values: Tensor) -> Tensor:
        """(…, P) sums of (…, P) values over the positives of a pool up to each one, itself included."""
        return self.runs.cumulative(values)

    def running_max(self, values: Tensor) -> Tensor:
        """(P,) largest of (P,) values among the positives of a pool up to each one, itself included."""
        return self.runs.running_max(values)

    def steps_above(self, weights: Tensor) -> Tensor:
        """Σ_j H(p_j − p_i) w_j for each i, over its pool; (…, P) for (…, P) weights."""
        counts, moments = self._sums(weights)
        first, last = self.runs.before(self.first), self.runs.before(self.last)
        inside = counts[..., last] - counts[..., first]
        moment = moments[..., last] - moments[..., first]
        return self.runs.at_end(counts) - counts[..., last] + self.linear(moment - self.logits * inside, inside)

    def steps_below(self, weights: Tensor) -> Tensor:
        """Σ_k H(p_i − p_k) w_k for each i, over its pool; (…, P) for (…, P) weights."""
        counts, moments = self._sums(weights)
        first, last = self.runs.before(self.first), self.runs.before(self.last)
        inside = counts[..., last] - counts[..., first]
        moment = moments[..., last] - moments[..., first]
        return counts[..., first] + self.linear(self.logits * inside - moment, inside)

    def _sums(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        return self.runs.sums_before(weights), self.runs.sums_before(weights * self.logits)

    def sorting(self, quality: Tensor) -> Sorting:
        """Sorting error over its target, of every positive; all of (P,) float64, in ascending order of their logits.

        .. math::

            \\ell_S(i) - \\ell_S^*(i) = \\frac{\\sum_{j} H(x_{ij})(1 - y_j)}{\\sum_{j} H(x_{ij})}
                - \\frac{\\sum_{j} H(x_{ij})[y_j \\ge y_i](1 - y_j)}{\\sum_{j} H(x_{ij})[y_j \\ge y_i]}

        ((S) and (S*) of :func:`rankdet.losses.rank_sort_loss`). Let T and U be the sums of H and of H (1 − y) over the
        positives that are *worse* than i, and R and A the same sums over all positives. The error is
        (U R − A T) / (R (R − T)): exactly 0 where nothing worse is above i, with no difference of two large numbers.
        """
        dense_up_to = DENSE_UP_TO_ON_GPU if self.logits.is_cuda else DENSE_UP_TO
        errors = _dense if len(self.logits) <= dense_up_to else _sparse
        if self.runs.pools is None:
            return errors(self, quality)
        # A quality that is no number spoils its own pool alone.
        poison = self.runs.of_each(self.totals(quality - quality))
        rank, error, gradient = errors(self, quality.nan_to_num(0.0, 0.0, 0.0))
        return Sorting(rank, error + poison, gradient + poison)

    def dominance(self, quality: Tensor) -> Dominance:
        """Sums over those of lower or of higher quality than one's own, for (P,) qualities."""
        return Dominance(self, quality)

    def linear(self, difference: Tensor, count: Tensor) -> Tensor:
        """The linear part of H summed, Σ (x / 2δ + 1/2); with δ = 0 the window holds ties only, and H(0) = 1."""
        return count if self.delta == 0 else difference / (2 * self.delta) + count / 2


def _dense(window: Window, quality: Tensor) -> Sorting:
    above = soft_step(window.logits - window.logits[:, None], window.delta)
    pools = window.runs.pools
    if pools is not None:
        above = above.masked_fill_(pools != pools[:, None], 0)
    worse = above.masked_fill(quality >= quality[:, None], 0)
    weights = torch.stack([torch.ones_like(quality), 1 - quality], dim=1)
    rank, total = (above @ weights).unbind(1)
    num_worse, total_worse = (worse @ weights).unbind(1)
    error, share = _error_and_share(rank, total, num_worse, total_worse)
    return Sorting(rank, error, share @ worse - share * num_worse)


def _sparse(window: Window, quality: Tensor) -> Sorting:
    order = window.dominance(quality)
    weights = torch.stack([torch.ones_like(quality), 1 - quality])
    rank, total = window.steps_above(weights)
    worse, total_worse = order.steps_of_worse(weights)
    error, share = _error_and_share(rank, total, worse, total_worse)
    return Sorting(rank, error, order.steps_over_better(share) - share * worse)


def _error_and_share(rank: Tensor, total: Tensor, worse: Tensor, total_worse: Tensor) -> tuple[Tensor, Tensor]:
    """The error of each positive, and what each unit of H of a worse positive gets of it; each (P,)."""
    error = (total_worse * rank - total * worse) / (rank * (rank - worse))
    return error, torch.where(worse > EPSILON, error / worse.clamp(min=EPSILON), 0.0)


class Dominance:
    """Sums of soft steps over the positives of lower or of higher quality than one's own: a wavelet matrix.

    The positives are in ascending order of their logits, so that H(p_j − p_i) is linear for the j in one range of
    positions, i's window, and 1 above it. Each level parts the positions by one bit of their quality's rank, highest
    bit first: zeros move to the front and ones behind them, and both keep their order. A query follows the bits of its
    own rank, and its window narrows to those that agree so far. Where its bit and another's differ, the other is worse
    (a zero beside a one) or better, and a prefix sum over the next order counts it.
    """

    def __init__(self, window: Window, quality: Tensor) -> None:
        self.window = window
        logits = window.logits
        ascending, by_quality = quality.sort()
        ranks = torch.empty_like(by_quality)
        ranks[by_quality] = functional.pad((ascending.diff() > 0).cumsum(0), (1, 0))
        # As many bits as ranks can have: looking at the highest one would wait for a GPU.
        highest = int(ranks.max()) if ranks.device.type == "cpu" else len(ranks) - 1
        bits = torch.arange(highest.bit_length() - 1, -1, -1, device=logits.device)
        self.is_set = (ranks >> bits[:, None]) & 1 > 0
        """(L, P): whether the bit of each query is set, highest bit first."""
        positions = torch.arange(len(logits), dtype=torch.int32, device=logits.device)
        runs = window.runs
        if runs.pools is None:
            self.start, end = positions.new_zeros(1), positions.new_full((1,), len(positions))
        else:
            self.start, end = runs.start.int(), runs.end.int()
        ends = self.start.expand_as(positions), end.expand_as(positions)
        bounds = torch.stack([ends[0], self.window.first.int(), self.window.last.int(), ends[1]])
        self.orders = positions.new_empty(self.is_set.shape)
        """(L, P): the order of the positions after each level."""
        self.bounds = positions.new_empty(len(bits), 4, len(ranks))
        """(L, 4, P): the bounds of each query's window among those of the other bit, in that order: among worse zeros
        where its own is set, else among better ones."""
        order = positions
        for level, own in enumerate(self.is_set):
            is_one = own.index_select(0, order)
            zeros_before = functional.pad((~is_one).cumsum(0, dtype=torch.int32), (1, 0))
            # Zeros move to the front of their pool.
            front = self.start - zeros_before[self.start]
            num_zeros, before = front + zeros_before[end], front + zeros_before[:-1]
            place = torch.where(is_one, num_zeros + positions - before, before).long()
            order = self.orders[level].scatter_(0, place, order)
            zeros = front + zeros_before.index_select(0, bounds.view(-1)).view_as(bounds)
            ones = num_zeros + bounds - zeros
            torch.where(own, zeros, ones, out=self.bounds[level])
            bounds = torch.where(own, ones, zeros)

    def steps_of_worse(self, weights: Tensor) -> Tensor:
        """(R, P): Σ_j H(p_j − p_i) w_j over the j of lower quality than i, for (R, P) weights w."""
        sums = self.sums(weights, of_better=False)
        above, inside = (sums[2] - sums[1])[:, : len(weights)], sums[1] - sums[0]
        count, moment = inside[:, : len(weights)], inside[:, len(weights) :]
        return above.T + self.window.linear(moment.T - self.window.logits * count.T, count.T)

    def steps_over_better(self, weights: Tensor) -> Tensor:
        """(P,): Σ_k H(p_i − p_k) w_k over the k of higher quality than i, for (P,) weights w."""
        sums = self.sums(weights[None], of_better=True)
        below, (count, moment) = (sums[1] - sums[0])[:, 0], (sums[2] - sums[1]).T
        return below + self.window.linear(self.window.logits * count - moment, count)

    def sums(self, weights: Tensor, of_better: bool) -> Tensor:
        """(3, P, 2R): sums of the weights, and of the weighted logits, of the worse (or better) before three bounds of
        each window: of the worse before its two ends and the end of all, of the better before the start of all and
        its two ends."""
        # Rows of numbers, because rows are gathered whole.
        rows = torch.cat([weights, weights * self.window.logits]).T.contiguous()
        num, width = rows.shape
        bounds = self.bounds[:, :3] if of_better else self.bounds[:, 1:]
        total = rows.new_zeros(3, num, width)
        # Levels at a time: few operations for few positives, bounded memory for many.
        size = max(1, LEVELS_AT_ONCE // num)
        for level in range(0, len(bounds), size):
            part = slice(level, level + size)
            ordered = rows.index_select(0, self.orders[part].view(-1)).view(-1, num, width)
            before = functional.pad(self._cumulative(ordered), (0, 0, 1, 0))
            starts = torch.arange(len(ordered), dtype=torch.int32, device=rows.device) * (num + 1)
            # A level counts nothing for queries of the other kind: the sum before the first place is 0. So is that
            # before the first place of a pool.
            is_counted = (self.is_set[part] != of_better)[:, None] & (bounds[part] > self.start)
            places = bounds[part] * is_counted + starts[:, None, None]
            picked = before.view(-1, width).index_select(0, places.view(-1))
            total += picked.view(-1, 3, num, width).sum(0)
        return total

    def _cumulative(self, rows: Tensor) -> Tensor:
        """(L, P, R): sums of the rows of a level and a pool up to each one, itself included."""
        if self.window.runs.pools is None and not rows.is_cuda:
            return rows.cumsum(1)
        return self.window.runs.cumulative(rows.mT).mT
