"""`rankdet import` and what users do with its checkpoint: evaluate, detect, train on."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from rankdet import cli
from rankdet.data import make_shapes

from . import foreign
from .foreign import R18

SMALL = {
    "base": "rs_mask_rcnn_r50_coco",
    "name": "small",
    "detector": {
        "backbone": {"name": "resnet18.tv_in1k", "weights": None},
        "pyramid_channels": 16,
        "rcnn": {"channels": 8},
        "mask": {"channels": 16},
        "rpn": {"train_proposals": {"per_image": 20}, "test_proposals": {"per_image": 20}},
        "testing": {"per_image": 5},
    },
    "data": {"batch_size": 2, "workers": 0, "resize": None},
    "schedule": {"type": "step", "iterations": 1, "epochs": None},
    "runtime": {"threads": 1, "channels_last": False},
}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rankdet", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=2, val=2, size=64)


def test_imported_checkpoint_is_evaluated_detects_and_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    recipe, file, out = tmp_path / "small.yaml", tmp_path / "theirs.pth", tmp_path / "ours.pt"
    recipe.write_text(yaml.safe_dump(SMALL))
    annotations = json.loads((data / "annotations" / "instances_val.json").read_text())
    names = [category["name"] for category in annotations["categories"]]
    shapes = foreign.resnet18() | foreign.mask_rcnn(True, R18, len(names), channels=16, width=8)
    torch.manual_seed(0)
    tensors = {name: 0.02 * torch.randn(shape) + name.endswith("running_var") for name, shape in shapes.items()}
    torch.save({"state_dict": tensors, "meta": {"mmdet_version": "2.8.0", "CLASSES": names[::-1]}}, file)

    assert call(monkeypatch, "import", file, "--recipe", recipe, "--data", data, "--out", out) == 0
    printed = capsys.readouterr().out
    assert f"from: mmdetection 2.8.0, {len(shapes)} tensors\nrecipe: small\n" in printed
    assert f"categories: {len(names)}, of the data folder, found by their names, in another order" in printed
    assert printed.endswith(f"written: {out}\n")

    assert call(monkeypatch, "evaluate", out, "--data", data, "--out", tmp_path / "evaluation") == 0
    assert "AP" in json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())["masks"]
    image = next((data / "images" / "val").iterdir())
    assert call(monkeypatch, "detect", out, image, "--out", tmp_path / "found") == 0
    assert (tmp_path / "found" / "detections.json").exists()
    run = tmp_path / "run"
    arguments = ("--data", data, "--weights", out, "--out", run, "evaluation.at_end=false")
    assert call(monkeypatch, "train", recipe, *arguments) == 0
    assert f"weights of {out}: " in capsys.readouterr().out
    assert yaml.safe_load((run / "recipe.yaml").read_text())["weights"] == str(out)


def test_file_of_nothing_known_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    torch.save({"a": torch.zeros(1)}, tmp_path / "theirs.pth")
    assert call(monkeypatch, "import", tmp_path / "theirs.pth", "--out", tmp_path / "ours.pt") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rankdet: error: {tmp_path / 'theirs.pth'}: its tensors (a …) have names of no detector")
    assert error.count("\n") == 1
    assert not (tmp_path / "ours.pt").exists()
