"""Data sets of strangers: nothing in them makes a command fail oddly, or take files from outside of their folder."""

from __future__ import annotations

import base64
import io
import json
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rankdet.data import convert_folder, find_layout
from rankdet.data.fixing import CHANGES, fix_folder
from rankdet.structures import InputError

from .scene import BOXES, POLYGONS, problems, save
from .test_conversion import write_yolo
from .test_cvat import image, write_xml
from .test_image_folder import write as write_rows
from .test_labelme import of_kind, shapes_of, write_json


def write_coco(folder: Path, split: str = "train", **sections: Any) -> None:
    """Two images with an object each in COCO's layout; sections in place of its own."""
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / split).mkdir()
    for number, color in enumerate(("red", "blue")):
        Image.new("RGB", (40, 40), color).save(folder / split / f"{number}.png")
    own = {
        "images": [{"id": number, "file_name": f"{number}.png", "width": 40, "height": 40} for number in (0, 1)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 0}
            for number in (0, 1)
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(own | sections))


@pytest.mark.parametrize(
    "mask", ["abc", 5, True, {"a": 1}, {"size": [9, 9], "counts": "!!"}, [[1, 2, 3]], [None], [["a", 1, 2, 3, 4, 5]]]
)
def test_a_mask_of_an_image_folder_that_makes_no_sense_is_left_out(tmp_path: Path, mask: Any) -> None:
    rows = [
        {"bbox": [10, 10, 20, 20], "category": "a", "segmentation": given} for given in (mask, [[0, 0, 9, 0, 9, 9]])
    ]
    write_rows(BOXES[:1], tmp_path, lambda photo: rows)
    truth, findings = find_layout(tmp_path).source("train").read(masks=True)
    assert truth.has_mask.tolist() == [False, True]
    assert any(problem.endswith("left out where masks are learned or compared") for problem in problems(findings))


@pytest.mark.parametrize("mask", [[1, 2, 9, 2, 9, 9], [[[1, 2], [9, 2], [9, 9]]]])
def test_a_mask_of_an_image_folder_in_another_form_has_its_area(tmp_path: Path, mask: Any) -> None:
    write_rows(BOXES[:1], tmp_path, lambda photo: [{"bbox": [1, 2, 8, 7], "category": "a", "segmentation": mask}])
    truth, _ = find_layout(tmp_path).source("train").read(masks=True)
    assert truth.areas.tolist() == [28]


def bomb() -> str:
    """A short text of YAML with lists of lists that have 9^13 members, written out."""
    steps = (f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in pairwise("abcdefghijklmn"))
    return "\n".join(["a: &a [x, x, x]", *steps])


@pytest.mark.parametrize(
    "text",
    [
        "[" * 3000,
        "train: &a [*a]\nnames: [x]",
        f"{bomb()}\ntrain: *n\nnames: [x]",
        f"{bomb()}\ntrain: train/images\nnames: *n",
        f"{bomb()}\ntrain: train/images\nnames: [x]\npath: *n",
        f"{bomb()}\ntrain: train/images\nnames: [x]\nkpt_shape: *n",
    ],
    ids=["deep", "endless", "of paths", "of names", "path", "keypoints"],
)
def test_yaml_without_an_end_is_one_clear_error(tmp_path: Path, text: str) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(InputError, match=r"data\.yaml"):
        find_layout(tmp_path)


def test_a_path_that_no_file_system_has_is_a_place_without_images(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(f"train: {'a' * 5000}\nval: val/images\nnames: [a, b, c]\n")
    assert find_layout(tmp_path).source("train").images == tmp_path / "train" / "images"


@pytest.mark.parametrize("head", ["[" * 3000, "a: &a [*a]", f"{bomb()}\nclass_label: {{names: *n}}"])
def test_a_card_of_an_image_folder_that_makes_no_sense_has_no_classes(tmp_path: Path, head: str) -> None:
    write_rows(BOXES[:1], tmp_path, lambda photo: [{"bbox": [1, 1, 9, 9], "category": 3}])
    (tmp_path / "README.md").write_text(f"---\n{head}\n---\n")
    assert find_layout(tmp_path).source("train").read(masks=False)[0].names == ["3"]


@pytest.mark.parametrize("subset", ["../outside", "..\\..", "/", "a/../../outside"])
def test_a_subset_of_cvat_names_no_folder_outside(tmp_path: Path, subset: str) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / BOXES[0].name).write_text("a secret")
    write_xml(tmp_path / "data", image(BOXES[0], attributes=f'subset="{subset}"'))
    with suppress(InputError):
        convert_folder(tmp_path / "data", tmp_path / "out")
    assert not any(path.suffix != ".json" for path in (tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize("name", ["../secret.txt", "secret", "../id_rsa"])
def test_a_file_of_labelme_takes_no_file_that_is_no_image(tmp_path: Path, name: str) -> None:
    (tmp_path / name).resolve().write_text("a secret")
    write_json(POLYGONS[0], tmp_path / "data" / "a.json", name)
    _, findings = find_layout(tmp_path / "data").source("train").content()
    assert "warning: has no image file: left out" in problems(findings)


def test_a_mask_of_labelme_larger_than_any_image_is_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    mask = base64.b64encode(buffer.getvalue()).decode()
    _, findings = shapes_of(tmp_path, of_kind("mask", [0, 0], [9, 9], mask=mask))
    assert "warning: has points that are missing or broken: left out" in problems(findings)


@pytest.mark.parametrize(
    ("place", "runs"),
    [
        ('left="0" top="0" width="1000000000" height="1000000000"', "1000000000000000000"),
        ('left="0" top="0" width="2" height="1"', ",".join(["9223372036854775807", "9223372036854775807", "4"])),
    ],
    ids=["large", "beyond 64 bits"],
)
def test_a_mask_of_cvat_larger_than_its_image_is_left_out(tmp_path: Path, place: str, runs: str) -> None:
    write_xml(tmp_path, image(BOXES[0], f'<mask label="cat" rle="{runs}" {place}></mask>'))
    save(BOXES[0], tmp_path / "images")
    _, findings = find_layout(tmp_path).source("train").content()
    assert "warning: has coordinates that are missing or broken: left out" in problems(findings)


def test_a_point_of_labelme_beyond_all_numbers_is_left_out(tmp_path: Path) -> None:
    _, findings = shapes_of(tmp_path, of_kind("rectangle", [10**400, 0], [9, 9]))
    assert "warning: has points that are missing or broken: left out" in problems(findings)


def test_images_with_ids_in_other_forms_are_converted_with_their_files(tmp_path: Path) -> None:
    images = [{"id": id_, "file_name": f"images/{id_:.0f}.png", "width": 40, "height": 40} for id_ in (0.0, 1)]
    write_coco(tmp_path / "data", images=[images[0], images[1] | {"id": "1"}])
    assert convert_folder(tmp_path / "data", tmp_path / "out").splits["train"].missing == 0
    assert sorted(path.name for path in (tmp_path / "out" / "images" / "train").iterdir()) == ["0.png", "1.png"]


@pytest.mark.parametrize("objects", [{}, {"annotations": None}, {"annotations": []}])
def test_a_split_without_objects_is_converted(tmp_path: Path, objects: dict[str, Any]) -> None:
    write_coco(tmp_path / "data")
    write_coco(tmp_path / "data", "val", **({"annotations": None} | objects))
    found = convert_folder(tmp_path / "data", tmp_path / "out").splits["val"]
    assert (found.images, found.objects, found.masks) == (2, 0, 0)


@pytest.mark.parametrize("split", ["..", ".", "a" * 300 + " "])
def test_the_name_of_a_split_is_no_path(tmp_path: Path, split: str) -> None:
    write_coco(tmp_path / "data")
    other = tmp_path / "data" / "annotations" / f"instances_{split[-200:]}.json"
    other.write_bytes((tmp_path / "data" / "annotations" / "instances_train.json").read_bytes())
    convert_folder(tmp_path / "data", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"annotations", "images"}
    assert all(path.is_dir() for path in (tmp_path / "out" / "images").iterdir())


def test_two_splits_that_would_have_one_file_are_told(tmp_path: Path) -> None:
    write_coco(tmp_path / "data", "one a")
    write_coco(tmp_path / "data", "one+a")
    conversion = convert_folder(tmp_path / "data", tmp_path / "out")
    assert len(conversion.splits) == 1
    assert "warning: the split cannot be read: left out" in problems(conversion.findings)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc00\ud800"])
def test_halves_of_letters_are_in_the_record_of_changes(tmp_path: Path, text: str) -> None:
    write_coco(tmp_path / "data", categories=[{"id": 1, "name": text}])
    fix_folder(tmp_path / "data", tmp_path / "out")
    changes = json.loads((tmp_path / "out" / CHANGES).read_text())["changes"]
    assert [change["before"] for change in changes] == [text]
