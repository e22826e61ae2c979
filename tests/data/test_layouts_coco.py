"""Where a folder keeps a split."""

import json

import pytest

from rankdet.coco import raise_errors
from rankdet.data import find_layout
from rankdet.structures import InputError


def lay_out(root, annotations, image, name="a.jpg"):
    for path in (root / annotations, root / image):
        path.parent.mkdir(parents=True, exist_ok=True)
    image_record = {"id": 1, "file_name": name, "width": 4, "height": 3}
    document = {"images": [image_record], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (root / annotations).write_text(json.dumps(document))
    (root / image).touch()
    return document


@pytest.mark.parametrize(
    ("split", "annotations", "images"),
    [
        ("train", "annotations/instances_train.json", "images"),
        ("train", "annotations/instances_train.json", "images/train"),
        ("train", "annotations/instances_train.json", "train"),
        ("train", "annotations/instances_train.json", "."),
        ("train", "annotations/instances_train2017.json", "train2017"),
        ("train2017", "annotations/instances_train2017.json", "train2017"),
        ("train", "annotations/instances_train2017.json", "images/train2017"),
        ("train", "annotations/instances_train2017.json", "images/train"),
        ("val", "annotations/instances_valid.json", "images/val"),
        ("valid", "annotations/instances_val2017.json", "val2017"),
        ("train", "train/_annotations.coco.json", "train"),
        ("val", "valid/_annotations.coco.json", "valid"),
        ("valid", "val/_annotations.coco.json", "val"),
    ],
)
def test_usual_layouts_are_found(tmp_path, split, annotations, images):
    lay_out(tmp_path, annotations, f"{images}/a.jpg")
    found = find_layout(tmp_path).source(split)
    assert (found.annotations, found.images) == (tmp_path / annotations, tmp_path / images)


def test_folder_of_the_first_image_is_taken(tmp_path):
    (tmp_path / "train").mkdir()
    lay_out(tmp_path, "annotations/instances_train.json", "images/sub/ä b.jpg", name="sub/ä b.jpg")
    assert find_layout(tmp_path).source("train").images == tmp_path / "images"


def test_exact_name_is_preferred_to_a_longer_one(tmp_path):
    lay_out(tmp_path, "annotations/instances_val_small.json", "images/a.jpg")
    lay_out(tmp_path, "annotations/instances_val.json", "images/a.jpg")
    assert find_layout(tmp_path).source("val").annotations.name == "instances_val.json"
    assert find_layout(tmp_path).source("val_small").annotations.name == "instances_val_small.json"


def test_several_fitting_files_are_named(tmp_path):
    lay_out(tmp_path, "annotations/instances_train2014.json", "images/a.jpg")
    lay_out(tmp_path, "annotations/instances_train2017.json", "images/a.jpg")
    with pytest.raises(
        InputError, match=r"several .*'train': .*instances_train2014\.json, .*instances_train2017\.json"
    ):
        find_layout(tmp_path).source("train")
    lay_out(tmp_path, "annotations/instances_val.json", "images/a.jpg")
    lay_out(tmp_path, "valid/_annotations.coco.json", "images/a.jpg")
    with pytest.raises(InputError, match=r"several .*instances_val\.json, valid/_annotations\.coco\.json"):
        find_layout(tmp_path).source("val")


def test_message_lists_what_there_is(tmp_path):
    with pytest.raises(InputError, match=r"absent: there is no such folder"):
        find_layout(tmp_path / "absent")
    with pytest.raises(InputError, match=r"no annotations of a known layout .*data\.train_annotations"):
        find_layout(tmp_path)
    lay_out(tmp_path, "annotations/instances_train.json", "elsewhere/a.jpg")
    there = r"no annotation file for the split 'val'; there is train \(annotations/instances_train\.json\)"
    with pytest.raises(InputError, match=there):
        find_layout(tmp_path).source("val")


def record(place, **fields):
    return {"id": place, "file_name": f"{place}.jpg", "width": 4, "height": 3} | fields


@pytest.mark.parametrize("missing", [1, 9, 200])
def test_missing_images_do_not_hide_the_folder_of_the_others(tmp_path, missing):
    document = lay_out(tmp_path, "annotations/instances_train.json", "images/399.jpg")
    for place in range(missing, 399):
        (tmp_path / "images" / f"{place}.jpg").touch()
    records = [record(place) for place in range(400)]
    records[0] |= {"file_name": "n" * 300}
    records[2] |= {"file_name": "\ud800.png"}
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(document | {"images": records}))
    assert find_layout(tmp_path).source("train").images == tmp_path / "images"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON: .*line 1"),
        (b'{"images": [', "is not valid JSON: .*line 1"),
        (b'{"images": [{"file_name": "a.jpg"},', "is not valid JSON: .*line 1"),
        (b'{"images": [{"file_name": "\\x"},', "is not valid JSON: .*line 1"),
        (b"\xff\xfe\x00\x01", "is not valid JSON"),
        (b"[1,2]", "the top level of a COCO file is an object"),
        (b"{}", "section 'images' is missing"),
        (b'{"images": {}, "annotations": [], "categories": []}', "section 'images' is not a list"),
        (b'{"images": [{"id": 1}], "annotations": [], "categories": [{}]}', "image 1: key 'file_name' is missing"),
    ],
)
def test_broken_file_is_found_by_its_name_and_refused_when_it_is_read(tmp_path, content, message):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_train.json").write_bytes(content)
    source = find_layout(tmp_path).source("train")
    with pytest.raises(InputError, match=rf"instances_train\.json: {message}"):
        raise_errors(source.read(masks=False)[1])
