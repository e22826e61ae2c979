"""The time that a training takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Clock:
    """Seconds of training, without evaluation and checkpoints.

    Parameters
    ----------
    seconds, processor_seconds
        Of the whole run: on the wall and of the processor.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0

    def __post_init__(self) -> None:
        self._before_interval, self._data_seconds = self.seconds, 0.0

    @contextmanager
    def working(self) -> Iterator[None]:
        """Count what happens inside."""
        start, processor_start = time.perf_counter(), time.process_time()
        yield
        self.seconds += time.perf_counter() - start
        self.processor_seconds += time.process_time() - processor_start

    @contextmanager
    def waiting_for_device(self) -> Iterator[None]:
        """Count the time on the wall."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Note the time as a part of what `working` counts."""
        start = time.perf_counter()
        yield
        self._data_seconds += time.perf_counter() - start

    def interval(self) -> tuple[float, float]:
        """Seconds since the last call, and those of them that were spent waiting for data."""
        passed = self.seconds - self._before_interval, self._data_seconds
        self._before_interval, self._data_seconds = self.seconds, 0.0
        return passed
