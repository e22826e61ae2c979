"""`rankdet convert`: folders of every layout become COCO folders that are read the same."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rankdet.cli import app
from rankdet.data import convert_folder, find_layout, make_long_tailed_shapes
from rankdet.structures import InputError

from . import test_cvat, test_labelme, test_voc, test_yolo
from .scene import BOXES, POLYGONS, contents, expected


def write_yolo(folder: Path) -> None:
    for split, photos in (("train", BOXES), ("val", POLYGONS)):
        test_yolo.write_images(photos, folder / split / "images", folder / split / "labels")
    test_yolo.write_yaml(folder, train="../train/images", val="../val/images")


def write_voc(folder: Path) -> None:
    test_voc.write(BOXES, folder / "train", folder / "train")
    test_voc.write(POLYGONS, folder / "valid", folder / "valid")


def write_cvat(folder: Path) -> None:
    images = []
    for subset, photos in (("Train", BOXES), ("Validation", POLYGONS)):
        images += [test_cvat.image(photo, attributes=f'subset="{subset}"') for photo in photos]
        for photo in photos:
            test_cvat.save(photo, folder / "images" / subset)
    test_cvat.write_xml(folder, *images)


def write_labelme(folder: Path) -> None:
    test_labelme.write(BOXES, folder / "train", folder / "train")
    test_labelme.write(POLYGONS, folder / "val", folder / "val")


WRITERS = [write_yolo, write_voc, write_cvat, write_labelme]


def same(folder: Path, other: Path, split: str, masks: bool = False) -> bool:
    """Whether two folders give the same records and the same image files."""
    sources = [find_layout(each).source(split) for each in (folder, other)]
    one, two = (source.read(masks)[0] for source in sources)
    fields = ("image_ids", "sizes", "annotation_ids", "images", "labels", "boxes", "areas")
    files = [
        [(source.images / truth.file_names[row].decode()).read_bytes() for row in range(len(truth.image_ids))]
        for source, truth in zip(sources, (one, two), strict=True)
    ]
    return (
        all(np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True) for name in fields)
        and (one.is_crowd == two.is_crowd).all()
        and one.categories == two.categories
        and files[0] == files[1]
    )


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize("copy", [False, True])
def test_every_layout_becomes_the_same_coco_folder(tmp_path: Path, write: Callable[[Path], None], copy: bool) -> None:
    write(tmp_path / "in")
    found = convert_folder(tmp_path / "in", tmp_path / "out", copy=copy)
    assert {split: (one.images, one.objects, one.missing) for split, one in found.splits.items()} == {
        "train": (4, 4, 0), "val": (3, 3, 0)
    }  # fmt: skip
    for split, photos in (("train", BOXES), ("val", POLYGONS)):
        document = json.loads((tmp_path / f"out/annotations/instances_{split}.json").read_text())
        assert contents(document) == expected(photos)
        for photo in photos:
            file = tmp_path / "out/images" / split / photo.name
            assert file.stat().st_nlink == (1 if copy else 2)
        assert same(tmp_path / "in", tmp_path / "out", split)
    assert [one.masks for one in found.splits.values()] == [0, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_coco_folder_is_read_the_same_after_its_conversion(shapes_folder: Path, tmp_path: Path) -> None:
    convert_folder(shapes_folder, tmp_path / "out")
    for split in ("train", "val"):
        assert same(shapes_folder, tmp_path / "out", split, masks=True)
        file = f"annotations/instances_{split}.json"
        assert json.loads((shapes_folder / file).read_text()) == json.loads((tmp_path / "out" / file).read_text())


def test_a_folder_of_lvis_stays_one(tmp_path: Path) -> None:
    folder = make_long_tailed_shapes(tmp_path / "in", train=30, val=10, size=32)
    found = convert_folder(folder, tmp_path / "out")
    assert found.layout == "LVIS"
    assert find_layout(tmp_path / "out").name == "LVIS"
    for split in ("train", "val"):
        assert same(folder, tmp_path / "out", split, masks=True)
        assert find_layout(tmp_path / "out").source(split).read(masks=False)[0].federation is not None


def test_files_of_one_name_in_several_folders_are_all_there(tmp_path: Path) -> None:
    for place, photo in (("one", BOXES[0]), ("two", POLYGONS[0])):
        test_yolo.write_images([photo], tmp_path / "in/images/train" / place, tmp_path / "in/labels/train" / place)
    test_yolo.write_yaml(tmp_path / "in", train="images/train")
    convert_folder(tmp_path / "in", tmp_path / "out")
    files = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.jpg")]
    assert sorted(files) == ["images/train/one/a.jpg", "images/train/two/a.jpg"]
    assert same(tmp_path / "in", tmp_path / "out", "train")


def test_what_was_left_out_of_a_foreign_format_is_told(tmp_path: Path) -> None:
    write_yolo(tmp_path / "in")
    (tmp_path / "in/train/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n9 0.5 0.5 0.2 0.2\n")
    answer = CliRunner().invoke(app, ["convert", str(tmp_path / "in"), str(tmp_path / "out")])
    assert answer.exit_code == 0
    assert answer.stdout.startswith("YOLO data in ")
    assert "train: 4 images, 3 objects (annotations/instances_train.json)" in answer.stdout
    assert "has a class that has no name: left out" in answer.stdout


@pytest.mark.parametrize("there", ["file", "folder with a file"])
def test_what_is_there_is_not_touched(tmp_path: Path, there: str) -> None:
    write_yolo(tmp_path / "in")
    if there == "file":
        (tmp_path / "out").write_text("mine")
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/mine").touch()
    with pytest.raises(InputError, match="not an empty folder"):
        convert_folder(tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    write_yolo(tmp_path / "in")
    (tmp_path / "out").mkdir()
    convert_folder(tmp_path / "in", tmp_path / "out")
    assert same(tmp_path / "in", tmp_path / "out", "train")


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yolo(tmp_path / "in")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match="the disk is full"):
        convert_folder(tmp_path / "in", tmp_path / "deep/out")
    assert not any((tmp_path / "deep").iterdir())


def test_a_file_system_without_hard_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_yolo(tmp_path / "in")

    def refuse(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    convert_folder(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / "out/images/train/a.jpg").stat().st_nlink == 1
    assert same(tmp_path / "in", tmp_path / "out", "train")


def test_a_split_that_cannot_be_read_is_left_out_and_told(shapes_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes_folder, tmp_path / "in")
    (tmp_path / "in/annotations/instances_test.json").write_text('{"images": []}')
    found = convert_folder(tmp_path / "in", tmp_path / "out")
    assert list(found.splits) == ["train", "val"]
    assert [finding.problem for finding in found.findings] == ["the split cannot be read: left out"]


@pytest.mark.parametrize("labels", ["", "9 0.5 0.5 0.2 0.2"])
def test_nothing_that_can_be_used_is_an_error(tmp_path: Path, labels: str) -> None:
    write_yolo(tmp_path / "in")
    for path in (tmp_path / "in").rglob("*.txt"):
        path.write_text(labels)
    answer = CliRunner().invoke(app, ["convert", str(tmp_path / "in"), str(tmp_path / "out")])
    assert isinstance(answer.exception, InputError)
    assert "no split has an object" in str(answer.exception)
    assert not (tmp_path / "out").exists()


def test_images_that_are_missing_are_counted_and_their_records_kept(shapes_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(shapes_folder, tmp_path / "in")
    next((tmp_path / "in/images/val").iterdir()).unlink()
    found = convert_folder(tmp_path / "in", tmp_path / "out")
    assert (found.splits["val"].images, found.splits["val"].missing) == (6, 1)


@pytest.mark.parametrize("write", [write_yolo, write_cvat], ids=lambda write: write.__name__)
def test_a_foreign_folder_trains_and_evaluates(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "in")
    changes = ["schedule.iterations=3", "schedule.warmup_iterations=1", "data.batch_size=2", "data.workers=0",
               "detector.pyramid_channels=16", "runtime.device=cpu", "runtime.threads=1"]  # fmt: skip
    runner, out = CliRunner(), tmp_path / "run"
    answer = runner.invoke(
        app, ["train", "rs_faster_rcnn_shapes", "--data", str(tmp_path / "in"), "--out", str(out), *changes]
    )
    assert answer.exit_code == 0, answer.output
    assert "held out" not in answer.output
    assert json.loads((out / "evaluation.json").read_text())["AP"] >= 0
    answer = runner.invoke(app, ["evaluate", str(out), "--data", str(tmp_path / "in"), "--out", str(tmp_path / "e")])
    assert answer.exit_code == 0, answer.output
