"""Errors of calibration of boxes and of masks against plain loops over records, and against hotcoco."""

import math
from collections.abc import Callable

import hotcoco
import numpy as np
import pytest
from hotcoco import mask as rle
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdet.coco import read_ground_truth, read_results
from rankdet.metrics.calibration import Outcomes, d_ece, laace0, laece0
from rankdet.metrics.evaluator import IouType
from rankdet.metrics.matching import ClassMatches

NAN = float("nan")


def box_iou(one: dict, other: dict) -> float:
    """IoU of the boxes [x, y, width, height] of two records."""
    first, second = one["bbox"], other["bbox"]
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / (first[2] * first[3] + second[2] * second[3] - shared)


def mask_iou(one: dict, other: dict) -> float:
    """IoU of the masks of two records, pixel by pixel of an image of 100 × 100."""
    first, second = (
        rle.decode(rle.fr_py_objects(record["segmentation"], 100, 100)).any(axis=2) for record in (one, other)
    )
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 0.0


Iou = Callable[[dict, dict], float]


def matched(truth: dict, found: list[dict], category: int, least: float, iou: Iou) -> list[tuple[float, float | None]]:
    """(score, IoU or None) of the detections of a class, each image by itself, the best score first."""
    pairs = []
    for image in truth["images"]:
        here = [record for record in found if (record["image_id"], record["category_id"]) == (image["id"], category)]
        free = [
            record
            for record in truth["annotations"]
            if (record["image_id"], record["category_id"]) == (image["id"], category)
        ]
        for record in sorted(here, key=lambda record: -record["score"]):
            # Of equal overlaps the last object is chosen.
            best = max(reversed(free), key=lambda other: iou(record, other), default=None)
            overlap = 0.0 if best is None else iou(record, best)
            hits = overlap > 0 and overlap >= least
            if hits:
                free.remove(best)
            pairs.append((record["score"], overlap if hits else None))
    return pairs


def error_of_bins(pairs: list[tuple[float, float]], bins: int) -> float:
    """The sum over bins of their share of the pairs, times the difference of the mean score and the mean outcome."""
    total = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [pair for pair in pairs if low < pair[0] <= high or (number == 0 and pair[0] == 0)]
        if inside:
            mean_score = sum(score for score, _ in inside) / len(inside)
            mean_outcome = sum(outcome for _, outcome in inside) / len(inside)
            total += len(inside) / len(pairs) * abs(mean_score - mean_outcome)
    return total


def by_definition(truth: dict, found: list[dict], iou: Iou) -> tuple[float, float, float]:
    """LaECE₀, LaACE₀ and D-ECE by plain loops."""
    laece, laace, everything = [], [], []
    for category in truth["categories"]:
        if not any(record["category_id"] == category["id"] for record in truth["annotations"]):
            continue
        pairs = [(score, overlap or 0.0) for score, overlap in matched(truth, found, category["id"], 0.0, iou)]
        everything += [
            (score, float(overlap is not None)) for score, overlap in matched(truth, found, category["id"], 0.5, iou)
        ]
        if pairs:
            laece.append(error_of_bins(pairs, 25))
            laace.append(sum(abs(score - overlap) for score, overlap in pairs) / len(pairs))
    mean = [sum(values) / len(values) if values else NAN for values in (laece, laace)]
    return mean[0], mean[1], error_of_bins(everything, 10) if everything else NAN


def scene(seed: int, images: int = 4, classes: int = 3) -> tuple[dict, list[dict]]:
    """Objects, and detections near some of them; all scores differ."""
    random = np.random.default_rng(seed)

    def box() -> list[float]:
        return [*random.uniform(0, 60, 2).round(2).tolist(), *random.uniform(8, 40, 2).round(2).tolist()]

    truth = {
        "images": [{"id": number, "width": 100, "height": 100} for number in range(1, images + 1)],
        "categories": [{"id": 10 * number, "name": f"class {number}"} for number in range(1, classes + 1)],
        "annotations": [],
    }
    found = []
    for image in truth["images"]:
        for _ in range(random.integers(0, 6)):
            category, own = int(random.integers(1, classes + 1)) * 10, box()
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image["id"], "category_id": category, "bbox": own}
            )
            for _ in range(random.integers(0, 3)):
                near = (np.array(own) + random.normal(0, 3, 4)).clip(0.5, 60).tolist()
                found.append({"image_id": image["id"], "category_id": category, "bbox": near})
        for _ in range(random.integers(0, 3)):
            category = int(random.integers(1, classes + 1)) * 10
            found.append({"image_id": image["id"], "category_id": category, "bbox": box()})
    for record in found:
        record["score"] = float(random.uniform(0, 1))
    return truth, found


def with_masks(records: list[dict]) -> list[dict]:
    """Each record with a triangle in its box as its mask."""
    shaped = []
    for record in records:
        left, top, width, height = record["bbox"]
        triangle = [left, top, left + width, top, left, top + height]
        shaped.append({**record, "segmentation": [triangle]})
    return shaped


def outcomes(truth: dict, found: list[dict], iou_type: IouType = "bbox") -> Outcomes:
    masks = iou_type == "segm"
    ground_truth, _ = read_ground_truth(truth, masks=masks)
    results, _ = read_results(found, ground_truth, masks=masks)
    return Outcomes.of(ground_truth, results, iou_type)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6))
def test_errors_equal_the_definitions_in_plain_loops(seed):
    truth, found = scene(seed)
    errors = outcomes(truth, found).errors()
    assert errors[:3] == pytest.approx(by_definition(truth, found, box_iou), abs=1e-9, nan_ok=True)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_errors_of_masks_equal_the_definitions_in_plain_loops(seed):
    truth, found = scene(seed, images=3, classes=2)
    truth, found = {**truth, "annotations": with_masks(truth["annotations"])}, with_masks(found)
    if truth["annotations"]:  # without an object there are no masks to compare
        errors = outcomes(truth, found, "segm").errors()
        assert errors[:3] == pytest.approx(by_definition(truth, found, mask_iou), abs=1e-9, nan_ok=True)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_detections_below_a_threshold_change_no_match_of_those_above(seed, threshold):
    truth, found = scene(seed)
    kept = [record for record in found if record["score"] >= threshold]
    assert outcomes(truth, found).above([threshold] * 3).errors() == pytest.approx(
        outcomes(truth, kept).errors(), abs=1e-12, nan_ok=True
    )


@pytest.mark.parametrize("seed", range(5))
def test_d_ece_is_the_calibration_error_of_hotcoco(seed: int):
    truth, found = scene(seed, images=30)
    objects = hotcoco.COCO({**truth, "annotations": [
        {**record, "area": record["bbox"][2] * record["bbox"][3], "iscrowd": 0} for record in truth["annotations"]
    ]})  # fmt: skip
    evaluation = hotcoco.COCOeval(objects, objects.load_res(found), "bbox")
    evaluation.evaluate()
    expected = evaluation.calibration(n_bins=10, iou_threshold=0.5)
    mine = outcomes(truth, found)
    *_, error, detections = mine.errors()
    assert error == pytest.approx(expected["ece"], abs=1e-9)
    assert detections == expected["num_detections"]
    for matches, name in zip(mine.at_half, ("class 1", "class 2", "class 3"), strict=True):
        assert d_ece([matches]) == pytest.approx(expected["per_category"][name], abs=1e-9)


def test_a_detection_that_touches_nothing_takes_no_object():
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]}],
    }
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [50, 50, 10, 10], "score": 0.9},
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 5], "score": 0.5},
    ]
    (matches,) = outcomes(truth, found).any_overlap
    assert np.array_equal(matches.ious, [NAN, 0.5], equal_nan=True)


def test_edges_of_bins_belong_to_the_bin_below():
    # 0.1 lies in the first of ten bins, with 0.05: their errors cancel out.
    matches = ClassMatches(np.array([0.1, 0.05, 0.0]), np.array([NAN, NAN, 0.9]), 1)
    assert d_ece([matches]) == pytest.approx((1 - 0.15) / 3)
    assert d_ece([ClassMatches(np.array([1.0]), np.array([0.9]), 1)]) == 0


def test_a_class_without_objects_or_without_detections_is_left_out():
    one = ClassMatches(np.array([0.8]), np.array([0.6]), 1)
    empty, unknown = ClassMatches(np.zeros(0), np.zeros(0), 3), ClassMatches(np.array([0.9]), np.array([NAN]), 0)
    for error in (laece0, laace0):
        assert error([one, empty, unknown]) == pytest.approx(0.2)
        assert math.isnan(error([empty, unknown]))
    assert d_ece([one, empty, unknown]) == pytest.approx(0.2)
    assert math.isnan(d_ece([empty, unknown]))


def test_a_class_that_states_its_ious_counts_as_no_error():
    right, wrong = ClassMatches(np.array([0.7]), np.array([0.7]), 1), ClassMatches(np.array([0.9]), np.array([NAN]), 1)
    assert laece0([right, wrong]) == laace0([right, wrong]) == pytest.approx(0.45)
