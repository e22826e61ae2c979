"""Losses and statistics of the iterations since the last record; they leave the device in one transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rankdet.structures import DivergenceError


class IntervalStatistics:
    """Collects one row of scalars per step.

    On a GPU a look at a loss would make the host wait in every iteration. So rows stay on the device, and the check
    that every loss was finite is made when they are fetched: at each record of the log and before each checkpoint. A
    checkpoint is therefore never written after a loss that was not finite. On the CPU, where a look costs nothing,
    `has_failed` is asked before the weights change.
    """

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._num_terms = 0
        self._on_device: list[Tensor] = []
        self._fetched = torch.empty(0, 0)
        self._iterations: list[tuple[int, list[str]]] = []

    def add(
        self,
        iteration: int,
        terms: Mapping[str, Tensor],
        stats: Mapping[str, Tensor],
        images: Sequence[str],
    ) -> None:
        """Remember the detached scalars of one iteration and the files of its images."""
        names = ("loss", *terms, *stats)
        if self._names and names != self._names:
            raise RuntimeError(f"terms or statistics changed their names from {self._names} to {names}")
        self._names, self._num_terms = names, 1 + len(terms)
        values = [value.float() for value in (*terms.values(), *stats.values())]
        total = torch.stack(values[: len(terms)]).sum()
        self._on_device.append(torch.stack([total, *values]))
        self._iterations.append((iteration, list(images)))

    def has_failed(self, num_steps: int) -> bool:
        """Whether a term of the newest steps is not finite. Waits for the device."""
        rows = torch.stack(self._on_device[-num_steps:])
        return not bool(rows[:, : self._num_terms].isfinite().all())

    def fetch(self) -> Tensor:
        """All rows (iterations, names) on the host.

        Raises
        ------
        DivergenceError
            When a loss is not finite; names the iteration, the terms and the images.
        """
        if self._on_device:
            rows = torch.stack(self._on_device).cpu()
            self._on_device = []
            self._check(rows)
            self._fetched = torch.cat([self._fetched, rows]) if len(self._fetched) else rows
        return self._fetched

    def _check(self, rows: Tensor) -> None:
        is_bad = ~rows[:, : self._num_terms].isfinite()
        if not is_bad.any():
            return
        row = int(is_bad.any(dim=1).nonzero()[0])
        iteration, images = self._iterations[len(self._iterations) - len(rows) + row]
        terms = ", ".join(
            f"{name} = {rows[row, column]:g}" for column, name in enumerate(self._names[: self._num_terms])
        )
        raise DivergenceError(f"the loss is not finite at iteration {iteration}: {terms}; images: {', '.join(images)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns; ``loss``, the sum of the terms, is the first."""
        return self._names

    def clear(self) -> None:
        """Begin a new interval."""
        self._fetched, self._iterations = torch.empty(0, 0), []

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of an interval that is not yet over."""
        return {"names": list(self._names), "num_terms": self._num_terms, "rows": self.fetch()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with an interval."""
        self._names, self._num_terms = tuple(state["names"]), state["num_terms"]
        self._fetched = state["rows"]
        self._iterations = [(-1, [])] * len(self._fetched)
