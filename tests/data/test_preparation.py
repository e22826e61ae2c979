"""A training says what it uses of its data and what it leaves out, and why."""

import pytest

from rankdet.data.files import missing_files
from rankdet.recipes.schema.data import Data
from rankdet.structures import InputError


def prepared(folder, **fields):
    folder.write()
    return Data(folder=folder.root, batch_size=1, **fields).prepare()


def test_a_missing_file_is_one_that_is_no_file_wherever_it_is_linked_from(tmp_path):
    (tmp_path / "there.png").write_bytes(b"x")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "there.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "absent.png")
    names = ["there.png", "folder.png", "link.png", "broken.png", "absent.png", "no folder/a.png", "x" * 300]
    assert missing_files(tmp_path, names) == [1, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ({"iscrowd": 1}, "1 annotation flagged as a crowd"),
        ({"ignore": 1}, "1 annotation flagged `ignore`"),
        ({"bbox": [500, 5, 10, 10]}, "1 annotation outside of the image"),
        ({"bbox": [5, 5, 0.5, 10]}, "1 annotation less than a pixel wide or high"),
        ({"category_id": None}, "1 annotation broken, as warnings say"),
    ],
)
def test_objects_that_are_left_out_are_counted_by_reason(folder, annotation, words):
    folder.add(10, 7, [5, 5, 10, 10]).update(annotation)
    found = prepared(folder)
    assert "2 of 4 images, 3 of 4 objects" in found.summary
    assert words in found.summary


def test_images_that_are_left_out_are_counted_with_the_field_that_keeps_them(folder):
    folder.add_image(20, 64, 31)
    folder.add(20, 7, [5, 5, 10, 10])
    summary = prepared(folder).summary
    assert "2 images without objects; data.keep_empty=true keeps them" in summary
    assert "1 image with a side below 32 pixels; data.keep_empty=true keeps it" in summary
    assert "train: 5 images, 4 objects" in prepared(folder, keep_empty=True).summary


def test_objects_below_the_size_of_the_recipe_are_counted(folder):
    assert "1 annotation too small for data.min_object" in prepared(folder, min_object=5).summary


@pytest.mark.parametrize("names", [["10.png"], ["11.png"], ["10.png", "12.png"]])
def test_missing_images_stop_a_training_unless_they_are_skipped(folder, names):
    for name in names:
        (folder.images / name).unlink()
    with pytest.raises(InputError, match=r"the image file is missing.*data\.skip_unreadable=true leaves it out"):
        prepared(folder, keep_empty=True).datasets()
    found = prepared(folder, keep_empty=True, skip_unreadable=True)
    train, _ = found.datasets()
    assert len(train) == 4 - len(names)
    assert [finding.severity for finding in found.findings] == ["warning"] * len(names)
    assert f"{4 - len(names)} of 4 images" in found.summary


def test_without_a_val_split_it_is_said_that_nothing_is_evaluated(folder):
    assert "nothing is evaluated: there is no split val; data.validation_fraction" in prepared(folder).summary
    assert "held out" in prepared(folder, validation_fraction=0.5, keep_empty=True).summary


def test_the_summary_names_the_folder_once_and_has_a_line_for_each_split(folder):
    assert (
        prepared(folder, validation_fraction=0.5, keep_empty=True).summary.splitlines()[0]
        == f"COCO data in {folder.root}:"
    )
    lines = prepared(folder).describe().splitlines()
    assert [line.partition(":")[0] for line in lines[1:4]] == ["  train", "    left out", "  val"]
    assert sum(str(folder.root) in line for line in lines) == 1


@pytest.mark.parametrize("broken", [{"bbox": "?"}, {"category_id": 5}, {"area": "?"}])
def test_paths_of_findings_are_relative_to_the_folder_that_the_summary_names(folder, broken):
    folder.add(10, 7, [5, 5, 10, 10]).update(broken)
    found = prepared(folder)
    assert all(str(folder.root) in finding.file for finding in found.findings)
    heading, *lines = found.describe().splitlines()
    assert str(folder.root) in heading
    assert str(folder.root) not in "\n".join(lines)


@pytest.mark.parametrize("keep_empty", [False, True])
def test_without_any_object_no_field_is_named_that_does_not_help(folder, keep_empty):
    folder.document["annotations"].clear()
    with pytest.raises(InputError, match="no image has an object to learn from") as raised:
        prepared(folder, keep_empty=keep_empty).datasets()
    assert "data.keep_empty" not in str(raised.value)
