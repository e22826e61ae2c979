"""Annotation files and folders of images that are named one by one."""

import json
import re

import pytest

from rankdet.data import CocoDataset, find_source
from rankdet.data.layouts import Source
from rankdet.recipes.schema.data import Data
from rankdet.structures import InputError


def moved(folder, annotations, images):
    """The tiny folder with its file and its images somewhere else."""
    paths = folder.root / annotations, folder.root / images
    for old, new in zip((folder.annotations, folder.images), paths, strict=True):
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
    return paths


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("export.json", "pictures of 2026"),
        ("labels/some.JSON", "there/below"),
        ("annotations/person_keypoints_train2017.json", "a"),  # a file that is named counts, whatever it is called
    ],
)
def test_a_file_and_a_folder_are_taken_as_they_are_called(folder, annotations, images):
    annotations, images = moved(folder, annotations, images)
    data = Data(batch_size=1, train_annotations=annotations, train_images=images)
    dataset = data.build_training_dataset()
    assert (len(dataset), dataset.num_objects) == (2, 3)
    assert dataset.path(0).parent == images
    assert data.find_validation_source() is None
    assert len(CocoDataset(annotations, images)) == 4


@pytest.mark.parametrize("images", ["images", "data", "."])
def test_images_are_found_beside_the_file(folder, images):
    folder.root.joinpath("set").mkdir()
    annotations = folder.annotations.rename(folder.root / "set" / "export.json")
    if images == ".":
        for path in folder.images.iterdir():
            path.rename(folder.root / "set" / path.name)
    else:
        folder.images.rename(folder.root / "set" / images)
    assert find_source(annotations).images == folder.root / "set" / images


def test_files_take_the_place_of_those_of_the_folder(folder):
    other = folder.root / "other.json"
    other.write_text(json.dumps(folder.document | {"images": folder.document["images"][:3]}))
    data = Data(folder=folder.root, batch_size=1, validation_annotations=other, validation_images=folder.images)
    assert len(data.build_training_dataset()) == 2
    assert len(data.build_test_dataset()) == 3
    elsewhere = data.at(folder.root / "elsewhere")
    assert (elsewhere.validation_annotations, elsewhere.validation_images) == (None, None)
    assert len(data.at(None, other, folder.images).build_test_dataset()) == 3


def test_a_folder_of_images_alone_goes_with_the_annotations_of_the_data_folder(folder):
    images = folder.images.rename(folder.root.parent / "images of the set")
    dataset = Data(folder=folder.root, batch_size=1, train_images=images).build_training_dataset()
    assert dataset.path(0).exists()


def test_paths_are_absolute_in_a_recipe(folder, monkeypatch):
    monkeypatch.chdir(folder.root)
    data = Data(batch_size=1, train_annotations="annotations/instances_train.json", train_images="images")
    monkeypatch.chdir(folder.root.parent)
    assert len(data.build_training_dataset()) == 2
    assert data.model_dump(mode="json")["train_images"] == str(folder.images)


CVAT = """<annotations><version>1.1</version>
<image id="0" name="10.png" width="64" height="48"><box label="cat" xtl="4" ytl="6" xbr="24" ybr="16" /></image>
</annotations>"""
METADATA = '{"file_name": "10.png", "objects": {"bbox": [[4, 6, 20, 10]], "categories": ["cat"]}}'
YOLO = "names: [cat]\ntrain: .\n"


@pytest.mark.parametrize(
    ("layout", "name", "content"),
    [
        ("CVAT", "export of CVAT.xml", CVAT),
        ("Hugging Face image folder", "metadata.jsonl", METADATA),
        ("YOLO", "set.yaml", YOLO),
    ],
)
def test_files_of_other_formats_are_taken_too(folder, layout, name, content):
    file = folder.images / name
    file.write_text(content)
    (folder.images / "10.txt").write_text(f"0 {14 / 64} {11 / 48} {20 / 64} {10 / 48}\n")
    data = Data(batch_size=1, train_annotations=file)
    assert data.find_source("train").layout == layout
    dataset = data.build_training_dataset()
    assert (len(dataset), [name for _, name in dataset.categories]) == (1, ["cat"])
    assert dataset.ground_truth.boxes.round(6).tolist() == [[4, 6, 20, 10]]
    assert dataset.path(0).name == "10.png"


def test_rows_of_an_image_folder_have_their_images_beside_them(folder):
    (folder.root / "metadata.jsonl").write_text(METADATA)
    with pytest.raises(InputError, match="names images beside it"):
        find_source(folder.root / "metadata.jsonl", folder.images)


@pytest.mark.parametrize("missing", [1, 2])
def test_images_that_are_nowhere_name_the_field_of_their_folder(folder, missing):
    for number in range(missing):
        (folder.images / f"{10 + number}.png").unlink()
    data = Data(folder=folder.root, batch_size=1)
    help_ = "data.train_images names their folder" if missing == 2 else "data.skip_unreadable=true leaves it out"
    assert {row.remedy for row in data.prepare().findings if row.severity == "error"} == {help_}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train_annotations": "absent.json"}, r"absent\.json: there is no such file"),
        (
            {"train_annotations": "annotations/instances_train.json", "train_images": "absent"},
            "absent: there is no such",
        ),
        ({"train_annotations": "images/10.png"}, r"10\.png: is no annotation file of a known format"),
        ({}, r"data\.folder is not set.*--data FOLDER, .*data\.train_annotations"),
    ],
)
def test_messages_name_what_is_missing(folder, monkeypatch, fields, message):
    monkeypatch.chdir(folder.root)
    with pytest.raises(InputError, match=message):
        Data(batch_size=1, **fields).build_training_dataset()


@pytest.mark.parametrize("is_terminal", [True, False])
@pytest.mark.parametrize("name", ["a.json", "b [red].json"])
def test_a_terminal_shows_which_file_is_read(tmp_path, monkeypatch, capsys, is_terminal, name):
    monkeypatch.setenv("TTY_COMPATIBLE", str(int(is_terminal)))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "500")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 9, "height": 9}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (tmp_path / name).write_text(json.dumps(content))
    Source("COCO", tmp_path / name, tmp_path).read(masks=False)
    shown = capsys.readouterr()
    assert not shown.out
    assert (f"Reading {tmp_path / name}" in re.sub(r"\x1b\[[0-9;]*m", "", shown.err)) == is_terminal
    assert bool(shown.err) == is_terminal
