"""Curves of precision and of the LRP error equal plain loops and what hotcoco gives."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdet.metrics import measure, optimal_lrp
from rankdet.metrics.average_precision import IOU_50, IOU_75
from rankdet.metrics.lrp import lrp_curve
from rankdet.metrics.matching import by_class


def data_set(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two classes with objects and one without, detections with ties."""
    random = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": id_, "width": 90, "height": 90} for id_ in (3, 1, 2)],
        "categories": [{"id": 9, "name": "a"}, {"id": 4, "name": "b"}, {"id": 6, "name": "none"}],
        "annotations": [],
    }
    found = []
    for number in range(24):
        box = [float(value) for value in random.integers(1, 40, 4)]
        row = {"image_id": int(random.choice([3, 1, 2])), "category_id": int(random.choice([9, 4])), "bbox": box}
        truth["annotations"].append({"id": number + 1, **row})
        for _ in range(int(random.integers(0, 3))):
            moved = [value + float(random.uniform(-2, 2)) for value in box]
            moved[2:] = [max(1.0, side) for side in moved[2:]]
            found.append(row | {"bbox": moved, "score": float(random.integers(1, 20)) / 20})
    return truth, found


def precision_by_definition(scores: Any, ious: Any, objects: int) -> list[float]:
    """The best precision at a recall of 0, 0.01, …, 1 or more, detection by detection."""
    points, hits = [], 0
    for number, iou in enumerate(ious, start=1):
        hits += not math.isnan(iou)
        points.append((hits / objects, hits / number))
    return [max((p for r, p in points if r >= level), default=0.0) for level in np.linspace(0, 1, 101)]


@pytest.mark.parametrize("seed", range(8))
def test_precision_over_recall_is_that_of_a_plain_loop(seed: int) -> None:
    measured = measure(*data_set(seed))
    curves = measured.precision.curves
    names = measured.comparison.ground_truth.names
    for place, matches in enumerate(by_class(measured.comparison, measured.matches)):
        own = curves[IOU_50, :, place]
        if names[place] == "none":
            assert np.isnan(curves[:, :, place]).all()
        else:
            assert own == pytest.approx(precision_by_definition(*matches), abs=1e-9)
    known = ~np.isnan(curves[0]).any(axis=0)
    assert curves[IOU_50][:, known].mean() == pytest.approx(measured.metrics["AP50"], abs=1e-12)
    assert curves[IOU_75][:, known].mean() == pytest.approx(measured.metrics["AP75"], abs=1e-12)
    for name, place in zip(names, range(len(names)), strict=True):
        if known[place]:
            assert curves[:, :, place].mean() == pytest.approx(measured.metrics["per_class"][name]["AP"], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_curves_are_hotcocos_own(seed: int) -> None:
    measured = measure(*data_set(seed))
    evaluation = measured.comparison.evaluator()
    evaluation.evaluate()
    evaluation.accumulate()
    by_id = np.sort(measured.comparison.ground_truth.category_ids).tolist()
    for place, id_ in enumerate(measured.comparison.ground_truth.category_ids):
        theirs = evaluation.eval["precision"][:, :, by_id.index(id_), 0, -1]
        ours = measured.precision.curves[:, :, place]
        assert np.array_equal(np.where(theirs < 0, np.nan, theirs), ours, equal_nan=True)


detections = st.lists(
    st.tuples(st.sampled_from([0.1, 0.2, 0.2, 0.9]) | st.floats(0, 1), st.just(math.nan) | st.floats(0.5, 1)),
    max_size=20,
)


@settings(max_examples=150, deadline=None)
@given(detections, st.integers(1, 12))
def test_the_error_at_each_threshold_is_its_definition(found: list[tuple[float, float]], missed: int) -> None:
    scores, ious = (np.array(column, dtype=np.float64) for column in zip(*found, strict=True)) if found else ([], [])
    scores, ious = np.asarray(scores, dtype=np.float64), np.asarray(ious, dtype=np.float64)
    objects = int((~np.isnan(ious)).sum()) + missed
    curve = lrp_curve(scores, ious, objects)
    expected = []
    for threshold in sorted(set(scores.tolist()), reverse=True):
        kept = [iou for score, iou in found if score >= threshold]
        hits = [iou for iou in kept if not math.isnan(iou)]
        if hits:
            total = len(kept) + objects - len(hits)
            wrong = sum((1 - iou) / 0.5 for iou in hits) + len(kept) - len(hits) + objects - len(hits)
            expected.append((threshold, wrong / total, len(hits), len(kept)))
    ours = zip(curve.thresholds, curve.errors, curve.true_positives, curve.kept, strict=True)
    assert [*map(tuple, ours)] == [pytest.approx(row, abs=1e-12) for row in expected]
    if expected:
        assert optimal_lrp(scores, ious, objects).error == curve.errors.min()
