"""Mask R-CNN from recipe to files: trained, measured on boxes and masks, detections with run lengths and drawings."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from hotcoco import mask as rle
from rich.console import Console
from torch import nn

from rankdet.coco import Results
from rankdet.data import CocoDataset, SampleKey, find_layout
from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.evaluation import evaluate_model, evaluate_on_folder
from rankdet.inference.files import find_images
from rankdet.inference.loading import load
from rankdet.inference.model import Model
from rankdet.metrics import evaluate
from rankdet.recipes import Recipe, load_recipe
from rankdet.runs.folder import Run, read_log
from rankdet.runs.processes import World
from rankdet.structures import Detection, Images, MaskScores, Source
from rankdet.training.running import train

CPU = torch.device("cpu")
WORLD = World(0, 1, CPU)


def tiny_recipe(form: str, folder: Path, changes: Sequence[str] = ()) -> Recipe:
    """A recipe that trains in a second."""
    torch.set_num_threads(1)
    overrides = [
        f"data.folder={yaml.safe_dump(str(folder)).splitlines()[0]}", "data.batch_size=2", "data.workers=0",
        "detector.pyramid_channels=16", "detector.backbone.channels=[8,16,16]", "detector.rcnn.channels=16",
        "detector.mask={channels: 8, convolutions: 1, pooled_size: 7, budget: 9}", "detector.testing.per_image=5",
        "schedule.iterations=3", "schedule.warmup_iterations=1", "runtime.log_interval=1", "runtime.device=cpu",
        "runtime.threads=1",
    ]  # fmt: skip
    return load_recipe(form, [*overrides, *changes])


@pytest.fixture(scope="module", params=["mask_rcnn_shapes", "rs_mask_rcnn_shapes"])
def run(request: pytest.FixtureRequest, shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training of three iterations and its evaluation."""
    run = Run(tmp_path_factory.mktemp("runs") / "run")
    with (run.folder.parent / "output.txt").open("w") as output:
        train(tiny_recipe(request.param, shapes_folder), out=run.folder, console=Console(file=output))
    return run


class Oracle(nn.Module):
    """Finds the masks of all objects of a data set, as grids over the whole image."""

    def __init__(self, dataset: CocoDataset) -> None:
        super().__init__()
        self.dataset, self.next = dataset, 0

    def detect(self, images: Images) -> list[Detection]:
        found = []
        for height, width in images.sizes:
            target = self.dataset[SampleKey(self.next, 0)].target
            region = torch.tensor([[0.0, 0.0, width, height]]).expand(len(target.boxes), 4)
            masks = MaskScores(target.masks.float(), region)
            found.append(Detection(target.boxes, torch.ones(len(target.boxes)), target.labels, masks))
            self.next += 1
        return found


@pytest.mark.parametrize(("resize", "least"), [("null", 1.0), ("{type: fixed, height: 96, width: 160}", 0.8)])
def test_perfect_masks_score_one_in_the_pixels_of_the_files(resize: str, least: float, shapes_folder: Path):
    """Enlarged masks come back with their outlines a little rounder: their AP at high IoU is lower."""
    recipe = tiny_recipe(
        "rs_mask_rcnn_shapes", shapes_folder, [f"data.resize={resize}", "detector.testing.per_image=100"]
    )
    dataset = recipe.data.build_test_dataset(with_masks=True)
    metrics = evaluate_model(Model(Oracle(dataset), dataset.categories), dataset).metrics
    assert metrics["AP"] == pytest.approx(1.0)
    assert metrics["masks"]["AP50"] == pytest.approx(1.0)
    assert metrics["masks"]["AP"] >= least - 1e-9
    assert metrics["masks"]["oLRP"] <= 2 * (1 - least) + 1e-6
    assert metrics["masks"]["per_class"].keys() == metrics["per_class"].keys()


def test_record_of_a_detection_carries_its_mask():
    box = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    found = Detection(box, torch.tensor([0.5]), torch.tensor([1]), MaskScores(torch.ones(1, 28, 28), box))
    (record,) = Results.of_image(Source(7, "a.jpg", (10, 12)), found, [3, 9]).records()
    assert record["segmentation"]["size"] == [10, 12]
    assert rle.area(record["segmentation"]) == 18
    assert json.loads(json.dumps(record)) == record


def test_training_logs_the_masks_and_measures_them(run: Run):
    records = list(read_log(run.log))
    assert "rcnn/mask" in records[0]["statistics"]
    assert ("rcnn/mask_balance" in records[0]["statistics"]) == (load_recipe(run.recipe).name.startswith("rs"))
    metrics = json.loads(run.evaluation.read_text())
    assert {"AP", "AP50", "oLRP", "per_class"} <= metrics["masks"].keys()
    assert "masks: AP" in (run.folder.parent / "output.txt").read_text()


def test_checkpoint_and_its_detections_measure_alike_on_masks(run: Run, shapes_folder: Path, tmp_path: Path):
    metrics = evaluate_on_folder(load(run.folder, CPU), shapes_folder, "val", out=tmp_path, ranking=True)
    found = json.loads((tmp_path / "detections.json").read_text())
    assert metrics["ranking"]["head"] == "rcnn"
    masks = [{name: value for name, value in record.items() if name != "bbox"} for record in found]
    truth = find_layout(shapes_folder).source("val").annotations
    assert str(evaluate(truth, masks, "segm", max_detections=5)) == str(metrics["masks"])
    again = evaluate(truth, tmp_path / "detections.json", "segm", max_detections=5)
    assert again["AP"] == metrics["masks"]["AP"]


def test_detecting_writes_masks_and_draws_them(run: Run, shapes_folder: Path, tmp_path: Path):
    images = sorted(find_layout(shapes_folder).source("val").images.iterdir())[:2]
    detect_and_draw(load(run.folder, "cpu"), find_images(images), tmp_path / "out", 0.0, lambda _: None)
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(list((tmp_path / "out").glob("*.png"))) == 2
    assert content["annotations"]
    for row in content["annotations"]:
        assert row["segmentation"]["size"] == [64, 64]
        assert row["area"] == rle.area(row["segmentation"])
