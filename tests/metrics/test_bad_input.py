"""Bad ground truth and bad detections are refused with a message that names the file and the record."""

import json
from pathlib import Path
from typing import Any

import pytest

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
        ({"size": [100, 100]}, "detection 0: a segmentation has size and counts"),
        ({**MASK, "size": [50, 100]}, r"detection 0: mask of size \[50, 100\] for picture 1"),
        ("abc", "detection 0: a segmentation is a run-length object or a list of polygons"),
    ],
)
def test_bad_mask_is_named(mask, message):
    with pytest.raises(InputError, match=f"detections: {message}"):
        evaluate(TRUTH, [{**HIT, "segmentation": mask}], "segm")


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
        ({"id": "x"}, "annotations 0: id must be a whole number, not 'x'"),
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


def test_unknown_iou_type_and_cap_are_refused():
    with pytest.raises(InputError, match="iou_type must be 'bbox' or 'segm', not 'keypoints'"):
        evaluate(TRUTH, [], "keypoints")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_detections must be at least 1"):
        evaluate(TRUTH, [], max_detections=0)
