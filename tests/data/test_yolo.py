"""Folders of YOLO: boxes, polygons, images without labels, and every way to say where the splits are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from rankdet.coco import Finding
from rankdet.data.layouts import find_layout, yolo
from rankdet.structures import InputError

from .scene import BOXES, NAMES, POLYGONS, Photo, contents, expected, problems, read_split, save


def line(photo: Photo, place: int) -> str:
    """An object of a photo as a line of a label file."""
    one = photo.objects[place]
    width, height = photo.size
    left, top, right, bottom = one.corners
    points = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    if not one.is_box:
        points = [value for point in one.points for value in point]
    scaled = [value / (height if place % 2 else width) for place, value in enumerate(points)]
    return " ".join([str(NAMES.index(one.name)), *(f"{value:.6f}" for value in scaled)])


def write_images(photos: Sequence[Photo], images: Path, labels: Path) -> None:
    """Write images and labels; the image without objects has no label file."""
    labels.mkdir(parents=True, exist_ok=True)
    for photo in photos:
        save(photo, images)
        if photo.objects:
            lines = [line(photo, place) for place in range(len(photo.objects))]
            (labels / photo.name).with_suffix(".txt").write_text("\n".join(lines) + "\n")


def write_yaml(folder: Path, **fields: Any) -> None:
    (folder / "data.yaml").write_text(yaml.safe_dump({"names": list(NAMES)} | fields))


def read(folder: Path, split: str = "train") -> tuple[dict[str, Any], list[Finding]]:
    return read_split(yolo.find(folder), split)


def one_label(folder: Path, *lines: str, **fields: Any) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The annotations of one image of 100 × 50 pixels with these lines."""
    (folder / "images/train").mkdir(parents=True)
    (folder / "labels/train").mkdir(parents=True)
    Image.new("RGB", (100, 50)).save(folder / "images/train/a.jpg")
    (folder / "labels/train/a.txt").write_text("\n".join(lines))
    write_yaml(folder, train="images/train", **fields)
    document, findings = read(folder)
    return document["annotations"], findings


@pytest.mark.parametrize("photos", [BOXES, POLYGONS, BOXES[:1] + POLYGONS[1:]], ids=["boxes", "polygons", "both"])
@pytest.mark.parametrize("form", ["images/{}", "{}/images", "{}"])
def test_a_scene_is_read_from_every_usual_place(tmp_path: Path, photos: Sequence[Photo], form: str) -> None:
    for split in ("train", "val"):
        images = tmp_path / form.format(split)
        write_images(photos, images, Path(str(images).replace("images", "labels")))
    write_yaml(tmp_path, train=form.format("train"), val=form.format("val"), nc=3)
    for split in ("train", "val"):
        document, findings = read(tmp_path, split)
        assert contents(document) == expected(photos)
        assert [category["name"] for category in document["categories"]] == list(NAMES)
        assert not findings


@pytest.mark.parametrize(
    "fields",
    [
        {"path": ".", "train": "images/train", "val": "images/val"},
        {"path": "/content/drive/set", "train": "images/train", "val": "images/val"},
        {"train": "/content/drive/set/images/train", "val": "/content/drive/set/images/val"},
        {"train": "../images/train", "val": "../images/val"},
        {"train": ["images/train"], "validation": ["images/val/"]},
        {"train": "train.txt", "val": "val.txt"},
        {"train": "data/train.txt", "val": "D:\\data\\val.txt"},
        {},
    ],
)
def test_paths_of_splits_are_found_as_tools_write_them(tmp_path: Path, fields: dict[str, Any]) -> None:
    for split, photos in (("train", BOXES), ("val", POLYGONS)):
        write_images(photos, tmp_path / "images" / split, tmp_path / "labels" / split)
        beginnings = ("./", "", "data/", "/x/data/")
        lines = [f"{start}images/{split}/{photo.name}" for start, photo in zip(beginnings, photos, strict=False)]
        (tmp_path / f"{split}.txt").write_text("\n".join(lines) + "\n")
    write_yaml(tmp_path, **fields)
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES)
    assert contents(read(tmp_path, "val")[0]) == expected(POLYGONS)


@pytest.mark.parametrize(
    "names", [list(NAMES), dict(enumerate(NAMES)), {str(place): name for place, name in enumerate(NAMES)}]
)
def test_names_are_a_list_or_have_numbers(tmp_path: Path, names: Any) -> None:
    write_images(BOXES, tmp_path / "images", tmp_path / "labels")
    write_yaml(tmp_path, names=names, train="images")
    assert contents(read(tmp_path)[0]) == expected(BOXES)


def test_classes_keep_their_names_where_numbers_are_missing(tmp_path: Path) -> None:
    rows, findings = one_label(tmp_path, "7 0.5 0.5 0.2 0.2", "3 0.5 0.5 0.2 0.2", "4 0.5 0.5 0.1 0.1",
                               names={3: "cat", 7: "dog"})  # fmt: skip
    assert [row["category_id"] for row in rows] == [2, 1]
    assert problems(findings) == ["warning: has a class that has no name: left out"]


@pytest.mark.parametrize(
    ("numbers", "detail"),
    [([1, 2, 3], "the largest is 3, and 0 never occurs; names go from 0 to 2"),
     ([18, 90], "the largest is 90, and 0 never occurs; names go from 0 to 2"),
     ([0, 1, 2, 3, 3], "the largest is 3, and 0 is one of them; names go from 0 to 2"),
     ([0, 1, 2], None), ([1, 2], None), ([], None)],
)  # fmt: skip
def test_class_numbers_that_look_like_category_ids_are_one_warning(
    tmp_path: Path, numbers: list[int], detail: str | None
) -> None:
    lines = [f"{number} 0.5 0.5 0.{place + 1} 0.2" for place, number in enumerate(numbers)]
    rows, findings = one_label(tmp_path, *lines)
    assert len(rows) == sum(number < 3 for number in numbers)
    told = [finding for finding in findings if "look like category ids" in finding.problem]
    assert [(one.severity, one.record, one.detail) for one in told] == ([("warning", "", detail)] if detail else [])


@pytest.mark.parametrize("name", ["classes.txt", "obj.names", "labels.txt"])
def test_a_list_of_classes_stands_for_data_yaml(tmp_path: Path, name: str) -> None:
    write_images(BOXES, tmp_path / "images", tmp_path / "labels")
    (tmp_path / name).write_text("\n".join(NAMES) + "\n")
    assert contents(read(tmp_path)[0]) == expected(BOXES)


@pytest.mark.parametrize("name", ["labels/classes.txt", "labels/data.yaml", "{}/classes.txt", "labels/{}/data.yaml"])
def test_classes_may_be_named_beside_labels_or_for_each_split(tmp_path: Path, name: str) -> None:
    form = "{}/images" if name.startswith("{}") else "images/{}"
    for split, photos in (("train", BOXES), ("val", POLYGONS)):
        images = tmp_path / form.format(split)
        write_images(photos, images, Path(str(images).replace("images", "labels")))
        file = tmp_path / name.format(split)
        file.write_text("\n".join(NAMES) if file.suffix == ".txt" else yaml.safe_dump({"names": list(NAMES)}))
    assert contents(read(tmp_path, "train")[0]) == expected(BOXES)
    assert contents(read(tmp_path, "val")[0]) == expected(POLYGONS)


def test_splits_that_name_other_classes_are_refused(tmp_path: Path) -> None:
    for split, names in (("train", "cat\ndog"), ("val", "dog\ncat")):
        write_images(BOXES, tmp_path / split / "images", tmp_path / split / "labels")
        (tmp_path / split / "classes.txt").write_text(names)
    with pytest.raises(InputError, match="other classes than"):
        yolo.find(tmp_path)


def test_images_of_another_machine_are_those_of_the_folder_called_like_the_split(tmp_path: Path) -> None:
    for split, photos in (("train", BOXES), ("val", POLYGONS)):
        write_images(photos, tmp_path / "set/images" / split, tmp_path / "set/labels" / split)
    save(BOXES[0], tmp_path / "other")
    write_yaml(tmp_path / "set", path="..", train="/home/me/labels/images", val="/home/me/labels/images")
    document, findings = read(tmp_path / "set")
    assert contents(document) == expected(BOXES)
    assert problems(findings) == [
        "warning: has images that are not there: those of the folder called like the split are taken"
    ]


def test_the_export_of_cvat_for_darknet_is_read(tmp_path: Path) -> None:
    write_images(BOXES, tmp_path / "obj_train_data", tmp_path / "obj_train_data")
    (tmp_path / "obj.names").write_text("\n".join(NAMES) + "\n")
    (tmp_path / "obj.data").write_text(
        "classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    (tmp_path / "train.txt").write_text("\n".join(f"data/obj_train_data/{photo.name}" for photo in BOXES))
    assert contents(read(tmp_path)[0]) == expected(BOXES)


def test_labels_without_names_of_classes_are_refused(tmp_path: Path) -> None:
    write_images(BOXES, tmp_path / "images", tmp_path / "labels")
    with pytest.raises(InputError, match=r"data\.yaml or classes\.txt"):
        find_layout(tmp_path)


@pytest.mark.parametrize("content", ["names: [cat", "- cat", "train: images/train", "names: {cat: 1}\ntrain: images"])
def test_a_broken_data_yaml_is_one_clear_error(tmp_path: Path, content: str) -> None:
    write_images(BOXES, tmp_path / "images/train", tmp_path / "labels/train")
    (tmp_path / "data.yaml").write_text(content)
    with pytest.raises(InputError, match=r"data\.yaml"):
        yolo.find(tmp_path)


def test_images_that_are_not_there_are_an_error_with_their_places(tmp_path: Path) -> None:
    write_yaml(tmp_path, train="images/train", val="images/val")
    with pytest.raises(InputError, match="images/train"):
        yolo.find(tmp_path)


def test_a_split_without_images_is_told_with_the_first_that_has_some(tmp_path: Path) -> None:
    write_images(BOXES, tmp_path / "train/images", tmp_path / "train/labels")
    (tmp_path / "valid/images").mkdir(parents=True)
    write_yaml(tmp_path, train="../train/images", val="../valid/images", test="../test/images")
    _, findings = read(tmp_path)
    assert [(one.record, one.problem) for one in findings] == [
        ("val", "has images that are not there: left out"),
        ("test", "has images that are not there: left out"),
    ]


def test_other_folders_are_no_folders_of_yolo(tmp_path: Path) -> None:
    assert yolo.find(tmp_path) is None
    save(BOXES[0], tmp_path / "images")
    (tmp_path / "config.yaml").write_text("a: 1")
    assert yolo.find(tmp_path) is None


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n", "\t\n"])
def test_white_space_does_not_matter(tmp_path: Path, end: str) -> None:
    rows, findings = one_label(tmp_path, "\ufeff0\t0.5 0.5   0.2 0.2" + end, "1.0 0.25 0.5 0.1 0.2" + end)
    assert [row["bbox"] for row in rows] == [pytest.approx([40, 20, 20, 10]), pytest.approx([20, 20, 10, 10])]
    assert not findings


@pytest.mark.parametrize("text", ["0 a 0.5 0.2 0.2", "cat 0.5 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2",
                                  "0.5 0.5 0.5 0.2 0.2", "0 0.5 0.5", "0 0.1 0.1 0.2 0.2 0.3 0.3 0.4 0.4 0.5 nan",
                                  "0 50 25 20 10", "0 -0.2 0.5 0.1 0.1", "0", "0 0.5 0.5 inf 0.2"])  # fmt: skip
def test_one_bad_line_is_left_out_and_the_others_stay(tmp_path: Path, text: str) -> None:
    rows, findings = one_label(tmp_path, "1 0.5 0.5 0.2 0.2", text, "2 0.1 0.1 0.1 0.1")
    assert [row["category_id"] for row in rows] == [2, 3]
    (finding,) = findings
    assert finding.severity == "warning"
    assert finding.record == "train/a.txt line 2"


def test_a_line_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    rows, findings = one_label(tmp_path, "1 0.5 0.5 0.2 0.2", "1 0.5 0.5 0.2 0.2", "0 0.5 0.5 0.2 0.2")
    assert len(rows) == 2
    assert problems(findings) == ["warning: is there twice: left out once"]


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("0 0.5 0.5 0.2 0.2 0.9", [40, 20, 20, 10]),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.87", [10, 5, 40, 20]),
    ],
)
def test_a_confidence_is_not_used_and_told(tmp_path: Path, text: str, box: list[float]) -> None:
    rows, findings = one_label(tmp_path, text)
    assert rows[0]["bbox"] == pytest.approx(box)
    assert problems(findings) == ["note: has a number too many, read as a confidence and not used"]


def test_an_oriented_box_is_a_polygon_and_told(tmp_path: Path) -> None:
    rows, findings = one_label(tmp_path, "0 0.5 0.2 0.7 0.4 0.5 0.6 0.3 0.4")
    assert rows[0]["bbox"] == pytest.approx([30, 10, 40, 20])
    assert rows[0]["segmentation"][0] == pytest.approx([50, 10, 70, 20, 50, 30, 30, 20])
    assert problems(findings) == ["note: has four corners: read as a polygon, also where an oriented box is meant"]


@pytest.mark.parametrize("shape", [[1, 2], [2, 3], [17, 3]])
def test_keypoints_of_a_pose_are_not_taken_for_a_polygon(tmp_path: Path, shape: list[int]) -> None:
    keypoints = " 0.3" * (shape[0] * shape[1])
    rows, findings = one_label(tmp_path, "0 0.5 0.5 0.2 0.2" + keypoints, kpt_shape=shape)
    assert rows[0]["bbox"] == pytest.approx([40, 20, 20, 10])
    assert rows[0]["segmentation"] == []
    assert problems(findings) == ["note: has keypoints, which are not used"]


def test_labels_of_a_missing_image_and_an_unreadable_image_are_told(tmp_path: Path) -> None:
    write_images(BOXES, tmp_path / "images/train", tmp_path / "labels/train")
    (tmp_path / "labels/train/gone.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "labels/train/classes.txt").write_text("cat")
    (tmp_path / "images/train/z.jpg").write_bytes(b"no image")
    write_yaml(tmp_path, train="images/train")
    document, findings = read(tmp_path)
    assert contents(document) == expected(BOXES)
    assert problems(findings) == [
        "warning: cannot be read as an image: left out",
        "warning: has labels of an image that is missing: left out",
    ]


def test_an_image_of_a_list_that_is_missing_is_told(tmp_path: Path) -> None:
    write_images(BOXES, tmp_path / "images", tmp_path / "labels")
    (tmp_path / "train.txt").write_text("images/a.jpg\nimages/gone.jpg\n")
    write_yaml(tmp_path, train="train.txt")
    document, findings = read(tmp_path)
    assert [image["file_name"] for image in document["images"]] == ["a.jpg"]
    assert problems(findings) == ["warning: is missing: left out"]


def test_labels_in_another_place_are_told_with_the_places_that_were_looked_at(tmp_path: Path) -> None:
    write_images(BOXES, tmp_path / "images", tmp_path / "annotations")
    write_yaml(tmp_path, train="images")
    _, findings = read(tmp_path)
    (finding,) = findings
    assert finding.problem == "no image has a label file"
    assert "labels/a.txt" in finding.detail


def test_images_in_folders_of_a_split_keep_their_names(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write_images(BOXES[:1], tmp_path / "images/train" / place, tmp_path / "labels/train" / place)
    write_yaml(tmp_path, train="images/train")
    document, _ = read(tmp_path)
    assert [image["file_name"] for image in document["images"]] == ["one/a.jpg", "two/a.jpg"]
    assert len(document["annotations"]) == 2 * len(BOXES[0].objects)


@pytest.mark.parametrize("find", [lambda file, _: find_layout(file).source("train"), yolo.find_file])
def test_a_data_yaml_can_be_named(tmp_path: Path, find: Callable[..., Any]) -> None:
    write_images(BOXES, tmp_path / "images/train", tmp_path / "labels/train")
    write_yaml(tmp_path, train="images/train")
    assert contents(find(tmp_path / "data.yaml", None).document()[0]) == expected(BOXES)


@pytest.mark.parametrize("name", ["set.zip", "labels.json", "annotations.xml"])
def test_another_file_in_place_of_a_folder_is_an_error_with_the_way_out(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"unpack it.*data\.train_annotations"):
        find_layout(tmp_path / name)


@pytest.mark.parametrize("find", [yolo.find_file])
def test_images_of_a_data_yaml_can_be_named(tmp_path: Path, find: Callable[..., Any]) -> None:
    write_images(BOXES, tmp_path / "images/train", tmp_path / "labels/train")
    write_yaml(tmp_path, train="gone")
    source = find(tmp_path / "data.yaml", tmp_path / "images/train")
    assert contents(source.document()[0]) == expected(BOXES)
    source = find(tmp_path / "data.yaml", tmp_path / "images")
    assert contents(source.document()[0]) == expected(BOXES, "train/{}".format)
