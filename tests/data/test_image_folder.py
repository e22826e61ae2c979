"""Image folders with ``metadata.jsonl`` or ``metadata.csv``: splits, the forms of objects and names of classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rankdet.coco import Finding
from rankdet.data.layouts import find_layout, image_folder

from .scene import BOXES, NAMES, POLYGONS, Photo, contents, expected, problems, read_split, save

Objects = Callable[[Photo], Any]


def box(one: Any) -> list[float]:
    left, top, right, bottom = one.corners
    return [left, top, right - left, bottom - top]


def lists(boxes: str = "bbox", classes: str = "categories", numbers: bool = False) -> Objects:
    """Objects as lists of their values, with these names."""

    def objects(photo: Photo) -> dict[str, Any]:
        return {
            "id": list(range(len(photo.objects))),
            boxes: [box(one) for one in photo.objects],
            classes: [NAMES.index(one.name) if numbers else one.name for one in photo.objects],
        }

    return objects


def records(photo: Photo) -> list[dict[str, Any]]:
    return [{"bbox": box(one), "category": one.name} for one in photo.objects]


def write(photos: Sequence[Photo], folder: Path, objects: Objects = lists(), start: str = "", **fields: Any) -> None:
    """Images and ``metadata.jsonl`` beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        save(photo, folder / start)
    rows = [{"file_name": start + photo.name, "objects": objects(photo)} | fields for photo in photos]
    with (folder / "metadata.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def read(folder: Path, split: str = "train") -> tuple[dict[str, Any], list[Finding]]:
    return read_split(image_folder.find(folder), split)


@pytest.mark.parametrize(
    "objects", [lists(), lists("boxes", "label"), lists("bboxes", "category"), records], ids=lambda one: one.__name__
)
def test_a_scene_is_read_from_every_form_of_objects(tmp_path: Path, objects: Objects) -> None:
    write(BOXES, tmp_path, objects)
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES)
    assert not findings
    assert find_layout(tmp_path).name == "Hugging Face image folder"


@pytest.mark.parametrize("form", [json.dumps, str])
def test_a_table_has_objects_as_json_or_as_python_prints_them(tmp_path: Path, form: Callable[[Any], str]) -> None:
    for photo in BOXES:
        save(photo, tmp_path)
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "objects"])
        writer.writerows([photo.name, form(lists()(photo))] for photo in BOXES)
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES)
    assert not findings


@pytest.mark.parametrize("parts", [("train", "validation", "test"), ("Train", "valid", "TEST")])
@pytest.mark.parametrize("root", [".", "data"])
def test_folders_called_like_splits_are_splits(tmp_path: Path, parts: Sequence[str], root: str) -> None:
    for part, photos in zip(parts, (BOXES, BOXES[2:], BOXES[:1]), strict=True):
        write(photos, tmp_path / root / part)
    for split, photos in (("train", BOXES), ("val", BOXES[2:]), ("test", BOXES[:1])):
        document, _ = read(tmp_path, split)
        assert contents(document) == expected(photos)
        assert len(document["categories"]) == 3


def test_file_names_of_one_metadata_file_may_begin_with_splits(tmp_path: Path) -> None:
    write(BOXES[:2], tmp_path, start="train/")
    write(BOXES[2:], tmp_path, start="validation/")
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES[:2])
    assert contents(read(tmp_path, "val")[0]) == expected(BOXES[2:])


def test_images_in_other_folders_keep_their_names(tmp_path: Path) -> None:
    write(BOXES[:1], tmp_path, start="one/")
    write(BOXES[1:], tmp_path, start="two/")
    names = [image["file_name"] for image in read(tmp_path)[0]["images"]]
    assert names == ["one/a.jpg", "two/b.png", "two/turned.jpg", "two/empty.jpg"]


@pytest.mark.parametrize("names", [list(NAMES), {str(place): name for place, name in enumerate(NAMES)}])
@pytest.mark.parametrize("nesting", ["struct", "sequence"])
def test_names_of_numbers_are_those_of_the_card(tmp_path: Path, names: Any, nesting: str) -> None:
    write(BOXES, tmp_path / "train", lists(numbers=True))
    feature = {"name": "categories", "sequence": {"class_label": {"names": names}}}
    features = [{"name": "image", "dtype": "image"}, {"name": "objects", nesting: [feature]}]
    card = json.dumps({"license": "mit", "dataset_info": {"features": features}})  # JSON is YAML
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n# A set\n")
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES)
    assert [category["name"] for category in document["categories"]] == list(NAMES)
    assert not findings


def test_numbers_without_names_are_names_and_told(tmp_path: Path) -> None:
    write(BOXES, tmp_path, lists(numbers=True))
    document, findings = read(tmp_path)
    assert [category["name"] for category in document["categories"]] == ["0", "1", "2"]
    assert problems(findings) == ["note: has classes that are numbers without a name"]


def test_outlines_areas_and_crowds_count_where_they_are_there(tmp_path: Path) -> None:
    def objects(photo: Photo) -> dict[str, Any]:
        outlines = [[[float(value) for point in one.points for value in point]] for one in photo.objects]
        more = {"segmentation": outlines, "area": [7 for _ in outlines], "iscrowd": [1 for _ in outlines]}
        return lists()(photo) | more

    write(POLYGONS, tmp_path, objects)
    document, _ = read(tmp_path)
    assert contents(document) == expected(POLYGONS)
    assert {(row["area"], row["iscrowd"]) for row in document["annotations"]} == {(7, 1)}


@pytest.mark.parametrize("fields", [{}, {"width": None, "height": None}, {"width": 0, "height": 0}])
def test_a_missing_size_is_that_of_the_upright_image(tmp_path: Path, fields: dict[str, Any]) -> None:
    write(BOXES, tmp_path, **fields)
    assert contents(read(tmp_path)[0]) == expected(BOXES)


@pytest.mark.parametrize(
    "bad",
    ["{", "[1]", "{}", '{"file_name": 3}', '{"file_name": "gone.jpg"}', '{"file_name": "a.jpg"}'],
)
def test_one_bad_row_is_left_out_and_the_others_stay(tmp_path: Path, bad: str) -> None:
    write(BOXES, tmp_path)
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write("\n" + bad + "\n")
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES)
    assert [(finding.severity, finding.record) for finding in findings] == [("warning", "row 5")]


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": [[1, 2, 3, 4], [1, 2, 3]], "categories": ["cat", "cat"]},
        {"bbox": [[1, 2, 3, 4], None], "categories": ["cat", "cat"]},
        {"bbox": [[1, 2, 3, 4], [1, 2, 3, 4]], "categories": ["cat", None]},
        [{"bbox": [1, 2, 3, 4], "category": "cat"}, {"bbox": [1, 2, 3, 4]}],
    ],
)
def test_one_bad_object_is_left_out_and_the_others_stay(tmp_path: Path, objects: Any) -> None:
    write(BOXES[:1], tmp_path, lambda _: objects)
    document, findings = read(tmp_path)
    assert [row["bbox"] for row in document["annotations"]] == [[1, 2, 3, 4]]
    assert [(finding.severity, finding.record) for finding in findings] == [("warning", "row 1 object 2")]


def test_lists_of_different_lengths_are_left_out(tmp_path: Path) -> None:
    write(BOXES[:1], tmp_path)
    write(BOXES[1:2], tmp_path, lambda _: {"bbox": [[1, 2, 3, 4]], "categories": []})
    document, findings = read(tmp_path)
    assert {row["image_id"] for row in document["annotations"]} == {1}
    assert problems(findings) == ["warning: has lists of objects that differ in length: left out"]


def test_an_image_that_no_row_names_is_told(tmp_path: Path) -> None:
    write(BOXES[:3], tmp_path)
    save(BOXES[3], tmp_path)
    assert problems(read(tmp_path)[1]) == ["warning: is not in metadata.jsonl: left out"]


@pytest.mark.parametrize("row", [{"file_name": "a.jpg", "text": "a cat"}, {"file_name": "a.jpg", "label": 3}])
def test_texts_and_classes_of_whole_images_are_another_layout(tmp_path: Path, row: Any) -> None:
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert image_folder.find(tmp_path) is None
