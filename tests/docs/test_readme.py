"""The Python of the README runs, in its order, in a folder with the run, data, photograph and recipe that it names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import rankdet
from rankdet.data import make_shapes

README = Path(__file__).resolve().parents[2] / "README.md"
MINE = """\
base: rs_faster_rcnn_shapes
detector: {pyramid_channels: 16, backbone: {channels: [8, 16, 16]}, rcnn: {channels: 16}}
data: {batch_size: 2, workers: 0}
schedule: {iterations: 2}
runtime: {threads: 1}
"""


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks leave behind, after all of them ran."""
    folder = tmp_path_factory.mktemp("readme")
    data = make_shapes(folder / "my_data", train=4, val=2, size=64)
    (folder / "mine.yaml").write_text(MINE)
    rankdet.train(folder / "mine.yaml", data=data, out=folder / "runs" / "mine")
    with Image.open(next((data / "images" / "val").iterdir())) as photo:
        photo.convert("RGB").save(folder / "photo.jpg")
    left: dict[str, Any] = {"__name__": "readme"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in blocks():
            exec(compile(block, README, "exec"), left)
    return left | {"folder": folder}


def test_the_model_detects_and_draws(names: dict[str, Any]) -> None:
    assert names["found"].boxes.shape == (len(names["found"]), 4)
    with Image.open(names["folder"] / "found.png") as drawn:
        assert min(drawn.size) >= 64


def test_a_training_from_python_leaves_a_model_its_metrics_and_its_folder(names: dict[str, Any]) -> None:
    assert 0 <= names["run"].metrics["AP"] <= 1
    assert (names["folder"] / names["run"].folder / "evaluation.json").exists()


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


def test_steps_of_a_retinanet_of_torchvision_lower_the_loss(names: dict[str, Any]) -> None:
    """The classification, that is: the value of the boxes follows it. One of the images has no objects."""
    model = names["model"]
    model.transform.min_size, model.transform.max_size = (64,), 64
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 64, 64, generator=generator), torch.rand(3, 64, 64, generator=generator)]
    boxes = torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 10.0, 60.0, 60.0]])
    targets = [
        {"boxes": boxes, "labels": torch.tensor([1, 3])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-4), []
    for _ in range(6):
        terms = model(images, targets)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        losses.append(terms["classification"].item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_in_a_foreign_detector_takes_less_than_twenty_lines() -> None:
    (block,) = (block for block in blocks() if "retinanet" in block)
    assert len([line for line in block.splitlines() if line and "import" not in line]) < 20
