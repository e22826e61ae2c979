"""oLRP against its definition, and the rules of ties, crowds and caps."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankdet.metrics import evaluate, optimal_lrp

from .lrp_definition import lrp_by_definition, lrp_of_classes

NAN = float("nan")


def assert_equal(found, expected) -> None:
    assert tuple(found) == pytest.approx(tuple(expected), abs=1e-12, nan_ok=True)


ious = st.one_of(st.just(NAN), st.floats(0.5, 1))
detections = st.lists(st.tuples(st.one_of(st.sampled_from([0.1, 0.5, 0.9]), st.floats(0, 1)), ious), max_size=30)


@given(detections, st.integers(0, 5))
def test_equals_the_definition(found, missed):
    objects = missed + sum(not math.isnan(iou) for _, iou in found)
    scores, overlaps = np.array([score for score, _ in found]), np.array([iou for _, iou in found])
    result = optimal_lrp(scores, overlaps, objects)
    expected = lrp_by_definition(found, objects)
    assert result.error == pytest.approx(expected[0], abs=1e-12, nan_ok=True)
    if math.isnan(result.threshold):
        assert_equal(result, expected)
        return
    # Two cuts may be equally good up to rounding: at the threshold found, the definition gives what was found.
    kept = [pair for pair in found if pair[0] >= result.threshold]
    hits = [1 - iou for _, iou in kept if not math.isnan(iou)]
    assert result.localization == pytest.approx(sum(hits) / len(hits), abs=1e-12)
    assert result.false_positives == pytest.approx(1 - len(hits) / len(kept), abs=1e-12)
    assert result.false_negatives == pytest.approx(1 - len(hits) / objects, abs=1e-12)


@given(detections, st.integers(0, 5), st.randoms())
def test_order_of_the_detections_does_not_matter(found, missed, random):
    objects = missed + sum(not math.isnan(iou) for _, iou in found)
    shuffled = random.sample(found, len(found))
    first, second = (
        optimal_lrp(np.array([s for s, _ in order]), np.array([i for _, i in order]), objects)
        for order in (found, shuffled)
    )
    assert first.error == pytest.approx(second.error, abs=1e-12, nan_ok=True)


def test_a_cut_never_splits_a_tie():
    # Alone the hit would give 0; the threshold 0.5 keeps the miss of the same score with it.
    assert_equal(optimal_lrp(np.array([0.5, 0.5]), np.array([1.0, NAN]), 1), (0.5, 0, 0.5, 0, 0.5))


def test_detections_below_the_best_cut_do_not_matter():
    result = optimal_lrp(np.array([0.9, 0.8, 0.2, 0.1]), np.array([0.9, 0.7, NAN, NAN]), 2)
    assert_equal(result, ((0.1 + 0.3) / 0.5 / 2, 0.2, 0, 0, 0.8))


def test_no_true_positive_gives_one_and_no_parts():
    for scores in ([], [0.9, 0.3]):
        result = optimal_lrp(np.array(scores), np.full(len(scores), NAN), 3)
        assert_equal(result, (1, NAN, NAN, 1, NAN))


def test_no_objects_give_nan():
    assert_equal(optimal_lrp(np.array([0.3]), np.array([NAN]), 0), (NAN,) * 5)


def test_of_equal_cuts_the_highest_threshold_is_taken():
    # A hit of IoU 0.5 costs as much as the miss that it saves.
    assert optimal_lrp(np.array([0.9, 0.8]), np.array([0.5, 0.5]), 2).threshold == 0.9


def test_a_hit_of_iou_one_half_has_parts_though_it_gains_nothing():
    assert_equal(optimal_lrp(np.array([0.9, 0.8]), np.array([NAN, 0.5]), 1), (1, 0.5, 0.5, 0, 0.8))


def image_set(annotations: list[tuple[list[float], int]]) -> dict[str, Any]:
    return {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": is_crowd}
            for i, (box, is_crowd) in enumerate(annotations)
        ],
    }


def result_of(box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": box, "score": score}


def test_detection_in_a_crowd_region_is_neither_hit_nor_miss():
    truth = image_set([([0, 0, 40, 40], 0), ([100, 100, 80, 80], 1)])
    found = [result_of([0, 0, 40, 30], 0.4), result_of([110, 110, 20, 20], 0.9)]
    cat = evaluate(truth, found)["per_class"]["cat"]
    assert cat["ground_truths"] == 1
    assert_equal((cat["oLRP"], cat["oLRP_Loc"], cat["oLRP_FP"], cat["oLRP_FN"]), (0.5, 0.25, 0, 0))


def test_duplicate_of_a_hit_is_a_miss():
    truth = image_set([([0, 0, 40, 40], 0)])
    found = [result_of([0, 0, 40, 40], 0.4), result_of([0, 0, 40, 30], 0.9)]
    cat = evaluate(truth, found)["per_class"]["cat"]
    # The better score takes the object: stopping there gives 0.25 / 0.5, going on adds a false positive.
    assert_equal((cat["oLRP"], cat["threshold"]), (0.5, 0.9))


def test_threshold_keeps_the_score_it_came_from(shared):
    folder = shared("data", "eval_samples", "coco_free_val")
    found = json.loads((folder / "dets_bbox.json").read_text())
    result = evaluate(folder / "gt.json", found)
    ids = {c["name"]: c["id"] for c in json.loads((folder / "gt.json").read_text())["categories"]}
    thresholds = {ids[name]: values["threshold"] for name, values in result["per_class"].items()}
    kept = [record for record in found if record["score"] >= thresholds[record["category_id"]]]
    again = evaluate(folder / "gt.json", kept)
    assert again["oLRP"] == pytest.approx(result["oLRP"], abs=1e-12)
    assert again["oLRP_FP"] == pytest.approx(result["oLRP_FP"], abs=1e-12)
    assert len(kept) < len(found)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_equals_a_plain_matching_on_images(shared, iou_type):
    folder = shared("data", "eval_samples", "coco_free_val")
    truth = json.loads((folder / "gt.json").read_text())
    found = json.loads((folder / f"dets_{iou_type}.json").read_text())
    result = evaluate(truth, found, iou_type)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    for category, (error, *_, objects) in lrp_of_classes(truth, found, iou_type).items():
        ours = result["per_class"][names[category]]
        assert ours["ground_truths"] == objects
        assert ours["oLRP"] == pytest.approx(error, abs=1e-9, nan_ok=True), names[category]
