"""Kinds of errors and bins of scores are what plain loops and hotcoco count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from rankdet.metrics import measure
from rankdet.metrics.errors import confusion, error_types
from rankdet.metrics.matching import by_class
from rankdet.metrics.scores import score_bins

from .test_curves import data_set


def confusion_by_definition(truth: dict[str, Any], found: list[dict[str, Any]], ids: list[int]) -> list[list[int]]:
    """Each image for itself: the best score first takes the object, of any class, with the largest IoU from 0.5 on."""

    def iou(one: list[float], other: list[float]) -> float:
        sides = [min(one[a] + one[a + 2], other[a] + other[a + 2]) - max(one[a], other[a]) for a in (0, 1)]
        shared = max(0.0, sides[0]) * max(0.0, sides[1])
        return shared / (one[2] * one[3] + other[2] * other[3] - shared)

    counts = [[0] * (len(ids) + 1) for _ in range(len(ids) + 1)]
    for image in truth["images"]:
        objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        taken: set[int] = set()
        for one in sorted((f for f in found if f["image_id"] == image["id"]), key=lambda f: -f["score"]):
            free = [(iou(one["bbox"], a["bbox"]), -place) for place, a in enumerate(objects) if place not in taken]
            best, place = max(free, default=(0.0, 0))
            column = ids.index(one["category_id"])
            if best >= 0.5:
                taken.add(-place)
                counts[ids.index(objects[-place]["category_id"])][column] += 1
            else:
                counts[-1][column] += 1
        for place, annotation in enumerate(objects):
            counts[ids.index(annotation["category_id"])][-1] += place not in taken
    return counts


def with_distinct_scores(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one | {"score": one["score"] + place * 1e-4} for place, one in enumerate(found)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_confused_classes_are_counted_as_by_a_plain_loop(seed: int, threshold: float) -> None:
    truth, found = data_set(seed)
    found = with_distinct_scores(found)
    for number, one in enumerate(found):
        one["category_id"] = [9, 4, 6][(seed + number) % 3] if number % 4 == 0 else one["category_id"]
    measured = measure(truth, found)
    ids = measured.comparison.ground_truth.category_ids
    kept = [one for one in found if one["score"] >= threshold]
    counts = confusion(measured.comparison, measured.matches, [threshold] * 3)
    assert counts.tolist() == confusion_by_definition(truth, kept, ids)
    assert counts[:3].sum() == len(truth["annotations"])
    assert counts[:, :3].sum() == len(kept)


def test_a_class_without_a_threshold_has_no_detections_in_the_matrix() -> None:
    measured = measure(*data_set(0))
    counts = confusion(measured.comparison, measured.matches, [math.nan] * 3)
    assert counts[:, :3].sum() == 0
    assert counts[:3, 3].tolist() == np.bincount(measured.matches.object_labels, minlength=3).tolist()


def test_error_types_say_what_was_done_to_perfect_detections() -> None:
    """A second detection, a shifted box, another class and a box on the background, one of each."""
    boxes = [[30.0 * place, 10.0, 20.0, 20.0] for place in range(6)]
    truth = {
        "images": [{"id": 1, "width": 200, "height": 100}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": place + 1, "image_id": 1, "category_id": 1 + place % 2, "bbox": box}
            for place, box in enumerate(boxes)
        ],
    }
    rows = [(1, boxes[0], 0.9), (2, boxes[1], 0.9), (1, boxes[0], 0.8), (1, [70.0, 10.0, 20.0, 20.0], 0.7)]
    rows += [(1, boxes[3], 0.6), (2, [160.0, 70.0, 20.0, 20.0], 0.5), (2, boxes[5], 0.4)]
    found = [{"image_id": 1, "category_id": label, "bbox": box, "score": score} for label, box, score in rows]
    types = error_types(measure(truth, found).comparison)
    assert types.counts == {"Cls": 1, "Loc": 1, "Both": 0, "Dupe": 1, "Bkg": 1, "Miss": 1}
    assert all(types.gains[name] > 0 for name in ("Cls", "Loc", "Miss", "FN"))
    assert min(types.gains.values()) == 0  # a false positive behind all hits costs nothing


@pytest.mark.parametrize("seed", range(6))
def test_bins_of_scores_are_those_of_hotcoco_and_of_a_loop(seed: int) -> None:
    truth, detections = data_set(seed)
    measured = measure(truth, [one | {"score": one["score"] + 0.013} for one in detections])  # on no edge of a bin
    scores, ious = measured.comparison.results.scores[measured.matches.rows], measured.matches.ious
    found = score_bins(scores, ious)
    for place in range(10):
        inside = (scores >= found.edges[place]) & (scores < found.edges[place + 1])
        assert found.hits[place] == (inside & ~np.isnan(ious)).sum()
        assert found.misses[place] == (inside & np.isnan(ious)).sum()
        if inside.any():
            assert found.scores[place] == pytest.approx(scores[inside].mean())
    evaluation = measured.comparison.evaluator()
    evaluation.evaluate()
    theirs = evaluation.calibration(n_bins=10)
    assert theirs["num_detections"] == len(scores) > 0
    assert found.error == pytest.approx(theirs["ece"], abs=1e-9)


def test_scores_beyond_one_and_none_at_all_have_bins() -> None:
    none = score_bins(np.zeros(0), np.zeros(0))
    assert math.isnan(none.error)
    assert none.hits.sum() == 0
    percent = score_bins(np.array([97.0, -3.0, 50.0]), np.array([0.9, np.nan, 0.8]))
    assert (percent.edges[0], percent.edges[-1]) == (-3.0, 97.0)
    assert (percent.hits.sum(), percent.misses.sum()) == (2, 1)


@pytest.mark.parametrize("seed", range(3))
def test_the_rank_correlation_is_that_of_the_true_positives(seed: int) -> None:
    measured = measure(*data_set(seed))
    names = measured.comparison.ground_truth.names
    expected = []
    for name, matches in zip(names, by_class(measured.comparison, measured.matches), strict=True):
        is_hit = ~np.isnan(matches.ious)
        own = measured.metrics["per_class"][name]["rank_correlation"]
        if is_hit.sum() > 1:
            expected.append(float(spearmanr(matches.scores[is_hit], matches.ious[is_hit]).statistic))
            assert own == pytest.approx(expected[-1])
        else:
            assert math.isnan(own)
    assert measured.metrics["rank_correlation"] == pytest.approx(np.mean(expected))
