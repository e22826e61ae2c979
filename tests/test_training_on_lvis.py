"""Mask R-CNN on a long-tailed set in LVIS format: repeated images, federated measures, files, resumed bit for bit."""

import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from rankdet import cli
from rankdet.cli import printing
from rankdet.data import find_layout, make_long_tailed_shapes
from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.files import find_images
from rankdet.inference.loading import load as load_model
from rankdet.metrics import evaluate
from rankdet.recipes import Recipe, load_recipe
from rankdet.runs.checkpoint import load_checkpoint
from rankdet.runs.folder import Run, read_log
from rankdet.runs.processes import World
from rankdet.training.running import train
from rankdet.training.setup import Training

CPU = torch.device("cpu")
NUMBERS = ("AP", "AP50", "APr", "APc", "APf", "AR300", "oLRP")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_long_tailed_shapes(tmp_path_factory.mktemp("data") / "shapes", train=24, val=6, size=64)


def load(folder: Path, changes: Sequence[str] = (), name: str = "rs_mask_rcnn_long_tail_shapes") -> Recipe:
    """A recipe that trains in a second."""
    torch.set_num_threads(1)
    overrides = [
        f"data.folder={yaml.safe_dump(str(folder)).splitlines()[0]}", "data.batch_size=2", "data.workers=0",
        "detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]", "detector.rcnn.channels=16",
        "detector.mask={channels: 8, convolutions: 1, pooled_size: 7, budget: 9}", "detector.testing.per_image=5",
        "schedule.iterations=4", "schedule.warmup_iterations=1", "runtime.log_interval=1", "runtime.device=cpu",
        "runtime.threads=1", "runtime.checkpoint_interval=2", "data.repeat_threshold=0.5",
    ]  # fmt: skip
    return load_recipe(name, [*overrides, *changes])


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of four iterations and its evaluation."""
    run = Run(tmp_path_factory.mktemp("runs") / "run")
    with (run.folder.parent / "output.txt").open("w") as output:
        train(load(folder), out=run.folder, console=Console(file=output, width=300))
    return run


def test_an_epoch_has_the_repeated_images(folder: Path):
    world = World(0, 1, CPU)
    repeated, plain = (Training(load(folder, [f"data.repeat_threshold={t}"]), world) for t in (0.5, "null"))
    assert plain.num_samples == len(plain.dataset)
    assert repeated.num_samples == repeated.dataset.repeats(0.5).sum() > plain.num_samples
    assert repeated.iterations_per_epoch == -(-repeated.num_samples // 2)
    assert f"({repeated.num_samples} with repeated ones)" in repeated.describe()
    assert "repeated" not in plain.describe()


def test_boxes_and_masks_are_measured_by_the_rules_of_lvis(run: Run, folder: Path):
    metrics = json.loads(run.evaluation.read_text())
    assert set(NUMBERS) <= metrics.keys()
    assert set(NUMBERS) <= metrics["masks"].keys()
    assert "APc" in (run.folder.parent / "output.txt").read_text()
    found = json.loads(run.detections.read_text())
    truth = find_layout(folder).source("val").annotations
    assert evaluate(truth, found, max_detections=5)["AP"] == metrics["AP"]
    [record] = [record for record in read_log(run.log) if record["kind"] == "evaluation"]
    assert record["metrics"]["masks"]["APf"] == metrics["masks"]["APf"]


def test_resumed_equals_uninterrupted_bit_for_bit(run: Run, tmp_path: Path):
    resumed = Run(tmp_path / "resumed")
    shutil.copytree(run.folder, resumed.folder)
    resumed.checkpoint(4).unlink()
    train(resume=resumed.folder, console=Console(file=io.StringIO()))
    first, second = (load_checkpoint(one.checkpoint(4))["detector"] for one in (run, resumed))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_command_line_evaluates_and_detects(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    arguments = ["evaluate", run.folder, "--data", folder, "--out", tmp_path / "out", "--no-thresholds"]
    monkeypatch.setattr("sys.argv", ["rankdet", *map(str, arguments)])
    cli.app(standalone_mode=False)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("APr", "APc", "APf", "AR300", "oLRP_FN", "spotted_star"))
    assert "AR100" not in printed
    assert (tmp_path / "out" / "evaluation.json").read_text() == run.evaluation.read_text()
    image = folder / "val2017" / "000001.png"
    detect_and_draw(load_model(run.folder, "cpu"), find_images([image]), tmp_path / "drawn", 0.0, lambda _: None)
    assert json.loads((tmp_path / "drawn" / "detections.json").read_text())["annotations"]


def test_many_classes_are_not_printed_one_by_one(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(printing, "_MOST_CLASSES", 20)
    truth = find_layout(folder).source("val").annotations
    arguments = ["evaluate", "--detections", run.detections, "--ground-truth", truth]
    monkeypatch.setattr("sys.argv", ["rankdet", *map(str, arguments)])
    cli.app(standalone_mode=False)
    printed = capsys.readouterr().out
    assert "21 classes" in printed
    assert "spotted_star" not in printed
