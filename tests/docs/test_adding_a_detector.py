"""docs/adding-a-detector.md is followed to the letter, from an empty folder outside of the package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rankdet
from rankdet.data import make_shapes
from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run
from rankdet.structures import InputError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-detector.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def run_in(folder: Path, *command: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the page, and data."""
    folder = tmp_path_factory.mktemp("outside")
    make_shapes(folder / "my_data", train=16, val=4, size=64)
    file, *_ = blocks("python")
    (folder / "my_detector.py").write_text(file)
    return folder


def test_the_detector_of_the_page_trains_loads_and_resumes_from_python(folder: Path) -> None:
    script = "\n".join(blocks("python")[1:])
    promised = re.findall(r"^print\(.*\)  # (.*)$", script, re.MULTILINE)
    (folder / "script.py").write_text(script)
    printed = run_in(folder, sys.executable, "script.py").splitlines()
    assert [line for line in printed if line in ("True", "False")] == promised == ["True", "True", "True"]
    assert Run(folder / "runs" / "mine").checkpoint(20).exists()


def test_the_recipe_of_the_page_trains_from_the_command_line_and_is_loaded_by_those_who_trust_it(folder: Path) -> None:
    (folder / "mine.yaml").write_text(blocks("yaml")[0])
    for line in blocks("bash")[0].splitlines():
        run_in(folder, sys.executable, "-m", *line.split())
    assert list((folder / "found").glob("*.png"))
    run = Run(folder / "runs" / "command")
    assert json.loads(run.evaluation.read_text())["ranking"]["head"] == "cells"
    whole = run.checkpoint(4)
    expected = load_checkpoint(whole)["detector"]
    whole.unlink()
    run_in(folder, sys.executable, "-m", "rankdet", "train", "--resume", "runs/command")
    resumed = load_checkpoint(whole)["detector"]
    assert all(torch.equal(value, resumed[name]) for name, value in expected.items())
    with pytest.raises(InputError, match="my_detector:MyDetector is no part of rankdet"):
        rankdet.load(run.folder)
    assert "my_detector" not in sys.modules
