"""Which pictures a batch consists of: a deterministic, endless stream that can start anywhere."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from rankdet.data.hashing import mix

ORDER, AUGMENTATION = 0, 1  # independent streams of random numbers


class SampleKey(NamedTuple):
    """What a sampler yields and a data set takes: a picture and the seed of all randomness in its sample."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of a key
    seed: int


class GroupedBatchSampler(Sampler[list[SampleKey]]):
    """Endless stream of batches whose pictures are all landscape or all portrait.

    Every epoch is a permutation of the pictures. A picture joins its group; when a group holds a batch of all
    processes together, the batch leaves, and every process takes its own slice of it. What is left over at the end of
    an epoch stays in its group for the next one, so over the whole stream nothing is repeated or dropped. Order and
    seeds depend on ``(seed, epoch, index)`` alone.

    Parameters
    ----------
    aspect_ratios
        Width / height of each of the N pictures.
    batch_size
        Pictures per batch and process.
    seed
        Seed of the run, at least 0.
    rank, world_size
        This process and the number of processes.
    start
        Batches to skip: the position of a resumed run. Only integers are replayed, no picture is read.

    Raises
    ------
    ValueError
        When there is no picture, or a number is out of its range.

    Notes
    -----
    Differs from samplers that fill up the last batch of an epoch with repeated pictures, or drop it.

    Examples
    --------
    >>> sampler = GroupedBatchSampler([1.5, 1.5, 0.7, 1.5], batch_size=2)
    >>> batches = iter(sampler)
    >>> sorted(key.index for _ in range(4) for key in next(batches))  # two epochs
    [0, 0, 1, 1, 2, 2, 3, 3]
    """

    def __init__(
        self,
        aspect_ratios: Sequence[float] | np.ndarray,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
    ) -> None:
        if len(aspect_ratios) == 0:
            raise ValueError("there is no picture to sample")
        if batch_size < 1 or not 0 <= rank < world_size or seed < 0 or start < 0:
            raise ValueError(f"{batch_size=}, {seed=}, {rank=}, {world_size=}, {start=}: a number is out of its range")
        self._is_landscape = np.asarray(aspect_ratios, dtype=np.float64) >= 1.0
        self.batch_size, self.seed, self.rank, self.world_size, self.start = batch_size, seed, rank, world_size, start

    @property
    def iterations_per_epoch(self) -> int:
        """Batches after which about every picture was seen once: ⌈N / pictures per step of all processes⌉."""
        return math.ceil(len(self._is_landscape) / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        for number, keys in enumerate(self._global_batches()):
            if number >= self.start:
                yield [SampleKey(index, self._seed(epoch, index)) for epoch, index in keys[own]]

    def _seed(self, epoch: int, index: int) -> int:
        # 63 bits fit every integer type that a seed may pass through.
        return int(mix(self.seed, AUGMENTATION, epoch, index)) >> 1

    def _global_batches(self) -> Iterator[list[tuple[int, int]]]:
        """The batches of all processes together, as pairs (epoch, index)."""
        size = self.batch_size * self.world_size
        pending: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        indices, epoch = np.arange(len(self._is_landscape)), 0
        while True:
            order = np.argsort(mix(self.seed, ORDER, epoch, indices), kind="stable")
            for index, is_landscape in zip(order.tolist(), self._is_landscape[order].tolist(), strict=True):
                group = pending[is_landscape]
                group.append((epoch, index))
                if len(group) == size:
                    yield group
                    pending[is_landscape] = []
            epoch += 1
