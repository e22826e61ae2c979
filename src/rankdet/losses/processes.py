"""The processes of a distributed run whose candidates a loss ranks in one pool."""

from __future__ import annotations

import torch
from torch import Tensor, distributed
from torch.distributed import distributed_c10d

Sync = bool | distributed.ProcessGroup
"""The processes whose candidates are one pool: this one alone (False), all of the run (True), or those of a group."""


class Processes:
    """The processes of a group, or this process alone.

    A loss over all processes is that of one process with all their candidates, however these are split. Only positives
    are gathered; sums over negatives are reduced. Each process gets the value of the whole and the gradient of its own
    part, times the number of processes. Data-parallel training averages the gradients of the processes, and the average
    is the gradient of the whole.

    Parameters
    ----------
    sync
        True for all processes of the run, looked up at each call. False for this process alone. Or a group, or the name
        of one, empty for this process alone.
    """

    def __init__(self, sync: Sync | str = False) -> None:
        self.sync = sync

    @property
    def group(self) -> distributed.ProcessGroup | None:
        """The group, where it has more than one process."""
        if self.sync is False or self.sync == "" or not (distributed.is_available() and distributed.is_initialized()):
            return None
        group: distributed.ProcessGroup | None
        if isinstance(self.sync, str):
            # torch's own operators find a group by its name like this; there is no public way.
            group = distributed_c10d._resolve_process_group(self.sync)  # type: ignore[attr-defined, arg-type]
        else:
            group = distributed.group.WORLD if self.sync is True else self.sync
        return group if group is not None and group.size() > 1 else None

    @property
    def name(self) -> str:
        """Name of the group; empty for this process alone."""
        return "" if self.group is None else self.group.group_name

    @property
    def size(self) -> int:
        """Number of processes."""
        return 1 if self.group is None else self.group.size()

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes, detached."""
        value = value.detach()
        if self.group is not None:
            value = value.clone()
            distributed.all_reduce(value, group=self.group)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes, detached."""
        return self.sum(value) / self.size

    def gather(self, columns: Tensor) -> tuple[Tensor, int]:
        """(R, n) columns of each process side by side, and where this one's begin; n may differ and be 0."""
        if self.group is None:
            return columns, 0
        sizes = torch.zeros(self.size, dtype=torch.int64, device=columns.device)
        sizes[self.group.rank()] = columns.shape[1]
        counts = self.sum(sizes).tolist()
        padded = torch.nn.functional.pad(columns, (0, max(counts) - columns.shape[1])).contiguous()
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.all_gather(parts, padded, group=self.group)
        whole = torch.cat([part[:, :count] for part, count in zip(parts, counts, strict=True)], dim=1)
        return whole, sum(counts[: self.group.rank()])


def with_value(local: Tensor, value: Tensor) -> Tensor:
    """``value``, with the gradient of ``local``."""
    return local + (value - local.detach())
