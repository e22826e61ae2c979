"""Real processes of the command line, which a fault strikes at a chosen call of a function."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import hotcoco  # noqa: F401  # imported once, before processes are forked
import timm  # noqa: F401
import torch
import torchvision  # noqa: F401

import rankdet.adapters
import rankdet.detectors
import rankdet.losses
import rankdet.recipes.library  # noqa: F401
from rankdet.cli import main, models
from rankdet.losses import alrp_loss_of_labels, rank_sort_loss_of_labels
from rankdet.training import running
from rankdet.training.engine import Loop

PHASES = {
    running._prepared.__code__: "start",
    Loop.go.__code__: "train",
    Loop._write_checkpoint.__code__: "save",
    Loop._evaluate.__code__: "evaluate",
    models.evaluate.__code__: "command",
}
"""Functions, and the phases that they are, of a training but for the last, which is all of ``rankdet evaluate``.

A moment is the number of a call that is made inside.
"""
Moment = tuple[str, int]
TIMEOUT = 900.0
"""Seconds after which a process counts as one that hangs; on a busy machine a sound one takes minutes."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its exit status (negative: the signal), and what it wrote; None: it hung."""

    status: int | None
    text: str

    @property
    def errors(self) -> int:
        """How many errors it told."""
        return self.text.count("rankdet: error: ")


class Process:
    """``rankdet ARGUMENTS`` as one of ``size`` processes, forked from this one, which has imported everything."""

    def __init__(
        self,
        arguments: list[str],
        strike: Callable[[], None] | None = None,
        moment: Moment | None = None,
        calls: Path | None = None,
        rank: int = 0,
        size: int = 1,
        port: int = 0,
    ) -> None:
        self._ended: Ended | None = None
        # A pipe is written to even where the disk is full.
        self._output, output = os.pipe()
        fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, 2**20)
        os.set_blocking(self._output, False)
        self.pid = os.fork()
        if self.pid:
            os.close(output)
            return
        status = 70
        try:
            os.setsid()
            for number in (1, 2):
                os.dup2(output, number)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            if size > 1:
                where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                os.environ |= where | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
            sys.argv = ["rankdet", *arguments]
            counter = _Counter(strike, moment)
            if strike is not None or calls is not None:
                os.register_at_fork(after_in_child=lambda: sys.setprofile(None))
                sys.setprofile(counter.profile)
            try:
                main()
                status = 0
            finally:
                sys.setprofile(None)
                if calls is not None:
                    calls.write_text(json.dumps(counter.counts))
        except SystemExit as exit_:
            status = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status)

    def wait(self, until_stopped: bool = False) -> Ended | None:
        """Wait for its end; with ``until_stopped`` return None where it stands still."""
        if self._ended is not None:
            return self._ended
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG | (os.WUNTRACED if until_stopped else 0))
            if pid and os.WIFSTOPPED(status):
                return None
            if pid:
                return self._end(os.waitstatus_to_exitcode(status))
            time.sleep(0.02)
        self.kill()
        return self._ended

    def kill(self) -> None:
        """End it, and the processes that it has started, where it has not ended."""
        if self._ended is None:
            os.killpg(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self._end(None)

    def go_on(self) -> None:
        """Let it go on where it stands still."""
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, status: int | None) -> Ended:
        try:
            text = os.read(self._output, 2**20).decode(errors="replace")
        except BlockingIOError:  # a worker that lives on holds the pipe, and nothing was written
            text = ""
        os.close(self._output)
        self._ended = Ended(status, text)
        return self._ended


class _Counter:
    """Counts the calls of Python functions in each phase, and strikes at one of them."""

    def __init__(self, strike: Callable[[], None] | None, moment: Moment | None) -> None:
        self.counts = dict.fromkeys(PHASES.values(), 0)
        self._inside: list[str] = []
        self._strike, self._moment = strike, moment

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """What Python calls at each call and return; a training makes millions."""
        phase = PHASES.get(frame.f_code)
        if phase is not None and event == "return":
            self._inside.remove(phase)
        elif phase is not None and event == "call":
            self._inside.append(phase)
        if event == "call":
            for phase in self._inside:
                self.counts[phase] += 1
                if self._moment == (phase, self.counts[phase]) and self._strike is not None:
                    sys.setprofile(None)
                    self._strike()


def load_compiled() -> None:
    """Have numba load what it has compiled before, once for all processes that are forked."""
    logits = torch.zeros(4, 2, requires_grad=True)
    labels, overlap = torch.tensor([0, 2, 2, 1]), torch.ones(2)
    ranking, sorting = rank_sort_loss_of_labels(logits, labels, overlap)
    (ranking + sorting + sum(alrp_loss_of_labels(logits, labels, overlap))).backward()


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
