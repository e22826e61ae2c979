"""Each kind of fault once; ``python -m tests.faults --count 300`` makes as many as one likes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_trainings_that_faults_befall_end_as_those_that_nothing_disturbs():
    # A process of its own: the trainings are forked from one in which nothing but imports has happened.
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.faults",
        "--count",
        "31",
        "--recipe",
        "rs_faster_rcnn_shapes",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env=environment, cwd=ROOT, check=False
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    assert "| all | 31 |" in result.stdout
