"""What the lock of a run folder and the checksums of checkpoints cost beside a small training, on one thread.

``python benchmarks/reliability.py`` trains 60 iterations of a small recipe and resumes them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

from rankdet.data import make_shapes
from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run
from rankdet.structures import check_archive
from rankdet.training.running import train

ITERATIONS, REPEATS = 60, 20


def seconds(work: Callable[[], object]) -> float:
    """The shortest time of several."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def lock(run: Run) -> None:
    """Take the lock of a folder and give it back."""
    with run.locked():
        pass


def main() -> None:
    """Train, and print a table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = make_shapes(Path(folder) / "shapes", train=40, val=10)
        changes = {
            "schedule.iterations": ITERATIONS,
            "data.folder": data,
            "runtime.threads": 1,
            "runtime.device": "cpu",
        }
        run = Run(Path(folder) / "run")
        start = time.perf_counter()
        train("rs_faster_rcnn_shapes", changes=changes, out=run.folder, console=Console(quiet=True))
        whole = time.perf_counter() - start
        path = run.latest_checkpoint()
        locking, checking = seconds(lambda: lock(run)), seconds(lambda: check_archive(path))
        reading = seconds(lambda: load_checkpoint(path))
        size = path.stat().st_size / 1e6
    print("| what | seconds | share of the run |")
    print("|---|---|---|")
    print(f"| {ITERATIONS} iterations and an evaluation | {whole:.1f} | 100 % |")
    print(f"| the lock | {locking:.5f} | {locking / whole:.4%} |")
    print(f"| checksums of a checkpoint of {size:.1f} MB | {checking:.5f} | {checking / whole:.3%} |")
    print(f"| reading it, with them | {reading:.5f} | {reading / whole:.3%} |")


if __name__ == "__main__":
    main()
