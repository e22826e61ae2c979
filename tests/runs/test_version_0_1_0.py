"""Run folders and checkpoints of version 0.1.0 are evaluated, used and resumed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import rankdet
from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.files import find_images
from rankdet.inference.loading import load
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.runs.folder import Run

WRITTEN = Path(__file__).parents[1] / "recipes" / "recipes_of_0_1_0" / "rs_faster_rcnn_shapes.yaml"
QUIET = Console(quiet=True)
SMALL = {
    "detector": {"pyramid_channels": 16, "backbone": {"channels": [8, 16, 16]}, "rcnn": {"channels": 16}},
    "data": {"batch_size": 2, "workers": 0},
    "schedule": {"iterations": 4, "warmup_iterations": 1},
    "evaluation": {"at_end": True, "every": None},
    "runtime": {"log_interval": 3, "checkpoint_interval": 2, "keep_checkpoints": 2, "threads": 1, "device": "cpu"},
}


def changed(fields: Any, changes: dict[str, Any]) -> Any:
    return fields | {
        name: changed(fields[name], value) if isinstance(value, dict) else value for name, value in changes.items()
    }


@pytest.fixture(scope="module")
def runs(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A run of today, and what version 0.1.0 would have left of it: its fields in the recipe and in checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    fields = changed(yaml.safe_load(WRITTEN.read_text(encoding="utf-8")), SMALL)
    fields["data"]["folder"] = str(shapes_folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(fields))
    today, old = Run(folder / "today"), Run(folder / "old")
    rankdet.train(folder / "recipe.yaml", out=today.folder, console=QUIET)
    assert yaml.safe_load(today.recipe.read_text()) != fields
    shutil.copytree(today.folder, old.folder)
    shutil.copy(folder / "recipe.yaml", old.recipe)
    for path in old.checkpoints():
        state = load_checkpoint(path)
        del state["parts"]
        save_checkpoint(path, state | {"recipe": fields, "version": "0.1.0"})
    return [today, old]


def test_checkpoint_is_loaded_and_finds_the_same(runs: list[Run], shapes_folder: Path, tmp_path: Path) -> None:
    today, old = runs
    images = sorted((shapes_folder / "images" / "val").glob("*.png"))[:2]
    assert len(images) == 2
    for run in (today, old):
        detect_and_draw(load(run.folder, "cpu"), find_images(images), tmp_path / run.folder.name, 0.0, lambda _: None)
    first, second = ((tmp_path / run.folder.name / "detections.json").read_text() for run in (today, old))
    assert '"score"' in first
    assert first == second


def test_checkpoint_is_evaluated_to_the_same_numbers(runs: list[Run], shapes_folder: Path) -> None:
    first, second = (rankdet.evaluate(rankdet.load(run.folder, "cpu"), shapes_folder) for run in runs)
    assert "AP" in first
    assert str(first) == str(second)  # NaN stands where nothing was detected


def test_run_is_resumed_bit_for_bit(runs: list[Run], tmp_path: Path) -> None:
    today, old = runs
    copy = Run(tmp_path / "run")
    shutil.copytree(old.folder, copy.folder)
    copy.checkpoint(4).unlink()
    rankdet.train(resume=copy.folder, console=QUIET)
    first, second = (load_checkpoint(run.checkpoint(4)) for run in (today, copy))
    assert all(torch.equal(value, second["detector"][name]) for name, value in first["detector"].items())
    assert str(first["optimizer"]) == str(second["optimizer"])
    assert copy.detections.read_text() == today.detections.read_text()
