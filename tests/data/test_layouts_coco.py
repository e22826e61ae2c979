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


@pytest.mark.parametrize(
    ("layout", "split", "annotations", "images"),
    [
        ("COCO", "train", "annotations/instances_Train.json", "images"),
        ("COCO", "val", "annotations/instances_Validation.json", "images/Val"),
        ("COCO", "val", "annotations/instances_VAL2017.json", "Val2017"),
        ("COCO", "test", "annotations/instances_testing.json", "images/test"),
        ("COCO", "train", "annotations/instances.json", "images"),  # names no split
        ("COCO", "train", "annotations/instances_drone.json", "images/drone"),
        ("COCO", "train", "annotations/train.json", "images/train"),
        ("COCO", "val", "annotations/coco_val.json", "val"),
        ("COCO", "train", "train.json", "train"),
        ("COCO", "val", "annotations_Valid.json", "images/valid"),
        ("COCO", "train", "dataset.json", "."),  # of labelme2coco
        ("COCO", "train", "train/annotations.json", "train/images"),
        ("COCO", "val", "Validation/coco.json", "Validation"),
        ("CVAT or Datumaro COCO", "train", "annotations/instances_default.json", "images/default"),
        ("CVAT or Datumaro COCO", "train", "annotations/instances_default.json", "images"),
        ("CVAT or Datumaro COCO", "val", "val/annotations/instances_default.json", "val/images"),
        ("FiftyOne COCO", "train", "labels.json", "data"),
        ("FiftyOne COCO", "train", "train/labels.json", "train/data"),
        ("FiftyOne COCO", "val", "validation/labels.json", "validation/data"),
        ("Label Studio COCO", "train", "result.json", "images"),
        ("Roboflow COCO", "train", "_annotations.coco.json", "."),
        ("Roboflow COCO", "val", "Valid/_annotations.coco.json", "Valid"),
        ("Roboflow COCO", "test", "test/_annotations.coco.json", "test"),
    ],
)
def test_layouts_of_tools_are_recognized_and_named(tmp_path, layout, split, annotations, images):
    lay_out(tmp_path, annotations, f"{images}/a.jpg")
    lay_out(tmp_path, "results/detections.json", f"{images}/b.jpg")  # in no place where annotations are
    found = find_layout(tmp_path)
    assert (found.name, list(found.sources)) == (layout, [split])
    assert found.source(split).annotations == tmp_path / annotations
    assert found.source(split).images == tmp_path / images


def test_names_of_label_studio_have_their_folder_in_front(tmp_path):
    lay_out(tmp_path, "result.json", "images/13cdb71f-a.jpg", name="images/13cdb71f-a.jpg")
    source = find_layout(tmp_path).source("train")
    assert (source.layout, source.images) == ("Label Studio COCO", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "annotations/person_keypoints_train.json",
        "annotations/captions_train.json",
        "annotations/panoptic_train.json",
        "annotations/image_info_test.json",
        "annotations/._train.json",
        "val_detections.json",
        "shapes.json",
        "predictions.json",
    ],
)
def test_files_of_other_kinds_are_no_annotations(tmp_path, name):
    lay_out(tmp_path, "annotations/train.json", "images/a.jpg")
    document = lay_out(tmp_path, name, "images/a.jpg")
    contents = {
        "val_detections.json": document | {"annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]},
        "shapes.json": {"images": 3, "annotations": 4},
        "predictions.json": [document],
    }
    (tmp_path / name).write_text(json.dumps(contents.get(name, document)))
    assert list(find_layout(tmp_path).sources) == ["train"]


def test_annotations_with_empty_scores_are_annotations(tmp_path):
    """So the command line of hotcoco writes them."""
    document = lay_out(tmp_path, "train.json", "train/a.jpg")
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": None}
    (tmp_path / "train.json").write_text(json.dumps(document | {"annotations": [row]}))
    assert list(find_layout(tmp_path).sources) == ["train"]


def test_splits_of_several_places_are_one_set(tmp_path):
    lay_out(tmp_path, "annotations/instances_train.json", "images/train/a.jpg")
    lay_out(tmp_path, "valid/_annotations.coco.json", "valid/a.jpg")
    found = find_layout(tmp_path)
    assert sorted(found.sources) == ["train", "val"]
    assert found.name == "COCO, Roboflow COCO"


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_a_year_chooses_among_sets_and_is_not_needed_for_one(tmp_path, year):
    for each in ("2014", "2017"):
        lay_out(tmp_path, f"annotations/instances_train{each}.json", f"train{each}/a.jpg")
    lay_out(tmp_path, f"annotations/instances_val{year}.json", f"val{year}/a.jpg")
    found = find_layout(tmp_path)
    assert found.source(f"train{year}").images == tmp_path / f"train{year}"
    assert found.source("val") == found.source(f"val{year}")
    with pytest.raises(InputError, match="no annotation file for the split 'val2016'"):
        found.source("val2016")


def test_several_files_without_a_split_are_listed(tmp_path):
    for name in ("first.json", "second.json"):
        lay_out(tmp_path, name, "images/a.jpg")
    with pytest.raises(InputError, match=r"there is first \(first\.json\), second \(second\.json\).*train_annotations"):
        find_layout(tmp_path).source("train")
    assert find_layout(tmp_path).source("second").annotations.name == "second.json"


@pytest.mark.parametrize("wrapped", ["annotations/instances_train.json", "labels.json", "train/_annotations.coco.json"])
def test_a_folder_around_the_data_set_names_the_one_inside(tmp_path, wrapped):
    lay_out(tmp_path / "export", wrapped, "images/a.jpg")
    with pytest.raises(InputError, match=rf"a folder in it has: {tmp_path / 'export'}"):
        find_layout(tmp_path)


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
