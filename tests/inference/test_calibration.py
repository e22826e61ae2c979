"""From a checkpoint to calibrated scores: what is fitted, stored and used."""

import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import rankdet
from rankdet.cli import main
from rankdet.coco import Results, read_ground_truth
from rankdet.inference.calibration import errors, fit, halves
from rankdet.inference.evaluation import store_thresholds
from rankdet.inference.loading import load
from rankdet.inference.model import Origin
from rankdet.inference.score_maps import Calibration, Platt
from rankdet.metrics.calibration import Outcomes
from rankdet.recipes import load_recipe
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.structures import InputError

CATEGORIES = [[1, "ellipse"], [3, "rectangle"], [7, "triangle"], [13, "ring"], [21, "cross"]]


@pytest.fixture(scope="module")
def untrained(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector as a checkpoint."""
    recipe = load_recipe(tiny_file, ["detector.testing.per_image=20", "detector.testing.score_threshold=0"])
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "checkpoints" / "iteration_00000000.pt"
    path.parent.mkdir()
    weights = recipe.detector.build(5).state_dict()
    recipe_state = recipe.model_dump(mode="json")
    save_checkpoint(path, {"recipe": recipe_state, "categories": CATEGORIES, "thresholds": None, "detector": weights})
    return path


@pytest.fixture(scope="module")
def annotations(untrained: Path, shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Objects where the detector finds some, more often where its scores are high."""
    model, random = load(untrained), np.random.default_rng(0)
    truth = json.loads((shapes_folder / "annotations" / "instances_val.json").read_text())
    truth["annotations"] = []
    for image in truth["images"]:
        found = model.detect(shapes_folder / "images" / "val" / image["file_name"])
        for place, record in enumerate(found.to_coco(image["id"])):
            if random.uniform() < 0.9 - 0.04 * place:
                left, top, width, height = record["bbox"]
                box = [left, top, max(width, 1), max(height, 1)]
                truth["annotations"].append(
                    {"id": len(truth["annotations"]) + 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                    | {key: record[key] for key in ("image_id", "category_id")}
                )
    path = tmp_path_factory.mktemp("truth") / "truth.json"
    path.write_text(json.dumps(truth))
    return path


@pytest.fixture
def checkpoint(untrained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(untrained, tmp_path / "copy.pt"))


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rankdet", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0


def test_a_calibrated_checkpoint_detects_the_same_with_other_scores(
    checkpoint: Path, annotations: Path, shapes_folder: Path
):
    images = shapes_folder / "images" / "val"
    result = rankdet.calibrate(checkpoint, annotations, images=images, method="platt")
    before, after = rankdet.load(checkpoint), rankdet.load(checkpoint, calibrated=True)
    assert after.calibration == result.model.calibration is not None
    assert before.calibration is None
    assert str(before.thresholds) == str(after.thresholds) == str(result.model.thresholds)
    image = sorted(images.iterdir())[0]
    plain, calibrated = before.detect(image), after.detect(image)
    expected = after.calibration.scores(plain.scores, plain.labels)
    assert torch.equal(calibrated.scores, expected.sort(descending=True, stable=True).values)
    assert not torch.equal(calibrated.scores, plain.scores.double())
    assert set(map(tuple, calibrated.above().boxes.tolist())) == set(map(tuple, plain.above().boxes.tolist()))
    assert len(plain.above()) > 0
    first, second = (rankdet.evaluate(model, annotations, images=images) for model in (before, after))
    assert [first[name] for name in ("AP", "oLRP")] == [second[name] for name in ("AP", "oLRP")]
    kept = second["calibration"]["detections"]
    assert kept == sum(row["detections"] for row in result.per_class.values()) > 0
    assert second["calibration"]["LaECE0"] < result.before.LaECE0


def test_each_half_is_measured_with_what_the_other_half_has_taught(annotations: Path):
    truth, _ = read_ground_truth(annotations)
    random = np.random.default_rng(1)
    rows = np.arange(len(truth.labels))
    ids = np.array(truth.category_ids)
    results = Results(
        truth.image_ids[truth.images[rows]],
        ids[truth.labels[rows]],
        random.uniform(0.3, 0.9, len(rows)),
        truth.boxes + random.normal(0, 0.5, truth.boxes.shape).clip(-0.4, 0.4),
    )
    first, second = halves(truth, results)
    assert sorted([*first[0].image_ids, *second[0].image_ids]) == sorted(truth.image_ids)
    assert first[0].image_ids.tolist() == sorted(truth.image_ids.tolist())[::2]
    assert set(first[1].image_ids) <= set(first[0].image_ids)
    assert len(first[1]) + len(second[1]) == len(results)
    seen, held_out = Outcomes.of(*first), Outcomes.of(*second)
    fitted = fit(seen, "isotonic", "iou")
    before, after = errors(held_out, fitted)
    cut = held_out.above(fitted.thresholds)
    assert before == cut.errors()
    assert after == cut.with_scores(fitted.calibration.maps).errors()
    assert after.LaECE0 < before.LaECE0


def test_the_command_stores_what_evaluate_and_detect_use_on_request(
    checkpoint: Path,
    annotations: Path,
    shapes_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    images = shapes_folder / "images" / "val"
    data = ("--annotations", annotations, "--images", images, "--device", "cpu")
    assert call(monkeypatch, "calibrate", checkpoint, *data, "--target", "precision") == 0
    printed = capsys.readouterr().out
    assert "before" in printed
    assert "classes have fewer than 50 detections" in printed or "class has fewer than 50 detections" in printed
    assert f"stored in {checkpoint}" in printed
    stored = load_checkpoint(checkpoint)
    assert stored["calibration"]["target"] == "precision"
    assert call(monkeypatch, "evaluate", checkpoint, *data, "--calibrated", "--out", tmp_path / "e") == 0
    printed = capsys.readouterr().out
    assert "LaACE0" in printed
    assert "thresholds stored" not in printed
    assert str(load_checkpoint(checkpoint)["thresholds"]) == str(stored["thresholds"])
    for flags, out in ((["--calibrated"], "c"), ([], "d")):
        assert call(monkeypatch, "detect", checkpoint, images, *flags, "--no-drawings", "--out", tmp_path / out) == 0
    scores = [
        sorted(
            record["score"] for record in json.loads((tmp_path / out / "detections.json").read_text())["annotations"]
        )
        for out in ("c", "d")
    ]
    assert len(scores[0]) == len(scores[1]) > 0
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give CHECKPOINT and --data, or CHECKPOINT and --annotations"),
        (("--data", "a", "--annotations", "b"), "give CHECKPOINT and --data, or CHECKPOINT and --annotations"),
    ],
)
def test_what_is_missing_is_said(
    arguments, message: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert call(monkeypatch, "calibrate", checkpoint, *arguments) == 2
    assert message in capsys.readouterr().err


def test_without_a_hit_nothing_is_calibrated_and_nothing_written(
    checkpoint: Path, annotations: Path, shapes_folder: Path, tmp_path: Path
):
    truth = json.loads(annotations.read_text())
    for record in truth["annotations"]:
        record["bbox"] = [60, 60, 1, 1]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    before = checkpoint.read_bytes()
    with pytest.raises(InputError, match="nothing can be calibrated before a model has learned"):
        rankdet.calibrate(checkpoint, tmp_path / "truth.json", images=shapes_folder / "images" / "val")
    assert checkpoint.read_bytes() == before


def test_a_checkpoint_without_or_with_a_broken_calibration_is_named(checkpoint: Path):
    with pytest.raises(InputError, match=r"copy\.pt holds no calibration: rankdet calibrate"):
        rankdet.load(checkpoint, calibrated=True)
    for state in ({"target": "iou", "maps": []}, {"target": "iou"}, {"target": "iou", "maps": [{"scale": "a"}] * 5}):
        save_checkpoint(checkpoint, load_checkpoint(checkpoint) | {"calibration": state})
        rankdet.load(checkpoint)
        with pytest.raises(InputError, match=r"copy\.pt does not fit"):
            rankdet.load(checkpoint, calibrated=True)


def test_thresholds_of_calibrated_scores_are_not_stored_as_those_of_the_network(
    checkpoint: Path, annotations: Path, shapes_folder: Path
):
    result = rankdet.calibrate(checkpoint, annotations, images=shapes_folder / "images" / "val", store=False)
    assert load_checkpoint(checkpoint)["calibration"] is None
    with pytest.raises(InputError, match="those of calibrated scores"):
        store_thresholds(result.model, [0.5] * 5)
    unknown = rankdet.Model(torch.nn.Identity(), [(1, "a")], calibration=None)
    assert all(math.isnan(value) or 0 < value < 1 for value in result.model.drawing_thresholds())
    assert unknown.drawing_thresholds() == [0.5]
    assert replace(unknown, calibration=Calibration((Platt(1.0, -1.0),), "iou")).drawing_thresholds() == [0.5]


def test_where_nothing_can_be_stored_nothing_is_computed(annotations: Path, shapes_folder: Path, untrained: Path):
    model = replace(load(untrained), network=torch.nn.Identity(), origin=None)
    with pytest.raises(InputError, match="the model has no recipe"):
        rankdet.calibrate(model, annotations)
    with pytest.raises(InputError, match="the model has no checkpoint to store a calibration in"):
        rankdet.calibrate(replace(model, origin=Origin(load(untrained).origin.recipe)), annotations)


def test_of_one_image_nothing_is_held_out_and_maps_are_found(
    checkpoint: Path, annotations: Path, shapes_folder: Path, tmp_path: Path
):
    truth = json.loads(annotations.read_text())
    truth["images"] = truth["images"][:1]
    truth["annotations"] = [record for record in truth["annotations"] if record["image_id"] == truth["images"][0]["id"]]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    result = rankdet.calibrate(checkpoint, tmp_path / "truth.json", images=shapes_folder / "images" / "val")
    assert math.isnan(result.before.LaECE0)
    assert math.isnan(result.after.D_ECE)
    assert result.after.detections == 0
    assert sum(row["detections"] for row in result.per_class.values()) > 0


def test_the_page_is_followed(
    untrained: Path, annotations: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(shapes_folder, tmp_path / "my_data")
    shutil.copy(annotations, tmp_path / "my_data" / "annotations" / "instances_val.json")
    shutil.copytree(untrained.parent, tmp_path / "runs" / "mine" / "checkpoints")
    shutil.copy(next((shapes_folder / "images" / "val").iterdir()), tmp_path / "photo.jpg")
    page = (Path(__file__).resolve().parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")
    names = {"rankdet": rankdet}
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "scores.md", "exec"), names)
    assert len(names["found"]) > 0
    assert names["found"].scores.dtype == torch.float64
    assert load(tmp_path / "runs" / "mine").operating_point == names["swept"].recommended.point
