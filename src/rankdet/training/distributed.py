"""One process or many: what ``torchrun`` started is found in the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rankdet.structures import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run and the device of this one.

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

    def highest(self, value: int) -> int:
        """The largest ``value`` of all processes; waits for the hosts, never for a device."""
        if self.size == 1:
            return value
        shared = torch.tensor(value)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a host tensor over all processes."""
        if self.size == 1:
            return values
        shared = values.clone()
        dist.all_reduce(shared)
        return shared / self.size

    def barrier(self) -> None:
        """Wait for every process."""
        self.highest(0)


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """The world that ``torchrun`` describes in the environment, or a world of one; left again at the end.

    Parameters
    ----------
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    InputError
        When CUDA is asked for and there is none.
    """
    has_cuda = torch.cuda.is_available()
    if device == "cuda" and not has_cuda:
        raise InputError("runtime.device is cuda, but torch finds no GPU; set runtime.device=cpu or auto")
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = torch.device("cpu")
    if device != "cpu" and has_cuda:
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(0, 1, chosen)
        return
    # Small host-side messages (stop requests, statistics, random states) always take gloo, so that they never make a
    # host wait for its GPU.
    dist.init_process_group("gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl")
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()
