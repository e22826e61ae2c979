"""What tools write in another form is read as it is meant, what makes no sense is left out, and both are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hotcoco import mask as rle

from rankdet.coco import grouped, read_ground_truth
from rankdet.data import CocoDataset
from rankdet.metrics import evaluate
from rankdet.structures import InputError

SQUARE = [10, 10, 50, 10, 50, 50, 10, 50]
LINE = [[4, 4, 24, 24]]
RUNS = {"size": [80, 100], "counts": [810, *[40, 40] * 39, 40, 7990 - 80 * 50 + 40]}


def annotation(id_: Any, image: Any = 7, category: Any = 1, **fields: Any) -> dict[str, Any]:
    row = {"id": id_, "image_id": image, "category_id": category, "bbox": [10, 10, 40, 40], "segmentation": [SQUARE]}
    return row | fields


def document(*rows: Any, **fields: Any) -> dict[str, Any]:
    sections = {
        "images": [{"id": id_, "file_name": f"{id_}.jpg", "width": 100, "height": 80} for id_ in (7, 3)],
        "categories": [{"id": 4, "name": "dog"}, {"id": 1, "name": "cat"}],
        "annotations": list(rows),
    }
    return sections | fields


def read(*rows: Any, masks: bool = True, **fields: Any):
    return read_ground_truth(document(*rows, **fields), files=True, masks=masks)


def severities(findings) -> set[str]:
    return {finding.severity for finding in findings}


@pytest.mark.parametrize(
    "fields",
    [
        {"image_id": 7.0},
        {"image_id": "7"},
        {"category_id": "1"},
        {"category_id": 1.0},
        {"id": "12"},
        {"id": 12.0},
        {"iscrowd": "0"},
        {"iscrowd": "false"},
        {"ignore": "0"},
        {"id": None},
        {"segmentation": SQUARE},
        {"segmentation": [[10, 10], [50, 10], [50, 50], [10, 50]]},
        {"segmentation": [[[10, 10], [50, 10], [50, 50], [10, 50]]]},
        {"segmentation": {"exterior": [[10, 10], [50, 10], [50, 50], [10, 50]], "interiors": []}},
        {"bbox": None},
        {"bbox": []},
    ],
)
def test_another_form_reads_like_the_usual_one_with_a_note(fields):
    usual, _ = read(annotation(12))
    truth, findings = read(annotation(12) | fields)
    assert severities(findings) == {"note"}
    assert truth.boxes.tolist() == usual.boxes.tolist()
    assert (truth.images.tolist(), truth.labels.tolist()) == (usual.images.tolist(), usual.labels.tolist())
    assert truth.segmentation(0) == [SQUARE]
    assert not truth.is_crowd.any()


@pytest.mark.parametrize(
    "fields", [{"iscrowd": False}, {"iscrowd": None}, {"ignore": 0}, {"ignore": None}, {"area": None}]
)
def test_what_means_the_same_everywhere_needs_no_note(fields):
    assert read(annotation(12, **fields))[1] == []


@pytest.mark.parametrize(("flag", "is_crowd"), [(True, True), (1.0, True), ("1", True), (0.0, False), ("False", False)])
def test_a_flag_may_be_a_truth_value_a_number_or_a_text(flag, is_crowd):
    truth, findings = read(annotation(1), annotation(2, iscrowd=flag))
    assert truth.is_crowd.tolist() == [False, is_crowd]
    assert "warning" not in severities(findings) or is_crowd


@pytest.mark.parametrize(
    "images",
    [
        [{"id": "7", "file_name": "a", "width": 100, "height": 80}],
        [{"id": 7.0, "file_name": "a", "width": 100.0, "height": "80"}],
        [{"id": 7, "file_name": "a", "width": 100.0, "height": 80}],
    ],
)
def test_ids_and_sides_of_images_may_be_texts_and_floats(images):
    truth, findings = read(annotation(1, "7"), images=images)
    assert (truth.image_ids.tolist(), truth.sizes.tolist()) == ([7], [[80, 100]])
    assert severities(findings) == {"note"}


def test_ids_that_become_the_same_are_an_error():
    images = [{"id": id_, "file_name": "a", "width": 9, "height": 9} for id_ in (7, "007")]
    findings = read(annotation(1), images=images)[1]
    assert [finding.problem for finding in findings if finding.severity == "error"] == ["id occurs twice"]


def test_a_record_that_is_there_twice_counts_once():
    content = document(annotation(1))
    for section in ("images", "categories"):
        content[section] *= 2
    truth, findings = read_ground_truth(content, files=True)
    assert (len(truth.image_ids), len(truth.categories)) == (2, 2)
    assert severities(findings) == {"note"}


@pytest.mark.parametrize(
    ("segmentation", "box"),
    [
        ([SQUARE], [10, 10, 40, 40]),
        ([[0, 0, 5, 0, 5, 5], [20, 30, 25, 30, 25, 42]], [0, 0, 25, 42]),
        (SQUARE, [10, 10, 40, 40]),
        (rle.encode(np.asfortranarray(np.pad(np.ones((3, 4), np.uint8), ((5, 72), (6, 90))))), [6, 5, 4, 3]),
        ({"size": [80, 100], "counts": [810, 40, 7150]}, [10, 10, 1, 40]),
        ({"size": [80.0, 100.0], "counts": [810.0, 40.0, 7150.0]}, [10, 10, 1, 40]),
        ({"shape": [80, 100], "counts": [810, 40, 7150], "order": "F"}, [10, 10, 1, 40]),
        ([{"size": [80, 100], "counts": [810, 40, 7150]}], [10, 10, 1, 40]),
    ],
)
@pytest.mark.parametrize("masks", [True, False])
def test_a_box_that_is_missing_is_that_around_the_segmentation(segmentation, box, masks):
    row = annotation(1, segmentation=segmentation)
    del row["bbox"]
    truth, findings = read(row, annotation(2), masks=masks)
    assert truth.boxes[0].tolist() == box
    assert any("has no bbox" in finding.problem for finding in findings)
    assert severities(findings) == {"note"}


@pytest.mark.parametrize(
    "segmentation",
    [
        LINE,
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5, float("inf")]],
        [[10**400, float("nan"), 3, 4, 5, 6]],
        [[1, 2, 3, 4, 5, "6"]],
        "abc",
        {"size": [80, 90], "counts": [0, 7200]},
        {"size": [80, 100], "counts": [0, 7]},
        {"size": [80, 100]},
        {"shape": [80, 100], "counts": [810, 40, 7150], "order": "C"},
        [],
        [[]],
        None,
        {},
    ],
)
def test_an_object_without_a_sound_mask_is_left_out_of_masks_alone(segmentation, tmp_path: Path):
    content = document(annotation(1), annotation(2, 3, segmentation=segmentation))
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    assert CocoDataset(path, tmp_path, with_masks=True).num_objects == 1
    assert CocoDataset(path, tmp_path, measure_masks=True).num_objects == CocoDataset(path, tmp_path).num_objects == 2
    found = [{"image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 40], "segmentation": [SQUARE], "score": 1}]
    by_mask, by_box = evaluate(path, found, "segm"), evaluate(path, found)
    assert by_mask["AP"] == pytest.approx(1)
    assert by_mask["per_class"]["cat"]["ground_truths"] == 1
    assert by_box["per_class"]["cat"]["ground_truths"] == 2
    assert "annotation 2: " in "".join(by_mask["findings"])
    assert by_box["findings"] == []
    again = evaluate(CocoDataset(path, tmp_path, measure_masks=True).ground_truth, found)
    assert str(again["per_class"]) == str(by_box["per_class"])


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [80, 100], "counts": [8000]},
        {"size": [80, 100], "counts": rle.encode(np.zeros((80, 100), np.uint8, order="F"))["counts"].decode()},
        [[4, 4, 24, 24, 14, 14]],
        [[4, 4, 24, 24, 14, 14, 4, 4]],
        [[4, 4, 4, 4, 4, 4]],
        [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]],
    ],
)
def test_a_mask_without_a_pixel_is_measured_and_not_learned(segmentation, tmp_path: Path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document(annotation(1), annotation(2, 3, segmentation=segmentation))))
    dataset = CocoDataset(path, tmp_path, with_masks=True)
    assert dataset.num_objects == 1
    assert any(finding.record == "annotation 2" and "no pixel" in finding.problem for finding in dataset.findings)
    assert evaluate(path, [], "segm")["per_class"]["cat"]["ground_truths"] == 2


@pytest.mark.parametrize(
    "ids", [(1, 2, 1, 2, 1), (5, 5, 5, 5, 5), (0, 0, None, "0", -1), (2**63 - 1,) * 5, (None,) * 5]
)
def test_ids_of_annotations_may_repeat_or_miss_and_every_object_is_measured(ids):
    boxes = [[20 * k, 5, 10, 10] for k in range(5)]
    rows = [annotation(id_, bbox=box, segmentation=None) for id_, box in zip(ids, boxes, strict=True)]
    truth, findings = read_ground_truth(document(*rows))
    assert len(set(truth.annotation_ids.tolist())) == 5
    assert severities(findings) <= {"warning", "note"}
    names = [truth.name_of(row) for row in range(5)]
    assert names == [f"annotation number {k + 1}" if truth.has_new_id[k] else f"annotation {ids[k]}" for k in range(5)]
    found = [{"image_id": 7, "category_id": 1, "bbox": box, "score": 0.5} for box in boxes]
    metrics = evaluate(document(*rows), found)
    assert metrics["AP"] == pytest.approx(1)
    assert metrics["oLRP"] == pytest.approx(0)


@pytest.mark.parametrize("bad", [{"category_id": None}, {"image_id": 99}, {"bbox": [1, 2, -3, 4]}, "no object"])
def test_thousands_of_broken_records_are_few_lines_and_the_others_stay(bad):
    rows: list[Any] = [annotation(k, **bad) if isinstance(bad, dict) else bad for k in range(5000)]
    truth, findings = read(*rows, annotation(6000), masks=False)
    assert truth.annotation_ids.tolist() == [6000]
    (line,) = grouped(findings)
    assert line.startswith("warning: ground truth: each of 5000 records: ")
    assert severities(read(*rows, masks=False)[1]) == {"error"}


def test_annotations_of_an_image_that_is_left_out_are_told_apart_from_those_of_none():
    content = document(annotation(1, 7), annotation(2, 3), annotation(3, 99))
    content["images"][0]["file_name"] = None
    truth, findings = read_ground_truth(content, files=True)
    assert truth.annotation_ids.tolist() == [2]
    problems = {finding.record: finding.problem for finding in findings}
    assert problems[""] == "1 annotations are of images that are left out: left out with these"
    assert problems["annotation 3"] == "image_id is no image of the file: left out"


@pytest.mark.parametrize(
    ("name", "read_as"),
    [
        ("cat", "cat"),
        (7, "7"),
        (1.5, "1.5"),
        (None, "9"),
        ("", "9"),
        ("  ", "9"),
        (["x"], "9"),
        (True, "9"),
        ("\ud800", "9"),
    ],
)
def test_names_of_classes_become_texts(name, read_as):
    truth, findings = read(annotation(1, category=9), categories=[{"id": 9, "name": name}])
    assert truth.categories == [(9, read_as)]
    assert severities(findings) == (set() if name == "cat" else {"note"})


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("segmentation", [[], None, {}, LINE])
def test_a_crowd_without_a_mask_is_its_box_where_masks_are_compared(iou_type, segmentation):
    content = document(annotation(1), annotation(2, 3, iscrowd=1, segmentation=segmentation))
    inside = [[20, 20, 30, 20, 30, 30, 20, 30]]
    found = [
        {"image_id": 7, "category_id": 1, "bbox": [10, 10, 40, 40], "segmentation": [SQUARE], "score": 0.5},
        {"image_id": 3, "category_id": 1, "bbox": [20, 20, 10, 10], "segmentation": inside, "score": 1},
    ]
    metrics = evaluate(content, found, iou_type)
    assert metrics["AP"] == pytest.approx(1)
    assert len(metrics["findings"]) == (iou_type == "segm")


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_mark_at_the_beginning_of_a_file_does_not_matter(tmp_path: Path, prefix, encoding):
    path = tmp_path / "truth.json"
    path.write_bytes((prefix if encoding == "utf-8" else b"") + json.dumps(document(annotation(1))).encode(encoding))
    assert len(read_ground_truth(path, files=True)[0].labels) == 1


def test_not_a_number_in_a_file_is_left_out(tmp_path: Path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(document(annotation(1, bbox=[float("nan")] * 4), annotation(2, area=float("nan")))))
    truth, findings = read_ground_truth(path, files=True)
    assert truth.annotation_ids.tolist() == [2]
    assert severities(findings) == {"warning"}


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("files", [True, False])
def test_a_file_without_annotations_is_a_set_without_objects(absent, files):
    content = document(annotations=None)
    if absent:
        del content["annotations"]
    truth, findings = read_ground_truth(content, files=files)
    assert (len(truth.image_ids), len(truth.labels), len(truth.categories)) == (2, 0, 2)
    assert [finding.problem for finding in findings] == ["section 'annotations' is missing: no image has objects"]


def test_a_list_is_told_to_be_no_annotation_file(tmp_path: Path):
    path = tmp_path / "truth.json"
    path.write_text("[]")
    with pytest.raises(InputError, match=r"truth\.json: the top level .* this is a list, as files of detections are"):
        read_ground_truth(path)


def test_a_digest_tells_data_from_others_and_not_their_form() -> None:
    """The order of records, ids, folders and masks are form; names, classes, boxes and crowds are not."""
    rows = [annotation(1), annotation(2, image=3, category=4), annotation(3, bbox=[0, 0, 9.5, 9])]

    def digest(*changed: Any, masks: bool = True, **fields: Any) -> str:
        return read(*changed, masks=masks, **fields)[0].digest()

    whole = digest(*rows)
    images = [{"id": id_, "file_name": f"a/{id_}.jpg", "width": 100, "height": 80} for id_ in (3, 7)]
    assert len(whole) == 16
    assert digest(*rows, masks=False) == whole
    assert digest(*rows[::-1], images=images) == whole
    assert digest(annotation(9), *rows[1:]) == whole
    renamed = [{"id": id_, "file_name": f"{id_}.png", "width": 100, "height": 80} for id_ in (7, 3)]
    others = {
        digest(*rows[:2]),
        digest(*rows, rows[0] | {"id": 4}),
        digest(annotation(1, category=4), *rows[1:]),
        digest(annotation(1, image=3), *rows[1:]),
        digest(annotation(1, bbox=[10, 10, 40, 40.5]), *rows[1:]),
        digest(annotation(1, iscrowd=1), *rows[1:]),
        digest(*rows, images=renamed),
        digest(*rows, images=[*document()["images"], {"id": 5, "file_name": "5.jpg", "width": 9, "height": 9}]),
        digest(*rows, categories=[{"id": 4, "name": "wolf"}, {"id": 1, "name": "cat"}]),
    }
    assert len(others | {whole}) == 10
