"""Two nodes of ``torchrun`` train as one does, and go on when one of them dies."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import rankdet
from rankdet.data import make_shapes
from rankdet.runs.folder import Run

from ..conftest import TINY
from ..faults.trials import difference, left
from .comparing import equal, records

ROOT = Path(__file__).resolve().parents[2]


def trained(folder: Path, *names: str) -> Path:
    """The runs of `nodes`, of 22 images in batches of eight, and 6 to evaluate on by four processes."""
    data = make_shapes(folder / "shapes", train=22, val=6, size=64)
    make_shapes(folder / "other_shapes", train=21, val=6, size=64)
    recipe = folder / "tiny.yaml"
    changes = {
        "data": TINY["data"] | {"folder": str(data)},
        "schedule": {"iterations": 8, "warmup_iterations": 2},
        "evaluation": {"at_end": True, "batch_size": 1},
    }
    recipe.write_text(yaml.safe_dump(TINY | changes))
    command = [sys.executable, "-m", "tests.training.nodes", str(recipe), str(folder), *names]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=environment, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("nodes"), "again", "other")


def test_two_nodes_of_which_one_is_killed_and_started_again_end_as_one_node_to_the_bit(runs: Path):
    assert "going on at iteration 4" in (runs / "again.txt").read_text()
    whole, again = left(runs / "whole"), left(runs / "again")
    assert equal(again, whole), difference(again, whole)


@pytest.mark.slow
def test_a_node_that_is_left_alone_goes_on_with_its_own_processes(tmp_path: Path):
    runs = trained(tmp_path, "fewer")
    said = (runs / "fewer.txt").read_text()
    assert "changed: 4 → 2 processes" in said
    assert "going on at iteration 4" in said
    before, after = ([row for row in records(runs / name) if row["iteration"] <= 3] for name in ("whole", "fewer"))
    assert before == after
    assert Run(runs / "fewer").checkpoint(8).exists()


def test_nodes_that_share_an_evaluation_find_in_each_image_once_what_one_process_finds(runs: Path, tmp_path: Path):
    rankdet.evaluate(runs / "again", runs / "shapes", out=tmp_path)
    alone, shared = (json.loads(Run(folder).detections.read_text()) for folder in (tmp_path, runs / "again"))
    assert {record["image_id"] for record in shared} == {record["image_id"] for record in alone}
    assert sorted(map(str, shared)) == sorted(map(str, alone))
    assert json.loads(Run(tmp_path).evaluation.read_text())["AP"] == pytest.approx(
        json.loads(Run(runs / "again").evaluation.read_text())["AP"], abs=1e-12
    )


def test_nodes_with_other_data_or_another_command_do_not_train_together(runs: Path):
    lines = (runs / "other.txt").read_text().splitlines()
    said = [line for line in lines if line.startswith("rankdet: error: ")]
    assert said
    for line in said:
        assert "is to train otherwise than the main one: images 2" in line
        assert re.search(r"images (21, not 22|22, not 21); .*; seed (1, not 0|0, not 1); all need the same$", line)
    assert not (runs / "other").exists()
