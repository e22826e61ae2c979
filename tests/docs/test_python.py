"""docs/python.md is followed to the letter, in a folder with the data, the run and the photographs that it names."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from contextlib import AbstractContextManager, nullcontext
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
    """The functions of wandb, and of trackio where it is not installed, that the page calls, with their signatures."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.projects: list[tuple[str, dict[str, Any]]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.is_finished = False

    def init(self, project: str, config: dict[str, Any]) -> None:
        self.projects.append((project, config))

    def log(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.logged.append((step or 0, metrics))

    def finish(self) -> None:
        self.is_finished = True


class MLflowStand(ModuleType):
    """The functions of MLflow that the page calls, with their signatures."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.artifacts: list[Path] = []

    def start_run(self, run_name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert all(isinstance(value, float) for value in metrics.values())
        self.logged.append((step or 0, metrics))

    def log_artifact(self, local_path: str) -> None:
        self.artifacts.append(Path(local_path))


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
    stands = {"trackio": Stand("trackio"), "wandb": Stand("wandb"), "mlflow": MLflowStand()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TRACKIO_DIR", str(folder / "trackio"))
        for name, stand in stands.items():
            if name != "trackio" or importlib.util.find_spec("trackio") is None:
                patch.setitem(sys.modules, name, stand)
        for block in blocks():
            exec(compile(block, PAGE, "exec"), left)
        (tracked,) = (block for block in blocks() if "import trackio\n" in block)
        with_wandb = tracked.replace("import trackio\n", "import wandb as trackio\n").replace("tracked", "wandb")
        exec(compile(with_wandb, PAGE, "exec"), dict(left))
    return left | {"folder": folder, "stands": stands}


def test_the_page_leaves_its_runs_and_its_drawing(names: dict[str, Any]) -> None:
    runs = sorted(path.name for path in (names["folder"] / "runs").iterdir())
    assert runs == ["adam", "first", "mine", "mlflow", "plain", "squares", "tracked", "wandb"]
    with Image.open(names["folder"] / "found.png") as drawn:
        assert min(drawn.size) >= 64
    assert names["metrics"].keys() >= {"AP", "oLRP", "per_class"}


def test_own_parts_of_the_page_are_those_that_were_trained(names: dict[str, Any]) -> None:
    squares = Run(names["folder"] / "runs" / "squares")
    assert list(rankdet.load(squares.folder).names) == ["square"]
    records = [record for record in read_log(Run(names["folder"] / "runs" / "plain").log) if record["kind"] == "train"]
    assert "rcnn/classification" in records[-1]["statistics"]
    assert all(math.isfinite(record["loss"]) for record in records)


@pytest.mark.parametrize("package", ["trackio", "wandb"])
def test_the_tracker_of_the_page_gets_losses_and_the_evaluation(package: str, names: dict[str, Any]) -> None:
    stand = names["stands"][package]
    if package == "trackio" and not stand.projects:  # trackio itself was there
        assert list((names["folder"] / "trackio").glob("rankdet*.db"))
        return
    assert stand.projects[0][1]["name"] == "rs_faster_rcnn_shapes"
    steps, metrics = zip(*stand.logged, strict=True)
    assert set(steps) == {2}
    assert {"loss", "lr", "rpn/ranking"} <= set(metrics[0])
    assert set(metrics[-1]) == {"AP", "oLRP"}
    assert stand.is_finished


def test_mlflow_gets_losses_the_evaluation_and_the_best_checkpoint(names: dict[str, Any]) -> None:
    stand = names["stands"]["mlflow"]
    assert {"loss", "lr", "rpn/ranking"} <= set(stand.logged[0][1])
    assert set(stand.logged[-1][1]) == {"AP", "oLRP"}
    assert [path.name for path in stand.artifacts] == ["recipe.yaml", "best.pt"]
    assert all((names["folder"] / path).exists() for path in stand.artifacts)
