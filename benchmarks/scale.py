"""What a training says to the others of its processes: calls and bytes per iteration, checkpoint and evaluation.

    python benchmarks/scale.py [--processes 1 2 4 8] [--iterations 4] [--positives 1000 10000 100000 600000]

A small Faster R-CNN in its RS form trains on `shapes`, on a CPU by gloo, with ``sync`` in both losses. Every call of a
collective operation of the main process is counted where it is made, with the bytes of the tensors that it gives. The
second table has no processes: it times the Rank & Sort Loss of as many positives, which each process computes of all.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode

from rankdet.data import make_shapes
from rankdet.inference import evaluation
from rankdet.losses import Processes, rank_sort_loss
from rankdet.runs.folder import Run, read_log
from rankdet.training.engine import Loop
from rankdet.training.running import train

PLACES = {
    Processes.sum.__code__: "losses",
    Processes.gather.__code__: "losses",
    evaluation.detect_all.__code__: "evaluation",
    Loop._save.__code__: "checkpoint",
    Loop._accumulate.__code__: "gradients",
    Loop._iterate.__code__: "messages",
}
"""Functions, and what the operations are for that are called inside; the innermost counts."""
PER_ITERATION = ("gradients", "losses", "messages")
SMALL = {
    "data.batch_size": 2,
    "data.workers": 0,
    "schedule.warmup_iterations": 0,
    "evaluation.every": None,
    "evaluation.at_end": True,
    "losses.rpn.sync": True,
    "losses.rcnn.sync": True,
    "runtime.log_interval": 1,
    "runtime.threads": 1,
    "runtime.device": "cpu",
}


class Counting(TorchDispatchMode):
    """Counts collective operations and their bytes by what they are for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def add(self, place: str, given: Any) -> None:
        self.calls[place] += 1
        self.bytes[place] += sum(tensor.nbytes for tensor in _tensors(given))

    def of_losses(self, collective: Callable[..., Any], place: int) -> Callable[..., Any]:
        """The operation, counted where a loss calls it: what is inside of an operator of ours no mode sees."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            if _place(sys._getframe()) == "losses":
                self.add("losses", args[place])
            return collective(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            place = _place(sys._getframe())
            if place != "losses":
                self.add(place, args[1] if "gather" in func.name() else args[0])
        return func(*args, **(kwargs or {}))


def _tensors(value: Any) -> Sequence[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in _tensors(part)]


def _place(frame: FrameType | None) -> str:
    while frame is not None:
        if frame.f_code in PLACES:
            return PLACES[frame.f_code]
        frame = frame.f_back
    return "start and end"


def of_process(data: Path, out: Path, iterations: int) -> dict[str, Any]:
    """Train as one of the processes that the environment describes, and say what it told the others."""
    seconds: list[float] = []
    write = Loop._write_checkpoint

    def timed(self: Loop, state: Any) -> None:
        start = time.perf_counter()
        write(self, state)
        seconds.append(time.perf_counter() - start)

    class Sockets:
        def on_log(self, record: dict[str, Any]) -> None:
            self.number = len([name for name in os.listdir("/proc/self/fd") if _is_socket(f"/proc/self/fd/{name}")])

        def on_evaluation(self, record: dict[str, Any]) -> None: ...

        def on_end(self, run: Any) -> None: ...

    Loop._write_checkpoint = timed  # type: ignore[method-assign]
    changes = SMALL | {"data.folder": str(data), "schedule.iterations": iterations}
    changes |= {"runtime.checkpoint_interval": iterations}
    sockets = Sockets()
    with Counting() as counting:
        distributed.all_reduce = counting.of_losses(distributed.all_reduce, 0)
        distributed.all_gather = counting.of_losses(distributed.all_gather, 1)
        run = train("rs_faster_rcnn_shapes", out=out, changes=changes, callbacks=[sockets], console=Console(quiet=True))
    found = {name: (counting.calls[name], counting.bytes[name]) for name in {*PLACES.values(), "start and end"}}
    if os.environ["RANK"] != "0":
        return {}
    records = [record["statistics"] for record in read_log(Run(out).log) if record["kind"] == "train"]
    positives = sum(row["rpn/positives"] + row["rcnn/positives"] for row in records) / len(records)
    path = Run(run.folder).latest_checkpoint()
    return {
        "found": found,
        "positives": positives,
        "sockets": getattr(sockets, "number", 0),
        "size": path.stat().st_size,
        "seconds": min(seconds),
        "detections": sum(1 for _ in json.loads(Run(out).detections.read_text())),
    }


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:
        return False


def of_all(size: int, data: Path, folder: Path, iterations: int) -> dict[str, Any]:
    """What the main process of ``size`` says; the processes are forked from this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(size):
        children.append(os.fork())
        if children[-1] == 0:
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(size)}
            os.environ |= where
            found = of_process(data, folder / f"run{size}", iterations)
            if found:
                (folder / f"{size}.json").write_text(json.dumps(found))
            os._exit(0)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        raise SystemExit("a process has failed")
    return dict(json.loads((folder / f"{size}.json").read_text()))


def seconds_of_loss(num_positives: int, num_negatives: int = 100_000) -> float:
    """Seconds of a Rank & Sort Loss with its gradient, the shortest of three."""
    logits = torch.randn(num_positives + num_negatives, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.cat([torch.linspace(0.1, 1, num_positives), torch.zeros(num_negatives)])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        sum(rank_sort_loss(logits, targets)).backward()  # type: ignore[union-attr]
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--positives", type=int, nargs="*", default=[1_000, 10_000, 100_000, 600_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = "processes, gradients, losses, messages, positives of a process, checkpoint, gathered for it, written in, "
    columns = (names + "gathered by an evaluation, detections, sockets").split(", ")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = make_shapes(folder / "shapes", train=32, val=16, size=64)
        for size in options.processes:
            each = of_all(size, data, folder, options.iterations)
            found = each["found"]
            cells = [_per_iteration(*found[name], options.iterations) for name in PER_ITERATION]
            cells += [f"{each['positives']:.0f}", f"{each['size'] / 1e6:.2f} MB", f"{found['checkpoint'][1]:,} B"]
            cells += [f"{each['seconds']:.3f} s", f"{found['evaluation'][1]:,} B", f"{each['detections']:,}"]
            print(f"| {size} | {' | '.join(cells)} | {each['sockets']} |", flush=True)
    print("\n| positives of all | seconds of a loss |\n|---|---|")
    for number in options.positives:
        print(f"| {number:,} | {seconds_of_loss(number):.3f} |", flush=True)


def _per_iteration(calls: int, size: int, iterations: int) -> str:
    return f"{calls / iterations:g}: {size / iterations:,.0f} B" if calls else "–"


if __name__ == "__main__":
    main()
