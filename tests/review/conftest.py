"""A run that nobody trained: detections that are spoiled objects, their evaluation, and a log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankdet.coco import read_ground_truth
from rankdet.data import make_shapes
from rankdet.metrics import evaluate
from rankdet.recipes import dump, load_recipe
from rankdet.runs.folder import Run, write_json, write_text


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with 8 images to evaluate on."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=2, val=8, size=96)


def spoiled(truth: dict[str, Any], seed: int, masks: bool) -> list[dict[str, Any]]:
    """Detections of most objects, of some with another class, some twice, and of nothing at all."""
    random = np.random.default_rng(seed)
    classes = [category["id"] for category in truth["categories"]]
    found = []
    for annotation in truth["annotations"]:
        for _ in range(random.choice([0, 1, 1, 1, 2])):
            shift = random.normal(0, 1.5, 4)
            box = [float(value) for value in np.abs(np.array(annotation["bbox"]) + shift) + 0.5]
            category = annotation["category_id"] if random.random() < 0.85 else int(random.choice(classes))
            found.append({"image_id": annotation["image_id"], "category_id": category, "bbox": box})
            if masks:
                found[-1]["segmentation"] = annotation["segmentation"]
    for image in truth["images"]:
        box = [float(value) for value in random.uniform(5, 40, 4)]
        found.append({"image_id": image["id"], "category_id": int(random.choice(classes)), "bbox": box})
        if masks:
            found[-1]["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    for one in found:
        one["score"] = float(random.uniform(0.05, 0.95))
    return sorted(found, key=lambda one: one["image_id"])


def make_run(folder: Path, data: Path, seed: int = 0, masks: bool = False) -> Run:
    """A run folder with all that a report reads."""
    run = Run(folder)
    folder.mkdir(parents=True)
    file = data / "annotations" / "instances_val.json"
    truth = json.loads(file.read_text())
    found = spoiled(truth, seed, masks)
    metrics: dict[str, Any] = {**evaluate(truth, found)}
    metrics["data_digest"] = read_ground_truth(truth, files=True)[0].digest()
    if masks:
        without = [{key: value for key, value in one.items() if key != "bbox"} for one in found]
        metrics["masks"] = evaluate(truth, without, "segm")
    write_json(run.detections, found)
    write_json(run.evaluation, metrics)
    recipe = load_recipe("rs_faster_rcnn_shapes", {"data.folder": str(data), "seed": seed})
    write_text(run.recipe, dump(recipe))
    records = []
    for iteration in range(10, 110, 10):
        statistics = {"rpn/ranking": 1 / iteration, "rcnn/ranking": 2 / iteration, "rcnn/positives": 9.0}
        timing = {"seconds": 0.1 * iteration, "seconds_per_iteration": 0.1, "data_seconds_per_iteration": 0.02}
        records.append(
            {"kind": "train", "iteration": iteration, "lr": 0.1, "loss": 3 / iteration, "statistics": statistics}
            | {"timing": timing}
        )
        if not iteration % 50:
            timing = {"seconds": 0.1 * iteration, "evaluation_seconds": 0.5}
            records.append({"kind": "evaluation", "iteration": iteration, "metrics": metrics, "timing": timing})
    write_text(run.log, "".join(json.dumps(record) + "\n" for record in records))
    return run


@pytest.fixture(scope="session")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with boxes."""
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / f"run <b>{seed}", data, seed).folder for seed in (0, 1)]


@pytest.fixture(scope="session")
def mask_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with boxes and masks."""
    return make_run(tmp_path_factory.mktemp("runs") / "masks", data, 2, masks=True).folder
