"""Pools of candidates that are ranked among themselves, many of them in one call.

Legend: K pools; n numbers that lie pool by pool; a run is the numbers of one pool.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses.checks import Levels
from rankdet.losses.steps import prefix_sums


class Pools(NamedTuple):
    """Which pool each logit is in: K independent losses of one call, each with the gradient of its own logits.

    of
        Int64, 0 … K − 1, of a shape that broadcasts to that of the logits; one such tensor per level where these come
        in levels. It may lie in the memory of the host.
    number
        K. Some pools may be empty.

    Examples
    --------
    Layers of a decoder with (L, B, Q, C) logits, classes, and (M, C) logits whose candidates name their image:

    >>> layers = Pools(torch.arange(6)[:, None, None, None], 6)
    >>> classes = Pools(torch.arange(80), 80)
    >>> images = Pools(torch.tensor([0, 0, 1, 1, 1])[:, None], 2)
    """

    of: Levels
    number: int


class Cycle(NamedTuple):
    """The pools of a level without repetitions: its flat logit i is in pool ``pools[i // width % len(pools)]``."""

    pools: Tensor
    width: int

    @classmethod
    def of(cls, index: Tensor, shape: torch.Size) -> Cycle:
        """The cycle of an index that has as many dimensions as the logits and broadcasts to their shape."""
        if index.numel() == 1:
            return cls(index.view(1), max(shape.numel(), 1))
        several = [place for place, size in enumerate(index.shape) if size != 1]
        first, last = several[0], several[-1] + 1
        pools = index.view(index.shape[first:last]).expand(shape[first:last])
        return cls(pools.reshape(-1), max(shape[last:].numel(), 1))

    def at(self, places: Tensor) -> Tensor:
        """The pools of logits at int64 places of the flat level, which is not empty."""
        return self.pools[places.div(self.width, rounding_mode="floor").remainder(len(self.pools))]


def sort_in_pools(values: Tensor, pools: Tensor | None) -> tuple[Tensor, Tensor]:
    """(n,) values in the order of their pools, ascending in each, and that order; stable."""
    ascending, order = values.sort(stable=True)
    if pools is None:
        return ascending, order
    by_pool = pools[order].sort(stable=True).indices
    return ascending[by_pool], order[by_pool]


class Runs:
    """Numbers that lie pool by pool, and what is done within each pool: sums, prefix sums and maxima.

    No run sees another: infinite numbers stay in their own, and its sums are those of a call with it alone.

    Parameters
    ----------
    pools
        (n,) int64, ascending: the pool of each number. None where all are in one.
    number
        K.
    size
        n.
    """

    def __init__(self, pools: Tensor | None, number: int, size: int) -> None:
        self.pools, self.number, self.size = pools, number, size

    @classmethod
    def single(cls, size: int) -> Runs:
        """All in one pool."""
        return cls(None, 1, size)

    @property
    def pool_of(self) -> Tensor:
        """(n,) int64: the pool of each number, where there are several."""
        assert self.pools is not None
        return self.pools

    @functools.cached_property
    def borders(self) -> Tensor:
        """(K + 1,) int64: where runs begin and end."""
        return torch.searchsorted(self.pool_of, torch.arange(self.number + 1, device=self.pool_of.device))

    @functools.cached_property
    def start(self) -> Tensor:
        """(n,) int64: where the run of each number begins."""
        return self.borders[self.pool_of]

    @functools.cached_property
    def end(self) -> Tensor:
        """(n,) int64: where the run of each number ends."""
        return self.borders[1:][self.pool_of]

    @functools.cached_property
    def count(self) -> Tensor | int:
        """(n,) int64: how many numbers are in the run of each; n where there is one run."""
        return self.size if self.pools is None else self.end - self.start

    def doubled(self) -> Runs:
        """Runs of twice as many numbers."""
        pools = None if self.pools is None else self.pools.repeat_interleave(2, output_size=2 * self.size)
        return Runs(pools, self.number, 2 * self.size)

    def flipped(self) -> Runs:
        """Runs of the numbers in the opposite order."""
        pools = None if self.pools is None else self.number - 1 - self.pools.flip(0)
        return Runs(pools, self.number, self.size)

    def sums_before(self, values: Tensor) -> Tensor:
        """(…, n + 1) sums to be read by :meth:`at`: of the (…, n) values of a run before each place."""
        if self.pools is None:
            return prefix_sums(values)
        return functional.pad(self._scan(torch.add, values, 0.0), (1, 0))

    def before(self, bounds: Tensor) -> Tensor:
        """Where (n,) ``bounds``, each within the run of a number or at an end of it, are in :meth:`sums_before`."""
        return bounds if self.pools is None else bounds.where(bounds > self.start, 0)

    def cumulative(self, values: Tensor) -> Tensor:
        """(…, n) sums of the values of a run up to each one, itself included."""
        return self.sums_before(values)[..., 1:]

    def running_max(self, values: Tensor) -> Tensor:
        """(n,) the largest of the values of a run up to each one, itself included."""
        return values.cummax(0).values if self.pools is None else self._scan(torch.maximum, values, -torch.inf)

    def at_end(self, sums: Tensor) -> Tensor:
        """What :meth:`sums_before` has of whole runs, for each number; (…, n), or (…, 1) where there is one run."""
        return sums[..., -1:] if self.pools is None else sums[..., self.end]

    def totals(self, values: Tensor) -> Tensor:
        """(…, K) sums of the (…, n) values of each run."""
        if self.pools is None:
            return values.sum(-1, keepdim=True)
        # Not by `index_add`, which adds in another order in each call on a GPU.
        start, end = self.borders[:-1], self.borders[1:]
        return self.sums_before(values)[..., end.where(end > start, 0)]

    def means(self, values: Tensor) -> Tensor:
        """(…, K) means of the (…, n) values of each run, 0 where it is empty."""
        if self.pools is None:
            return values.mean(-1, keepdim=True)
        return self.totals(values) / self.borders.diff().clamp(min=1)

    def of_each(self, values: Tensor) -> Tensor:
        """(…, n) the value of each number's pool, of (…, K) values; (…, 1) where there is one."""
        return values if self.pools is None else values[..., self.pools]

    def _scan(self, combine: Callable[[Tensor, Tensor], Tensor], values: Tensor, neutral: float) -> Tensor:
        """Combine the values of a run up to each one: double the reach, log n times."""
        place = torch.arange(self.size, device=values.device) - self.start
        # A GPU would have to be waited for to learn how long the longest run is.
        longest = self.size if values.is_cuda or not self.size else int(place.max()) + 1
        reach = 1
        while reach < longest:
            earlier = functional.pad(values[..., :-reach], (reach, 0))
            values = combine(values, earlier.where(place >= reach, neutral))
            reach *= 2
        return values
