"""An image has the detections that it has alone, whatever images of other sizes are evaluated with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from rankdet.data import CocoDataset, SampleKey, build_test_loader
from rankdet.data.pixels import to_pixels
from rankdet.inference.evaluation import evaluate_model
from rankdet.inference.model import Model
from rankdet.training.running import train

SIZES = ((64, 96), (160, 64), (64, 64), (100, 70), (64, 160))
"""(width, height) of the images, in turn."""


@pytest.fixture(scope="module")
def mixed(shapes_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shapes on canvases of several sizes."""
    folder = tmp_path_factory.mktemp("mixed")
    random = np.random.default_rng(0)
    for split in ("train", "val"):
        annotations = Path("annotations") / f"instances_{split}.json"
        document = json.loads((shapes_folder / annotations).read_text())
        (folder / "images" / split).mkdir(parents=True)
        for place, row in enumerate(document["images"]):
            width, height = SIZES[place % len(SIZES)]
            canvas = Image.fromarray(random.integers(90, 160, (height, width, 3), dtype=np.uint8))
            with Image.open(shapes_folder / "images" / split / row["file_name"]) as image:
                canvas.paste(image)
            canvas.save(folder / "images" / split / row["file_name"])
            row |= {"width": width, "height": height}
        for row in document["annotations"]:  # run lengths would be of the smaller image
            x, y, width, height = row["bbox"]
            row["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        (folder / annotations).parent.mkdir(exist_ok=True)
        (folder / annotations).write_text(json.dumps(document))
    return folder


DETECTORS = ("faster_rcnn", "mask_rcnn", "cascade_rcnn", "atss", "paa", "yolact", "solov2", "detr")


def trained(detector: str, folder: Path, out: Path) -> tuple[Model, CocoDataset]:
    """A network that has seen enough to tell images apart, and the images to evaluate it on."""
    changes = {
        "schedule.iterations": 10,
        "schedule.warmup_iterations": 5,
        "data.batch_size": 4,
        "data.workers": 0,
        "evaluation.at_end": False,
        "runtime.device": "cpu",
        "runtime.threads": 1,
    }
    if detector == "solov2":  # whose masks are empty after few iterations, and are not at the start
        changes |= {"schedule.iterations": 1, "schedule.warmup_iterations": 1}
        changes |= {"detector.testing.score_threshold": 1e-6, "detector.testing.least_score": 0.0}
    run = train(f"rs_{detector}_shapes", data=folder, out=out, changes=changes, console=Console(quiet=True))
    assert run.model.origin is not None
    recipe = run.model.origin.recipe
    return run.model, recipe.data.build_test_dataset(measure_masks=recipe.detector.has_masks)


@pytest.mark.parametrize("detector", DETECTORS)
def test_detections_do_not_depend_on_the_batch_size(detector: str, mixed: Path, tmp_path: Path):
    model, dataset = trained(detector, mixed, tmp_path / "run")
    alone = evaluate_model(model, dataset, batch_size=1, workers=0)
    assert len(alone.detections) > 50
    for batch_size in (2, 4, 8):
        together = evaluate_model(model, dataset, batch_size=batch_size, workers=0)
        for one, other in [(together.metrics, alone.metrics), *_of_masks(together.metrics, alone.metrics)]:
            assert one["AP"] == pytest.approx(other["AP"], abs=1e-3)
        assert len(together.detections) == len(alone.detections)
        for one, other in zip(together.detections, alone.detections, strict=True):
            assert one["image_id"] == other["image_id"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def _of_masks(*metrics: dict[str, Any]) -> list[tuple[dict[str, Any], ...]]:
    return [tuple(row["masks"] for row in metrics)] if "masks" in metrics[0] else []


def test_detecting_and_evaluating_give_an_image_the_same_detections(mixed: Path, tmp_path: Path):
    model, dataset = trained("faster_rcnn", mixed, tmp_path / "run")
    evaluated = evaluate_model(model, dataset, batch_size=4, workers=0)
    found = model.detect([dataset.path(index) for index in range(len(dataset))], batch_size=3)
    scores = torch.cat([found[row].scores for row in np.argsort(dataset.image_ids)])
    assert torch.allclose(scores, torch.tensor([row["score"] for row in evaluated.detections]), atol=1e-5)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("is_upright", [True, False])
def test_training_evaluation_and_detection_see_the_same_pixels(orientation: int, is_upright: bool, tmp_path: Path):
    """Of a photo that lies turned in its file, annotated as viewers show it, or as it is stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    height, width = (60, 40) if is_upright and orientation >= 5 else (40, 60)
    image = {"id": 1, "file_name": "a.png", "height": height, "width": width}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0}
    document = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "a.json").write_text(json.dumps(document))
    dataset = CocoDataset(tmp_path / "a.json", tmp_path)
    learned = dataset[SampleKey(0, 0)].image
    [evaluated] = build_test_loader(dataset, workers=0)
    assert torch.equal(evaluated.images.pixels[0, :, :height, :width], learned)
    detected = to_pixels(tmp_path / "a.png")
    if (height, width) == detected.shape[1:]:
        assert torch.equal(detected, learned)
    else:  # the annotations can only mean the stored pixels
        assert torch.equal(torch.from_numpy(pixels).permute(2, 0, 1), learned)
