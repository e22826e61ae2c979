"""Large images in tiles: an image cut in tiles finds what the whole finds, each object once and none in pieces.

The network of these tests sees perfectly: each object has a gray value of its own, and whatever of it is in the pixels
that the network is given is found, be it cut or whole.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from rankdet.data import FixedSize, Transforms
from rankdet.data.augmentation import Window
from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.files import find_images
from rankdet.inference.model import Model
from rankdet.inference.tiles import Tiles, merged
from rankdet.metrics import evaluate
from rankdet.structures import Detection, Images, MaskScores

CLASSES = [(1, "even"), (2, "odd")]


class Seeing(nn.Module):
    """Finds each gray value as a box with a mask, of the class value % 2 with the score value / 256."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def detect(self, images: Images) -> list[Detection]:
        self.batches.append(tuple(images.pixels.shape))
        return [
            self.found(pixels[0, : size[0], : size[1]])
            for pixels, size in zip(images.pixels, images.sizes, strict=True)
        ]

    def found(self, pixels: torch.Tensor) -> Detection:
        values = pixels.unique().flip(0)
        values = values[values > 0]
        masks = pixels == values[:, None, None]
        boxes = []
        for mask in masks:
            rows, columns = mask.nonzero(as_tuple=True)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        whole = torch.tensor([[0.0, 0.0, pixels.shape[1], pixels.shape[0]]]).expand(len(values), 4)
        found = MaskScores(masks.float(), whole)
        return Detection(torch.tensor(boxes).float().view(-1, 4), values / 256, values.long() % 2, found)


def image_of(boxes: list[tuple[int, int, int, int]], height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: ellipses in boxes (x1, y1, x2, y2), each of a gray value of its own."""
    image = np.zeros((height, width), dtype=np.uint8)
    rows, columns = np.mgrid[:height, :width] + 0.5
    for number, (left, top, right, bottom) in enumerate(boxes):
        across = ((columns - (left + right) / 2) / ((right - left) / 2)) ** 2
        down = ((rows - (top + bottom) / 2) / ((bottom - top) / 2)) ** 2
        image[across + down <= 1] = 255 - number
    return np.stack([image] * 3, axis=2)


def scattered(seed: int, height: int, width: int, longest: int) -> list[tuple[int, int, int, int]]:
    """Boxes of random sizes, one in each cell of a grid, so that the objects do not hide each other."""
    random = np.random.default_rng(seed)
    boxes = []
    for top in range(0, height - longest, longest + 1):
        for left in range(0, width - longest, longest + 1):
            high, wide = random.integers(4, longest + 1, 2).tolist()
            boxes.append((left, top, left + wide, top + high))
    return boxes[:200]


@pytest.mark.parametrize("size", [(60, 150), (200, 90), (64, 64), (30, 40), (301, 67)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_cover_an_image_with_at_least_their_overlap(size: tuple[int, int], overlap: float):
    windows = Tiles(64, overlap).windows(size)
    covered = np.zeros(size, dtype=bool)
    for left, top, right, bottom in windows:
        assert (bottom - top, right - left) == (min(64, size[0]), min(64, size[1]))
        assert left >= 0 <= top
        covered[top:bottom, left:right] = True
    assert covered.all()
    for axis in (0, 1):
        starts = sorted({window[axis] for window in windows})
        assert all(after - before <= 64 * (1 - overlap) for before, after in pairwise(starts))
    assert len(set(windows)) == len(windows)


@pytest.mark.parametrize("numbers", [{"size": 0}, {"size": 64, "overlap": 0.95}, {"size": 64, "overlap": -0.1}])
def test_impossible_tiles_are_refused(numbers: dict[str, float]):
    with pytest.raises(ValueError, match="must be"):
        Tiles(**numbers)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), height=st.integers(90, 260), width=st.integers(90, 260), batch_size=st.integers(1, 5))
def test_an_image_cut_in_tiles_finds_what_the_whole_finds(seed: int, height: int, width: int, batch_size: int):
    image = image_of(scattered(seed, height, width, longest=26), height, width)
    model = Model(Seeing(), CLASSES)
    whole, found = model.detect(image), model.detect(image, batch_size, Tiles(64, 0.5))
    assert found.scores.tolist() == whole.scores.tolist()
    assert found.labels.tolist() == whole.labels.tolist()
    assert found.boxes.tolist() == whole.boxes.tolist()
    assert torch.equal(found.masks, whole.masks)
    assert found.is_cut.tolist() == [False] * len(found)
    assert whole.is_cut is None


def test_boxes_and_masks_are_in_pixels_of_the_image_where_tiles_are_resized():
    image = image_of([(70, 20, 90, 44), (120, 50, 150, 60)], 100, 200)
    model = Model(Seeing(), CLASSES, Transforms(FixedSize(128, 128)))
    found = model.detect(image, tiles=Tiles(64, 0.5))[[0]]
    # Interpolation makes gray values of their own at borders of objects, which are found, too.
    assert found.boxes.tolist()[0] == pytest.approx([70, 20, 90, 44], abs=1.5)
    assert (found.masks[0].numpy() == (image[:, :, 0] == 255)).mean() > 0.99


def test_tiles_go_through_the_network_in_batches_of_one_size():
    network = Seeing()
    Model(network, CLASSES).detect(image_of([(5, 5, 9, 9)], 200, 200), 4, Tiles(64, 0.0))
    assert network.batches == [(4, 3, 64, 64)] * 4


def test_an_object_longer_than_the_overlap_is_told():
    image = image_of([(10, 10, 180, 40), (100, 60, 110, 70)], 80, 200)
    found = Model(Seeing(), CLASSES).detect(image, tiles=Tiles(64, 0.25))
    assert found[~found.is_cut].boxes.tolist() == [[100, 60, 110, 70]]
    assert len(found[found.is_cut]) > 1
    assert found[found.is_cut].labels.tolist() == [1] * (len(found) - 1)


def two_tiles(
    first: list[list[float]], second: list[list[float]], labels: tuple[int, int] = (0, 0)
) -> list[list[float]]:
    """What remains of boxes in tiles [0, 64] and [32, 96] of an image of 64 × 96 pixels, in its pixels."""
    windows = [Window(0, 0, 64, 64), Window(32, 0, 96, 64)]
    parts = [
        Detection(
            torch.tensor(boxes).view(-1, 4), torch.linspace(0.9, 0.8, len(boxes)), torch.full((len(boxes),), label)
        )
        for boxes, label in zip((first, second), labels, strict=True)
    ]
    return merged(enumerate(parts), windows, (64, 96)).detection.boxes.tolist()


def test_what_two_tiles_see_is_one_object_of_a_class():
    assert two_tiles([[40, 10, 52, 20]], [[9, 10, 20, 20]]) == [[40, 10, 52, 20]]
    assert two_tiles([[40, 10, 52, 20]], [[9, 10, 20, 20]], (0, 1)) == [[40, 10, 52, 20], [41, 10, 52, 20]]
    assert two_tiles([[40, 10, 52, 20]], [[16, 10, 28, 20]]) == [[40, 10, 52, 20], [48, 10, 60, 20]]


def test_boxes_of_one_tile_do_not_suppress_each_other():
    assert len(two_tiles([[10, 10, 20, 20], [10, 10, 20, 21]], [])) == 2
    assert len(two_tiles([[40, 10, 50, 20], [40, 10, 50, 21]], [[8, 10, 18, 20], [8, 10, 18, 21]])) == 2


def test_a_cut_box_gives_way_to_the_tile_that_sees_all_of_it():
    assert two_tiles([[50, 10, 64, 20]], [[18, 10, 40, 20]]) == [[50, 10, 72, 20]]
    assert two_tiles([[50, 10, 64, 20]], []) == []
    assert two_tiles([[2, 10, 64, 20]], [[0, 10, 10, 20]]) == [[2, 10, 64, 20]], "the larger piece remains"


def test_masks_of_many_sizes_become_one_grid():
    windows = [Window(0, 0, 64, 64), Window(32, 0, 96, 64)]
    scores = torch.zeros(1, 64, 64)
    scores[0, 5:30, 3:9] = 1
    other = torch.zeros(1, 64, 64)
    other[0, 20:24, 50:60] = 1
    whole = torch.tensor([[0.0, 0.0, 64.0, 64.0]])
    parts = [
        Detection(
            torch.tensor([[3.0, 5.0, 9.0, 30.0]]), torch.ones(1), torch.zeros(1).long(), MaskScores(scores, whole)
        ),
        Detection(
            torch.tensor([[50.0, 20.0, 60.0, 24.0]]), torch.ones(1), torch.zeros(1).long(), MaskScores(other, whole)
        ),
    ]
    found = merged(enumerate(parts), windows, (64, 96)).detection
    assert found.masks.scores.shape == (2, 27, 12)
    masks = found.masks.bitmaps((64, 96))
    assert masks[0, 5:30, 3:9].all()
    assert masks[0].sum() == 25 * 6
    assert masks[1, 20:24, 82:92].all()
    assert masks[1].sum() == 4 * 10


def test_files_are_detected_in_tiles_and_cut_objects_counted_and_marked(tmp_path: Path):
    objects = [[(10, 10, 180, 40), (100, 60, 110, 70)], [(20, 20, 30, 30), (10, 45, 180, 60)]]
    for number, boxes in enumerate(objects):
        Image.fromarray(image_of(boxes, 80, 200)).save(tmp_path / f"{number}.png")
    files, model = find_images([tmp_path]), Model(Seeing(), CLASSES)
    options = {"drawings": False, "tiles": Tiles(64, 0.25)}
    done = detect_and_draw(model, files, tmp_path / "out", None, lambda _: None, **options)
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    records = content["annotations"]
    assert (done.images, done.cut) == (2, len(records) - 2)
    assert sum(record["is_cut"] for record in records) == done.cut
    (whole,) = [record for record in records if record["bbox"] == [20, 20, 10, 10]]
    assert whole["is_cut"] is False
    best = max(record["score"] for record in records if record["is_cut"])
    seen = sum(record["score"] >= best for record in records if record["is_cut"])
    assert 0 < seen < done.cut
    for threshold, cut in ((best, seen), (1, 0)):
        assert detect_and_draw(model, files, tmp_path / "out", threshold, lambda _: None, **options).cut == cut


def test_marks_of_cut_detections_disturb_no_reader(tmp_path: Path):
    Image.fromarray(image_of([(10, 10, 180, 40), (100, 60, 110, 70)], 80, 200)).save(tmp_path / "0.png")
    model, path = Model(Seeing(), CLASSES), tmp_path / "out" / "detections.json"
    detect_and_draw(model, find_images([tmp_path]), path.parent, None, lambda _: None, tiles=Tiles(64, 0.25))
    content = json.loads(path.read_text())
    assert any(record["is_cut"] for record in content["annotations"])
    assert evaluate(path, content)["AP"] == 1
    theirs = COCO(path)
    assert len(theirs.loadRes(content["annotations"]).anns) == len(theirs.anns) == len(content["annotations"])
