"""The benchmark of tiles: its mosaic holds the objects of its images, each in its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hotcoco import mask as rle
from PIL import Image

from rankdet.metrics import evaluate


def test_a_mosaic_has_the_pixels_and_the_objects_of_its_images(module, shapes_folder: Path) -> None:
    pixels, whole, single = module("tiles").mosaic(shapes_folder, cell=64, side=140, gap=4)
    assert pixels.shape == (140, 140, 3)
    assert len(single["images"]) == 4
    assert len(whole["annotations"]) == len(single["annotations"]) > 4
    places = {row["id"]: (top, left) for row, (top, left) in zip(single["images"], np.ndindex(2, 2), strict=True)}
    for row in single["images"]:
        top, left = (68 * step for step in places[row["id"]])
        with Image.open(row["file_name"]) as image:
            assert np.array_equal(pixels[top : top + 64, left : left + 64], np.asarray(image.convert("RGB")))
    for large, small in zip(whole["annotations"], single["annotations"], strict=True):
        top, left = (68 * step for step in places[small["image_id"]])
        inside = rle.decode(large["segmentation"])[top : top + 64, left : left + 64]
        assert np.array_equal(inside, rle.decode(small["segmentation"]))
        assert rle.area(large["segmentation"]) == inside.sum() > 0
        assert np.subtract(large["bbox"], small["bbox"]).tolist() == [left, top, 0, 0]


def test_the_objects_of_a_mosaic_found_exactly_are_measured_as_such(module, shapes_folder: Path) -> None:
    _, whole, _ = module("tiles").mosaic(shapes_folder, cell=64, side=128, gap=0)
    found = [row | {"score": 0.5} for row in whole["annotations"]]
    assert module("tiles").measured(whole, found, True, 10_000).startswith("AP 1.0000 of boxes, 1.0000 of masks")
    assert evaluate(whole, found[1:], "segm")["AP"] < 1
