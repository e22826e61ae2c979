"""Folders of labelme: a JSON file per image."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rankdet.coco import Finding
from rankdet.coco.segmentations import decode_rle
from rankdet.data.layouts import find_layout, labelme

from .scene import BOXES, POLYGONS, Object, Photo, contents, expected, masks, problems, read_split, save


def shape(one: Object, **fields: Any) -> dict[str, Any]:
    kind = "rectangle" if one.is_box else "polygon"
    return {"label": one.name, "points": one.points, "group_id": None, "shape_type": kind, "flags": {}} | fields


def write_json(photo: Photo, path: Path, image: str, shapes: Sequence[Any] | None = None, **fields: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = photo.size
    content = {
        "version": "5.8.1",
        "flags": {},
        "shapes": [shape(one) for one in photo.objects] if shapes is None else shapes,
        "imagePath": image,
        "imageData": "AAAA",
        "imageHeight": height,
        "imageWidth": width,
    }
    path.write_text(json.dumps(content | fields))


def write(photos: Sequence[Photo], images: Path, files: Path, start: str = "", **fields: Any) -> None:
    for photo in photos:
        save(photo, images)
        write_json(photo, (files / photo.name).with_suffix(".json"), start + photo.name, **fields)


def read(folder: Path, split: str = "train") -> tuple[dict[str, Any], list[Finding]]:
    return read_split(labelme.find(folder), split)


def shapes_of(folder: Path, *shapes: Any) -> tuple[dict[str, Any], list[Finding]]:
    """The document of one image of 100 × 60 pixels with these shapes."""
    save(BOXES[0], folder)
    write_json(BOXES[0], folder / "a.json", "a.jpg", shapes)
    return read(folder)


@pytest.mark.parametrize("photos", [BOXES, POLYGONS, BOXES[:1] + POLYGONS[1:]], ids=["boxes", "polygons", "both"])
@pytest.mark.parametrize(
    ("images", "files", "start"),
    [(".", ".", ""), ("images", "annotations", "../images/"), ("images", "labels", "..\\images\\"),
     ("images", "json", "C:\\me\\"), (".", ".", "/home/me/"), ("images", ".", "images/")],
)  # fmt: skip
def test_a_scene_is_read_from_every_usual_place(
    tmp_path: Path, photos: Sequence[Photo], images: str, files: str, start: str
) -> None:
    write(photos, tmp_path / images, tmp_path / files, start)
    document, findings = read(tmp_path)
    assert contents(document) == expected(photos)
    assert not findings
    assert find_layout(tmp_path).name == "labelme"


@pytest.mark.parametrize("parts", [("train", "val"), ("Train", "validation")])
def test_folders_called_like_splits_are_splits(tmp_path: Path, parts: Sequence[str]) -> None:
    for part, photos in zip(parts, (BOXES, POLYGONS), strict=True):
        write(photos, tmp_path / part, tmp_path / part)
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES)
    document, _ = read(tmp_path, "val")
    assert contents(document) == expected(POLYGONS)
    assert len(document["categories"]) == 3


@pytest.mark.parametrize("fields", [{"imageHeight": None, "imageWidth": None}, {"imageHeight": 0, "imageWidth": 0}])
def test_a_missing_size_is_that_of_the_upright_image(tmp_path: Path, fields: dict[str, Any]) -> None:
    write(BOXES, tmp_path, tmp_path, **fields)
    assert contents(read(tmp_path)[0]) == expected(BOXES)


@pytest.mark.parametrize("shape_type", [None, "", "polygon"])
def test_a_shape_without_a_type_is_a_polygon(tmp_path: Path, shape_type: Any) -> None:
    document, _ = shapes_of(tmp_path, shape(POLYGONS[0].objects[0], shape_type=shape_type))
    assert document["annotations"][0]["area"] == 200


def test_a_circle_has_its_area(tmp_path: Path) -> None:
    document, _ = shapes_of(tmp_path, {"label": "cat", "shape_type": "circle", "points": [[50, 30], [53, 34]]})
    (row,) = document["annotations"]
    assert row["area"] == pytest.approx(np.pi * 25, rel=2e-3)
    assert row["bbox"] == pytest.approx([45, 25, 10, 10])


@pytest.mark.parametrize("seed", range(3))
def test_a_mask_has_its_pixels(tmp_path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).random((6, 9)) < 0.4
    stream = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).save(stream, "PNG")
    mask = base64.b64encode(stream.getvalue()).decode()
    points = [[20.0, 10.0], [28.0, 15.0]]
    document, findings = shapes_of(tmp_path, {"label": "cat", "shape_type": "mask", "points": points, "mask": mask})
    whole = np.zeros((60, 100), dtype=np.uint8)
    whole[10:16, 20:29] = pixels
    assert (decode_rle(document["annotations"][0]["segmentation"]) == whole).all()
    assert not findings


def test_outlines_of_one_group_and_label_are_one_object(tmp_path: Path) -> None:
    square = Object("cat", ((10, 5), (20, 5), (20, 15), (10, 15)))
    other = Object("cat", ((60, 20), (65, 20), (65, 24), (60, 24)))
    document, findings = shapes_of(tmp_path, shape(square, group_id=0), shape(other, group_id=0), shape(square),
                                   shape(other), shape(square, group_id=3))  # fmt: skip
    assert [row["area"] for row in document["annotations"]] == [120, 100, 20, 100]
    assert decode_rle(masks(document)[0]).sum() == 120
    assert problems(findings) == ["note: is in a group with another shape of its class: read as parts of one object"]


def test_an_oriented_rectangle_becomes_the_box_around_it_and_is_told(tmp_path: Path) -> None:
    points = [[50, 10], [70, 20], [50, 30], [30, 20]]
    document, findings = shapes_of(tmp_path, {"label": "cat", "shape_type": "oriented_rectangle", "points": points})
    assert document["annotations"][0]["bbox"] == [30, 10, 40, 20]
    assert problems(findings) == ["note: is an oriented rectangle: read as the upright box around it"]


def of_kind(kind: str, *points: Any, **fields: Any) -> dict[str, Any]:
    return {"label": "cat", "shape_type": kind, "points": points} | fields


@pytest.mark.parametrize(
    "bad",
    [
        *(of_kind(kind, [1, 1], [2, 2], [3, 4]) for kind in ("point", "points", "line", "linestrip")),
        *(of_kind(kind, [1, 1]) for kind in ("polygon", "rectangle", "circle", "mask")),
        of_kind("polygon", [1, "a"], [2, 2], [3, 4]),
        of_kind("polygon", [1, 1], [2, 2], [float("nan"), 4]),
        of_kind("mask", [1, 1], [2, 2], mask="AAAA"),
        of_kind("mask", mask="AAAA"),
        {"label": "cat", "points": None},
        {"label": "cat"},
        {"label": None, "points": []},
        3,
    ],
    ids=str,
)
def test_one_bad_shape_is_left_out_and_the_others_stay(tmp_path: Path, bad: Any) -> None:
    document, findings = shapes_of(tmp_path, shape(BOXES[0].objects[0]), bad)
    assert [row["bbox"] for row in document["annotations"]] == [[10, 5, 20, 20]]
    assert [(finding.severity, finding.record) for finding in findings] == [("warning", "a.json shape 2")]


def test_a_broken_file_and_a_file_without_an_image_are_told(tmp_path: Path) -> None:
    write(BOXES, tmp_path, tmp_path)
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.png").unlink()
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES[2:])
    assert problems(findings) == [
        "warning: has no image file: left out",
        "warning: is no file of labelme that can be read: left out",
    ]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"shapes": []}', '{"images": [], "annotations": []}'])
def test_other_json_files_are_none_of_labelme(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert labelme.find(tmp_path) is None
