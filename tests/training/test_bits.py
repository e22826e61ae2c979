"""Images of 16 bits that use fewer: measured at the start, told, and the same in training, evaluation and detection."""

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import rankdet
from rankdet.coco import grouped
from rankdet.data import SampleKey
from rankdet.data.pixels import to_pixels
from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.files import find_images
from rankdet.inference.loading import load
from rankdet.recipes import Recipe
from rankdet.training.running import TrainedRun, train

Load = Callable[..., Recipe]


def deep(shapes_folder: Path, tmp_path: Path, bits: int) -> Path:
    """The shapes in gray, as a camera of so many bits writes them."""
    folder = tmp_path / "deep"
    shutil.copytree(shapes_folder, folder)
    for path in folder.glob("images/*/*.png"):
        gray = np.array(Image.open(path).convert("L")).astype(np.uint16)
        gray[0, 0] = 255
        Image.fromarray(gray << (bits - 8)).save(path)
    return folder


def trained(recipe: Recipe, out: Path, resume: bool = False) -> tuple[TrainedRun, str]:
    console = Console(file=io.StringIO(), width=200)
    return train(recipe, console=console, **{"resume" if resume else "out": out}), console.file.getvalue()


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_training_evaluation_and_detection_see_the_same_gray(
    bits: int, tiny: Load, shapes_folder: Path, tmp_path: Path
):
    folder = deep(shapes_folder, tmp_path, bits)
    recipe = tiny(f"data.folder={folder}", "schedule.iterations=1", "evaluation.at_end=true")
    run, text = trained(recipe, tmp_path / "run")
    assert text.count(f"has images of 16 bits that use {bits}, of which the upper eight are kept") == 1
    model = rankdet.load(run.folder, device="cpu")
    assert model.origin.recipe.data.significant_bits == (None if bits == 16 else bits)
    data = model.origin.recipe.data
    for dataset in (data.build_test_dataset(), data.build_training_dataset()):
        seen = dataset.with_transforms(model.transforms)[SampleKey(0, 0)].image
        plain = to_pixels(shapes_folder / dataset.path(0).relative_to(folder)).float().mean(dim=0)
        assert (seen[0].float() - plain).abs()[1:].max() < 40  # the gray of Pillow weighs colors
        assert torch.equal(model._sample(model._pixels(dataset.path(0), 0), 0).image, seen)
    detect_and_draw(load(run.folder, "cpu"), find_images([dataset.path(0)]), tmp_path / "out", 1.0, str)
    with Image.open(next((tmp_path / "out").glob("*.png"))) as drawn:
        assert np.array(drawn).mean() > 60
    again = rankdet.evaluate(model, folder)
    written = json.loads((run.folder / "evaluation.json").read_text())
    assert again["AP"] == written["AP"]
    _, text = trained(recipe.changed({"data.significant_bits": data.significant_bits}), run.folder, resume=True)
    assert "changed: data" not in text
    console = Console(file=io.StringIO(), width=200)
    train(recipe, out=run.folder, resume_if_exists=True, console=console)  # the same call, which names no bits
    assert "changed: data" not in console.file.getvalue()
    assert rankdet.load_recipe(run.folder / "recipe.yaml").data.significant_bits == data.significant_bits


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        (None, "note: .* has images of 16 bits that use 12, .*values up to 4080 .*data.significant_bits=16 "),
        (12, "note: .* has images of 16 bits that count as 12"),
        (14, "note: .* has images of 16 bits that count as 14"),
        (16, "warning: .* use less than an eighth of data.significant_bits=16: .*data.significant_bits=12 fits"),
        (10, "warning: .* values beyond data.significant_bits=10, which become white: .*data.significant_bits=12 fits"),
    ],
)
def test_what_is_done_with_16_bits_is_told(
    stated: int | None, told: str, tiny: Load, shapes_folder: Path, tmp_path: Path
):
    folder = deep(shapes_folder, tmp_path, 12)
    recipe = tiny(f"data.folder={folder}").changed({"data.significant_bits": stated})
    prepared = recipe.data.prepare()
    [line] = [line for line in grouped(prepared.findings) if "16 bits" in line]
    assert re.match(told, line)
    assert prepared.train is not None
    assert prepared.train.transforms.significant_bits == (stated or 12)


def test_nothing_is_told_of_images_of_8_bits(tiny: Load):
    assert not [finding for finding in tiny().data.prepare().findings if "bits" in finding.problem]
