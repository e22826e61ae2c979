"""Trainings as processes of their own: started, locked, asked to stop."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from .experiments import Command


class Process(Protocol):
    """What the harness asks of a process that it has started."""

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        ...

    def terminate(self) -> None:
        """Ask it to stop."""
        ...


Launch = Callable[[Command, Path, Mapping[str, str], int], Process]
"""Starts a command: its output goes to a file, with further variables in the environment; the lock is to be held by the
process, so that a training that outlives a killed harness still keeps others away."""


def start_process(command: Command, output: Path, environment: Mapping[str, str], lock: int) -> Process:
    """Start a command as a process of its own session: Ctrl-C is for the harness, which then asks it to stop."""
    with output.open("ab") as file:
        return subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment),
            pass_fds=(lock,),
            start_new_session=True,
        )


def take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a file, or None where another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def last_words(output: Path) -> str:
    """The last line of an output that says anything, without the name of the program."""
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines()]
    line = next((line for line in reversed(lines) if line), "it said nothing")
    return line.removeprefix("rankdet: error: ")


def describe_status(status: int) -> str:
    """An exit status in words.

    Examples
    --------
    >>> describe_status(1), describe_status(-9)
    ('exit status 1', 'signal SIGKILL')
    """
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
