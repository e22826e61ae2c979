"""docs/photos.py draws what the README's caption describes."""

from __future__ import annotations

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rankdet.inference.detections import Detections
from rankdet.structures import Detection, Target

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos() -> ModuleType:
    spec = spec_from_file_location("photos", ROOT / "docs" / "photos.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["photos"] = module
    spec.loader.exec_module(module)
    return module


BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])


def detections(rows: list[int], labels: list[int]) -> Detections:
    detection = Detection(BOXES[rows], torch.linspace(0.9, 0.1, len(rows)), torch.tensor(labels))
    return Detections(detection, (10, 40), [(1, "x"), (2, "y")], [0.5, 0.5])


@pytest.mark.parametrize(
    ("rows", "labels", "count"),
    [([0, 1], [0, 1], 2), ([0, 0], [0, 0], 1), ([0, 1], [0, 0], 1), ([1, 0, 0], [0, 1, 0], 1)],
)
def test_an_object_is_found_once_and_by_its_class(
    photos: ModuleType, rows: list[int], labels: list[int], count: int
) -> None:
    assert photos.count_matches(detections(rows, labels), Target(BOXES, torch.tensor([0, 1]))) == count


def test_a_box_that_overlaps_too_little_finds_nothing(photos: ModuleType) -> None:
    far = Target(BOXES + torch.tensor([6.0, 0.0, 6.0, 0.0]), torch.tensor([0, 1]))
    assert photos.count_matches(detections([0, 1], [0, 1]), far) == 0


def test_objects_are_read_by_image_with_labels_in_the_order_of_the_ids(photos: ModuleType, tmp_path: Path) -> None:
    document = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "categories": [{"id": 9, "name": "y"}, {"id": 4, "name": "x"}],
        "annotations": [{"image_id": 1, "category_id": 9, "bbox": [1, 2, 3, 4]}],
    }
    (tmp_path / "file.json").write_text(json.dumps(document))
    found = photos.read_objects(tmp_path / "file.json")
    assert found["a.jpg"].boxes.tolist() == [[1, 2, 4, 6]]
    assert found["a.jpg"].labels.tolist() == [1]
    assert len(found["b.jpg"].boxes) == 0


def test_the_readme_shows_the_drawing_its_command_and_its_license() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(docs/images/blood_cells.jpg)" in readme
    assert "python docs/photos.py" in " ".join(readme.split())
    assert "MIT license" in readme
    assert (ROOT / "docs" / "images" / "blood_cells.jpg").stat().st_size < 400_000
