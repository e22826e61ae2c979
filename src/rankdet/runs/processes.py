"""One process or many: what ``torchrun`` started is found in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

from rankdet.structures import InputError

T = TypeVar("T")
DIVERGED = 3
"""Exit status of a training whose loss or weights are no longer finite."""
ELSEWHERE = "another process stopped; see its message"


@dataclass(frozen=True)
class World:
    """The processes that work together, and the device of this one.

    Parameters
    ----------
    rank, size
        This process and the number of processes.
    device
        Where this process keeps its tensors.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def alone(cls, device: torch.device) -> Self:
        """The world of one process."""
        return cls(0, 1, device)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """The picklable ``value`` of every process, by rank."""
        if self.size == 1:
            return [value]
        values: list[T | None] = [None] * self.size
        dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    def collect(self, value: T) -> list[T]:
        """The picklable ``value`` of every process, by rank, on the main process alone; elsewhere an empty list."""
        if self.size == 1:
            return [value]
        values: list[T | None] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values or []  # type: ignore[return-value]

    def of_main(self, value: T) -> T:
        """The picklable ``value`` of the main process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def highest(self, value: int) -> int:
        """The largest ``value`` of all processes; waits for the hosts, never for a device."""
        if self.size == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def shared(self, error: InputError | None) -> InputError:
        """The error of this process, or that of the first that has one: the main process can tell it."""
        first = next((one for one in self.gather(error) if one is not None), InputError(ELSEWHERE))
        return error or first

    @contextmanager
    def together(self) -> Iterator[None]:
        """Where one process raises InputError inside, every process raises it at the end: none waits for another."""
        error = None
        try:
            yield
        except InputError as raised:
            error = raised
        if self.highest(error is not None):
            raise self.shared(error)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a host tensor over all processes."""
        if self.size == 1:
            return values
        shared = values.clone()
        dist.all_reduce(shared)
        return shared / self.size

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors, such as buffers with running statistics of own images, the values of the main process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def find_device(device: str | torch.device) -> torch.device:
    """The device of a name: ``"auto"`` is a GPU where there is one; ``"cuda"`` is the GPU of this process.

    Raises
    ------
    InputError
        When CUDA is asked for and there is none, or none for this process, or torch knows no such device.
    """
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if has_cuda else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device {device!r} is none that torch knows; take cpu, cuda or auto") from error
    if found.type == "cuda" and not has_cuda:
        raise InputError(f"the device is to be {device}, but torch finds no GPU; take cpu or auto")
    if found.type == "cuda" and found.index is None:
        number, count = _from_environment("LOCAL_RANK", 0), torch.cuda.device_count()
        if number >= count:
            raise InputError(
                f"process {number} of this machine has no GPU of its own, for torch finds {count}: start at most as "
                "many (--nproc-per-node)"
            )
        return torch.device("cuda", number)
    return found


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """The world that ``torchrun`` describes in the environment, or a world of one; left again at the end.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``: see `find_device`.

    Raises
    ------
    InputError
        When CUDA is asked for and there is none, or the environment describes no world that can be joined.
    """
    chosen = find_device(device)
    rank, size = _from_environment("RANK", 0), _from_environment("WORLD_SIZE", 1)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World.alone(chosen)
        return
    # Small host-side messages (stop requests, statistics, random states) always take gloo, so that they never make a
    # host wait for its GPU.
    try:
        dist.init_process_group("gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl")
    except (ValueError, RuntimeError) as error:
        raise InputError(f"cannot join the {size} processes of WORLD_SIZE: {error}") from error
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()


def store_of_launcher() -> dist.Store | None:  # type: ignore[name-defined]
    """The store of keys and values that ``torchrun`` keeps for its processes until all have ended; None without one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        host, port = os.environ.get("MASTER_ADDR", ""), _from_environment("MASTER_PORT", 0)
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=5))  # type: ignore[attr-defined]
    except (ValueError, RuntimeError):  # torchrun has ended, or somebody has changed the address
        return None
    start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"rankdet/{start}", store)  # type: ignore[attr-defined]


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise InputError(f"{name}={value} in the environment is no number; torchrun sets it, otherwise unset it")
    return int(value)
