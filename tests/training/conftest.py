"""A small data set and a small recipe on it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml

from rankdet.data import make_shapes
from rankdet.recipes import Recipe, load_recipe

TINY = {
    "base": "rs_faster_rcnn_shapes",
    "name": "tiny",
    "data": {"batch_size": 2, "workers": 0},
    "detector": {"pyramid_channels": 16, "backbone": {"channels": [8, 16, 16]}, "rcnn": {"channels": 16}},
    "schedule": {"iterations": 4, "warmup_iterations": 2},
    "evaluation": {"at_end": False},
    "runtime": {"log_interval": 3, "checkpoint_interval": 2, "threads": 1, "device": "cpu"},
}


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 6 validation images of 64 pixels."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=24, val=6, size=64)


@pytest.fixture(scope="session")
def tiny_file(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that trains in a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    data = TINY["data"] | {"folder": str(shapes_folder)}
    path.write_text(yaml.safe_dump(TINY | {"data": data}))
    return path


@pytest.fixture
def tiny(tiny_file: Path) -> Callable[[Sequence[str]], Recipe]:
    """The recipe with overrides."""
    torch.set_num_threads(1)

    def load(*overrides: str) -> Recipe:
        return load_recipe(tiny_file, overrides)

    return load
