"""From samples to batches, and the loaders that make batches in worker processes.

Legend: B images of a batch.
"""

import math
import os
import shutil
import signal
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from rankdet.data.dataset import CocoDataset, Sample
from rankdet.data.sampling import GroupedBatchSampler, SampleKey
from rankdet.structures import Batch, Images, InputError

Item = TypeVar("Item")


def padded_size(sizes: Sequence[tuple[int, int]], divisor: int = 32) -> tuple[int, int]:
    """(height, width) of a batch of images of these sizes: multiples of ``divisor``, in pixels.

    Examples
    --------
    >>> padded_size([(40, 60), (64, 10)]), padded_size([])
    ((64, 64), (0, 0))
    """
    height, width = (max(sides, default=0) for sides in ([size[axis] for size in sizes] for axis in (0, 1)))
    return math.ceil(height / divisor) * divisor, math.ceil(width / divisor) * divisor


def batches_of_one_shape(
    items: Iterable[Item], shape: Callable[[Item], Hashable], batch_size: int
) -> Iterator[list[Item]]:
    """Groups of at most ``batch_size`` items of one shape; few items are held at a time.

    Detection and evaluation batch images by it, so that none is padded for another. A normalization over a group of
    channels sees the padding, and an image would have other detections beside a larger one than alone.

    Examples
    --------
    >>> list(batches_of_one_shape("aBcDEfg", str.isupper, 2))
    [['a', 'c'], ['B', 'D'], ['f', 'g'], ['E']]
    """
    waiting: dict[Hashable, list[Item]] = {}
    for item in items:
        own = shape(item)
        group = waiting.setdefault(own, [])
        group.append(item)
        if len(group) == batch_size:
            yield waiting.pop(own)
    yield from waiting.values()


def collate(samples: Sequence[Sample], divisor: int = 32) -> Batch:
    """Put samples into one batch; images lie in the top-left corner, zeros are below and right of them.

    Height and width of the batch are multiples of ``divisor``, in pixels.
    """
    sizes = tuple((sample.image.shape[1], sample.image.shape[2]) for sample in samples)
    height, width = padded_size(sizes, divisor)
    pixels = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    for place, sample in enumerate(samples):
        pixels[place, :, : sizes[place][0], : sizes[place][1]] = sample.image
    return Batch(
        Images(pixels, sizes),
        tuple(sample.target for sample in samples),
        tuple(sample.source for sample in samples),
        tuple(reason for sample in samples for reason in sample.skipped),
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
    """The loader of all images, each batch of images of one padded size; every process has its share, each image once.

    Images are padded as alone, so that a batch changes no detection. Batches are in the order of the file otherwise;
    the last of each size may have fewer images. An image that cannot be read, or is of another size than its
    annotations say, is not in its batch, but in ``Batch.skipped``; a batch may have no image at all.

    ``rank`` and ``world_size`` are this process and the number of processes. For ``workers`` and ``pin_memory`` see
    `build_training_loader`.

    Raises
    ------
    ValueError
        When the data set skips unreadable images, or a number is out of its range.
    """
    if dataset.skip_unreadable:
        raise ValueError("skip_unreadable puts one image in the place of another: it is for training only")
    if batch_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"{batch_size=}, {rank=}, {world_size=}: a number is out of its range")
    own = range(rank, len(dataset), world_size)
    batches = batches_of_one_shape(own, lambda index: padded_size([dataset.prepared_size(index)]), batch_size)
    return _loader(_Readable(dataset), _Fixed(list(batches)), workers, pin_memory)


class _Fixed(Sampler[list[SampleKey]]):
    """The same batches each time."""

    def __init__(self, batches: Sequence[Sequence[int]]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for batch in self._batches:
            yield [SampleKey(index, 0) for index in batch]

    def __len__(self) -> int:
        return len(self._batches)


class _Readable(Dataset[Sample | str]):
    """A data set with the reason in place of an image that cannot be read."""

    def __init__(self, dataset: CocoDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, key: SampleKey) -> Sample | str:
        try:
            return self._dataset[key]
        except InputError as error:
            return str(error)


def _collate_readable(samples: Sequence[Sample | str]) -> Batch:
    batch = collate([sample for sample in samples if not isinstance(sample, str)])
    batch = replace(batch, skipped=(*batch.skipped, *(sample for sample in samples if isinstance(sample, str))))
    if get_worker_info() is not None:
        # Sharing is what sending a batch does, but in a thread of the worker, whose errors nobody hears: where the
        # memory is used up, both processes would wait for each other for ever.
        _share(batch)
    return batch


MOST_STARTS = 5
"""How often a process that serves shared memory is started, where none is met."""


def _share(batch: Batch) -> None:
    """Share a batch.

    torch starts a process for it, which ends where nobody has come within two seconds, as on a busy machine. Its socket
    is missing then, and the next attempt starts another.
    """
    for start in range(1, MOST_STARTS + 1):
        try:
            batch.share_memory()
        except RuntimeError as error:
            if start == MOST_STARTS or "No such file or directory" not in str(error):
                raise
        else:
            break


def _loader(
    dataset: Dataset[Any], sampler: Sampler[list[SampleKey]], workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    return _Loader(
        dataset,  # torch's annotation takes samples and batches for one type
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=_collate_readable,
        # Asking for pinned memory without an accelerator is a warning of torch.
        pin_memory=pin_memory and torch.cuda.is_available(),
        worker_init_fn=_start_worker if workers else None,
        persistent_workers=workers > 0,
        # An own generator: making an iterator must not advance the random state of the training.
        generator=torch.Generator(),
    )


class _Loader(DataLoader[Batch]):
    """A loader whose errors read the same from a worker process as from this one; a worker that is lost is one, too."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]  # an iterator is all that a loader promises
        if self.num_workers:
            _check_queues(self.num_workers)
        try:
            yield from super().__iter__()
        except InputError as error:
            # Torch puts the traceback of the worker in front of the message.
            kind = type(error)
            raise kind(str(error).rsplit(f"{kind.__name__}: ", maxsplit=1)[-1].strip()) from error
        except RuntimeError as error:
            if (reason := reason_of_workers(f"{error} {error.__cause__}")) is None:
                raise
            raise InputError(reason) from error


_WITHOUT = "; data.workers=0 reads images without workers"


def _check_queues(workers: int) -> None:
    """Make as many queues as workers need, and take them away: where torch fails at it, its own clean-up fails, too."""
    try:
        queues = [torch.multiprocessing.get_context().Queue() for _ in range(workers + 3)]
    except OSError as error:
        raise InputError(_no_shared_memory()) from error
    for queue in queues:
        queue.close()


def reason_of_workers(message: str) -> str | None:
    """Why workers cannot go on, in words, from torch's message; None where it is about something else."""
    if "DataLoader worker" not in message:
        return None
    if any(words in message for words in ("Bus error", "shared memory", "No space left on device")):
        return _no_shared_memory()
    if "killed by signal" in message or "exited unexpectedly" in message:
        return f"a worker that reads images was killed, as the system does where memory is used up{_WITHOUT}"
    return None


def _no_shared_memory() -> str:
    """The message for workers without shared memory: how much there is, where it can be asked, and how to get more."""
    said = "the workers that read images have no shared memory left"
    with suppress(OSError):
        total = shutil.disk_usage("/dev/shm").total / 2**10
        said += f" (/dev/shm has {total:,.0f} kB in all; docker run --shm-size=8g gives a container more)"
    return said + _WITHOUT


def _end_where_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _start_worker(worker: int) -> None:
    # A signal to the whole process group (torchrun, Ctrl-C) is for the training process, which finishes its iteration
    # and needs this one for it. A worker whose parent is gone notices that by itself and ends.
    os.setpgrp()
    # Batch systems signal every process of a job. SIGTERM counts where it is from the training process alone, which
    # sends it once and then waits for the end of this one.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # macOS does not tell who sends
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_where_parent_says, daemon=True).start()
    # Processes are the parallelism: threads inside of them only compete.
    torch.set_num_threads(1)
    # Every tensor on its way would hold a file descriptor open, and many small targets exhaust them.
    torch.multiprocessing.set_sharing_strategy("file_system")
