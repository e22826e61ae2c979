"""What a test finds in two processes of one run: its own, and one that runs the file of the test as a program.

Such a file ends with ``if __name__ == "__main__": two_processes.join(found_by, int(sys.argv[1]), Path(sys.argv[2]))``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed


def in_both(program: str, found_by: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``found_by`` returns for the rank of each process."""
    paths = [str(Path(__file__).parent), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    other = subprocess.Popen([sys.executable, "-W", "error", program, "1", str(folder)], env=environment)
    join(found_by, 0, folder)  # here, where all is imported
    assert other.wait(timeout=240) == 0
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def join(found_by: Callable[[int], Any], rank: int, folder: Path) -> None:
    """One of the processes, which leaves what it finds in the folder."""
    meeting = f"file://{(folder / 'meeting').absolute()}"
    distributed.init_process_group("gloo", meeting, timeout=timedelta(minutes=4), rank=rank, world_size=2)
    try:
        torch.save(found_by(rank), folder / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
