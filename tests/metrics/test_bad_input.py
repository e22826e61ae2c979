"""Bad ground truth and bad detections are refused with a message that names the file and the record."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as rle

from rankdet.coco.segmentations import to_rle
from rankdet.metrics import evaluate
from rankdet.structures import InputError

TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "height": 100, "width": 100}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [
        {"id": 8, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "segmentation": [[10, 10, 50, 10, 50, 50]]}
    ],
}
HIT: dict[str, Any] = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.5}
MASK = {"size": [100, 100], "counts": [0, 10000]}


def without(record: dict[str, Any], field: str) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != field}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({**HIT, "image_id": 2}, "unknown image_id: 2"),
        ({**HIT, "image_id": 1.5}, "unknown image_id: 1.5"),
        ({**HIT, "image_id": "a"}, "unknown image_id: 'a'"),
        ({**HIT, "image_id": "1"}, "unknown image_id: '1'"),
        ({**HIT, "image_id": [1]}, r"unknown image_id: \[1\]"),
        ({**HIT, "image_id": True}, "unknown image_id: True"),
        ({**HIT, "image_id": 10**400}, "unknown image_id: 10*…"),
        ({**HIT, "category_id": 0}, "unknown category_id: 0"),
        ({**HIT, "bbox": [1, 2, 3]}, r"bbox is not a list of four numbers .*: \[1, 2, 3\]"),
        ({**HIT, "bbox": 5}, "bbox is not a list of four numbers .*: 5"),
        ({**HIT, "bbox": [1, 2, 3, "x"]}, "bbox is not a list of four numbers"),
        ({**HIT, "bbox": [1, 2, 3, True]}, "bbox is not a list of four numbers"),
        ({**HIT, "bbox": [1, 2, float("nan"), 4]}, "box is not finite, or goes beyond"),
        ({**HIT, "bbox": [1, 2, 3, 10**400]}, r"box is not finite, or goes beyond .*: \[1, 2, 3, 10*…"),
        ({**HIT, "bbox": [1, 2, 3, 1e300]}, "box is not finite, or goes beyond 1000000000 pixels"),
        ({**HIT, "bbox": [1, 2, -3, 4]}, r"box has a negative size: \[1, 2, -3, 4\]"),
        ({**HIT, "score": float("nan")}, "score is not a finite number: nan"),
        ({**HIT, "score": None}, "score is not a finite number: None"),
        ({**HIT, "score": True}, "score is not a finite number: True"),
        ({**HIT, "score": "0.5"}, "score is not a finite number: '0.5'"),
        ({**HIT, "score": 10**400}, "score is not a finite number: 10{99}…"),
        (without(HIT, "score"), "key 'score' is missing"),
        (without(HIT, "bbox"), "has neither bbox nor segmentation"),
        (without(HIT, "image_id"), "key 'image_id' is missing"),
        ([1, 2], r"is not an object: \[1, 2\]"),
    ],
)
def test_bad_detection_is_named(tmp_path: Path, record, message):
    path = tmp_path / "found.json"
    path.write_text(json.dumps([HIT, record]))
    with pytest.raises(InputError, match=rf"found\.json: detection number 2: .*{message}"):
        evaluate(TRUTH, path)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [100, 100]}, "the segmentation is neither a list of polygons nor an RLE with size and counts"),
        ({**MASK, "size": [50, 100]}, r"the size of the RLE is not that of the image.*: \[50, 100\], not \[100, 100\]"),
        ({**MASK, "size": [10**30, 1]}, "the size of the RLE is not that of the image"),
        ({**MASK, "size": 5}, r"the size of the RLE is not \[height, width\].*: 5"),
        ("abc", "the segmentation is neither a list of polygons nor an RLE"),
        (None, "has no segmentation"),
        ({**MASK, "counts": "!!!!"}, "the RLE of the segmentation is broken"),
        ({**MASK, "counts": "zz"}, "the counts of the RLE do not make the pixels of its size.*: 20, not 10000"),
        ({**MASK, "counts": ""}, "the counts of the RLE do not make the pixels of its size.*: 0, not 10000"),
        ({**MASK, "counts": [5, 5]}, "the counts of the RLE do not make the pixels of its size.*: 10, not 10000"),
        ({**MASK, "counts": [0, -1]}, "the counts of the RLE are neither a string nor a list of integers"),
        ({**MASK, "counts": [10**400]}, "the counts of the RLE do not make the pixels of its size.*: 10*…"),
        ({**MASK, "counts": 5}, "the counts of the RLE are neither a string nor a list of integers"),
        ([[1, 2, 3, 4]], "no polygon of the segmentation has three points"),
        ([[1, 2, 3, 4, 5]], "a polygon of the segmentation is not a list of numbers"),
        ([["1"] * 6], "a polygon of the segmentation is not a list of numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "a polygon of the segmentation is not finite"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon of the segmentation is not finite"),
    ],
)
def test_bad_mask_is_named(mask, message):
    with pytest.raises(InputError, match=f"detections: detection number 1: .*{message}"):
        evaluate(TRUTH, [{**HIT, "segmentation": mask}], "segm")
    if mask:
        truth = {**TRUTH, "annotations": [{**TRUTH["annotations"][0], "segmentation": mask}]}
        with pytest.raises(InputError, match=f"ground truth: annotation 8: {message}"):
            evaluate(truth, [], "segm")


def test_compressed_masks_of_all_shapes_are_sound():
    generator = np.random.default_rng(0)
    for density in np.linspace(0, 1, 40):
        pixels = np.asfortranarray(generator.random(generator.integers(1, 99, 2)) < density, dtype=np.uint8)
        mask = rle.encode(pixels)
        assert to_rle(mask, pixels.shape) == {"size": list(pixels.shape), "counts": mask["counts"]}


def test_ids_above_2_to_the_53_are_told_apart():
    first, second = 2**62, 2**62 + 1
    images = [{"id": image_id, "height": 100, "width": 100} for image_id in (first, second)]
    truth = {**TRUTH, "images": images, "annotations": [{**TRUTH["annotations"][0], "image_id": second}]}
    assert evaluate(truth, [{**HIT, "image_id": second}])["AP50"] == pytest.approx(1)
    assert evaluate(truth, [{**HIT, "image_id": first}])["AP50"] == 0
    with pytest.raises(InputError, match="unknown image_id"):
        evaluate(truth, [{**HIT, "image_id": 2**62 + 2}])


def test_detections_without_masks_cannot_be_compared_by_masks():
    with pytest.raises(InputError, match="detections: detection number 1: key 'segmentation' is missing"):
        evaluate(TRUTH, [HIT], "segm")
    assert evaluate(TRUTH, [{**HIT, "segmentation": MASK}], "segm")["AP50"] == 0


@pytest.mark.parametrize("found", [{}, {"annotations": {}}, {"detections": []}, 3, "no such file.json"])
def test_detections_are_a_list(found):
    with pytest.raises(InputError, match=r"a list of objects|no such file\.json: there is no such file"):
        evaluate(TRUTH, found)


def test_missing_and_broken_files_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.json: there is no such file"):
        evaluate(tmp_path / "absent.json", [])
    with pytest.raises(InputError, match="Is a directory"):
        evaluate(tmp_path, [])
    (tmp_path / "broken.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"broken\.json: is not valid JSON: .*line 1"):
        evaluate(tmp_path / "broken.json", [])
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"bytes\.json: is not valid JSON"):
        evaluate(TRUTH, tmp_path / "bytes.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "image_id is no image of the file: left out: 5"),
        ({"image_id": [1]}, r"image_id is no image of the file: left out: \[1\]"),
        ({"category_id": None}, "category_id is no category of the file: left out: None"),
        ({"bbox": [1, 2, 3]}, r"bbox is not a list of four numbers .*: \[1, 2, 3\]"),
        ({"bbox": None, "segmentation": None}, "has neither a box nor a segmentation"),
        ({"bbox": [1, 2, 3, "x"]}, "bbox is not a list of four numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "box is not finite, or goes beyond"),
        ({"bbox": [1, 2, 3, -4]}, "box has a negative size"),
        ({"image_id": True}, "image_id is no image of the file: left out: True"),
        ({"bbox": [1, 2, 3, 10**400]}, "box is not finite, or goes beyond"),
        ({"iscrowd": "often"}, "iscrowd is neither 0 nor 1"),
    ],
)
def test_bad_annotation_is_named_and_an_error_where_it_is_the_only_one(tmp_path: Path, change, message):
    path = tmp_path / "truth.json"
    bad = {**TRUTH["annotations"][0], **change}
    path.write_text(json.dumps({**TRUTH, "annotations": [bad]}))
    with pytest.raises(InputError, match=rf"truth\.json: annotation 8: {message}"):
        evaluate(path, [])
    path.write_text(json.dumps({**TRUTH, "annotations": [bad, {**TRUTH["annotations"][0], "id": 9}]}))
    metrics = evaluate(path, [HIT])
    assert metrics["AP50"] == pytest.approx(1)
    (line,) = metrics["findings"]
    assert re.match(rf"warning: .*truth\.json: annotation 8: {message}", line)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "x"}, "annotation 'x': id is not an integer from 0"),
        ({"id": 2**63}, "annotation 9223372036854775808: id is not an integer from 0"),
        ({"area": 10**400}, "annotation 8: area is not a finite number of pixels"),
        ({"area": "x"}, "annotation 8: area is not a finite number of pixels"),
        ({"iscrowd": "0"}, "annotation 8: iscrowd is a str: read as 0 or 1"),
        ({"image_id": "1"}, "annotation 8: image_id is a str: read as a whole number"),
    ],
)
def test_what_can_be_meant_in_one_way_only_is_measured_and_told(change, message):
    metrics = evaluate({**TRUTH, "annotations": [{**TRUTH["annotations"][0], **change}]}, [HIT])
    assert metrics["AP50"] == pytest.approx(1)
    assert message in "\n".join(metrics["findings"])


def test_all_bad_detections_are_counted():
    with pytest.raises(
        InputError, match=r"detection number 2: unknown image_id: 5.*\n.*detection number 3: score is not"
    ):
        evaluate(TRUTH, [HIT, {**HIT, "image_id": 5}, {**HIT, "score": None}])


def test_numbers_of_numpy_are_numbers():
    found = {**HIT, "bbox": np.array(HIT["bbox"], dtype=np.float32), "score": np.float32(0.5), "image_id": np.int64(1)}
    assert evaluate(TRUTH, [found])["AP50"] == pytest.approx(1)


def test_all_bad_records_are_counted():
    rows = [{**TRUTH["annotations"][0], "id": number, "image_id": 5} for number in (8, 9, 10)]
    with pytest.raises(
        InputError, match=r"3 records: image_id .* \(annotation 8: 5; annotation 9: 5; annotation 10: 5\)"
    ):
        evaluate({**TRUTH, "annotations": rows}, [])


def test_what_is_null_is_missing():
    truth = {**TRUTH, "annotations": [{**TRUTH["annotations"][0], "iscrowd": None, "area": None}]}
    assert evaluate(truth, [HIT])["APm"] == pytest.approx(1)


def test_bad_data_set_is_named():
    with pytest.raises(InputError, match="ground truth: section 'categories' is missing"):
        evaluate(without(TRUTH, "categories"), [])
    with pytest.raises(InputError, match="ground truth: image 1: id occurs twice"):
        evaluate({**TRUTH, "images": [*TRUTH["images"], {**TRUTH["images"][0], "width": 7}]}, [])
    with pytest.raises(InputError, match="ground truth: masks are asked for, but no object has a sound one"):
        evaluate({**TRUTH, "annotations": [without(TRUTH["annotations"][0], "segmentation")]}, [], "segm")


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_fields_that_nothing_is_measured_by_may_hold_anything(iou_type):
    odd = {"license": "abc", "date_captured": 5, "supercategory": 5, "keypoints": "x", "attributes": {"n": 10**400}}
    truth = {part: [{**row, **odd} for row in rows] for part, rows in TRUTH.items()}
    found = {**HIT, **odd, "segmentation": TRUTH["annotations"][0]["segmentation"]}
    assert evaluate(truth, [found], iou_type)["AP"] == pytest.approx(1)


def test_unknown_iou_type_and_cap_are_refused():
    with pytest.raises(InputError, match="iou_type must be 'bbox' or 'segm', not 'keypoints'"):
        evaluate(TRUTH, [], "keypoints")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_detections must be at least 1"):
        evaluate(TRUTH, [], max_detections=0)
