"""Calibration, thresholds and operating points of detectors of masks, by the IoU of the masks or of the boxes."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rankdet
from rankdet.cli import main
from rankdet.exporting.writing import metadata
from rankdet.inference.loading import load
from rankdet.inference.operating_points import OperatingPoint
from rankdet.inference.score_maps import Calibration
from rankdet.recipes import load_recipe
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.structures import InputError

CATEGORIES = [[1, "ellipse"], [3, "rectangle"], [7, "triangle"], [13, "ring"], [21, "cross"]]
TINY = [
    "detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]", "detector.rcnn.channels=16",
    "detector.mask={channels: 8, convolutions: 1, pooled_size: 7, budget: 9}", "detector.testing.per_image=20",
    "detector.testing.score_threshold=0", "data.workers=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of an untrained Mask R-CNN."""
    recipe = load_recipe("rs_mask_rcnn_shapes", TINY)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "model.pt"
    state = {"recipe": recipe.model_dump(mode="json"), "categories": CATEGORIES, "thresholds": None}
    save_checkpoint(path, state | {"detector": recipe.detector.build(5, pretrained=False).state_dict()})
    return path.read_bytes()


@pytest.fixture
def checkpoint(untrained: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(untrained)
    return path


@pytest.fixture(scope="module")
def data(untrained: bytes, shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Objects with the masks that the detector finds, and with three fifths of the boxes: IoUs of 1 and of 0.6."""
    folder, random = tmp_path_factory.mktemp("truth"), np.random.default_rng(0)
    (folder / "model.pt").write_bytes(untrained)
    model, images = load(folder / "model.pt"), shapes_folder / "images" / "val"
    truth = json.loads((shapes_folder / "annotations" / "instances_val.json").read_text())
    truth["annotations"] = []
    for image in truth["images"]:
        for place, record in enumerate(model.detect(images / image["file_name"]).to_coco(image["id"])):
            left, top, width, height = record["bbox"]
            if random.uniform() < 0.9 - 0.04 * place and width > 1 and height > 1:
                own = {key: record[key] for key in ("image_id", "category_id", "segmentation")}
                own |= {"id": len(truth["annotations"]) + 1, "area": width * height, "iscrowd": 0}
                truth["annotations"].append(own | {"bbox": [left, top, 0.6 * width, height]})
    (folder / "truth.json").write_text(json.dumps(truth))
    return {"data": folder / "truth.json", "images": images}


def test_scores_state_the_iou_of_masks_and_on_request_that_of_boxes(checkpoint: Path, data: dict[str, Path]):
    stated = {}
    for iou_type in ("bbox", "segm", None):
        result = rankdet.calibrate(checkpoint, **data, method="platt", iou_type=iou_type)
        compared = iou_type or "segm"
        assert load_checkpoint(checkpoint)["calibration"]["iou_type"] == compared
        model = rankdet.load(checkpoint, calibrated=True)
        assert model.calibration == result.model.calibration
        assert model.calibration.iou_type == compared
        stated[iou_type] = sum(row["calibrated"] for row in result.per_class.values() if row["detections"])
        found = rankdet.evaluate(model, **data)
        mine, other = (found, found["masks"]) if compared == "bbox" else (found["masks"], found)
        kept = sum(row["detections"] for row in result.per_class.values())
        assert mine["calibration"]["detections"] == kept > 0
        assert mine["calibration"]["LaECE0"] < other["calibration"]["LaECE0"]
        assert result.after.LaECE0 < result.before.LaECE0
    assert stated[None] == stated["segm"] > stated["bbox"] > 0


def test_thresholds_are_those_of_masks_wherever_they_are_stored(
    checkpoint: Path, data: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    found = rankdet.evaluate(load(checkpoint), **data)
    masks, boxes = ([row["threshold"] for row in numbers["per_class"].values()] for numbers in (found["masks"], found))
    assert str(masks) != str(boxes)
    given = ("--annotations", data["data"], "--images", data["images"], "--device", "cpu")
    call(monkeypatch, "evaluate", checkpoint, *given, "--out", tmp_path / "out")
    assert str(load_checkpoint(checkpoint)["thresholds"]) == str(masks)
    for iou_type, expected in (("bbox", boxes), ("segm", masks)):
        call(monkeypatch, "calibrate", checkpoint, *given, "--iou-type", iou_type)
        stored = load_checkpoint(checkpoint)["thresholds"]
        known = [(new, own) for new, own in zip(stored, expected, strict=True) if own == own]
        assert len(known) > 1
        assert all(new == own for new, own in known)
        assert metadata(load(checkpoint), preprocessing=False)["thresholds"] == load(checkpoint).drawing_thresholds()


@pytest.mark.parametrize("iou_type", ["bbox", "segm", None])
def test_each_operating_point_is_measured_as_an_evaluation_there(
    iou_type: str | None, checkpoint: Path, data: dict[str, Path]
):
    model = load(checkpoint)
    scores = torch.cat([model.detect(image).scores for image in data["images"].iterdir()])
    middle = round(float(scores.quantile(0.6)), 4)
    found = rankdet.sweep(checkpoint, **data, score_thresholds=[middle], nms_ious=[], iou_type=iou_type, store=False)
    assert found.iou_type == (iou_type or "segm")
    assert [each.point for each in found.points] == [OperatingPoint(0.0, 0.5), OperatingPoint(middle, 0.5)]
    for each in found.points:
        changed = load(checkpoint)
        settings = changed.network.detection
        changed.network.detection = type(settings)(each.point.score_threshold, each.point.nms_iou, settings.per_image)
        metrics = rankdet.evaluate(changed, **data)
        one, other = (metrics, metrics["masks"]) if iou_type == "bbox" else (metrics["masks"], metrics)
        assert (each.AP, each.oLRP) == (one["AP"], one["oLRP"])
        assert other["AP"] != each.AP
    assert found.points[1].detections < found.points[0].detections


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["rankdet", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code


def test_the_commands_say_what_is_compared_and_print_both_errors(
    checkpoint: Path,
    data: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path,
):
    given = ("--annotations", data["data"], "--images", data["images"], "--device", "cpu")
    call(monkeypatch, "sweep", checkpoint, *given, "--thresholds", "0.01", "--nms", "0.5", "--no-store")
    assert "measured by masks of " in capsys.readouterr().err
    call(monkeypatch, "calibrate", checkpoint, *given, "--iou-type", "bbox", "--no-store")
    assert "calibrated by boxes of " in capsys.readouterr().err
    call(monkeypatch, "calibrate", checkpoint, *given)
    assert "calibrated by masks of " in capsys.readouterr().err
    call(monkeypatch, "evaluate", checkpoint, *given, "--calibrated", "--out", tmp_path / "out")
    assert len(re.findall("LaACE0", capsys.readouterr().out)) == 2


def test_boxes_of_a_file_without_masks_are_compared_on_request_alone(
    checkpoint: Path, data: dict[str, Path], tmp_path: Path
):
    truth = json.loads(data["data"].read_text())
    for record in truth["annotations"]:
        del record["segmentation"]
    (tmp_path / "boxes.json").write_text(json.dumps(truth))
    given = {"data": tmp_path / "boxes.json", "images": data["images"], "store": False}
    result = rankdet.calibrate(checkpoint, **given, iou_type="bbox")
    assert str(result.before) == str(rankdet.calibrate(checkpoint, **data, iou_type="bbox", store=False).before)
    found = rankdet.sweep(checkpoint, **given, score_thresholds=[], nms_ious=[], iou_type="bbox")
    assert len(found.points) == 1
    for measure in (rankdet.calibrate, rankdet.sweep):
        with pytest.raises(InputError, match="masks are asked for, but no object has a sound one"):
            measure(checkpoint, **given)


def test_what_cannot_be_compared_is_refused(tiny_file: Path, checkpoint: Path, data: dict[str, Path], tmp_path: Path):
    recipe = load_recipe(tiny_file)
    state = {"recipe": recipe.model_dump(mode="json"), "categories": CATEGORIES, "thresholds": None}
    save_checkpoint(tmp_path / "boxes.pt", state | {"detector": recipe.detector.build(5).state_dict()})
    for measure in (rankdet.calibrate, rankdet.sweep):
        with pytest.raises(InputError, match="the model finds boxes alone: masks cannot be compared"):
            measure(tmp_path / "boxes.pt", **data, iou_type="segm")
        with pytest.raises(InputError, match="iou_type must be 'bbox' or 'segm', not 'masks'"):
            measure(checkpoint, **data, iou_type="masks")


def test_a_calibration_of_boxes_alone_is_read_as_before_and_an_unknown_one_refused():
    state = {"target": "iou", "maps": [{}]}
    assert Calibration.of_state(state, 1).iou_type == "bbox"
    known = Calibration.of_state(state | {"iou_type": "segm"}, 1)
    assert known == Calibration.of_state(known.state(), 1)
    assert known.iou_type == "segm"
    with pytest.raises(ValueError, match="a calibration compares 'masks'"):
        Calibration.of_state(state | {"iou_type": "masks"}, 1)
