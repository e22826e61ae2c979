"""docs/python.md is followed to the letter, in a folder with the data, the run and the photographs that it names."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

import rankdet
from rankdet.data import make_shapes
from rankdet.runs.folder import Run, read_log

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
MINE = {"schedule.iterations": 2, "data.batch_size": 2, "data.workers": 0}


class Stand(ModuleType):
    """The three functions of trackio that the page calls, with their signatures, where it is not installed."""

    def __init__(self) -> None:
        super().__init__("trackio")
        self.projects: list[tuple[str, dict[str, Any]]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.is_finished = False

    def init(self, project: str, config: dict[str, Any]) -> None:
        self.projects.append((project, config))

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step or 0, metrics))

    def finish(self) -> None:
        self.is_finished = True


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks leave behind, after all of them ran."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("python")
    data = make_shapes(folder / "my_data", train=6, val=2, size=64)
    rankdet.train("rs_faster_rcnn_shapes", data=data, out=folder / "runs" / "mine", changes=MINE)
    with Image.open(next((data / "images" / "val").iterdir())) as photo:
        photo.convert("RGB").save(folder / "photo.jpg")
        photo.resize((80, 50)).save(folder / "other.png")
    left: dict[str, Any] = {"__name__": "python"}
    stand = Stand()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        try:
            import trackio  # noqa: F401
        except ImportError:
            patch.setitem(sys.modules, "trackio", stand)
        for block in blocks():
            exec(compile(block, PAGE, "exec"), left)
    return left | {"folder": folder, "stand": stand}


def test_the_page_leaves_its_runs_and_its_drawing(names: dict[str, Any]) -> None:
    runs = sorted(path.name for path in (names["folder"] / "runs").iterdir())
    assert runs == ["adam", "first", "mine", "plain", "squares", "tracked"]
    with Image.open(names["folder"] / "found.png") as drawn:
        assert min(drawn.size) >= 64
    assert names["metrics"].keys() >= {"AP", "oLRP", "per_class"}


def test_own_parts_of_the_page_are_those_that_were_trained(names: dict[str, Any]) -> None:
    squares = Run(names["folder"] / "runs" / "squares")
    assert list(rankdet.load(squares.folder).names) == ["square"]
    records = [record for record in read_log(Run(names["folder"] / "runs" / "plain").log) if record["kind"] == "train"]
    assert "rcnn/classification" in records[-1]["statistics"]
    assert all(math.isfinite(record["loss"]) for record in records)


def test_the_tracker_of_the_page_gets_losses_and_the_evaluation(names: dict[str, Any]) -> None:
    stand = names["stand"]
    if not stand.projects:  # trackio itself was there
        assert list((names["folder"] / "trackio").glob("rankdet*.db"))
        return
    assert stand.projects[0][1]["name"] == "rs_faster_rcnn_shapes"
    steps, metrics = zip(*stand.logged, strict=True)
    assert set(steps) == {2}
    assert {"loss", "lr", "rpn/ranking"} <= set(metrics[0])
    assert set(metrics[-1]) == {"AP", "oLRP"}
    assert stand.is_finished
