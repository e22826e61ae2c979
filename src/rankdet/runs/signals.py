"""SIGINT and SIGTERM as a polite request: finish the iteration, write a checkpoint, stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from typing_extensions import Self


class StopRequest:
    """Remembers the first SIGINT or SIGTERM while it is entered; a second one has its usual effect."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """Number of the signal that came, or None."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            self._before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self.__exit__()
