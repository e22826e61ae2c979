"""Images to learn from that are decoded to a half, a quarter or an eighth: what that saves, and what it changes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rankdet.data import CocoDataset, SampleKey
from rankdet.data.augmentation import Expansion, MinIoUCrop
from rankdet.data.transforms import FixedSize, KeepRatio, Transforms
from rankdet.recipes import load_recipe

HEIGHT, WIDTH = 600, 808


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """A photograph of waves, edges and noise, and an object."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    waves = sum(
        np.sin(a * rows + b * columns)[..., None] * color
        for a, b, color in zip(*random.uniform(2, 60, (2, 6)), random.uniform(0, 30, (6, 3)), strict=True)
    )
    pixels = 128 + waves + random.normal(0, 4, (HEIGHT, WIDTH, 1))
    pixels[200:400, 300:500] = (250, 30, 90)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "a.jpg", quality=90)
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [300, 200, 200, 200], "area": 40000}],
    }
    (tmp_path / "a.json").write_text(json.dumps(document))
    return tmp_path / "a.json"


@pytest.mark.parametrize("resize", [KeepRatio(200, (150, 100)), FixedSize(75, 100), FixedSize(37, 50)])
def test_pixels_differ_by_less_than_one_of_255_and_objects_do_not(annotations, resize):
    samples = []
    for reduced in (False, True):
        transforms = Transforms(resize, horizontal_flip=0.5, reduced_decoding=reduced)
        samples.append(CocoDataset(annotations, annotations.parent, transforms)[SampleKey(0, 3)])
    whole, reduced = samples
    assert whole.image.shape == reduced.image.shape
    assert not torch.equal(whole.image, reduced.image)
    assert (whole.image.float() - reduced.image.float()).abs().mean() < 1
    assert torch.equal(whole.target.boxes, reduced.target.boxes)
    assert whole.source == reduced.source


def test_an_image_that_is_less_than_four_times_as_large_is_as_before(annotations):
    resize = FixedSize(HEIGHT // 4 + 1, WIDTH // 4 + 1)
    whole, reduced = (
        CocoDataset(annotations, annotations.parent, Transforms(resize, reduced_decoding=is_reduced))[SampleKey(0, 3)]
        for is_reduced in (False, True)
    )
    assert torch.equal(whole.image, reduced.image)


@pytest.mark.parametrize(
    "transforms",
    [
        Transforms(FixedSize(96, 128)),
        Transforms(reduced_decoding=True),
        Transforms(FixedSize(96, 128), expansion=Expansion((1, 2, 3)), reduced_decoding=True),
        Transforms(FixedSize(96, 128), crop=MinIoUCrop(), reduced_decoding=True),
    ],
)
def test_an_image_is_decoded_whole_unless_a_smaller_one_is_sure_to_do(transforms):
    assert transforms.decoded_size((3000, 4000)) is None


def test_the_largest_of_the_sides_that_may_be_drawn_counts():
    assert Transforms(KeepRatio(400, (300, 100)), reduced_decoding=True).decoded_size((3000, 4000)) == (600, 800)


def test_a_recipe_decodes_images_to_learn_from_to_less_and_no_others():
    data = load_recipe("faster_rcnn_shapes", {"data.reduced_decoding": True}).data
    assert data.build_transforms(training=True).reduced_decoding
    assert not data.build_transforms(training=False).reduced_decoding
    assert not load_recipe("faster_rcnn_shapes").data.build_transforms(training=True).reduced_decoding
