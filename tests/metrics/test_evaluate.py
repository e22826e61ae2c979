"""AP against the official evaluator, on its own numbers and on random sets; what is undefined is NaN."""

import contextlib
import io
import json
import math
from pathlib import Path
from typing import Any

import hotcoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rankdet.coco import read_ground_truth
from rankdet.metrics import evaluate

SUMMARY = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
OLRP = ("oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
VAL2014 = ("coco_val2014_100/instances_val2014_100.json", "coco_val2014_100/instances_val2014_fake{}100_results.json")
SETS = {
    "coco_val2014_100": VAL2014,
    "coco_free_val": ("coco_free_val/gt.json", "coco_free_val/dets_{}.json"),
    "coco_mini_val": ("coco_mini_val/gt.json", "coco_mini_val/dets_{}.json"),
}


def assert_same(result: dict[str, Any], expected: dict[str, Any]) -> None:
    """Equal to 1e-9; the official −1 is NaN here."""
    for key in SUMMARY:
        value = float("nan") if expected[key] == -1 else expected[key]
        assert result[key] == pytest.approx(value, abs=1e-9, nan_ok=True), key
    for name, value in expected.get("per_class_AP", {}).items():
        assert result["per_class"][name]["AP"] == pytest.approx(value, abs=1e-9), name


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("name", SETS)
def test_equals_the_official_numbers(shared, name, iou_type):
    truth, found = SETS[name]
    folder = shared("data", "eval_samples")
    expected = json.loads((folder / name / "expected.json").read_text())[iou_type]
    assert_same(evaluate(folder / truth, folder / found.format(iou_type), iou_type), expected)


def test_equals_the_official_numbers_on_a_real_detector(shared):
    folder = shared("data", "eval_samples", "coco_mini_val")
    expected = json.loads((folder / "real_dets_centernet_expected.json").read_text())["bbox"]
    assert_same(evaluate(folder / "gt.json", folder / "real_dets_centernet_bbox.json"), expected)


@pytest.mark.parametrize(
    ("truth", "found", "iou_type"),
    [
        ("gt_dataset", "dt_dataset", "bbox"),
        ("gt_dataset", "dt_dataset", "segm"),
        ("gt_ignore_test_int", "dt_ignore_test_int", "bbox"),
        ("hotcoco_edge_gt", "hotcoco_edge_dt", "bbox"),
        ("hotcoco_gt", "hotcoco_dt", "bbox"),
    ],
)
def test_equals_the_official_numbers_on_tiny_cases(shared, truth, found, iou_type):
    folder = shared("data", "eval_samples", "tiny_cases")
    expected = json.loads((folder / "expected.json").read_text())[f"{truth} + {found}"][iou_type]
    assert_same(evaluate(folder / f"{truth}.json", folder / f"{found}.json", iou_type), expected)


def test_annotation_with_id_zero_counts_where_pycocotools_loses_it(shared):
    folder = shared("data", "eval_samples", "tiny_cases")
    truth = json.loads((folder / "hotcoco_zero_gt.json").read_text())
    found = json.loads((folder / "hotcoco_zero_dt.json").read_text())
    assert min(annotation["id"] for annotation in truth["annotations"]) == 0
    shifted = {**truth, "annotations": [{**a, "id": a["id"] + 1} for a in truth["annotations"]]}
    assert_same(evaluate(truth, found), official(shifted, found, "bbox"))


def official(
    truth: dict[str, Any], found: list[dict[str, Any]], iou_type: str, max_detections: int = 100
) -> dict[str, Any]:
    """The numbers of pycocotools; with another cap those of the classes alone, for its summary knows 100 only."""
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = json.loads(json.dumps(truth))
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(json.loads(json.dumps(found))), iou_type)
        evaluation.params.maxDets = [1, min(10, max_detections), max_detections]  # in ascending order
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    per_class = {}
    for k, category in enumerate(evaluation.params.catIds):
        defined = precision[:, :, k][precision[:, :, k] > -1]
        if defined.size:
            per_class[ground_truth.cats[category]["name"]] = float(defined.mean())
    return {**dict(zip(SUMMARY, evaluation.stats.tolist(), strict=True)), "per_class_AP": per_class}


def random_set(seed: int, iou_type: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Images with crowds, ties of scores, classes without objects, empty images and one with > 100 detections."""
    rng = np.random.default_rng(seed)
    images, categories = [3, 17, 40, 99], [2, 5, 6, 11]
    side = 400 if iou_type == "bbox" else 96
    annotations: list[dict[str, Any]] = []
    for image in images[:-1]:
        for _ in range(rng.integers(0, 9)):
            size = rng.integers(4, side // 2, 2)
            corner = rng.integers(0, side - size)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice(categories[:-1])),
                    "bbox": [*corner.tolist(), *size.tolist()],
                    "area": float(size.prod()) * float(rng.choice([1.0, 0.6])),
                    "iscrowd": int(rng.random() < 0.2),
                }
            )
    found: list[dict[str, Any]] = []
    for image in images:
        objects = [a for a in annotations if a["image_id"] == image]
        for _ in range(130 if image == 17 else rng.integers(0, 25)):
            if objects and rng.random() < 0.7:
                source = objects[rng.integers(len(objects))]
                box = np.array(source["bbox"]) + rng.integers(-4, 5, 4)
                category = source["category_id"]
            else:
                box, category = rng.integers(1, side // 3, 4), int(rng.choice(categories))
            box = np.maximum(box, [0, 0, 1, 1])
            box[2:] = np.minimum(box[2:], side - box[:2])
            if (box[2:] < 1).any():
                continue
            found.append(
                {
                    "image_id": image,
                    "category_id": category if image != 17 or rng.random() < 0.1 else 5,
                    "bbox": box.tolist(),
                    "score": float(rng.integers(1, 12)) / 12 if rng.random() < 0.5 else float(rng.random()),
                }
            )
    if iou_type == "segm":
        for annotation in annotations:
            annotation["segmentation"] = [outline(annotation["bbox"])]
            if annotation["iscrowd"]:
                annotation["segmentation"] = text_counts(annotation["bbox"], side)
        for detection in found:
            detection["segmentation"] = text_counts(detection.pop("bbox"), side)
    truth = {
        "images": [{"id": i, "height": side, "width": side} for i in images],
        "categories": [{"id": i, "name": f"class {i}"} for i in categories],
        "annotations": annotations,
    }
    return truth, found


def outline(box: list[int]) -> list[int]:
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def text_counts(box: list[int], side: int) -> dict[str, Any]:
    code = hotcoco.mask.fr_bbox([float(value) for value in box], side, side)
    return {"size": [side, side], "counts": code["counts"].decode()}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_boxes_equal_pycocotools_on_random_sets(seed):
    truth, found = random_set(seed, "bbox")
    if found:
        assert_same(evaluate(truth, found), official(truth, found, "bbox"))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_masks_equal_pycocotools_on_random_sets(seed):
    truth, found = random_set(seed, "segm")
    if found:
        assert_same(evaluate(truth, found, "segm"), official(truth, found, "segm"))


def plain_counts(code: dict[str, Any]) -> dict[str, Any]:
    """Run lengths as a list of numbers, of zeros first."""
    pixels = hotcoco.mask.decode(code).ravel(order="F")
    borders = np.flatnonzero(np.diff(np.concatenate([[0], pixels]))) if pixels.any() else np.array([], dtype=int)
    return code | {"counts": np.diff([0, *borders.tolist(), pixels.size]).tolist()}


@pytest.mark.parametrize("seed", [0, 1])
def test_masks_of_other_tools_in_any_form_measure_as_their_run_lengths_do_by_pycocotools(seed):
    """pycocotools itself takes text alone of detections, and polygons and lists of an annotation file."""
    truth, found = random_set(seed, "segm")
    expected = official(truth, found, "segm")
    for form in (plain_counts, lambda code: [outline(hotcoco.mask.to_bbox(code).tolist())]):
        others = [row | {"segmentation": form(row["segmentation"])} for row in found]
        assert_same(evaluate(truth, others, "segm"), expected)
    for row in truth["annotations"]:
        if row["iscrowd"]:
            row["segmentation"] = plain_counts(row["segmentation"])
    assert_same(evaluate(truth, found, "segm"), expected)


TRUTH = {
    "images": [{"id": 1, "height": 100, "width": 100}],
    "categories": [{"id": 1, "name": "cat"}, {"id": 4, "name": "dog"}],
    "annotations": [
        {"id": 8, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
    ],
}
HIT = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.5}


def test_no_detections_give_zero_and_an_olrp_of_one():
    result = evaluate(TRUTH, [])
    assert result["AP"] == result["AP50"] == result["AR100"] == 0
    assert (result["oLRP"], result["oLRP_FN"]) == (1, 1)
    assert math.isnan(result["oLRP_Loc"])
    assert math.isnan(result["oLRP_FP"])
    assert result["per_class"]["cat"]["ground_truths"] == 1
    assert math.isnan(result["per_class"]["cat"]["threshold"])


def test_class_without_objects_is_nan_everywhere_and_left_out_of_the_means():
    result = evaluate(TRUTH, [HIT, {**HIT, "category_id": 4}])
    dog = result["per_class"]["dog"]
    assert dog.pop("ground_truths") == 0
    assert all(math.isnan(value) for value in dog.values())
    assert result["AP"] == pytest.approx(1, abs=1e-12)
    assert (result["oLRP"], result["oLRP_Loc"], result["oLRP_FP"], result["oLRP_FN"]) == (0, 0, 0, 0)


def test_empty_ground_truth_is_nan_everywhere():
    for truth in ({**TRUTH, "annotations": []}, {"images": [], "categories": [], "annotations": []}):
        result = evaluate(truth, [])
        assert all(math.isnan(result[key]) for key in (*SUMMARY, *OLRP))


def test_sizes_without_objects_are_nan():
    result = evaluate(TRUTH, [HIT])
    assert math.isnan(result["APs"])
    assert math.isnan(result["ARl"])
    assert result["APm"] == pytest.approx(1, abs=1e-12)


def test_nothing_is_printed(capfd):
    evaluate(TRUTH, [HIT])
    assert capfd.readouterr() == ("", "")


def test_paths_loaded_objects_and_loaded_sets_give_the_same(tmp_path: Path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    (tmp_path / "found.json").write_text(json.dumps([HIT]))
    expected = str(evaluate(TRUTH, [HIT]))  # as text, because NaN differs from itself
    assert str(evaluate(tmp_path / "truth.json", str(tmp_path / "found.json"))) == expected
    assert str(evaluate(hotcoco.COCO(TRUTH), [HIT])) == expected


def test_ground_truth_that_was_read_needs_its_file_no_more(tmp_path: Path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    truth, _ = read_ground_truth(tmp_path / "truth.json")
    (tmp_path / "truth.json").unlink()
    assert str(evaluate(truth, [HIT])) == str(evaluate(TRUTH, [HIT]))


def test_what_is_given_stays_as_it_was():
    truth, found = json.loads(json.dumps(TRUTH)), [dict(HIT)]
    del truth["annotations"][0]["area"], truth["annotations"][0]["iscrowd"]
    before = json.dumps([truth, found])
    assert evaluate(truth, found)["APm"] == pytest.approx(1, abs=1e-12)  # the area is that of the box
    assert json.dumps([truth, found]) == before


def test_missing_area_of_a_mask_is_that_of_the_mask():
    triangle = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 40, 0, 0, 40]]}
    found = [{"image_id": 1, "category_id": 1, "segmentation": [[0, 0, 40, 0, 0, 40]], "score": 0.5}]
    result = evaluate({**TRUTH, "annotations": [triangle]}, found, "segm")
    assert result["APs"] == pytest.approx(1, abs=1e-12)  # about 800 of the box's 1600 pixels
    assert math.isnan(result["APm"])


def test_cap_on_detections_leaves_the_rest_of_an_image_out():
    better_miss = {**HIT, "bbox": [60, 60, 20, 20], "score": 0.9}
    assert evaluate(TRUTH, [HIT, better_miss], max_detections=2)["AR100"] == 1
    capped = evaluate(TRUTH, [HIT, better_miss], max_detections=1)
    assert capped["AR100"] == capped["AR10"] == 0
    assert capped["oLRP"] == 1


def test_categories_of_one_name_are_told_apart_by_their_id():
    truth = {**TRUTH, "categories": [{"id": 4, "name": "cat"}, {"id": 1, "name": "cat"}]}
    assert list(evaluate(truth, [HIT])["per_class"]) == ["cat (id 1)", "cat (id 4)"]
