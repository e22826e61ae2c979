"""Which images a batch consists of: a deterministic, endless stream that can start anywhere."""

import math
from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from rankdet.data.hashing import mix

ORDER, AUGMENTATION = 0, 1  # independent streams of random numbers


class SampleKey(NamedTuple):
    """The place of an image in a data set, and the seed of all randomness in its sample."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which no key needs
    seed: int


class GroupedBatchSampler(Sampler[list[SampleKey]]):
    """Endless stream of batches whose images are all landscape or all portrait.

    Every epoch is a permutation of the images, each as often as ``repeats`` has it. Images are collected in two groups.
    When a group holds a batch of all processes together, it leaves, and every process takes its own slice of it. At the
    end of an epoch what is left stays in its group for the next one, so over the whole stream no sample is repeated or
    dropped. Order and seeds depend on ``(seed, epoch, place in the list of samples)`` alone.

    Parameters
    ----------
    aspect_ratios
        Width / height of each of the N images.
    batch_size
        Images per batch and process.
    seed
        Seed of the run, at least 0.
    rank, world_size
        This process and the number of processes.
    start
        Batches to skip: the position of a resumed run. Only integers are replayed, no image is read.
    repeats
        (N,) int, how often each image is in an epoch, with a new seed each time; None: once.
    before
        Pairs (images, batches): batches of so many images of all processes together that a run drew before it had this
        batch size and number of processes. They are left out as those of ``start`` are, and no sample with them.

    Attributes
    ----------
    num_samples
        Images of an epoch, each counted as often as it is repeated.

    Raises
    ------
    ValueError
        When there is no image, or a number is out of its range.

    Notes
    -----
    Differs from samplers that fill up the last batch of an epoch with repeated images, or drop it.

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
        repeats: Sequence[int] | np.ndarray | None = None,
        before: Sequence[tuple[int, int]] = (),
    ) -> None:
        if len(aspect_ratios) == 0:
            raise ValueError("there is no image to sample")
        if batch_size < 1 or not 0 <= rank < world_size or seed < 0 or start < 0:
            raise ValueError(f"{batch_size=}, {seed=}, {rank=}, {world_size=}, {start=}: a number is out of its range")
        counts = np.ones(len(aspect_ratios), dtype=np.int64) if repeats is None else np.asarray(repeats)
        if counts.shape != (len(aspect_ratios),) or counts.min() < 1:
            raise ValueError("every image is repeated at least once")
        self._images = np.repeat(np.arange(len(counts)), counts)
        self._is_landscape = np.asarray(aspect_ratios, dtype=np.float64)[self._images] >= 1.0
        self.num_samples = len(self._images)
        self.batch_size, self.seed, self.rank, self.world_size, self.start = batch_size, seed, rank, world_size, start
        self.before = before

    @property
    def iterations_per_epoch(self) -> int:
        """Batches after which about every sample was seen once: ⌈samples / images per step of all processes⌉."""
        return math.ceil(self.num_samples / (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[SampleKey]]:
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        done = sum(batches for _, batches in self.before) + self.start
        for number, keys in enumerate(self._global_batches()):
            if number >= done:
                yield [SampleKey(int(self._images[place]), self._seed(epoch, place)) for epoch, place in keys[own]]

    def _seed(self, epoch: int, place: int) -> int:
        # 63 bits fit every integer type that a seed may pass through.
        return int(mix(self.seed, AUGMENTATION, epoch, place)) >> 1

    def _global_batches(self) -> Iterator[list[tuple[int, int]]]:
        """The batches of all processes together, as pairs (epoch, place among the samples of an epoch)."""
        earlier = (repeat(size, batches) for size, batches in self.before)
        sizes = chain(chain.from_iterable(earlier), repeat(self.batch_size * self.world_size))
        size = next(sizes)
        pending: dict[bool, list[tuple[int, int]]] = {False: [], True: []}
        places, epoch = np.arange(self.num_samples), 0
        while True:
            order = np.argsort(mix(self.seed, ORDER, epoch, places), kind="stable")
            for place, is_landscape in zip(order.tolist(), self._is_landscape[order].tolist(), strict=True):
                pending[is_landscape].append((epoch, place))
                # Where batches have become smaller, several may be full, of both groups.
                while full := [key for key, group in pending.items() if len(group) >= size]:
                    yield pending[full[0]][:size]
                    del pending[full[0]][:size]
                    size = next(sizes)
            epoch += 1


def repeat_factors(
    images: NDArray[np.int64], labels: NDArray[np.int64], num_images: int, threshold: float
) -> NDArray[np.float64]:
    r"""How often each image is repeated so that rare classes are seen more often: repeat factor sampling.

    .. math:: r(c) = \max\left(1, \sqrt{t / f(c)}\right), \qquad r(I) = \max_{c \in I} r(c)

    Parameters
    ----------
    images, labels
        (A,) each: the image and the label of every object.
    num_images
        N.
    threshold
        t, the fraction of images that makes a class frequent enough; 0.001 in LVIS. f(c) is the fraction of the images
        that have an object of class c.

    Returns
    -------
    NDArray[np.float64]
        (N,) r(I), 1 for images without objects.

    Raises
    ------
    ValueError
        When the threshold is not positive.

    Notes
    -----
    Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, appendix B. There
    an image is repeated ⌊r(I)⌋ times and once more with the probability of what is left; RS Loss was trained, as are
    detectors here, with ⌈r(I)⌉ in every epoch.

    Examples
    --------
    Label 1 is in one of four images, where half of them would be enough.

    >>> repeat_factors(np.array([0, 1, 1, 2, 3]), np.array([0, 0, 1, 0, 0]), 4, 0.5).round(3)
    array([1.   , 1.414, 1.   , 1.   ])
    """
    if threshold <= 0:
        raise ValueError(f"{threshold=} is not positive")
    factors = np.ones(num_images)
    if len(labels) == 0:
        return factors
    # Each pair of image and label once, however many objects there are.
    num_labels = int(labels.max()) + 1
    pairs = np.unique(images * num_labels + labels)
    of_image, of_label = pairs // num_labels, pairs % num_labels
    fractions = np.bincount(of_label, minlength=num_labels)[of_label] / num_images
    np.maximum.at(factors, of_image, np.sqrt(threshold / fractions))
    return factors
