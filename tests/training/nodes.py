"""Nodes of ``torchrun`` on the loopback interface, whose processes are forked.

Agents and their options are those of ``torchrun``. Its processes would import everything anew, which takes each longer
than these trainings; forked ones have it. ``python -m tests.training.nodes RECIPE FOLDER NAMES`` trains on nodes that
live and die.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, get_args_parser

from rankdet import cli
from rankdet.runs.folder import Run

from ..faults.running import free_port, load_compiled

TIMEOUT = 240.0


class Node:
    """An agent with its processes, in a session of their own, which write to the file ``output``."""

    def __init__(self, options: Sequence[str], arguments: Sequence[str], output: Path) -> None:
        self.output = output
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"  # see docs/scale.md
            with output.open("a") as file:
                for number in (1, 2):
                    os.dup2(file.fileno(), number)
            config, *_ = config_from_args(get_args_parser().parse_args([*options, "rankdet"]))
            config.start_method = "fork"
            status = 1
            try:
                elastic_launch(config, _process)(list(arguments))
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)

    def kill(self) -> None:
        """End the agent and its processes as a loss of power does."""
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def wait(self) -> int:
        """Its exit status."""
        until(lambda: bool(os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)), self.output)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _process(arguments: list[str]) -> None:
    sys.argv = ["rankdet", *arguments]
    cli.main()


def until(condition: Callable[[], bool], output: Path) -> None:
    """Wait; raises AssertionError with what a node has written where it takes too long."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.01)


def together(port: int, nodes: str, processes: int) -> list[str]:
    """The options of one node of several."""
    return [
        *("--nnodes", nodes, "--nproc-per-node", str(processes), "--max-restarts", "3"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", str(port)),
        *("--rdzv-conf", "last_call_timeout=2", "--local-addr", "127.0.0.1", "--monitor-interval", "0.1"),
    ]


def main(recipe: str, folder: Path, names: Sequence[str]) -> None:
    """Train on one node of four processes, and on two of two, one of which dies.

    Names: ``again`` (it is started again), ``fewer`` (it is not), ``other`` (two nodes do not train the same).
    """

    def node(name: str, options: Sequence[str], *changes: str) -> Node:
        arguments = ["train", recipe, "--out", str(folder / name), "--resume-if-exists", *changes]
        return Node(options, arguments, folder / f"{name}.txt")

    load_compiled()
    assert node("whole", together(free_port(), "1", 4)).wait() == 0
    for name, nodes in (("again", "2"), ("fewer", "1:2")):
        if name in names:
            options = together(free_port(), nodes, 2)
            first, second = node(name, options), node(name, options)
            until(Run(folder / name).checkpoint(4).exists, second.output)
            second.kill()
            left = [first, node(name, options)] if name == "again" else [first]
            assert [each.wait() for each in left] == [0] * len(left), first.output.read_text()
    if "other" in names:
        options = [*together(free_port(), "2", 1), "--max-restarts", "0"]
        both = [node("other", options), node("other", options, f"data.folder={folder / 'other_shapes'}", "seed=1")]
        assert [each.wait() for each in both] == [1, 1]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
