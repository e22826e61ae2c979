"""From samples to batches, and the loaders that make batches in worker processes.

Legend: B images of a batch.
"""

import math
import os
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Sampler

from rankdet.data.dataset import CocoDataset, Sample
from rankdet.data.sampling import GroupedBatchSampler, SampleKey
from rankdet.structures import Batch, Images, InputError


def collate(samples: Sequence[Sample], divisor: int = 32) -> Batch:
    """Put samples into one batch; images lie in the top-left corner, zeros are below and right of them.

    Height and width of the batch are multiples of ``divisor``, in pixels.
    """
    sizes = tuple((sample.image.shape[1], sample.image.shape[2]) for sample in samples)
    height, width = (math.ceil(max(sides) / divisor) * divisor for sides in zip(*sizes, strict=True))
    pixels = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for place, sample in enumerate(samples):
        pixels[place, :, : sizes[place][0], : sizes[place][1]] = sample.image
    return Batch(
        Images(pixels, sizes),
        tuple(sample.target for sample in samples),
        tuple(sample.source for sample in samples),
        tuple(path for sample in samples for path in sample.skipped),
    )


def build_training_loader(
    dataset: CocoDataset, sampler: GroupedBatchSampler, workers: int = 2, pin_memory: bool = False
) -> DataLoader[Batch]:
    """The endless loader of training batches; batches are the same for any number of workers.

    Where there is an accelerator, ``pin_memory`` puts batches into page-locked memory. Zero workers read images in this
    process.
    """
    return _loader(dataset, sampler, workers, pin_memory)


def build_test_loader(
    dataset: CocoDataset,
    batch_size: int = 1,
    workers: int = 2,
    rank: int = 0,
    world_size: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """The loader of all images in the order of the file; every process has its share, nothing is repeated.

    The last batch may have fewer images. ``rank`` and ``world_size`` are this process and the number of processes. For
    ``workers`` and ``pin_memory`` see `build_training_loader`.

    Raises
    ------
    ValueError
        When the data set skips unreadable images, or a number is out of its range.
    """
    if dataset.skip_unreadable:
        raise ValueError("skip_unreadable puts one image in the place of another: it is for training only")
    if batch_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"{batch_size=}, {rank=}, {world_size=}: a number is out of its range")
    return _loader(dataset, _InOrder(len(dataset), batch_size, rank, world_size), workers, pin_memory)


class _InOrder(Sampler[list[SampleKey]]):
    """Every ``world_size``-th image from ``rank`` on, in batches."""

    def __init__(self, num_images: int, batch_size: int, rank: int, world_size: int) -> None:
        self._indices, self._batch_size = range(rank, num_images, world_size), batch_size

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for first in range(0, len(self._indices), self._batch_size):
            yield [SampleKey(index, 0) for index in self._indices[first : first + self._batch_size]]

    def __len__(self) -> int:
        return math.ceil(len(self._indices) / self._batch_size)


def _loader(
    dataset: CocoDataset, sampler: Sampler[list[SampleKey]], workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    return _Loader(
        dataset,  # type: ignore[arg-type]  # torch's annotation takes samples and batches for one type
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        # Asking for pinned memory without an accelerator is a warning of torch.
        pin_memory=pin_memory and torch.cuda.is_available(),
        worker_init_fn=_start_worker if workers else None,
        persistent_workers=workers > 0,
        # An own generator: making an iterator must not advance the random state of the training.
        generator=torch.Generator(),
    )


class _Loader(DataLoader[Batch]):
    """A loader whose input errors read the same from a worker process as from this one."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # an iterator is all that a loader promises
        try:
            yield from super().__iter__()
        except InputError as error:
            # Torch puts the traceback of the worker in front of the message.
            raise InputError(str(error).rsplit("InputError: ", maxsplit=1)[-1].strip()) from error


def _start_worker(worker: int) -> None:
    # A signal to the whole process group (torchrun, Ctrl-C) is for the training process, which finishes its iteration
    # and needs this one for it. A worker whose parent is gone notices that by itself and ends.
    os.setpgrp()
    # Processes are the parallelism: threads inside of them only compete.
    torch.set_num_threads(1)
    # Every tensor on its way would hold a file descriptor open, and many small targets exhaust them.
    torch.multiprocessing.set_sharing_strategy("file_system")
