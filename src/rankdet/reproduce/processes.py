"""Processes of trainings: starting and stopping them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from .experiments import Command


class Process(Protocol):
    """Interface of a process that the harness has started."""

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        ...

    def terminate(self) -> None:
        """Ask the process to stop."""
        ...


Launch = Callable[[Command, Path, Mapping[str, str], int], Process]
"""Function that starts a command, with its output in a file and further variables in the environment.

The process holds the lock, so that a training that outlives a killed harness still excludes others.
"""


def start_process(command: Command, output: Path, environment: Mapping[str, str], lock: int) -> Process:
    """Start a command in a new session, so that Ctrl-C reaches only the harness, which then asks it to stop."""
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


def last_words(output: Path) -> str:
    """Return the last line of an output that is not empty, without the name of the program."""
    lines = [line.strip() for line in output.read_text(encoding="utf-8", errors="replace").splitlines()]
    line = next((line for line in reversed(lines) if line), "it said nothing")
    return line.removeprefix("rankdet: error: ")


def describe_status(status: int) -> str:
    """Return an exit status in words.

    Examples
    --------
    >>> describe_status(1), describe_status(-9)
    ('exit status 1', 'signal SIGKILL')
    """
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
