"""What SECURITY.md promises, by harmless input: whatever would run code makes a folder that must not be there."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from rankdet.backbones.weights import read_tensors
from rankdet.importing.reading import read_foreign
from rankdet.inference.loading import load
from rankdet.recipes import Recipe, load_recipe
from rankdet.report.page import Section, write_page
from rankdet.report.tables import Table
from rankdet.runs.checkpoint import FORMAT, load_checkpoint, save_checkpoint
from rankdet.runs.folder import Run
from rankdet.structures import InputError
from rankdet.training.running import train

Load = Callable[..., Recipe]
QUIET = Console(quiet=True)


class Making:
    """When a pickle of it is read as pickles are, a folder is made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self._folder),)


def test_the_input_of_these_tests_would_run(tmp_path: Path):
    torch.save(Making(tmp_path / "made"), tmp_path / "a.pt")
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "made").is_dir()


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("read", [load, load_checkpoint, read_foreign, read_tensors])
def test_no_reader_of_checkpoints_runs_what_they_hold(read: Callable[[Path], object], is_archive: bool, tmp_path: Path):
    path = tmp_path / "a.pt"
    content = {"format": FORMAT, "state_dict": {"weight": torch.zeros(1)}, "more": Making(tmp_path / "made")}
    torch.save(content, path, _use_new_zipfile_serialization=is_archive)
    with pytest.raises(InputError, match=r"a\.pt"):
        read(path)
    assert not (tmp_path / "made").exists()


def test_no_training_runs_what_a_checkpoint_holds(tiny: Load, tmp_path: Path):
    train(tiny("schedule.iterations=2"), out=tmp_path / "run", console=QUIET)
    path = Run(tmp_path / "run").latest_checkpoint()
    save_checkpoint(path, load_checkpoint(path) | {"optimizer": Making(tmp_path / "made")})
    with pytest.raises(InputError, match="damaged"):
        train(resume=tmp_path / "run", console=QUIET)
    with pytest.raises(InputError, match="damaged"):
        train(tiny(), weights=path, out=tmp_path / "other", console=QUIET)
    assert not (tmp_path / "made").exists()


def test_a_checkpoint_imports_nothing_that_is_not_trusted(tiny: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    train(tiny("schedule.iterations=2"), out=tmp_path / "run", console=QUIET)
    path = Run(tmp_path / "run").latest_checkpoint()
    state = load_checkpoint(path)
    state["recipe"]["detector"] = {"type": "a_strangers_module:Detector"}
    save_checkpoint(path, state)
    (tmp_path / "a_strangers_module.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'made')!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match="--trust"):
        load(path)
    assert "a_strangers_module" not in sys.modules
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("field", ["pyramid_channels", "backbone/channels"])
def test_a_checkpoint_asks_for_no_memory_that_its_weights_do_not_need(field: str, tiny: Load, tmp_path: Path):
    recipe = tiny()
    network = recipe.detector.build(1, pretrained=False)
    state = {"recipe": recipe.model_dump(mode="json"), "categories": [(1, "cat")], "thresholds": None}
    save_checkpoint(tmp_path / "a.pt", state | {"detector": network.state_dict()})
    assert load(tmp_path / "a.pt").names == ["cat"]
    *groups, name = field.split("/")
    part = state["recipe"]["detector"]
    for group in groups:
        part = part[group]
    part[name] = 3_200_000 if isinstance(part[name], int) else [3_200_000 for _ in part[name]]
    save_checkpoint(tmp_path / "a.pt", state | {"detector": network.state_dict()})
    with pytest.raises(InputError, match=r"a\.pt does not fit: weight .* is \(.*\), not \(.*3200000.*\)"):
        load(tmp_path / "a.pt")


def test_yaml_makes_no_objects(tmp_path: Path):
    text = f"names: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match="is no YAML"):
        load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(InputError, match="is no YAML"):
        load_recipe("rs_faster_rcnn_shapes", [text.replace("names: ", "seed=").strip()])
    folder = tmp_path / "data"
    for kind in ("images", "labels"):
        (folder / kind / "train").mkdir(parents=True)
    (folder / "data.yaml").write_text(f"train: images/train\n{text}")
    Image.new("RGB", (8, 8)).save(folder / "images" / "train" / "a.png")
    with pytest.raises(InputError, match="YAML"):
        load_recipe("rs_faster_rcnn_shapes", [f"data.folder={folder}"]).data.prepare().datasets()
    assert not (tmp_path / "made").exists()


def test_names_of_images_lead_to_no_file_outside(tmp_path: Path):
    (tmp_path / "images").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "images" / "a.png"):
        Image.new("RGB", (64, 64)).save(path)
    names = ("../secret.png", str(tmp_path / "secret.png"), "a.png")
    box = {"category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
    content = {
        "images": [{"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(names)],
        "annotations": [{"id": i, "image_id": i, **box} for i in range(len(names))],
        "categories": [{"id": 1, "name": "a"}],
    }
    annotations = tmp_path / "a.json"
    annotations.write_text(json.dumps(content))
    places = [f"data.train_annotations={annotations}", f"data.train_images={tmp_path / 'images'}"]
    prepared = load_recipe("rs_faster_rcnn_shapes", places).data.prepare()
    assert len(prepared.datasets()[0]) == 1
    assert sum("leaves the folder of images" in finding.problem for finding in prepared.findings) >= 1


def test_a_page_escapes_all_that_it_is_told_and_loads_nothing(tmp_path: Path):
    text = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    section = Section(text, text, Table([text], [[text]]))
    write_page(tmp_path / "a.html", text, [section], text)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;alert(1)") >= 4
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert re.findall('(?:src|href)="(?!data:|#)', page) == []


@pytest.mark.parametrize("name", ["hf-hub:someone/something", "hf_hub:someone/something", "local-dir:/somewhere"])
def test_a_backbone_is_one_of_timms_own_list(name: str):
    with pytest.raises(InputError):
        load_recipe(
            "rs_faster_rcnn_shapes", [f"detector.backbone={{type: timm, name: '{name}', weights: null}}"]
        ).detector.build(3)
