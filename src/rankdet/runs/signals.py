"""Signals as a polite request: finish the iteration, write a checkpoint, stop."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from typing_extensions import Self

ALWAYS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and the end of a job."""
WHERE_UNUSED = (signal.SIGHUP, signal.SIGUSR1)
"""The end of a connection, and what batch systems send before a limit of time; ``nohup`` ignores the first, and some
programs have handlers of their own for the second."""


class WaitEnded(BaseException):
    """A wait that a request to stop has ended."""


class StopRequest:
    """Remembers the first SIGINT, SIGTERM, SIGHUP or SIGUSR1 while it is entered; a second one has its usual effect.

    The last two are left alone where the caller ignores or handles them. Under ``torchrun`` a second one has no effect:
    it passes on to its processes what some batch systems have sent to all, and insists by SIGKILL.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """Number of the signal that came, or None."""
        self._before: dict[int, Any] = {}
        self._hook = sys.unraisablehook
        self._is_waiting = False

    def __enter__(self) -> Self:
        self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            unused = [number for number in WHERE_UNUSED if signal.getsignal(number) == signal.SIG_DFL]
            self._before = {number: signal.signal(number, self._remember) for number in (*ALWAYS, *unused)}
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._hook
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def ending_waits(self) -> Iterator[None]:
        """What waits inside for others, perhaps for ever, is ended by WaitEnded when a signal comes or has come.

        Where the signal finds a finalizer or a fork, whose exceptions Python ignores, the wait has to end by itself.
        """
        self._is_waiting = True
        try:
            if self.signal is not None:
                raise WaitEnded
            yield
        finally:
            self._is_waiting = False

    def _remember(self, number: int, frame: FrameType | None) -> None:
        is_first, self.signal = self.signal is None, self.signal or number
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            self._give_back()
        if self._is_waiting and is_first:
            raise WaitEnded

    def _unraisable(self, ignored: Any) -> None:
        """Say nothing of an ignored WaitEnded, whose signal is remembered, and of torch's handler for workers.

        torch raises wherever it hears that a worker was killed; the next wait for that worker tells it again.
        """
        is_told_again = isinstance(ignored.exc_value, WaitEnded) or "DataLoader worker" in str(ignored.exc_value)
        if not is_told_again:
            self._hook(ignored)
