"""The Python of docs/plugging-in.md runs, where the framework is installed that it is for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugging-in.md"


def section(name: str) -> list[str]:
    """The blocks of Python below a heading."""
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {name}\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, PAGE, "exec"), names)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks on torchvision leave, with losses between them, and objects where the model sees some anyway."""
    folder = tmp_path_factory.mktemp("plugging_in")
    before, after = section("torchvision")
    torch.manual_seed(0)
    left: dict[str, Any] = {}
    run(before, left)
    model = left["model"]
    model.transform.min_size, model.transform.max_size = (64,), 64
    images = [torch.rand(3, 64, 64), torch.rand(3, 64, 48)]
    box = torch.tensor([[4.0, 4.0, 40.0, 44.0]])
    left["terms"] = model(images, [{"boxes": box, "labels": torch.tensor([label])} for label in (1, 2)])
    found = model.eval()(images)
    seen = [{"boxes": each["boxes"][:9:3] + 0.1, "labels": each["labels"][:9:3]} for each in found]
    left["val_loader"] = [(images, seen)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run(after, left)
    return left | {"images": images, "folder": folder}


def test_the_model_of_the_tutorial_learns_by_the_loss(names: dict[str, Any]) -> None:
    terms = names["terms"]
    assert type(names["model"].roi_heads).__name__ == "RankSortRoIHeads"
    torch.testing.assert_close(terms["loss_box_reg"], terms["loss_classifier"])


def test_the_file_is_a_model_of_torchvision_with_the_usual_threshold(names: dict[str, Any]) -> None:
    other = torch.load(names["folder"] / "detector.pt", weights_only=False)
    assert b"rankdet" not in (names["folder"] / "detector.pt").read_bytes()
    model, images = names["model"], names["images"]
    assert type(other.roi_heads).__name__ == "RoIHeads"
    assert model.roi_heads.score_thresh == other.roi_heads.score_thresh == names["calibration"].threshold == 0.05
    for found, expected in zip(other.eval()(images), model.eval()(images), strict=True):
        boxes = [tuple(box) for box in found["boxes"].round(decimals=2).tolist()]
        assert boxes
        assert set(boxes) <= {tuple(box) for box in expected["boxes"].round(decimals=2).tolist()}
