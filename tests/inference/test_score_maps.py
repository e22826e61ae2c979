"""Maps of scores: their fits against scikit-learn and scipy, and the law that they lose no order."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdet.inference.score_maps import (
    Calibration,
    Isotonic,
    Platt,
    Unchanged,
    fit_isotonic,
    fit_platt,
    map_of_state,
)
from rankdet.metrics import evaluate
from rankdet.metrics.calibration import Outcomes
from rankdet.metrics.matching import ClassMatches
from rankdet.structures import Detection, InputError


def pairs(seed: int, number: int, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores in float32 and outcomes in [0, 1] that grow with them, more or less; ``steps`` makes scores equal."""
    random = np.random.default_rng(seed)
    scores = random.uniform(0.05, 1, number)
    if steps is not None:
        scores = np.ceil(scores * steps) / steps
    scores = scores.astype(np.float32).astype(np.float64)
    return scores, (scores**2 + random.normal(0, 0.3, number)).clip(0, 1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 200), st.sampled_from([None, 5, 50]))
def test_isotonic_map_is_that_of_scikit_learn_but_for_a_thousandth(seed, number, steps):
    sklearn = pytest.importorskip("sklearn.isotonic", reason="needs scikit-learn")
    scores, outcomes = pairs(seed, number, steps)
    found = fit_isotonic(scores, outcomes)
    expected = sklearn.IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, outcomes)
    inside = np.linspace(scores.min(), 1, 50)
    assert np.interp(inside, found.scores, found.values) == pytest.approx(expected.predict(inside), abs=1e-6)
    assert found(inside) == pytest.approx(expected.predict(inside), abs=1.001e-3)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(20, 200))
def test_platt_scaling_has_the_least_cross_entropy(seed, number):
    optimize = pytest.importorskip("scipy.optimize", reason="needs scipy")
    scores, outcomes = pairs(seed, number)
    scores = scores.clip(0.05, 0.999)
    logits = np.log(scores / (1 - scores))

    def loss(point):
        values = point[0] * logits + point[1]
        prior = 0.005 * ((point[0] - 1) ** 2 + point[1] ** 2)
        return np.sum(np.logaddexp(0, values) - outcomes * values) + prior

    found = fit_platt(scores, outcomes)
    expected = optimize.minimize(loss, (1.0, 0.0), method="BFGS", options={"gtol": 1e-5})
    assert (found.scale, found.shift) == pytest.approx(tuple(expected.x), abs=1e-4)


def test_scores_that_order_backwards_are_not_turned_around():
    scores = np.linspace(0.1, 0.9, 9)
    found = fit_platt(scores, 1 - scores)
    assert found.scale == 0
    assert found(scores) == pytest.approx(np.full(9, 0.5), abs=1e-3)
    assert (np.diff(found(scores)) > 0).all()


def test_scores_that_separate_hits_from_misses_have_a_finite_map():
    scores = np.array([0.1, 0.2, 0.8, 0.9])
    found = fit_platt(scores, (scores > 0.5).astype(float))
    assert 1 < found.scale < 100
    assert found(scores) == pytest.approx([0, 0, 1, 1], abs=0.05)


def maps(seed: int):
    """One of each kind, fitted on random pairs, the last one saturated."""
    scores, outcomes = pairs(seed, 100)
    return [fit_isotonic(scores, outcomes), fit_platt(scores, outcomes), Unchanged(), Platt(6.0, -30.0)]


def test_neighboring_scores_of_float32_stay_in_their_order():
    start = torch.tensor([1e-4, 0.01, 0.05, 0.3, 0.9, 0.99, 1 - 2e-6])
    scores = [start]
    for _ in range(20):
        scores.append(torch.nextafter(scores[-1], torch.tensor(2.0)))
    values = torch.stack(scores).flatten().double().sort().values.clamp(max=1)
    for seed in range(5):
        for change in maps(seed):
            changed = change(values.numpy())
            assert (np.diff(changed) > 0).all(), change
            assert ((changed >= 0) & (changed <= 1)).all()


def scene(seed: int) -> tuple[dict, list[dict]]:
    """Crowded detections of three classes, with ties."""
    random = np.random.default_rng(seed)
    truth = {
        "images": [{"id": number, "width": 100, "height": 100} for number in range(1, 6)],
        "categories": [{"id": number, "name": f"class {number}"} for number in (1, 2, 3)],
        "annotations": [],
    }
    found = []
    for image in truth["images"]:
        for _ in range(8):
            box = [*random.uniform(0, 60, 2), *random.uniform(8, 40, 2)]
            record = {"image_id": image["id"], "category_id": int(random.integers(1, 4)), "bbox": box}
            truth["annotations"].append(record | {"id": len(truth["annotations"]) + 1})
            for _ in range(2):
                near = (np.array(box) + random.normal(0, 3, 4)).clip(0.5, 60).tolist()
                score = float(np.float32(round(random.uniform(0.05, 1), 2)))
                found.append({"image_id": image["id"], "category_id": record["category_id"], "bbox": near})
                found[-1]["score"] = score
    return truth, found


@pytest.mark.parametrize("seed", range(8))
def test_maps_of_scores_change_no_ap_and_no_lrp_of_any_class(seed: int):
    truth, found = scene(seed)
    calibration = Calibration(tuple(maps(seed)[:3]), "iou")
    labels = torch.tensor([record["category_id"] - 1 for record in found])
    scores = torch.tensor([record["score"] for record in found], dtype=torch.float32)
    changed = [
        record | {"score": score}
        for record, score in zip(found, calibration.scores(scores, labels).tolist(), strict=True)
    ]
    before, after = evaluate(truth, found), evaluate(truth, changed)
    for label, (name, first) in enumerate(before["per_class"].items()):
        second = dict(after["per_class"][name])
        cut = torch.tensor([first["threshold"]])
        assert second.pop("threshold") == calibration.scores(cut, torch.tensor([label])).item()
        assert second == {key: value for key, value in first.items() if key != "threshold"}
    same = [name for name in before if name != "per_class"]
    assert str([before[name] for name in same]) == str([after[name] for name in same])  # NaN is no equal of itself


def test_detections_are_sorted_by_their_new_scores():
    calibration = Calibration((Platt(1.0, -3.0), Unchanged()), "iou")
    boxes = torch.arange(12.0).reshape(3, 4)
    found = calibration(Detection(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])))
    assert found.labels.tolist() == [1, 0, 0]
    assert torch.equal(found.boxes, boxes[[1, 0, 2]])
    assert found.scores.dtype == torch.float64
    assert calibration(Detection(boxes[:0], torch.zeros(0), torch.zeros(0).long())).scores.shape == (0,)


def outcomes() -> Outcomes:
    """Two hits and a miss of one class, and nothing of another."""
    nan, empty = float("nan"), ClassMatches(np.zeros(0), np.zeros(0), 1)
    scores = np.array([0.9, 0.8, 0.6])
    return Outcomes(
        [ClassMatches(scores, np.array([0.8, 0.3, nan]), 2), empty],
        [ClassMatches(scores, np.array([0.8, nan, nan]), 2), empty],
    )


def test_maps_are_fitted_to_the_iou_or_to_the_precision():
    iou, precision = (Calibration.fit(outcomes(), target=target) for target in ("iou", "precision"))
    assert iou.maps == (Isotonic((0.6, 0.8, 0.9), (0.0, 0.3, 0.8)), Unchanged())
    assert precision.maps == (Isotonic((0.6, 0.8, 0.9), (0.0, 0.0, 1.0)), Unchanged())
    with pytest.raises(InputError, match="method must be"):
        Calibration.fit(outcomes(), method="histogram")
    with pytest.raises(InputError, match="target must be"):
        Calibration.fit(outcomes(), target="recall")


def test_a_calibration_is_read_as_it_was_written():
    written = Calibration((Isotonic((0.5,), (0.25,)), Platt(1.5, -0.5), Unchanged()), "precision")
    assert Calibration.of_state(written.state(), 3) == written
    with pytest.raises(ValueError, match="3 maps of scores for 2 categories"):
        Calibration.of_state(written.state(), 2)
    with pytest.raises(ValueError, match="2 scores and 1 values"):
        map_of_state({"scores": [0.1, 0.2], "values": [0.3]})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"scale": -1.0, "shift": 0.0}, "has scale -1 and shift 0"),
        ({"scale": 1.0, "shift": math.nan}, "has scale 1 and shift nan"),
        ({"scores": [], "values": []}, "0 scores and 0 values"),
        ({"scores": [0.1, 1.2], "values": [0.3, 0.4]}, "scores of a map are outside of 0 to 1"),
        ({"scores": [0.1, 0.2], "values": [math.nan, 0.4]}, "values of a map are outside of 0 to 1"),
        ({"scores": [0.2, 0.1], "values": [0.3, 0.4]}, "falls"),
        ({"scores": [0.1, 0.1], "values": [0.3, 0.4]}, "falls"),
        ({"scores": [0.1, 0.2], "values": [0.4, 0.3]}, "falls"),
    ],
)
def test_a_map_that_would_lose_the_order_of_scores_is_refused(state: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        map_of_state(state)


def test_a_calibration_states_the_iou_or_the_precision():
    with pytest.raises(ValueError, match="a calibration states 'area'"):
        Calibration.of_state({"target": "area", "maps": [{}]}, 1)
