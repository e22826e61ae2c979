"""What a training measures of its iterations: losses, statistics and seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rankdet.runs.checkpoint import TrainState
from rankdet.structures import DivergenceError


class IntervalStatistics:
    """Losses and statistics of the steps since the last record, one row of scalars per step.

    On a GPU a look at a loss would make the host wait in every iteration. So rows stay on the device, and leave it in
    one transfer when they are fetched: at each record of the log and before each checkpoint. There every loss is
    checked, so that no checkpoint is written after a loss that was not finite. On a CPU, where a look costs nothing,
    `has_failed` is asked before the weights change.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        """Names of the columns; ``loss``, the sum of the terms, is the first."""
        self._num_terms = 0
        self._on_device: list[Tensor] = []
        self._fetched = torch.empty(0, 0)
        self._sources: list[tuple[int, Sequence[str]]] = []

    def add(
        self, iteration: int, terms: Mapping[str, Tensor], stats: Mapping[str, Tensor], images: Sequence[str]
    ) -> None:
        """Remember the detached scalars of a step of an iteration, and the files of its images."""
        names = ("loss", *terms, *stats)
        if self.names and names != self.names:
            if self._sources:
                raise RuntimeError(f"terms or statistics changed their names from {self.names} to {names}")
            # The rows, if any, are of a checkpoint by another version, whose losses had other statistics.
            self._fetched = torch.empty(0, 0)
        self.names, self._num_terms = names, 1 + len(terms)
        values = [value.float() for value in (*terms.values(), *stats.values())]
        total = torch.stack(values[: len(terms)]).sum()
        self._on_device.append(torch.stack([total, *values]))
        self._sources.append((iteration, images))

    def has_failed(self, num_steps: int) -> bool:
        """Whether a term of the newest steps is not finite. Waits for the device."""
        rows = torch.stack(self._on_device[-num_steps:])
        return not bool(rows[:, : self._num_terms].isfinite().all())

    def fetch(self) -> Tensor:
        """All rows (steps, names) on the host.

        Raises
        ------
        DivergenceError
            When a loss is not finite; names the iteration, the terms and the images.
        """
        if self._on_device:
            rows, self._on_device = torch.stack(self._on_device).cpu(), []
            is_bad = ~rows[:, : self._num_terms].isfinite()
            if is_bad.any():
                row = int(is_bad.any(dim=1).nonzero()[0])
                iteration, images = self._sources[row - len(rows)]
                named = zip(self.names, rows[row, : self._num_terms].tolist(), strict=False)
                terms = ", ".join(f"{name} = {value:g}" for name, value in named)
                text = f"the loss is not finite at iteration {iteration}: {terms}; images: {', '.join(images)}"
                raise DivergenceError(text)
            self._fetched = torch.cat([self._fetched, rows]) if len(self._fetched) else rows
        return self._fetched

    def clear(self) -> None:
        """Begin a new interval."""
        self._fetched, self._sources = torch.empty(0, 0), []

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of an interval that is not yet over."""
        return {"names": list(self.names), "num_terms": self._num_terms, "rows": self.fetch()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with an interval."""
        self.names, self._num_terms, self._fetched = tuple(state["names"]), state["num_terms"], state["rows"]


class Clock:
    """Adds the seconds of training, without evaluations and checkpoints, to the state of a training."""

    def __init__(self, state: TrainState) -> None:
        self._state, self._interval_start, self.data_seconds = state, state.seconds, 0.0

    @contextmanager
    def training(self) -> Iterator[None]:
        """Count what happens inside, on the wall and of the processor."""
        start, processor_start = time.perf_counter(), time.process_time()
        yield
        self._state.seconds += time.perf_counter() - start
        self._state.processor_seconds += time.process_time() - processor_start

    def interval(self) -> tuple[float, float]:
        """The seconds of training since the last call, and those of them that were spent waiting for data."""
        passed = self._state.seconds - self._interval_start, self.data_seconds
        self._interval_start, self.data_seconds = self._state.seconds, 0.0
        return passed
