"""The benchmark of calibration: its rows are those of an evaluation and of the errors, on halves that change places."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rankdet.inference.calibration import errors, fit, halves
from rankdet.metrics import evaluate
from rankdet.metrics.calibration import Outcomes


def write(path: Path, seed: int, images: int) -> list[dict]:
    """Objects of two classes, and detections near them."""
    random = np.random.default_rng(seed)
    truth = {
        "images": [
            {"id": number, "width": 100, "height": 100, "file_name": f"{number}.png"} for number in range(images)
        ],
        "categories": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "annotations": [],
    }
    found = []
    for number in range(images):
        for _ in range(6):
            box = [*random.uniform(0, 60, 2).tolist(), *random.uniform(10, 40, 2).tolist()]
            record = {"image_id": number, "category_id": int(random.integers(1, 3)), "bbox": box}
            area = {"area": box[2] * box[3], "iscrowd": 0}
            truth["annotations"].append(record | area | {"id": len(truth["annotations"]) + 1})
            shift = float(random.uniform(0, 12))
            near = [box[0] + shift, *box[1:]]
            found.append(record | {"bbox": near, "score": float(np.clip(1 - shift / 20 + random.normal(0, 0.1), 0, 1))})
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(truth))
    return found


def test_rows_are_means_over_halves_that_change_places(module, tmp_path: Path) -> None:
    benchmark = module("calibration")
    run = tmp_path / "rs_faster_rcnn_lite0_bccd-lr0.001-seed0"
    for split, where, seed in (("val", run, 0), ("test", run / "test", 1)):
        found = write(tmp_path / "data" / "annotations" / f"instances_{split}.json", seed, images=12)
        where.mkdir(parents=True, exist_ok=True)
        (where / "detections.json").write_text(json.dumps(found))
    rows = benchmark.measure(run, tmp_path / "data")
    assert {form for form, _, _ in rows} == {"rs_faster_rcnn_lite0"}
    assert len(rows) == 2 * 5
    val = benchmark.read(tmp_path / "data", "val", run / "detections.json", "bbox")
    test = benchmark.read(tmp_path / "data", "test", run / "test" / "detections.json", "bbox")
    first, second = halves(*val)
    after = [errors(Outcomes.of(*test), fit(Outcomes.of(*half), "platt", "iou"))[1].LaECE0 for half in (first, second)]
    row = rows["rs_faster_rcnn_lite0", "test", "platt to iou"]
    assert row[0] == pytest.approx(100 * np.mean(after))
    assert row[-1] == pytest.approx(100 * evaluate(*test)["AP"])
    before = [
        errors(Outcomes.of(*half), fit(Outcomes.of(*other), "platt", "iou"))[0].D_ECE
        for half, other in ((second, first), (first, second))
    ]
    assert rows["rs_faster_rcnn_lite0", "other half of val", "network"][2] == pytest.approx(100 * np.mean(before))
