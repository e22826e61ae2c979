"""Bad ground truth and bad detections are refused with a message that names the file and the record."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as rle

from rankdet.metrics import evaluate
from rankdet.metrics.segmentations import to_rle
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
        ({**HIT, "image_id": 2}, "detection 1: unknown image_id 2"),
        ({**HIT, "image_id": 1.5}, "detection 1: unknown image_id 1.5"),
        ({**HIT, "image_id": "a"}, "detection 1: image_id must be a number, not 'a'"),
        ({**HIT, "category_id": 0}, "detection 1: unknown category_id 0"),
        ({**HIT, "bbox": [1, 2, 3]}, r"detection 1: bbox must be 4 numbers, not \[1, 2, 3\]"),
        ({**HIT, "bbox": 5}, "detection 1: bbox must be 4 numbers, not 5"),
        ({**HIT, "bbox": [1, 2, 3, "x"]}, "detection 1: bbox must be 4 numbers"),
        ({**HIT, "bbox": [1, 2, float("nan"), 4]}, "detection 1: bbox holds NaN"),
        ({**HIT, "bbox": [1, 2, -3, 4]}, "detection 1: bbox has a negative width or height"),
        ({**HIT, "score": float("nan")}, "detection 1: score is not finite"),
        ({**HIT, "score": None}, "detection 1: score"),
        ({**HIT, "score": True}, "detection 1: score must be a number, not True"),
        ({**HIT, "score": "0.5"}, "detection 1: score must be a number, not '0.5'"),
        ({**HIT, "score": 10**400}, "detection 1: score must be a number, not 10{99}…"),
        ({**HIT, "image_id": "1"}, "detection 1: image_id must be a number, not '1'"),
        ({**HIT, "image_id": 10**400}, "detection 1: image_id must be a number, not 10*…"),
        ({**HIT, "bbox": [1, 2, 3, 10**400]}, r"detection 1: bbox must be 4 numbers, not \[1, 2, 3, 10*…"),
        ({**HIT, "bbox": [1, 2, 3, 1e300]}, "detection 1: bbox holds .* a number beyond 1e9"),
        ({**HIT, "bbox": [1, 2, 3, True]}, "detection 1: bbox must be 4 numbers"),
        (without(HIT, "score"), "detection 1 has no score"),
        (without(HIT, "bbox"), "detection 1 has no bbox"),
        (without(HIT, "image_id"), "detection 1 has no image_id"),
        ([1, 2], "detection 1 has no image_id"),
    ],
)
def test_bad_detection_is_named(tmp_path: Path, record, message):
    path = tmp_path / "found.json"
    path.write_text(json.dumps([HIT, record]))
    with pytest.raises(InputError, match=rf"found\.json: {message}"):
        evaluate(TRUTH, path)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [100, 100]}, "needs size and counts"),
        ({**MASK, "size": [50, 100]}, r"is a mask of size \[50, 100\] for an image of"),
        ({**MASK, "size": [10**30, 1]}, "is a mask of size"),
        ({**MASK, "size": 5}, r"needs a size \[height, width\]"),
        ("abc", "is neither a run-length object nor a list of polygons"),
        (None, "is neither a run-length object nor a list of polygons"),
        ({**MASK, "counts": "!!!!"}, "has a broken RLE: "),
        ({**MASK, "counts": "zz"}, "has a broken RLE: its counts make 20 pixels, its size 10000"),
        ({**MASK, "counts": ""}, "has a broken RLE: its counts make 0 pixels"),
        ({**MASK, "counts": [5, 5]}, "has a broken RLE: its counts make 10 pixels, its size 10000"),
        ({**MASK, "counts": [0, -1]}, "has a broken RLE: "),
        ({**MASK, "counts": [10**400]}, "has a broken RLE: "),
        ({**MASK, "counts": 5}, "has a broken RLE: "),
        ([], "has no polygon of three points"),
        ([[1, 2, 3, 4]], "has no polygon of three points"),
        ([[1, 2, 3, 4, 5]], "has a polygon that is not a list of numbers"),
        ([["1"] * 6], "has a polygon that is not a list of numbers"),
        ([[1, 2, 3, 4, 5, 10**400]], "has a polygon that is not finite"),
        ([[1, 2, 3, 4, 5, float("nan")]], "has a polygon that is not finite"),
    ],
)
def test_bad_mask_is_named(mask, message):
    with pytest.raises(InputError, match=f"detections: detection 0: segmentation {message}"):
        evaluate(TRUTH, [{**HIT, "segmentation": mask}], "segm")
    if mask:
        truth = {**TRUTH, "annotations": [{**TRUTH["annotations"][0], "segmentation": mask}]}
        with pytest.raises(InputError, match=f"ground truth: annotation 8: segmentation {message}"):
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
    with pytest.raises(InputError, match="detections: detection 0 has no segmentation"):
        evaluate(TRUTH, [HIT], "segm")
    assert evaluate(TRUTH, [{**HIT, "segmentation": MASK}], "segm")["AP50"] == 0


@pytest.mark.parametrize("found", [{}, {"annotations": []}, 3, "no such file.json"])
def test_detections_are_a_list(found):
    with pytest.raises(InputError, match=r"a list of objects|no such file\.json: No such file"):
        evaluate(TRUTH, found)


def test_missing_and_broken_files_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"absent\.json: No such file"):
        evaluate(tmp_path / "absent.json", [])
    with pytest.raises(InputError, match="Is a directory"):
        evaluate(tmp_path, [])
    (tmp_path / "broken.json").write_text('{"images": [')
    with pytest.raises(InputError, match=r"broken\.json: no JSON: .*line 1"):
        evaluate(tmp_path / "broken.json", [])
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"bytes\.json: no JSON"):
        evaluate(TRUTH, tmp_path / "bytes.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "annotation 8: unknown image_id 5"),
        ({"image_id": [1]}, r"annotation 8: unknown image_id \[1\]"),
        ({"category_id": None}, "annotation 8: unknown category_id None"),
        ({"bbox": [1, 2, 3]}, "annotation 8: bbox must be"),
        ({"bbox": None}, "annotation 8: bbox must be"),
        ({"bbox": [1, 2, 3, "x"]}, "annotation 8: bbox must be four numbers"),
        ({"bbox": [1, 2, 3, float("inf")]}, "annotation 8: bbox holds NaN or infinity"),
        ({"bbox": [1, 2, 3, -4]}, "annotation 8: bbox has a negative width or height"),
        ({"id": "x"}, "annotations 0: id must be a whole number from 0 .*, not 'x'"),
        ({"id": 2**63}, "annotations 0: id must be a whole number from 0 .*, not 9223372036854775808"),
        ({"image_id": True}, "annotation 8: unknown image_id True"),
        ({"bbox": [1, 2, 3, 10**400]}, "annotation 8: bbox holds NaN or infinity, or a number beyond"),
        ({"bbox": [1, 2, 3, "4"]}, "annotation 8: bbox must be four numbers"),
        ({"area": 10**400}, "annotation 8: area must be a finite number"),
        ({"area": "x"}, "annotation 8: area must be a finite number"),
        ({"iscrowd": "0"}, "annotation 8: iscrowd must be 0 or 1, not '0'"),
    ],
)
def test_bad_annotation_is_named(tmp_path: Path, change, message):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({**TRUTH, "annotations": [{**TRUTH["annotations"][0], **change}]}))
    with pytest.raises(InputError, match=rf"truth\.json: {message}"):
        evaluate(path, [])


def test_bad_data_set_is_named():
    with pytest.raises(InputError, match="ground truth: no list of categories"):
        evaluate(without(TRUTH, "categories"), [])
    with pytest.raises(InputError, match="ground truth: annotations: id 8 occurs more than once"):
        evaluate({**TRUTH, "annotations": TRUTH["annotations"] * 2}, [])
    with pytest.raises(InputError, match="ground truth: annotation 8 has no segmentation"):
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
