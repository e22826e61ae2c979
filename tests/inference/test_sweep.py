"""Operating points: what is tried, measured, recommended, stored and used."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import rankdet
from rankdet.cli import main
from rankdet.inference.loading import load
from rankdet.inference.operating_points import OperatingPoint
from rankdet.inference.sweep import MeasuredPoint, points_to_try, recommended, stale_calibration, store_point
from rankdet.recipes import load_recipe
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.structures import InputError

CATEGORIES = [[1, "ellipse"], [3, "rectangle"], [7, "triangle"], [13, "ring"], [21, "cross"]]


@pytest.fixture(scope="module")
def checkpoint(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector as a checkpoint."""
    recipe = load_recipe(tiny_file)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "model.pt"
    state = {"recipe": recipe.model_dump(mode="json"), "categories": CATEGORIES, "thresholds": None}
    save_checkpoint(path, state | {"detector": recipe.detector.build(5).state_dict()})
    return path


def row(threshold: float, ap: float, iou: float = 0.5) -> MeasuredPoint:
    return MeasuredPoint(OperatingPoint(threshold, iou), ap, 0.5, 10.0, 20.0)


def test_recommended_is_the_highest_threshold_that_costs_no_ap():
    points = [row(0.05, 0.4), row(0.3, 0.3996), row(0.4, 0.3994), row(0.3, 0.3998, iou=0.6), row(0.05, 0.5, iou=0.4)]
    assert recommended(points) == points[3]
    assert recommended(points[:1]) == points[0]
    # What is better than the network's own point does not raise the bar.
    assert recommended([row(0.05, 0.4), row(0.05, 0.5, iou=0.4), row(0.3, 0.4)]).point.score_threshold == 0.3


def test_a_network_without_nms_has_only_thresholds_of_scores():
    own = OperatingPoint(0.0)
    assert points_to_try(own, [0.0, 0.2]) == [own, OperatingPoint(0.2)]
    with pytest.raises(InputError, match="no IoU threshold of NMS"):
        points_to_try(own, [0.2], [0.5])
    with pytest.raises(InputError, match=r"score_threshold must be from 0 to 1, not 1\.5"):
        points_to_try(own, [1.5])


def test_a_point_holds_inside_of_the_context_alone(checkpoint: Path):
    network = load(checkpoint).network
    before = network.detection
    point = OperatingPoint(0.4, 0.6)
    with point.applied_to(network):
        assert OperatingPoint.of(network) == point
        assert network.detection.per_image == before.per_image
    assert network.detection is before
    with pytest.raises(KeyError), point.applied_to(network):
        raise KeyError
    assert network.detection is before
    with pytest.raises(InputError, match="which the point lacks"), OperatingPoint(0.4).applied_to(network):
        pass
    with pytest.raises(InputError, match="Identity has no settings of detection"):
        OperatingPoint.of(nn.Identity())


def test_a_calibration_at_another_point_is_told_to_be_stale(checkpoint: Path, tmp_path: Path):
    path = tmp_path / "model.pt"
    state = load_checkpoint(checkpoint)
    maps = {"target": "iou", "maps": [{}] * 5}
    own = OperatingPoint.of(load(checkpoint).network)
    for calibration, stored, point, is_stale in (
        (None, None, OperatingPoint(0.4, 0.5), False),
        (maps, None, OperatingPoint(0.4, 0.5), True),
        (maps, None, own, False),
        (maps, {"score_threshold": 0.4, "nms_iou": 0.5}, OperatingPoint(0.4, 0.5), False),
        (maps, {"score_threshold": 0.4, "nms_iou": 0.5}, own, True),
    ):
        save_checkpoint(path, state | {"calibration": calibration, "operating_point": stored})
        said = stale_calibration(replace(load(path), operating_point=point))
        assert (said is not None and "rankdet calibrate finds it anew" in said) == is_stale


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rankdet", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0


def test_each_point_is_measured_as_an_evaluation_with_its_settings_does(checkpoint: Path, shapes_folder: Path):
    before = checkpoint.read_bytes()
    model = load(checkpoint)
    scores = torch.cat([model.detect(image).scores for image in (shapes_folder / "images" / "val").iterdir()])
    middle = round(float(scores.quantile(0.8)), 4)
    found = rankdet.sweep(checkpoint, shapes_folder, score_thresholds=[middle], nms_ious=[0.3], store=False)
    assert [each.point for each in found.points] == [
        OperatingPoint(0.05, 0.5),
        OperatingPoint(middle, 0.5),
        OperatingPoint(0.05, 0.3),
        OperatingPoint(middle, 0.3),
    ]
    for each in found.points:
        changed = load(checkpoint)
        settings = changed.network.detection
        changed.network.detection = type(settings)(each.point.score_threshold, each.point.nms_iou, settings.per_image)
        metrics = rankdet.evaluate(changed, shapes_folder)
        assert (each.AP, each.oLRP) == (metrics["AP"], metrics["oLRP"])
        assert each.images_per_second > 0
    assert found.points[1].detections < found.points[0].detections
    assert found.model.operating_point == found.recommended.point
    assert checkpoint.read_bytes() == before


def test_an_image_that_cannot_be_read_is_told_and_has_no_detections(
    checkpoint: Path, shapes_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = Path(shutil.copytree(shapes_folder, tmp_path / "data"))
    broken, *others = sorted((folder / "images" / "val").iterdir())
    broken.write_bytes(b"no image")
    found = rankdet.sweep(checkpoint, folder, score_thresholds=[], nms_ious=[0.5], store=False)
    assert "an image cannot be read and counts as one without detections" in capsys.readouterr().err
    counts = [len(each) for each in load(checkpoint).detect(others)]
    assert found.points[0].detections == pytest.approx(sum(counts) / len(counts))
    for image in others:
        image.write_bytes(b"no image")
    with pytest.raises(InputError, match="can be read"):
        rankdet.sweep(checkpoint, folder, score_thresholds=[], nms_ious=[0.5], store=False)


def test_by_crowds_alone_nothing_is_recommended(checkpoint: Path, shapes_folder: Path, tmp_path: Path):
    truth = json.loads((shapes_folder / "annotations" / "instances_val.json").read_text())
    for record in truth["annotations"]:
        record["iscrowd"] = 1
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    images = shapes_folder / "images" / "val"
    with pytest.raises(InputError, match="has no objects that AP counts"):
        rankdet.sweep(checkpoint, tmp_path / "truth.json", images=images, score_thresholds=[], nms_ious=[], store=False)


def test_a_stored_point_is_where_all_others_detect(
    checkpoint: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    path = Path(shutil.copy(checkpoint, tmp_path / "model.pt"))
    images = sorted((shapes_folder / "images" / "val").iterdir())
    scores = torch.cat([found.scores for found in load(path).detect(images)])
    point = OperatingPoint(float(scores.median()), 0.5)
    store_point(replace(load(path), operating_point=point))
    model = load(path)
    assert model.operating_point == point
    assert load(path, operating_point=False).operating_point is None
    counts = []
    for flags in ([], ["--no-operating-point"]):
        out = tmp_path / f"out{len(flags)}"
        assert call(monkeypatch, "detect", path, *images, "--no-drawings", "--out", out, *flags) == 0
        assert ("at the stored operating point: score threshold 0." in capsys.readouterr().err) == (not flags)
        found = [record["score"] for record in json.loads((out / "detections.json").read_text())["annotations"]]
        assert min(found) > (0.05 if flags else point.score_threshold)
        counts.append(len(found))
    assert 0 < counts[0] < counts[1] == len(scores)
    assert sum(map(len, model.detect(images))) == counts[0]
    assert rankdet.evaluate(model, shapes_folder)["operating_point"] == point.state()
    assert "operating_point" not in rankdet.evaluate(load(path, operating_point=False), shapes_folder)


def test_the_command_stores_what_it_recommends_and_starts_from_the_recipe(
    checkpoint: Path, shapes_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    path = Path(shutil.copy(checkpoint, tmp_path / "model.pt"))
    store_point(replace(load(path), operating_point=OperatingPoint(0.9, 0.9)))
    data = ("--data", shapes_folder, "--device", "cpu")
    assert call(monkeypatch, "sweep", path, *data, "--thresholds", "0.051", "--nms", "0.5", "--no-store") == 0
    printed = capsys.readouterr().out
    assert "images/s" in printed
    assert "; score threshold 0.05, NMS 0.5: AP" in printed
    assert load_checkpoint(path)["operating_point"] == {"score_threshold": 0.9, "nms_iou": 0.9}
    # No score of an untrained detector is so low that this would cost AP.
    assert call(monkeypatch, "sweep", path, *data, "--thresholds", "0.051", "--nms", "0.5") == 0
    printed = capsys.readouterr().out
    assert "recommended: score threshold 0.051, NMS 0.5: AP" in printed
    assert f"stored in {path}" in printed
    assert load_checkpoint(path)["operating_point"] == {"score_threshold": 0.051, "nms_iou": 0.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give CHECKPOINT and --data, or CHECKPOINT and --annotations"),
        (("--data", "a", "--thresholds", "0.1;0.2"), "--thresholds is numbers with commas, not '0.1;0.2'"),
    ],
)
def test_what_cannot_be_understood_is_said(
    arguments, message: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert call(monkeypatch, "sweep", checkpoint, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_broken_point_of_a_checkpoint_is_named(checkpoint: Path, tmp_path: Path):
    path = Path(shutil.copy(checkpoint, tmp_path / "model.pt"))
    for state in ({"score_threshold": 0.4}, {"score_threshold": "a", "nms_iou": None}):
        save_checkpoint(path, load_checkpoint(path) | {"operating_point": state})
        with pytest.raises(InputError, match=r"model\.pt does not fit"):
            load(path)
