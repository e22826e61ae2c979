"""Detection in many files: what is named, batches, broken files, suppression over classes, other packages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from rankdet.data import FixedSize, Transforms
from rankdet.inference.detections import Detections
from rankdet.inference.drawing import detect_and_draw
from rankdet.inference.files import ImageFiles, find_images
from rankdet.inference.model import Model
from rankdet.structures import Detection, Images, InputError, MaskScores

CLASSES = [(3, "cat"), (9, "dog")]


class Brightest(nn.Module):
    """Finds the brightest pixel of each image, and notes how many images it is given at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def detect(self, images: Images) -> list[Detection]:
        self.batches.append(len(images))
        found = []
        for pixels in images.pixels:
            row, column = divmod(int(pixels[0].argmax()), pixels.shape[2])
            box = torch.tensor([[column, row, column + 1, row + 1]]).float()
            found.append(Detection(box, torch.ones(1) / 2, torch.tensor([1])))
        return found


def write_images(folder: Path, count: int, sizes: tuple[tuple[int, int], ...] = ((20, 30),)) -> list[Path]:
    """Black images of these sizes in turn, each with one bright pixel somewhere else."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(paths):
        image = np.zeros((*sizes[number % len(sizes)], 3), dtype=np.uint8)
        image.reshape(-1, 3)[number % 600] = 255
        Image.fromarray(image).save(path)
    return paths


def detected(model: Model, files: ImageFiles, out: Path, **options: object) -> tuple[list, dict]:
    done = detect_and_draw(model, files, out, 0.1, lambda _: None, drawings=False, **options)
    return done.unreadable, json.loads((out / "detections.json").read_text())


def test_folders_of_folders_and_patterns_are_searched_on_demand(tmp_path: Path):
    paths = [*write_images(tmp_path / "a", 2), *write_images(tmp_path / "a" / "b", 1), *write_images(tmp_path / "c", 1)]
    write_images(tmp_path / "a" / ".hidden", 1)
    (tmp_path / "a" / "note.txt").touch()
    assert find_images([tmp_path / "a"]) == ImageFiles(paths[:2], others=1, folders=2)
    assert find_images([tmp_path], recursive=True).paths == paths
    assert find_images([tmp_path / "a" / "*"]).paths == paths[:2]
    assert find_images([tmp_path / "**" / "0000.png"]).paths == [paths[0], paths[2], paths[3]]
    assert find_images([tmp_path / "a", paths[0], tmp_path / "a" / "0*.png"]).paths == paths[:2], "each once"
    with pytest.raises(InputError, match=r"\*\.jpg: no image fits this pattern"):
        find_images([tmp_path / "*.jpg"])
    assert find_images([tmp_path / "*"], recursive=True) == ImageFiles(paths), "folders that the pattern fits"
    assert find_images([tmp_path / "a" / "*"], recursive=True) == ImageFiles(paths[:3], others=1)
    (tmp_path / "d" / "e").mkdir(parents=True)
    with pytest.raises(InputError, match="no images in this folder or in those in it"):
        find_images([tmp_path / "d"], recursive=True)


def test_an_image_that_is_named_relative_and_absolute_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    paths = write_images(tmp_path / "a", 2)
    monkeypatch.chdir(tmp_path)
    relative = Path("a/0001.png")
    assert find_images([relative, tmp_path / "a", Path("a/../a/0000.png")]).paths == [relative, paths[0]]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path):
    (path,) = write_images(tmp_path, 1)
    odd = path.rename(tmp_path / "a[0].png")
    assert find_images([odd]).paths == [odd]


def test_batches_find_what_single_images_find_in_the_order_of_the_files(tmp_path: Path):
    write_images(tmp_path / "images", 20, sizes=((20, 30), (40, 30), (20, 70)))
    files = find_images([tmp_path / "images"])
    model = Model(Brightest(), CLASSES)
    _, alone = detected(model, files, tmp_path / "alone", batch_size=1)
    assert set(model.network.batches) == {1}
    model.network.batches.clear()
    _, together = detected(model, files, tmp_path / "together", batch_size=4)
    assert sorted(model.network.batches) == [2, 3, 3, 4, 4, 4]
    assert together == alone
    assert [Path(row["file_name"]).name for row in alone["images"]] == [path.name for path in files.paths]
    assert [(row["id"], row["image_id"]) for row in alone["annotations"]] == [(n, n) for n in range(1, 21)]


def test_of_a_thousand_images_three_broken_ones_are_named_and_the_others_are_done(tmp_path: Path):
    paths = write_images(tmp_path / "images", 1000)
    whole = paths[10].read_bytes()
    paths[10].write_bytes(whole[:50])
    paths[500].write_bytes(b"")
    paths[999].write_bytes(b"no image")
    unreadable, content = detected(Model(Brightest(), CLASSES), find_images([tmp_path / "images"]), tmp_path / "out")
    assert [finding.record for finding in unreadable] == ["0010.png", "0500.png", "0999.png"]
    assert len(content["images"]) == len(content["annotations"]) == 997


def test_of_two_classes_in_one_place_the_better_one_remains_on_demand(tmp_path: Path):
    class Twice(Brightest):
        def detect(self, images: Images) -> list[Detection]:
            boxes = torch.tensor([[2.0, 2.0, 12.0, 12.0], [2.0, 2.0, 12.0, 13.0], [15.0, 2.0, 19.0, 6.0]])
            return [Detection(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 0]))] * len(images)

    write_images(tmp_path / "images", 2)
    files, model = find_images([tmp_path / "images"]), Model(Twice(), CLASSES)
    _, all_of_them = detected(model, files, tmp_path / "all")
    _, some = detected(model, files, tmp_path / "some", class_agnostic=0.5)
    assert [row["score"] for row in all_of_them["annotations"]] == pytest.approx([0.9, 0.8, 0.7] * 2)
    assert [(row["category_id"], row["score"]) for row in some["annotations"]] == [
        (9, pytest.approx(0.9)),
        (3, pytest.approx(0.7)),
    ] * 2
    nothing = model.detect(files.paths[0])[:0]
    assert len(nothing.without_overlaps(0.5)) == 0


def test_the_batch_of_an_image_is_known_from_its_size():
    assert Model(nn.Identity(), CLASSES, Transforms(FixedSize(40, 70))).padded_size((500, 20)) == (64, 96)


@pytest.mark.parametrize("has_masks", [False, True])
def test_supervision_takes_the_detections(has_masks: bool):
    supervision = pytest.importorskip("supervision", reason="supervision is not installed; it is an extra")
    boxes = torch.tensor([[4.0, 2.0, 12.0, 8.0], [0.0, 0.0, 3.0, 3.0]])
    masks = MaskScores(torch.ones(2, 4, 4), boxes) if has_masks else None
    detection = Detection(boxes, torch.tensor([0.9, 0.4]), torch.tensor([1, 0]), masks)
    found = Detections(detection, (20, 30), CLASSES, [0.5, 0.5])
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert theirs.xyxy.tolist() == boxes.tolist()
    assert theirs.confidence.tolist() == pytest.approx([0.9, 0.4])
    assert (theirs.class_id.tolist(), theirs.data["class_name"].tolist()) == ([1, 0], ["dog", "cat"])
    assert np.array_equal(theirs.mask, found.masks.numpy()) if has_masks else theirs.mask is None
    annotator = supervision.MaskAnnotator() if has_masks else supervision.BoxAnnotator()
    drawn = annotator.annotate(np.zeros((20, 30, 3), np.uint8), theirs)
    assert drawn[2:8, 4:12].any()
    assert theirs[theirs.confidence > 0.5].data["class_name"].tolist() == ["dog"]
    zone = supervision.PolygonZone(np.array([[4, 1], [29, 1], [29, 19], [4, 19]]))
    assert zone.trigger(theirs).tolist() == [True, False]
    assert len(found[:0].to_supervision()) == 0


def test_without_supervision_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    found = Detections(
        Detection(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long()), (20, 30), CLASSES, [0.5, 0.5]
    )
    with pytest.raises(ImportError, match=r"pip install 'rankdet\[supervision\]'"):
        found.to_supervision()
