"""A cleaned copy has no errors, every change is recorded, and the original stays as it was."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from rankdet.data.fixing import CHANGES, fix_folder
from rankdet.recipes.doctor import check_folder
from rankdet.structures import InputError


def hashes(root):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*")) if path.is_file()}


def errors(root):
    return [finding for finding in check_folder(root, with_masks=False) if finding.severity == "error"]


def annotations_of(root, split="train"):
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())["annotations"]


def fixed(folder, out):
    """Write the folder, clean it, and check what is true of all copies; returns changes and annotations."""
    folder.write()
    before = hashes(folder.root)
    changes = fix_folder(folder.root, out)
    assert hashes(folder.root) == before
    assert errors(out) == []
    assert fix_folder(out, out.with_name("again")) == []
    assert annotations_of(out) == annotations_of(out.with_name("again"))
    recorded = json.loads((out / CHANGES).read_text())["changes"]
    assert recorded == json.loads(json.dumps([change._asdict() for change in changes]))
    return changes, annotations_of(out)


@pytest.fixture
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("fixed") / "copy"


def test_a_sound_folder_is_copied_without_a_change(folder, out):
    changes, annotations = fixed(folder, out)
    assert changes == []
    assert annotations == folder.document["annotations"]
    assert len(list((out / "images" / "train").iterdir())) == 4


def test_images_of_the_copy_are_the_same_files(folder, out):
    fixed(folder, out)
    assert (out / "images" / "train" / "10.png").samefile(folder.images / "10.png")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"category_id": None}, "category_id"),
        ({"image_id": 99}, "image_id"),
        ({"bbox": [1, 2, float("nan"), 4]}, "box"),
        ({"bbox": [1, 2, -3, 4]}, "negative"),
        ({"iscrowd": 7}, "iscrowd"),
    ],
)
def test_a_record_that_makes_no_sense_is_left_out_with_its_reason(folder, out, fields, reason):
    folder.add(12, 7, [5, 5, 10, 10]).update(fields)
    changes, annotations = fixed(folder, out)
    (change,) = changes
    assert (change.record, change.field, change.after) == ("annotation 103", "", None)
    assert reason in change.reason
    assert len(annotations) == 3


@pytest.mark.parametrize(
    ("fields", "key", "after"),
    [
        ({"id": "103"}, "id", 103),
        ({"id": 100}, "id", 103),
        ({"category_id": 7.0}, "category_id", 7),
        ({"iscrowd": None}, "iscrowd", 0),
        ({"segmentation": [5, 5, 15, 5, 15, 15]}, "segmentation", [[5, 5, 15, 5, 15, 15]]),
        ({"segmentation": [[5, 5, 15, 5]]}, "segmentation", []),
        ({"bbox": None}, "bbox", [5.0, 5.0, 10.0, 10.0]),
    ],
)
def test_what_is_meant_is_written_in_its_plain_form(folder, out, fields, key, after):
    folder.add(12, 7, [5, 5, 10, 10]).update(fields)
    changes, annotations = fixed(folder, out)
    assert [(change.field, change.after) for change in changes] == [(key, after)]
    assert changes[0].before == fields[key]
    assert annotations[3][key] == after


def test_names_of_files_are_resolved(folder, out):
    for row in folder.document["images"]:
        row["file_name"] = f"C:\\upload\\{row['file_name']}"
    changes, _ = fixed(folder, out)
    assert [change.after for change in changes] == ["10.png", "11.png", "12.png", "13.png"]
    assert {change.field for change in changes} == {"file_name"}


def test_images_that_cannot_be_used_are_left_out_with_their_objects(folder, out):
    (folder.images / "10.png").unlink()
    (folder.images / "12.png").write_bytes(b"broken")
    changes, annotations = fixed(folder, out)
    assert [change.record for change in changes] == ["image 10", "image 12", "annotation 100", "annotation 101"]
    assert [change.reason for change in changes[2:]] == ["its image is left out"] * 2
    assert [row["id"] for row in annotations] == [102]


def test_relative_boxes_are_multiplied(folder, out):
    sizes = {row["id"]: (row["width"], row["height"]) for row in folder.document["images"]}
    expected = [row["bbox"] for row in folder.document["annotations"]]
    for row in folder.document["annotations"]:
        width, height = sizes[row["image_id"]]
        x, y, w, h = row["bbox"]
        row["bbox"] = [x / width, y / height, w / width, h / height]
    changes, annotations = fixed(folder, out)
    assert len(changes) == 3
    for row, box in zip(annotations, expected, strict=True):
        assert row["bbox"] == pytest.approx(box)


def test_corners_become_sizes_only_where_polygons_or_areas_prove_it(folder, out):
    for row in folder.document["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]
    changes, annotations = fixed(folder, out)
    assert [row["bbox"] for row in annotations] == [[4, 6, 20, 10], [30, 8, 16, 32], [1, 2, 3, 4]]
    assert all("x2 and y2" in change.reason for change in changes)


def test_without_proof_boxes_stay(folder, out):
    for row in folder.document["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x, y, x + w, y + h]
        del row["segmentation"], row["area"]
    changes, annotations = fixed(folder, out)
    assert changes == []
    assert annotations[0]["bbox"] == [4, 6, 24, 16]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_are_swapped_where_exif_turns_the_image_and_the_boxes_need_it(folder, out, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (80, 40)).save(folder.images / "12.png", exif=exif)
    folder.document["images"][3] |= {"file_name": "14.png", "width": 80, "height": 40}
    Image.new("RGB", (80, 40)).save(folder.images / "14.png", exif=exif)
    folder.add(12, 7, [5, 50, 20, 25])
    folder.add(13, 7, [5, 5, 20, 25])  # which fits both ways
    changes, _ = fixed(folder, out)
    expected = [(f"image {id_}", field, after) for id_ in (12, 13) for field, after in (("height", 80), ("width", 40))]
    assert [(change.record, change.field, change.after) for change in changes] == expected


def test_sizes_stay_where_boxes_of_another_image_fit_the_stored_pixels_alone(folder, out):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("12.png", "14.png"):
        Image.new("RGB", (80, 40)).save(folder.images / name, exif=exif)
    folder.document["images"][3] |= {"file_name": "14.png", "width": 80, "height": 40}
    folder.add(12, 7, [5, 20, 20, 25])
    folder.add(13, 7, [50, 5, 20, 25])
    changes, _ = fixed(folder, out)
    assert changes == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [("9 0.5 0.5 0.2 0.2", "no name"), ("0 1.5 0.5 0.2 0.2", "outside"), ("0 0.5 0.5", "neither a box nor a polygon")],
)
def test_lines_of_a_foreign_format_that_are_left_out_are_changes(tmp_path, out, line, reason):
    for name in ("images", "labels"):
        (tmp_path / "set" / name / "train").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "set/images/train/a.png")
    (tmp_path / "set/labels/train/a.txt").write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    (tmp_path / "set/data.yaml").write_text("train: images/train\nnames: [cell]\n")
    change, *others = fix_folder(tmp_path / "set", out)
    assert not others
    assert reason in change.reason
    assert change.after is None
    assert len(annotations_of(out)) == 1


def test_a_full_disk_leaves_no_copy_and_one_message(folder, out, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder.write()
    monkeypatch.setattr("shutil.copyfile", fail)
    with pytest.raises(InputError, match="the disk is full: nothing is written"):
        fix_folder(folder.root, out, copy=True)
    assert list(out.parent.iterdir()) == []


def test_the_list_of_changes_is_there_as_soon_as_the_copy_is(folder, out, monkeypatch):
    def checked(beside, place):
        assert (Path(beside) / CHANGES).is_file()
        rename(beside, place)

    rename = os.replace
    folder.write()
    monkeypatch.setattr("os.replace", checked)
    fix_folder(folder.root, out)
    assert (out / CHANGES).is_file()


def test_ids_of_images_that_repeat_have_no_certain_repair(folder, out):
    folder.document["images"].append(folder.document["images"][0] | {"file_name": "11.png"})
    folder.write()
    with pytest.raises(InputError, match="id occurs twice"):
        fix_folder(folder.root, out)
    assert not out.exists()


UNFIXABLE = {"23", "33", "43", "d80"}
"""Inputs whose images are all too small for the rules of COCO, that are no data set, or have no images to learn."""


def test_every_input_of_other_tools_has_a_cleaned_copy_without_errors(shared, tmp_path):
    for case in sorted(shared("cases").iterdir()):
        if not case.is_dir() or case.name in UNFIXABLE:
            continue
        before = hashes(case)
        fix_folder(case, tmp_path / case.name)
        assert hashes(case) == before
        assert errors(tmp_path / case.name) == [], case.name
        assert fix_folder(tmp_path / case.name, tmp_path / f"{case.name} again") == [], case.name
