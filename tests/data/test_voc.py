"""Folders of Pascal VOC: its own layout and those of other tools, and records as these write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from PIL import Image

from rankdet.coco import Finding, grouped
from rankdet.data import convert_folder
from rankdet.data.layouts import find_layout, voc
from rankdet.recipes.schema.data import Data

from .scene import BOXES, POLYGONS, Object, Photo, contents, expected, problems, read_split, save


def bndbox(left: float, top: float, right: float, bottom: float) -> str:
    return f"<bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox>"


def one_object(one: Object, first: int, inside: str = "") -> str:
    """An object whose first pixel has the number ``first``."""
    left, top, right, bottom = one.corners
    if not one.is_box:
        points = "".join(
            f"<x{i}>{x + first}</x{i}><y{i}>{y + first}</y{i}>" for i, (x, y) in enumerate(one.points, start=1)
        )
        inside += f"<polygon>{points}</polygon>"
    name = f"<name>{escape(one.name)}</name><pose>Left</pose><truncated>1</truncated>"
    return f"<object>{name}{inside}{bndbox(left + first, top + first, right, bottom)}</object>"


def write_xml(photo: Photo, path: Path, first: int = 1, filename: str | None = None, inside: str = "") -> None:
    width, height = photo.size
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    objects = "".join(one_object(one, first, inside) for one in photo.objects)
    filename = f"<filename>{photo.name}</filename>" if filename is None else filename
    path.parent.mkdir(parents=True, exist_ok=True)
    source = "<source><database>The VOC2007 Database</database></source>" if first else ""
    path.write_text(f"<annotation><folder>x</folder>{source}{filename}{size}{objects}</annotation>")


def write(photos: Sequence[Photo], images: Path, xml: Path, **fields: Any) -> None:
    for photo in photos:
        save(photo, images)
        write_xml(photo, (xml / photo.name).with_suffix(".xml"), **fields)


def read(folder: Path, split: str = "train") -> tuple[dict[str, Any], list[Finding]]:
    document, findings = read_split(voc.find(folder), split)
    first, *others = findings  # which number the first pixel has is always said
    assert "pixels count from" in first.problem
    return document, others


def one_xml(folder: Path, objects: str, **sizes: str) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The annotations of one image of 100 × 50 pixels."""
    Image.new("RGB", (100, 50)).save(folder / "a.jpg")
    size = sizes.get("size", "<size><width>100</width><height>50</height></size>")
    source = "<source><database>The VOC2012 Database</database></source>"
    (folder / "a.xml").write_text(f"<annotation>{source}<filename>a.jpg</filename>{size}{objects}</annotation>")
    document, findings = read(folder)
    assert [(image["width"], image["height"]) for image in document["images"]] == [(100, 50)]
    return document["annotations"], findings


@pytest.mark.parametrize("photos", [BOXES, POLYGONS, BOXES[:1] + POLYGONS[1:]], ids=["boxes", "polygons", "both"])
@pytest.mark.parametrize("images", ["JPEGImages", "images", "Annotations", "."])
@pytest.mark.parametrize("annotations", ["Annotations", "annotations", "."])
def test_a_scene_is_read_from_every_usual_place(
    tmp_path: Path, photos: Sequence[Photo], images: str, annotations: str
) -> None:
    if images == "Annotations" != annotations:
        images = annotations
    write(photos, tmp_path / images, tmp_path / annotations)
    document, findings = read(tmp_path)
    assert contents(document) == expected(photos)
    assert not findings


@pytest.mark.parametrize("parts", [("train", "valid", "test"), ("Train", "val", "TEST")])
@pytest.mark.parametrize("below", ["", "Annotations"])
def test_folders_called_like_splits_are_splits(tmp_path: Path, parts: Sequence[str], below: str) -> None:
    for part, photos in zip(parts, (BOXES, POLYGONS, BOXES[:1]), strict=True):
        write(photos, tmp_path / part, tmp_path / part / below)
    for split, photos in (("train", BOXES), ("val", POLYGONS), ("test", BOXES[:1])):
        document, findings = read(tmp_path, split)
        assert contents(document) == expected(photos)
        assert len(document["categories"]) == 3  # of all splits, though one of them lacks a class
        assert not findings


@pytest.mark.parametrize(
    ("images", "xml"),
    [("{}/data", "{}/labels"), ("JPEGImages/{}", "Annotations/{}"), ("JPEGImages/{}", "{}/Annotations"),
     ("images/{}", "annotations/{}"), ("images", "Annotations/{}"), ("{}/images", "{}/Annotations")],
)  # fmt: skip
def test_splits_are_found_where_tools_put_them(tmp_path: Path, images: str, xml: str) -> None:
    for split, photos in (("train", BOXES), ("val", BOXES[1:3])):
        write(photos, tmp_path / images.format(split), tmp_path / xml.format(split))
    for split, photos in (("train", BOXES), ("val", BOXES[1:3])):
        assert contents(read(tmp_path, split)[0]) == expected(photos)


@pytest.mark.parametrize("end", ["", "  1", " -1"])
@pytest.mark.parametrize("root", ["", "VOCdevkit/VOC2012"])
def test_lists_of_image_sets_are_splits(tmp_path: Path, root: str, end: str) -> None:
    folder = tmp_path / root
    write(BOXES, folder / "JPEGImages", folder / "Annotations")
    sets = folder / "ImageSets/Main"
    sets.mkdir(parents=True)
    for name, photos in (("train", BOXES[:2]), ("val", BOXES[2:]), ("trainval", BOXES), ("cat_train", BOXES)):
        (sets / f"{name}.txt").write_text("".join(f"{Path(photo.name).stem}{end}\n" for photo in photos))
    (sets / "test.txt").write_text("a\ngone\n")
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES[:2])
    assert contents(read(tmp_path, "val")[0]) == expected(BOXES[2:])
    document, findings = read(tmp_path, "test")
    assert contents(document) == expected(BOXES[:1])
    assert [str(finding.record) for finding in findings] == ["Annotations/gone.xml"]
    (folder / "Annotations/empty.xml").unlink()
    document, findings = read(tmp_path, "val")
    assert contents(document) == expected(BOXES[2:])
    assert problems(findings) == ["warning: is missing: its image is one without objects"]
    (sets / "train.txt").unlink()
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES)


@pytest.mark.parametrize("filename", ["", "<filename/>", "<filename>other.png</filename>", "<filename>a</filename>",
                                      "<filename>C:\\me\\a.jpg</filename>", "<filename>a.JPEG</filename>"])  # fmt: skip
def test_the_image_is_the_file_called_like_the_xml(tmp_path: Path, filename: str) -> None:
    write(BOXES[:1], tmp_path, tmp_path, filename=filename)
    assert contents(read(tmp_path)[0]) == expected(BOXES[:1])


@pytest.mark.parametrize("filename", ["a.jpg", "a", "a.png", "/data/x/a.jpg"])
def test_the_image_is_what_the_xml_names_where_none_is_called_like_it(tmp_path: Path, filename: str) -> None:
    save(BOXES[0], tmp_path)
    write_xml(BOXES[0], tmp_path / "number_1.xml", filename=f"<filename>{filename}</filename>")
    assert contents(read(tmp_path)[0]) == expected(BOXES[:1])


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height><depth>3</depth></size>"])
def test_a_missing_size_is_that_of_the_upright_image(tmp_path: Path, size: str) -> None:
    one_xml(tmp_path, one_object(BOXES[0].objects[0], 1), size=size)


def test_a_missing_image_without_a_size_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<annotation><filename>a.jpg</filename></annotation>")
    _, findings = read(tmp_path)
    assert problems(findings) == ["warning: has no size, and its image is missing: left out"]


@pytest.mark.parametrize("one", [Object("cat", ((0, 0), (30, 25))), Object("cat", ((0.5, 3), (20.5, 9.25)))])
def test_a_box_that_begins_before_1_shows_that_a_set_counts_from_0(tmp_path: Path, one: Object) -> None:
    rows, findings = one_xml(tmp_path, one_object(one, 0) + one_object(BOXES[0].objects[0], 0))
    left, top, right, bottom = one.corners
    assert [row["bbox"] for row in rows] == [[left, top, right - left, bottom - top], [10, 5, 20, 20]]
    assert not findings


@pytest.mark.parametrize(
    ("starts", "first"),
    [([(1, 5), (7, 1), (9, 9)], 1), ([(1, 1), (2, 9)], 1), ([(9, 9), (5, 7)], 0), ([(1, 9), (2, 7)], 0),
     ([(1, 1), (1, 1), (0, 9)], 0), ([], 0)],
)  # fmt: skip
def test_boxes_at_the_border_show_which_number_the_first_pixel_has(
    tmp_path: Path, starts: list[tuple[int, int]], first: int
) -> None:
    objects = "".join(f"<object><name>cat</name>{bndbox(x, y, 30, 20)}</object>" for x, y in starts)
    size = "<size><width>100</width><height>50</height></size>"
    (tmp_path / "a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    Image.new("RGB", (100, 50)).save(tmp_path / "a.jpg")
    document, _ = read(tmp_path)
    expected_boxes = [[x - first, y - first, 30 - x + first, 20 - y + first] for x, y in starts]
    assert [row["bbox"] for row in document["annotations"]] == expected_boxes


@pytest.mark.parametrize("starts", [[(9, 9), (5, 7)], [(1, 9), (2, 7)], [(1, 2), (2, 1), (40, 3)]])
def test_where_no_box_tells_the_number_of_the_first_pixel_a_recipe_can(
    tmp_path: Path, starts: list[tuple[int, int]]
) -> None:
    objects = "".join(f"<object><name>cat</name>{bndbox(x, y, 90, 45)}</object>" for x, y in starts)
    size = "<size><width>100</width><height>50</height></size>"
    (tmp_path / "a.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    Image.new("RGB", (100, 50)).save(tmp_path / "a.jpg")
    for given, first in ((None, 0), (0, 0), (1, 1)):
        data = Data(batch_size=1, folder=tmp_path, voc_first_pixel=given)
        truth, findings = data.find_source("train").read(masks=False)
        assert truth.boxes[:, :2].tolist() == [[x - first, y - first] for x, y in starts]
        (line,) = grouped(findings)
        if given is None:
            assert "no box at the border tells whether pixels count from 0 or 1: 0 is taken" in line
            assert "data.voc_first_pixel=1" in line
        else:
            assert line.endswith(f"pixels count from {first}, as data.voc_first_pixel says")
    convert_folder(tmp_path, tmp_path / "coco", voc_first_pixel=1)
    truth, _ = find_layout(tmp_path / "coco").source("train").read(masks=False)
    assert truth.boxes[:, :2].tolist() == [[x - 1, y - 1] for x, y in starts]


def test_whether_a_set_counts_from_0_is_the_same_for_all_splits(tmp_path: Path) -> None:
    write(BOXES[:1], tmp_path / "train", tmp_path / "train", first=0)
    corner = Photo("c.jpg", (50, 50), (Object("cat", ((0, 0), (30, 25))),))
    write([corner], tmp_path / "val", tmp_path / "val", first=0)
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES[:1])
    assert contents(read(tmp_path, "val")[0]) == expected([corner])


@pytest.mark.parametrize("tag", ["difficult", "iscrowd"])
def test_difficult_objects_are_crowds_and_told(tmp_path: Path, tag: str) -> None:
    objects = [one_object(one, 1, f"<{tag}>{place}</{tag}>") for place, one in enumerate(BOXES[0].objects)]
    rows, findings = one_xml(tmp_path, "".join(objects))
    assert [row["iscrowd"] for row in rows] == [0, 1]
    assert problems(findings) == ["note: is difficult or a crowd: neither learned from nor counted as missed"]


def test_parts_of_an_object_are_none_of_their_own(tmp_path: Path) -> None:
    part = f"<part><name>head</name>{bndbox(2, 2, 9, 9)}</part>"
    for inside in (part, part + part):
        rows, findings = one_xml(tmp_path, one_object(BOXES[0].objects[0], 1, inside))
        assert [row["bbox"] for row in rows] == [[10, 5, 20, 20]]
        assert not findings


@pytest.mark.parametrize(
    "bad", ["<object/>", "<object><name/></object>", "<object><name>cat</name></object>",
            f"<object><name>cat</name>{bndbox(1, 1, 9, float('nan'))}</object>",
            "<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>"]
)  # fmt: skip
def test_one_bad_object_is_left_out_and_the_others_stay(tmp_path: Path, bad: str) -> None:
    rows, findings = one_xml(tmp_path, bad + one_object(BOXES[0].objects[0], 1))
    assert [row["bbox"] for row in rows] == [[10, 5, 20, 20]]
    (finding,) = findings
    assert finding.severity == "warning"
    assert finding.record.endswith("a.xml object 1")


def test_one_broken_file_and_an_image_without_a_file_are_told(tmp_path: Path) -> None:
    write(BOXES, tmp_path, tmp_path)
    (tmp_path / "a.xml").write_text("<annotation><size>")
    (tmp_path / "b.xml").unlink()
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES[2:])
    assert problems(findings) == ["warning: has no XML file: left out", "warning: is no XML that can be read: left out"]


def test_masks_of_the_segmentation_task_are_told(tmp_path: Path) -> None:
    write(BOXES, tmp_path / "JPEGImages", tmp_path / "Annotations")
    (tmp_path / "SegmentationObject").mkdir()
    assert problems(read(tmp_path)[1]) == ["note: has masks, which are not read"]


@pytest.mark.parametrize("content", ["", "<annotations><image/></annotations>", "<html/>", "no XML"])
def test_other_xml_files_are_no_folder_of_voc(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.xml").write_text(content)
    assert voc.find(tmp_path) is None
