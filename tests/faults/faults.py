"""Faults: what befalls a training, in which phase, and what may be seen of it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.runs.folder import Run

REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True)
class Place:
    """Where a fault strikes: the run folder and the data folder."""

    run: Path
    data: Path

    def images(self) -> list[Path]:
        """The images to learn from."""
        return sorted((self.data / "images" / "train").iterdir())


Strike = Callable[[Place, Random], None]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    Parameters
    ----------
    name
        What the table calls it.
    strike
        What happens in the process, at its moment.
    phase
        The phase in which it happens: a name of `running.PHASES`.
    statuses
        Exit statuses that the process may end with; that of another process of the training is not looked at. 0 is
        always one of them: the fault may have come too late to matter.
    afterwards
        What happens to the run folder once the process has ended.
    beside
        The arguments of a second command, which is started while the first one stands still and must be refused.
    rank
        The process that is struck; 1 needs two.
    needs_workers
        Whether it strikes a worker.
    is_foreign
        Whether the newest checkpoint is that of another run afterwards: it must be refused, and is deleted then.
    of_evaluation
        Whether ``rankdet evaluate`` is struck, which evaluates a run that has ended.
    """

    name: str
    strike: Strike
    phase: str = "train"
    statuses: frozenset[int] = frozenset({2})
    afterwards: Strike | None = None
    beside: str | None = None
    rank: int = 0
    needs_workers: bool = False
    is_foreign: bool = False
    of_evaluation: bool = False


def kill(place: Place, draw: Random) -> None:
    """End this process without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def request(place: Place, draw: Random) -> None:
    """Ask this process to stop."""
    os.kill(os.getpid(), draw.choice(REQUESTS))


def request_twice(place: Place, draw: Random) -> None:
    """Ask this process to stop, and insist."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:  # the first one ends a wait by an exception
        os.kill(os.getpid(), signal.SIGTERM)


def request_of_all(place: Place, draw: Random) -> None:
    """Ask every process of the training, as a batch system does: also those that read images."""
    chosen = draw.choice(REQUESTS)
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, chosen)
    os.kill(os.getpid(), chosen)


def stand_still(place: Place, draw: Random) -> None:
    """Wait until somebody lets this process go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


def request_and_stand_still(place: Place, draw: Random) -> None:
    """Be asked to stop, and be slow about it."""
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGSTOP)


def kill_worker(place: Place, draw: Random) -> None:
    """End a process that reads images, as the system does where memory is used up."""
    children = multiprocessing.active_children()
    if children:
        os.kill(draw.choice(children).pid or 0, signal.SIGKILL)


def fill_disk(size: int, place: Place, draw: Random) -> None:
    """From here on no file can become larger, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def make_read_only(place: Place, draw: Random) -> None:
    """From here on this process may write nothing new into the run folder."""
    for folder in filter(Path.exists, (place.run, place.run / "checkpoints")):
        folder.chmod(0o555)
    # The capability of root that no mode keeps out is given up; for others there is none to give up.
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)
    capabilities = (ctypes.c_uint32 * 6)()
    libc.capget(header, capabilities)
    capabilities[0] &= ~0b110
    libc.capset(header, capabilities)


def remove_image(place: Place, draw: Random) -> None:
    """An image is gone."""
    draw.choice(place.images()).unlink()


def replace_image(place: Place, draw: Random) -> None:
    """An image is no image any more."""
    draw.choice(place.images()).write_bytes(b"no image")


def remove_log(place: Place, draw: Random) -> None:
    """The log is gone."""
    Run(place.run).log.unlink(missing_ok=True)


def limit_shared_memory(kilobytes: int, place: Place, draw: Random) -> None:
    """This process and its children see so little shared memory, in a name space of their own."""
    libc = ctypes.CDLL(None, use_errno=True)
    new_namespace, private = 0x20000, 0x44000
    if libc.unshare(new_namespace) or libc.mount(None, b"/", None, private, None):
        return  # a container may forbid it: then nothing befalls this training
    libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", 0, b"size=%dk" % kilobytes)


def damage(change: Callable[[bytearray, Random], None], place: Place, draw: Random) -> None:
    """Damage the newest checkpoint."""
    checkpoints = Run(place.run).checkpoints()
    if checkpoints:
        content = bytearray(checkpoints[-1].read_bytes())
        change(content, draw)
        checkpoints[-1].unlink()  # the best one may be another name of it
        checkpoints[-1].write_bytes(content)


def cut(content: bytearray, draw: Random) -> None:
    """Cut something off the end."""
    del content[draw.randrange(len(content)) :]


def flip(content: bytearray, draw: Random) -> None:
    """Flip a bit."""
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def clear_page(content: bytearray, draw: Random) -> None:
    """Zeros in place of a page of memory."""
    start = draw.randrange(max(1, len(content) // 4096)) * 4096
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))


def restore_older(place: Place, draw: Random) -> None:
    """The newest checkpoint is replaced by the one before, as from an older copy of the folder."""
    checkpoints = Run(place.run).checkpoints()
    if len(checkpoints) >= 2:
        checkpoints[-1].unlink()  # the best one may be another name of it
        shutil.copyfile(checkpoints[-2], checkpoints[-1])


def swap(place: Place, draw: Random) -> None:
    """The newest checkpoint is replaced by that of a run with another seed."""
    checkpoints = Run(place.run).checkpoints()
    if checkpoints:
        state = load_checkpoint(checkpoints[-1])
        state["recipe"]["seed"] += 1
        save_checkpoint(checkpoints[-1], state)


KILLED = frozenset({-signal.SIGKILL})
STOPPED = frozenset(128 + number for number in REQUESTS)
FAULTS: Sequence[Fault] = (
    Fault("kill -9 before the first iteration", kill, "start", KILLED),
    Fault("kill -9 in training", kill, "train", KILLED),
    Fault("kill -9 while a checkpoint is written", kill, "save", KILLED),
    Fault("kill -9 in an evaluation", kill, "evaluate", KILLED),
    Fault("kill -9 of one of two processes", kill, "train", KILLED, rank=1),
    Fault("kill -9 of a worker", kill_worker, needs_workers=True),
    Fault("a signal", request, statuses=STOPPED),
    Fault("a signal in an evaluation", request, "evaluate", STOPPED),
    Fault("a signal to one of two processes", request, statuses=STOPPED, rank=1),
    Fault("a signal to all processes and workers", request_of_all, statuses=STOPPED, needs_workers=True),
    Fault("SIGTERM twice", request_twice, statuses=frozenset({-signal.SIGTERM})),
    *(
        Fault(f"disk full at {size:,} bytes", partial(fill_disk, size), "save")
        for size in (0, 2_000, 50_000, 1_000_000)
    ),
    Fault("folder becomes read-only", make_read_only),
    Fault("checkpoint cut off", kill, "train", KILLED, afterwards=partial(damage, cut)),
    Fault("bit of a checkpoint flipped", kill, "train", KILLED, afterwards=partial(damage, flip)),
    Fault("page of a checkpoint zeroed", kill, "train", KILLED, afterwards=partial(damage, clear_page)),
    Fault("checkpoint replaced by an older one", kill, "train", KILLED, afterwards=restore_older),
    Fault("image removed", remove_image),
    Fault("image replaced", replace_image),
    Fault("log removed", remove_log, statuses=frozenset()),
    *(
        Fault(f"shared memory of {size} kB", partial(limit_shared_memory, size), "start", needs_workers=True)
        for size in (16, 64, 256)
    ),
    Fault("second training beside it", stand_still, statuses=frozenset(), beside="new"),
    Fault("second resume beside it", stand_still, statuses=frozenset(), beside="resume"),
    Fault("resumed while it stops", request_and_stand_still, statuses=STOPPED, beside="resume"),
    Fault("checkpoint swapped with another run's", kill, "train", KILLED, afterwards=swap, is_foreign=True),
    Fault("kill -9 in `rankdet evaluate`", kill, "command", KILLED, of_evaluation=True),
)
