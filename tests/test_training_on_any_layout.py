"""Training and evaluation on data as people have them: named files, no val split, a part held out."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

import rankdet
from rankdet import cli
from rankdet.data import make_shapes
from rankdet.runs.folder import Run
from rankdet.structures import InputError
from rankdet.training.running import TrainedRun

SMALL = {
    "data.batch_size": 2,
    "data.workers": 0,
    "detector.pyramid_channels": 16,
    "detector.backbone.channels": [8, 16, 16],
    "detector.rcnn.channels": 16,
    "detector.testing.per_image": 5,
    "schedule.iterations": 2,
    "schedule.warmup_iterations": 1,
    "runtime.threads": 1,
    "runtime.device": "cpu",
    "runtime.checkpoint_interval": 1,
}
OPTIONS = [f"{field}={json.dumps(value)}" for field, value in SMALL.items()]
Train = Callable[..., tuple[TrainedRun, str]]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=12, val=4, size=64)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Trains for two iterations; returns the run and what it said."""

    def run(name: str = "run", **arguments: object) -> tuple[TrainedRun, str]:
        torch.set_num_threads(1)
        changes = SMALL | dict(arguments.pop("changes", {}))  # type: ignore[call-overload]
        with (tmp_path / f"{name}.txt").open("w") as output:
            console = Console(file=output, width=1000)
            options = {"out": tmp_path / name, "changes": changes, "console": console}
            trained = rankdet.train("rs_faster_rcnn_shapes", **options, **arguments)  # type: ignore[arg-type]
        return trained, (tmp_path / f"{name}.txt").read_text()

    return run


def without_split(shapes: Path, folder: Path, layout: str = "one file") -> Path:
    """The training images of a set in a folder without any split."""
    images, annotations = {
        "one file": ("images", "annotations/instances.json"),
        "CVAT": ("images/default", "annotations/instances_default.json"),
        "FiftyOne": ("data", "labels.json"),
        "Roboflow": ("train", "train/_annotations.coco.json"),
    }[layout]
    shutil.copytree(shapes / "images" / "train", folder / images)
    (folder / annotations).parent.mkdir(exist_ok=True)
    shutil.copy(shapes / "annotations" / "instances_train.json", folder / annotations)
    return folder


def detections(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((folder / "detections.json").read_text())
    assert found
    return found


@pytest.mark.parametrize("layout", ["one file", "CVAT", "FiftyOne", "Roboflow"])
def test_a_set_without_a_val_split_is_trained_on_and_not_evaluated_on_and_that_is_said(
    train: Train, shapes: Path, tmp_path: Path, layout: str
):
    run, said = train(data=without_split(shapes, tmp_path / "set", layout))
    assert run.metrics is None
    assert not (run.folder / "evaluation.json").exists()
    assert "12 images" in said
    assert "nothing is evaluated: " in said
    assert "data.validation_fraction" in said


@pytest.mark.parametrize("fraction", [0.25, 0.5])
def test_a_part_that_is_held_out_is_the_same_in_training_resuming_and_evaluating(
    train: Train, shapes: Path, tmp_path: Path, fraction: float
):
    folder = without_split(shapes, tmp_path / "set")
    fields = {"data.validation_fraction": fraction}
    run, said = train(data=folder, changes=fields)
    held_out = {row["image_id"] for row in detections(run.folder)}
    assert f"train: {12 - round(12 * fraction)} images" in said
    again, _ = train("again", data=folder, changes=fields | {"seed": 7})
    assert {row["image_id"] for row in detections(again.folder)} == held_out
    rankdet.evaluate(run.folder, folder, out=tmp_path / "out")
    assert detections(tmp_path / "out") == detections(run.folder)
    # A run that was stopped goes on with the same images.
    stopped = Run(tmp_path / "stopped")
    shutil.copytree(run.folder, stopped.folder)
    stopped.checkpoints()[-1].unlink()
    rankdet.train(resume=stopped.folder, console=Console(quiet=True))
    assert detections(stopped.folder) == detections(run.folder)


def test_files_that_are_named_train_as_the_folder_does(train: Train, shapes: Path, tmp_path: Path):
    expected, _ = train(data=shapes)
    files = {}
    for field, split in (("train", "train"), ("validation", "val")):
        annotations = tmp_path / f"{split} of someone.json"
        shutil.copy(shapes / "annotations" / f"instances_{split}.json", annotations)
        shutil.copytree(shapes / "images" / split, tmp_path / f"images of {split}")
        files |= {f"data.{field}_annotations": annotations, f"data.{field}_images": tmp_path / f"images of {split}"}
    run, _ = train("named", changes=files)
    assert detections(run.folder) == detections(expected.folder)
    recipe = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert {field: Path(recipe["data"][field.removeprefix("data.")]) for field in files} == files
    for data in (shapes, tmp_path / "val of someone.json"):
        images = None if data == shapes else tmp_path / "images of val"
        rankdet.evaluate(run.folder, data, images=images, out=tmp_path / "out")
        assert detections(tmp_path / "out") == detections(run.folder)
    shutil.rmtree(tmp_path / "images of train")
    with pytest.raises(InputError, match="images of train"):
        rankdet.train(resume=run.folder, changes={"schedule.iterations": 3}, console=Console(quiet=True))


def test_the_command_line_takes_files_and_folders_of_images(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(shapes)
    annotations = ("annotations/instances_train.json", "annotations/instances_val.json")
    named = ["--train-annotations", annotations[0], "--val-annotations", annotations[1], "--val-images", "images/val"]
    arguments = ["train", "rs_faster_rcnn_shapes", *named, "--out", str(tmp_path / "run"), *OPTIONS]
    cli.app(arguments, standalone_mode=False)
    monkeypatch.chdir(tmp_path)
    file, images = str(shapes / annotations[1]), str(shapes / "images" / "val")
    arguments = ["evaluate", str(tmp_path / "run"), "--annotations", file, "--images", images, "--out", str(tmp_path)]
    cli.app(arguments, standalone_mode=False)
    assert detections(tmp_path) == detections(tmp_path / "run")
    with pytest.raises(InputError, match="--annotations"):
        cli.app(["evaluate", str(tmp_path / "run")], standalone_mode=False)
    with pytest.raises(InputError, match="--annotations"):
        cli.app([*arguments, "--data", str(shapes)], standalone_mode=False)
    assert "AP" in capsys.readouterr().out


def test_a_checkpoint_is_evaluated_on_every_layout(train: Train, shapes: Path, tmp_path: Path):
    run, _ = train(data=shapes)
    renamed = tmp_path / "renamed"
    shutil.copytree(shapes, renamed)
    (renamed / "annotations" / "instances_val.json").rename(renamed / "annotations" / "instances_Validation.json")
    roboflow = tmp_path / "roboflow"
    shutil.copytree(shapes / "images" / "val", roboflow / "valid")
    shutil.copy(shapes / "annotations" / "instances_val.json", roboflow / "valid" / "_annotations.coco.json")
    upload = tmp_path / "upload"
    shutil.copytree(shapes, upload)
    file = upload / "annotations" / "instances_val.json"
    document = json.loads(file.read_text())
    for row in document["images"]:
        row["file_name"] = f"/data/upload/7/{row['file_name']}"
        del row["width"], row["height"]
    file.write_text(json.dumps(document))
    for folder in (renamed, roboflow, upload):
        rankdet.evaluate(run.folder, folder, out=tmp_path / "out")
        assert detections(tmp_path / "out") == detections(run.folder)
