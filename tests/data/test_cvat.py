"""CVAT for images 1.1: shapes, subsets, labels and where the images are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from numpy.typing import NDArray

from rankdet.coco import Finding
from rankdet.coco.segmentations import decode_rle
from rankdet.data.layouts import cvat, find_layout
from rankdet.structures import InputError

from .scene import BOXES, NAMES, POLYGONS, Object, Photo, contents, expected, masks, problems, read_split, save


def shape(one: Object) -> str:
    label, (left, top, right, bottom) = quoteattr(one.name), one.corners
    if one.is_box:
        corners = f'xtl="{left:.2f}" ytl="{top:.2f}" xbr="{right:.2f}" ybr="{bottom:.2f}"'
        return f'<box label={label} source="manual" occluded="0" {corners} z_order="0"></box>'
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in one.points)
    return f'<polygon label={label} source="manual" occluded="1" points="{points}" z_order="1"></polygon>'


def image(photo: Photo, shapes: str | None = None, attributes: str = "") -> str:
    inside = "".join(map(shape, photo.objects)) if shapes is None else shapes
    width, height = photo.size
    return f'<image id="0" name="{photo.name}" {attributes} width="{width}" height="{height}">{inside}</image>'


def labels(names: Iterable[str], of: str = "task") -> str:
    listed = "".join(f"<label><name>{name}</name><color>#fff</color></label>" for name in names)
    return f"<meta><{of}><labels>{listed}</labels></{of}><dumped>today</dumped></meta>"


def write_xml(folder: Path, *images: str, meta: str | None = None, name: str = "annotations.xml") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    head = labels(NAMES) if meta is None else meta
    inside = f"<version>1.1</version>{head}{''.join(images)}"
    (folder / name).write_text(f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{inside}</annotations>')


def read(folder: Path, split: str = "train") -> tuple[dict[str, Any], list[Finding]]:
    return read_split(cvat.find(folder), split)


def shapes_of(folder: Path, shapes: str) -> tuple[dict[str, Any], list[Finding]]:
    """The document of one image of 100 × 60 pixels with these shapes."""
    write_xml(folder, image(BOXES[0], shapes))
    save(BOXES[0], folder / "images")
    return read(folder)


def mask_shape(bitmap: NDArray[np.bool_], left: int, top: int, attributes: str = "") -> str:
    """A mask as CVAT writes it: runs row by row, beginning with those outside."""
    flat = bitmap.ravel()
    edges = np.flatnonzero(np.diff(np.r_[False, flat]))
    runs = np.diff(np.r_[0, edges, len(flat)])
    rle = ", ".join(map(str, runs))
    height, width = bitmap.shape
    place = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    return f'<mask label="cat" {attributes} rle="{rle}" {place}></mask>'


@pytest.mark.parametrize("photos", [BOXES, POLYGONS, BOXES[:1] + POLYGONS[1:]], ids=["boxes", "polygons", "both"])
@pytest.mark.parametrize("images", ["images", "."])
def test_a_scene_is_read_from_every_usual_place(tmp_path: Path, photos: Sequence[Photo], images: str) -> None:
    write_xml(tmp_path, *map(image, photos))
    for photo in photos:
        save(photo, tmp_path / images)
    document, findings = read(tmp_path)
    assert contents(document) == expected(photos)
    assert not findings
    assert find_layout(tmp_path).name == "CVAT"


@pytest.mark.parametrize("form", ["images/{}", "images", "{}", "."])
@pytest.mark.parametrize("subsets", [("Train", "Validation"), ("train", "val")])
def test_subsets_of_a_project_are_splits(tmp_path: Path, form: str, subsets: tuple[str, str]) -> None:
    parts = {subsets[0]: BOXES[:2], subsets[1]: BOXES[2:]}
    images = [image(photo, attributes=f'subset="{name}" task_id="3"') for name in parts for photo in parts[name]]
    write_xml(tmp_path, *images, meta=labels(NAMES, "project"))
    for name, photos in parts.items():
        for photo in photos:
            save(photo, tmp_path / form.format(name))
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES[:2])
    assert contents(read(tmp_path, "val")[0]) == expected(BOXES[2:])


@pytest.mark.parametrize("subset", ["default", "", "Train", "mine"])
def test_one_subset_of_any_name_is_trained_on(tmp_path: Path, subset: str) -> None:
    write_xml(tmp_path, *(image(photo, attributes=f'subset="{subset}"') for photo in BOXES))
    for photo in BOXES:
        save(photo, tmp_path / "images" / subset)
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES)


def test_folders_called_like_splits_have_a_file_each(tmp_path: Path) -> None:
    for name, photos in (("train", BOXES), ("val", POLYGONS)):
        write_xml(tmp_path / name, *map(image, photos))
        for photo in photos:
            save(photo, tmp_path / name / "images")
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES)
    assert contents(read(tmp_path, "val")[0]) == expected(POLYGONS)


@pytest.mark.parametrize("of", ["task", "project", "job"])
def test_classes_have_the_order_of_the_labels(tmp_path: Path, of: str) -> None:
    names = ["unused", *reversed(NAMES)]
    write_xml(tmp_path, *map(image, BOXES), meta=labels(names, of))
    save(BOXES[0], tmp_path)
    sources = cvat.find(tmp_path)
    assert sources is not None
    document, _ = sources["train"].document()  # type: ignore[misc]
    assert [category["name"] for category in document["categories"]] == names


def test_labels_of_the_parts_of_a_skeleton_are_no_classes(tmp_path: Path) -> None:
    parts = (
        "<label><name>person</name><type>skeleton</type></label><label><name>head</name><parent>person</parent></label>"
    )
    write_xml(tmp_path, image(BOXES[0], ""), meta=f"<meta><task><labels>{parts}</labels></task></meta>")
    save(BOXES[0], tmp_path)
    assert [category["name"] for category in read(tmp_path)[0]["categories"]] == ["person"]


@pytest.mark.parametrize(
    ("degrees", "box"),
    [
        ("90.00", [25, 10, 10, 40]),
        ("180", [10, 25, 40, 10]),
        ("270", [25, 10, 10, 40]),
        ("30", [10.179, 15.670, 39.641, 28.660]),
    ],
)
def test_a_rotated_box_becomes_the_box_around_it_and_is_told(tmp_path: Path, degrees: str, box: list[float]) -> None:
    shapes = f'<box label="cat" xtl="10" ytl="25" xbr="50" ybr="35" rotation="{degrees}"></box>'
    document, findings = shapes_of(tmp_path, shapes)
    assert document["annotations"][0]["bbox"] == pytest.approx(box, abs=1e-3)
    assert problems(findings) == ["note: is a rotated box: read as the upright box around it"]


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_has_the_pixels_of_the_brush(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bitmap = rng.random((7, 11)) < 0.5
    bitmap[0, 0] = seed % 2
    document, findings = shapes_of(tmp_path, mask_shape(bitmap, 30, 12))
    whole = np.zeros((60, 100), dtype=np.uint8)
    whole[12:19, 30:41] = bitmap
    (row,) = document["annotations"]
    assert (decode_rle(row["segmentation"]) == whole).all()
    assert row["area"] == bitmap.sum()
    assert row["iscrowd"] == 0
    rows, columns = np.nonzero(whole)
    assert row["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert not findings


@pytest.mark.parametrize("rotation", [0, 45, 90])
def test_an_ellipse_has_its_area(tmp_path: Path, rotation: int) -> None:
    document, _ = shapes_of(tmp_path, f'<ellipse label="cat" cx="50" cy="30" rx="20" ry="10" rotation="{rotation}"/>')
    (row,) = document["annotations"]
    assert row["area"] == pytest.approx(np.pi * 200, rel=2e-3)
    sides = {0: (40, 20), 90: (20, 40), 45: (1000**0.5, 1000**0.5)}[rotation]
    assert row["bbox"][2:] == pytest.approx(sides, rel=2e-3)


GROUPED = '<polygon label="{}" points="10,5;20,5;20,15;10,15" group_id="{}"/>'
NOTE = "note: is in a group with another shape of its class: read as parts of one object"


def grouped_box(left: int, group: int) -> str:
    return f'<box label="cat" xtl="{left}" ytl="4" xbr="{left + 12}" ybr="16" group_id="{group}"/>'


def test_polygons_and_masks_of_one_group_and_label_are_one_object(tmp_path: Path) -> None:
    shapes = [GROUPED.format("cat", 1), mask_shape(np.ones((4, 5), dtype=bool), 60, 20, 'group_id="1"'),
              GROUPED.format("dog", 1), GROUPED.format("cat", 2), GROUPED.format("cat", 0),
              GROUPED.format("cat", 0)]  # fmt: skip
    document, findings = shapes_of(tmp_path, "".join(shapes))
    square = [10, 5, 10, 10]
    assert [row["bbox"] for row in document["annotations"]] == [[10, 5, 55, 19], *[square] * 4]
    assert decode_rle(masks(document)[0]).sum() == 100 + 20
    assert problems(findings) == [NOTE]


@pytest.mark.parametrize(
    ("shapes", "boxes"),
    [
        ([GROUPED.format("cat", 1), grouped_box(9, 1)], [[9, 4, 12, 12]]),
        ([grouped_box(9, 1), GROUPED.format("cat", 1)], [[9, 4, 12, 12]]),
        ([GROUPED.format("cat", 1), grouped_box(9, 1), grouped_box(40, 1)],
         [[10, 5, 10, 10], [9, 4, 12, 12], [40, 4, 12, 12]]),
        ([grouped_box(9, 1), grouped_box(40, 1)], [[9, 4, 12, 12], [40, 4, 12, 12]]),
        ([GROUPED.format("dog", 1), grouped_box(9, 1)], [[10, 5, 10, 10], [9, 4, 12, 12]]),
    ],
)  # fmt: skip
def test_a_box_in_a_group_is_that_of_its_outline_where_it_is_the_only_one(
    tmp_path: Path, shapes: list[str], boxes: list[list[float]]
) -> None:
    document, _ = shapes_of(tmp_path, "".join(shapes))
    assert [row["bbox"] for row in document["annotations"]] == boxes


@pytest.mark.parametrize("images", ["images", "images/{}", "data", "."])
def test_files_called_like_splits_are_splits(tmp_path: Path, images: str) -> None:
    for split, photos in (("train", BOXES), ("val", POLYGONS[1:])):
        write_xml(tmp_path, *map(image, photos), name=f"{split}.xml")
        for photo in photos:
            save(photo, tmp_path / images.format(split))
    if "{}" not in images:
        save(BOXES[2], tmp_path / images)  # the last one written has the other orientation
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES)
    document, findings = read(tmp_path, "val")
    assert contents(document) == expected(POLYGONS[1:])
    assert not findings


def test_files_that_are_not_called_like_splits_are_an_error_that_says_so(tmp_path: Path) -> None:
    for name in ("job_1.xml", "job_2.xml"):
        write_xml(tmp_path, *map(image, BOXES), name=name)
    with pytest.raises(InputError, match=r"job_1\.xml, job_2\.xml; call them train\.xml"):
        find_layout(tmp_path)


@pytest.mark.parametrize("folder", ["images", "data"])
def test_images_that_the_file_does_not_name_are_told(tmp_path: Path, folder: str) -> None:
    write_xml(tmp_path / "train", *map(image, BOXES[:3]), name="labels.xml")
    for photo in BOXES:
        save(photo, tmp_path / "train" / folder)
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES[:3])
    assert problems(findings) == ["warning: is not in the file: left out"]


def test_the_attribute_is_crowd_makes_a_crowd(tmp_path: Path) -> None:
    values = ("true", "false", "True", "1")
    crowds = [f'<box label="cat" xtl="{place}" ytl="1" xbr="{place + 5}" ybr="9"><attribute name="is_crowd">{value}'
              "</attribute></box>" for place, value in enumerate(values)]  # fmt: skip
    document, _ = shapes_of(tmp_path, "".join(crowds))
    assert [row["iscrowd"] for row in document["annotations"]] == [1, 0, 1, 1]


@pytest.mark.parametrize(
    "bad",
    ['<polyline label="cat" points="1,1;2,2"/>', '<points label="cat" points="1,1"/>', '<cuboid label="cat" xtl1="1"/>',
     '<skeleton label="cat"><points label="head" points="1,1"/></skeleton>', '<box label="cat" xtl="1"/>',
     '<polygon label="cat" points="1,1;2,2"/>', '<polygon label="cat" points="1,a;2,2;3,3"/>',
     '<mask label="cat" rle="1, 2" left="0" top="0" width="2" height="2"/>', '<box xtl="1" ytl="1" xbr="2" ybr="2"/>',
     '<mask label="cat" rle="4" left="0" top="0" width="2" height="2"/>',
     '<mask label="cat" rle="0, 4" left="99" top="0" width="2" height="2"/>',
     '<box label="cat" xtl="nan" ytl="1" xbr="2" ybr="2"/>'],
)  # fmt: skip
def test_one_bad_shape_is_left_out_and_the_others_stay(tmp_path: Path, bad: str) -> None:
    document, findings = shapes_of(tmp_path, shape(BOXES[0].objects[0]) + bad)
    assert [row["bbox"] for row in document["annotations"]] == [[10, 5, 20, 20]]
    (finding,) = findings
    assert finding.severity == "warning"
    assert finding.record.startswith("image a.jpg")


def test_a_tag_of_an_image_is_only_noted(tmp_path: Path) -> None:
    document, findings = shapes_of(tmp_path, '<tag label="cat" source="manual"></tag>')
    assert not document["annotations"]
    assert problems(findings) == ["note: is a tag of the whole image, which is not used"]


@pytest.mark.parametrize("attributes", ['name="x.jpg"', 'name="x.jpg" width="0" height="4"', 'width="4" height="4"'])
def test_an_image_without_a_name_or_a_size_is_left_out(tmp_path: Path, attributes: str) -> None:
    write_xml(tmp_path, f"<image {attributes}></image>", *map(image, BOXES))
    for photo in BOXES:
        save(photo, tmp_path)
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES)
    assert problems(findings) == ["warning: has no name or no size: left out"]


def test_tracks_of_a_video_are_refused_with_the_way_out(tmp_path: Path) -> None:
    write_xml(tmp_path, '<track id="0" label="cat"><box frame="0" xtl="1" ytl="1" xbr="2" ybr="2"/></track>')
    with pytest.raises(InputError, match=r"CVAT for images 1\.1"):
        find_layout(tmp_path)


@pytest.mark.parametrize("content", ["<annotations><image></annotations>", "<annotations"])
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    (tmp_path / "annotations.xml").write_text(content)
    with pytest.raises(InputError, match=r"annotations\.xml"):
        find_layout(tmp_path)


def test_a_file_of_any_name_can_be_given_with_its_images(tmp_path: Path) -> None:
    write_xml(tmp_path, *map(image, BOXES), name="job_7.xml")
    for photo in BOXES:
        save(photo, tmp_path / "photos")
    source = cvat.find_file(tmp_path / "job_7.xml", tmp_path / "photos")
    assert source is not None
    assert source.document is not None
    assert contents(source.document()[0]) == expected(BOXES)
    assert source.images == tmp_path / "photos"


@pytest.mark.parametrize("name", ["a.xml", "annotations.xml"])
def test_files_of_voc_are_none_of_cvat(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<annotation><filename>a.jpg</filename></annotation>")
    assert cvat.find(tmp_path) is None
    assert cvat.find_file(tmp_path / name, None) is None
