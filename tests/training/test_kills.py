"""A training that is killed again and again, anywhere, ends as one that nothing disturbed.

``RANKDET_KILLS=20 pytest tests/training/test_kills.py`` kills it more often than the tests otherwise do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rankdet.runs.folder import Run

from .comparing import clean, equal, records

KILLS = int(os.environ.get("RANKDET_KILLS", "2"))
CHANGES = (
    "detector.backbone={type: timm, name: test_efficientnet, weights: null, out_indices: [2, 3], "
    "frozen_batch_norm: false}",
    "ema={decay: 0.9, warmup_iterations: 3}", "runtime.precision=float16", "evaluation.every=2",
    "evaluation.patience=2", "schedule.iterations=20", "runtime.checkpoint_interval=1", "runtime.log_interval=1",
)  # fmt: skip
SCRIPT = """
import json, os, random, signal, sys, traceback
from pathlib import Path
from rich.console import Console
import rankdet.adapters, rankdet.detectors, rankdet.losses, timm, torchvision, hotcoco
from rankdet.training.running import train

recipe, folder, kills, changes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
console, draw, calls = Console(quiet=True), random.Random(kills), 0


class Counting:
    first = 0

    def on_log(self, record):
        self.first = self.first or calls

    def on_evaluation(self, record): ...

    def on_end(self, run):
        (folder / "calls.json").write_text(json.dumps([self.first, calls]))


def count(last):
    # Functions are called everywhere: in the network, in the middle of writing a file, between two files.
    def profile(frame, event, argument):
        global calls
        calls += event == "call"
        if last is not None and calls > last:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.setprofile(profile)


def run(out, last):
    child = os.fork()  # nothing but imports has happened here
    if child == 0:
        try:
            count(last)
            callbacks = [Counting()] if last is None and out.name == "whole" else []
            if out.exists() and (out / "recipe.yaml").exists():
                train(resume=out, console=console)
            else:
                train(recipe, out=out, changes=changes, console=console, callbacks=callbacks)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


assert run(folder / "whole", None) == 0
first, whole = json.loads((folder / "calls.json").read_text())
number, killed = 0, []
while killed.count(-signal.SIGKILL) < kills:
    out = folder / f"killed{number}"
    killed.append(run(out, draw.randrange(first // 2, first + whole // 4)))
    assert killed[-1] in (0, -signal.SIGKILL), killed
    number += killed[-1] == 0
assert run(folder / f"killed{number}", None) == 0
"""


def left(folder: Path) -> dict[str, Any]:
    """What a run leaves, apart from times."""
    run = Run(folder)
    states = {path.name: clean(path) for path in sorted((folder / "checkpoints").iterdir())}
    texts = [path.read_text() for path in (run.recipe, run.data, run.evaluation, run.detections)]
    return {
        "states": states,
        "log": records(folder),
        "texts": texts,
        "names": sorted(path.name for path in folder.iterdir()),
    }


def test_averages_scales_the_best_and_patience_survive_kills_anywhere(tiny_file: Path, tmp_path: Path):
    script = tmp_path / "kills.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tiny_file), str(tmp_path), str(KILLS), *CHANGES]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=300 + 60 * KILLS, env=environment, check=False
    )
    assert result.returncode == 0, result.stderr
    expected = left(tmp_path / "whole")
    assert "weights" in expected["states"]["best.pt"]
    assert max(record["iteration"] for record in expected["log"]) < 20  # patience ended it
    runs = sorted(tmp_path.glob("killed*"))
    assert runs
    for folder in runs:
        assert equal(left(folder), expected), json.dumps(left(folder)["names"])
