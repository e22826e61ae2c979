"""The examples of docs/formats.md run, in a folder with the data that they name, and its tables name what is read."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from rankdet.cli import app
from rankdet.data.layouts import FINDERS, image_folder, labelme, yolo_settings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small set of YOLO."""
    root = tmp_path_factory.mktemp("formats")
    for split in ("train", "val"):
        images, labels = root / "my_yolo/images" / split, root / "my_yolo/labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for name in ("a", "b", "c"):
            Image.new("RGB", (64, 48)).save(images / f"{name}.jpg")
            (labels / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (root / "my_yolo/data.yaml").write_text("names: [cat]\ntrain: images/train\nval: images/val\n")
    return root


def test_the_commands_of_the_page_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    commands = [shlex.split(line, comments=True)[1:] for block in blocks("bash") for line in block.splitlines()]
    assert {"doctor", "train", "convert"} <= {command[0] for command in commands}
    for command in commands:
        if command[0] != "train":  # which others test, and which here would load weights
            answer = CliRunner().invoke(app, command)
            assert answer.exit_code == 0, answer.output
    assert (
        json.loads((folder / "my_coco/annotations/instances_train.json").read_text())["categories"][0]["name"] == "cat"
    )


def test_the_python_of_the_page_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(compile(block, PAGE, "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "YOLO train val"
    assert printed[1] == "3 images, 3 objects"
    assert printed[2].startswith("3 objects in my_data")


def test_the_page_names_every_layout_and_the_files_that_tell_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    modules = {find.__module__.rsplit(".", 1)[1] for find in FINDERS}
    titles = {"coco": "COCO", "lvis": "LVIS", "cvat": "CVAT", "yolo": "YOLO", "voc": "Pascal VOC", "labelme": "labelme",
              "image_folder": "Hugging Face image folder"}  # fmt: skip
    assert modules == set(titles)
    assert all(f"| {title} |" in text for title in titles.values())
    named = (*yolo_settings.LIST_NAMES, *image_folder.FILES, *labelme.BESIDE[:2])
    assert [name for name in named if f"`{name}" not in text] == []
