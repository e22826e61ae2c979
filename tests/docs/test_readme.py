"""The Python of the README runs, in its order, in a folder that has the run and the photograph that it names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rankdet import cli
from rankdet.data import make_shapes

README = Path(__file__).resolve().parents[2] / "README.md"
SMALL = [
    "data.batch_size=2", "data.workers=0", "detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]",
    "detector.rcnn.channels=16", "schedule.iterations=2", "runtime.threads=1",
]  # fmt: skip


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the blocks leave behind, after all of them ran."""
    folder = tmp_path_factory.mktemp("readme")
    data = make_shapes(folder / "my_data", train=4, val=2, size=64)
    train = ["train", "rs_faster_rcnn_shapes", "--data", str(data), "--out", str(folder / "runs" / "mine"), *SMALL]
    cli.app(train, standalone_mode=False)
    with Image.open(next((data / "images" / "val").iterdir())) as photo:
        photo.convert("RGB").save(folder / "photo.jpg")
    left: dict[str, Any] = {"__name__": "readme"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        for block in blocks():
            exec(compile(block, README, "exec"), left)
        left["folder"] = folder
        yield left


def test_the_model_detects_and_draws(names: dict[str, Any]) -> None:
    assert names["found"].boxes.shape == (len(names["found"]), 4)
    with Image.open(names["folder"] / "found.png") as drawn:
        assert min(drawn.size) >= 64


def test_the_function_has_a_gradient(names: dict[str, Any]) -> None:
    assert names["logits"].grad.any()


@pytest.mark.parametrize("num_objects", [(2, 1), (1, 0), (0, 0)])
def test_a_retinanet_of_torchvision_learns_with_the_loss(names: dict[str, Any], num_objects: tuple[int, int]) -> None:
    """Images without objects are learned from, too; where there are none at all, the gradient is zero."""
    model = names["model"]
    model.transform.min_size, model.transform.max_size = (64,), 64
    boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 10.0, 60.0, 60.0]])
    targets = [{"boxes": boxes[:count], "labels": torch.tensor([1, 3])[:count]} for count in num_objects]
    terms = model([torch.rand(3, 64, 64), torch.rand(3, 64, 48)], targets)
    assert set(terms) == {"classification", "bbox_regression"}
    model.zero_grad()
    sum(terms.values()).backward()
    gradient = model.head.regression_head.bbox_reg.weight.grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert bool(gradient.any()) == (sum(num_objects) > 0)


def test_the_loss_in_a_foreign_detector_takes_less_than_twenty_lines() -> None:
    (block,) = (block for block in blocks() if "retinanet" in block)
    assert len([line for line in block.splitlines() if line and "import" not in line]) < 20
