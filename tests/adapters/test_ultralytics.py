"""The lines of docs/plugging-in.md for Ultralytics, run where ultralytics is installed; the page has the command."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("ultralytics", reason="the section on Ultralytics of docs/plugging-in.md says how to run this")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugging-in.md"
SIZE = 64
EPOCHS = 3


def blocks(heading: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, PAGE, "exec"), names)


def make_data(folder: Path) -> list[str]:
    """Bright squares and bars on noise in the layout of YOLO; the paths of the images of its validation set."""
    random = np.random.default_rng(0)
    paths = []
    for split, number in (("train", 12), ("val", 6)):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        for image in range(number):
            pixels = random.integers(0, 80, (SIZE, SIZE, 3), dtype=np.uint8)
            lines = []
            for label in (0, 1):
                x, y = random.integers(0, SIZE - 26, 2)
                width, height = (24, 24) if label else (12, 26)
                pixels[y : y + height, x : x + width, label] = 255
                center = ((x + width / 2) / SIZE, (y + height / 2) / SIZE, width / SIZE, height / SIZE)
                lines.append(" ".join(map(str, (label, *center))))
            path = folder / "images" / split / f"{image}.png"
            Image.fromarray(pixels).save(path)
            (folder / "labels" / split / f"{image}.txt").write_text("\n".join(lines))
            if split == "val":
                paths.append(str(path))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [bar, square]\n")
    return paths


@pytest.fixture(scope="module", params=["yolo11n.yaml", "yolo26n.yaml"])
def names(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the blocks leave behind, after a training on small images."""
    folder = tmp_path_factory.mktemp("ultralytics")
    left: dict[str, Any] = {"__name__": "script", "paths": make_data(folder)}
    paste, train = blocks("Ultralytics")
    small = f"epochs={EPOCHS}, imgsz={SIZE}, batch=4, workers=0, plots=False, mosaic=0.0, warmup_epochs=0.0, "
    small += f"optimizer='AdamW', lr0=0.002, project={str(folder)!r}, name='run', val=False"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YOLO_CONFIG_DIR", str(folder))
        patch.chdir(folder)
        run(paste, left)
        run(train.replace("yolo11n.yaml", request.param).replace("epochs=2", small), left)
        yield left | {"folder": folder}


def test_the_paste_is_short() -> None:
    paste, train = blocks("Ultralytics")
    assert len([line for line in paste.splitlines() if line and "import" not in line]) <= 15
    assert len(train.splitlines()) <= 5


def test_training_and_validation_run_and_the_loss_is_that_of_ranking(names: dict[str, Any]) -> None:
    results = (names["folder"] / "run" / "results.csv").read_text().splitlines()
    rows = [dict(zip(results[0].split(","), row.split(","), strict=True)) for row in results[1:]]
    assert len(rows) == EPOCHS
    assert all(0 < float(row["train/cls_loss"]) < 1 for row in rows)  # half of two errors in [0, 1)


def test_a_criterion_ranks_as_the_function_does(names: dict[str, Any]) -> None:
    logits, targets = torch.randn(2, 30, 2, requires_grad=True), torch.zeros(2, 30, 2)
    targets[0, 3, 1], targets[1, 7, 0] = 0.8, 0.3
    ranking, sorting = names["rank_sort_loss"](logits, targets)
    found = names["RankSort"]()(logits, targets).sum() / targets.sum().clamp(min=1)
    torch.testing.assert_close(found, ranking + sorting)
    assert names["RankSort"]()(logits, torch.zeros(2, 30, 2)) == 0


def test_checkpoints_have_no_trace_of_the_loss(names: dict[str, Any]) -> None:
    last = names["folder"] / "run" / "weights" / "last.pt"
    assert b"RankSort" not in last.read_bytes()


def test_after_calibration_the_default_threshold_of_predict_keeps_what_ap50_needs(names: dict[str, Any]) -> None:
    (block,) = blocks("Scores")
    model, seen = names["model"], []
    for image in names["paths"]:  # objects where the model sees some anyway
        every = model.predict(image, conf=1e-9, verbose=False)[0].boxes.cpu()
        seen.append((image, every.xyxy[1:20:4] + 0.1, every.cls[1:20:4].long()))
    left = {**names, "validation": seen}
    saved = names["folder"] / "calibrated.pt"
    run(block.replace("calibrated.pt", str(saved)), left)
    found = left["calibration"]
    assert found.threshold == 0.25
    assert found.ap50 - 0.005 <= found.kept_ap50
    assert found.ap50 > 0.1
    for image, _, _ in seen:
        every = model.predict(image, conf=1e-9, verbose=False)[0].boxes
        kept = model.predict(image, verbose=False)[0].boxes
        assert 0 < len(kept) == (every.conf > 0.25).sum() < len(every)
        loaded = left["YOLO"](saved).predict(image, verbose=False)[0].boxes
        assert abs(len(loaded) - len(kept)) <= 2  # files are in half precision
