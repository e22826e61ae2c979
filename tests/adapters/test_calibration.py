"""A scale and a shift of logits put a framework's threshold where it keeps AP50."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rankdet.adapters.calibration import Matches, find_calibration, logits_of, match
from rankdet.metrics import evaluate
from rankdet.metrics.lrp import optimal_lrp
from rankdet.structures import InputError


def detections(seed: int, spread: float, mean: float, number: int = 400) -> Matches:
    """Detections of three classes whose hits have higher logits by and large, and some objects that are missed."""
    random = np.random.default_rng(seed)
    hits = random.random(number) < 0.3
    logits = mean + spread * (random.standard_normal(number) + 2.0 * hits)
    labels = random.integers(0, 3, number)
    ious = np.where(hits, random.uniform(0.5, 1, number), np.nan)
    return Matches(logits, labels, ious, np.concatenate([labels[hits], [0, 1, 2, 2]]))


def scores(found: Matches, scale: float, shift: float) -> np.ndarray:
    return 1 / (1 + np.exp(-scale * found.logits - shift))


def kept(found: Matches, is_kept: np.ndarray) -> Matches:
    return Matches(found.logits[is_kept], found.labels[is_kept], found.ious[is_kept], found.objects)


@pytest.mark.parametrize("threshold", [0.01, 0.05, 0.2, 0.25, 0.5])
@pytest.mark.parametrize(("spread", "mean"), [(1.0, 0.0), (0.1, -4.0), (6.0, 20.0)])
def test_the_threshold_keeps_ap50(threshold: float, spread: float, mean: float) -> None:
    matches = detections(0, spread, mean)
    found = find_calibration([matches], threshold)
    assert found.scale > 0
    is_kept = scores(matches, found.scale, found.shift) > threshold
    again = find_calibration([kept(matches, is_kept)], threshold)
    assert again.ap50 == found.kept_ap50
    assert found.ap50 - 0.005 <= found.kept_ap50 < found.ap50


def any_detections(random: np.random.Generator) -> Matches:
    """Few or many, of any spread, often with ties; hits are rare or all; some classes are never found."""
    number = int(random.integers(1, 150))
    hits = random.random(number) < random.uniform(0.02, 1)
    hits[0] = True
    logits = random.standard_normal(number) + random.uniform(-1, 4) * hits
    if random.random() < 0.5:
        logits = logits.round(int(random.integers(0, 2)))
    logits = random.uniform(-20, 20) + 10 ** random.uniform(-2, 1) * logits
    labels = random.integers(0, random.integers(1, 6), number)
    missed = random.integers(0, 6, random.integers(0, 20))
    ious = np.where(hits, random.uniform(0.5, 1, number), np.nan)
    return Matches(logits, labels, ious, np.concatenate([labels[hits], missed]))


def coco_ap50(found: Matches, is_kept: np.ndarray) -> float:
    """AP50 by the evaluator of COCO: each hit lies in an object of its own, the other objects and detections apart."""
    hits = ~np.isnan(found.ious)
    places = np.where(hits, np.cumsum(hits) - 1, len(found.objects) + np.arange(len(hits)))
    truth = {
        "images": [{"id": 1, "width": 10**6, "height": 20}],
        "categories": [{"id": label, "name": str(label)} for label in range(6)],
        "annotations": [
            {"id": number + 1, "image_id": 1, "category_id": int(label), "bbox": [20 * number, 0, 10, 10]}
            for number, label in enumerate(found.objects)
        ],
    }
    results = [
        {
            "image_id": 1,
            "category_id": int(found.labels[row]),
            "bbox": [20 * int(places[row]), 0, 10, 10 * float(np.nan_to_num(found.ious[row], nan=1.0))],
            "score": float(found.logits[row]),
        }
        for row in np.flatnonzero(is_kept)
    ]
    return evaluate(truth, results, max_detections=1000)["AP50"]


@pytest.mark.parametrize("seed", range(40))
def test_the_threshold_keeps_ap50_of_any_detections_that_it_was_found_for(seed: int) -> None:
    """By construction: AP never rises where the last detections go, and the cut is between two of them."""
    random = np.random.default_rng(seed)
    matches = any_detections(random)
    threshold, tolerance = random.choice([0.01, 0.05, 0.2, 0.5, 0.9]), random.choice([0.0, 0.005, 0.1])
    found = find_calibration([matches], float(threshold), float(tolerance))
    assert 0 < found.scale < math.inf
    network = np.float32(found.scale) * matches.logits.astype(np.float32) + np.float32(found.shift)
    is_kept = torch.from_numpy(network).sigmoid().numpy() > threshold
    whole = coco_ap50(matches, np.ones(len(is_kept), dtype=bool))
    assert found.ap50 == pytest.approx(whole, abs=1e-12)
    assert coco_ap50(matches, is_kept) == pytest.approx(found.kept_ap50, abs=1e-12)
    assert found.kept_ap50 >= whole - tolerance - 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_the_threshold_is_the_highest_cut_that_keeps_ap50(seed: int) -> None:
    matches = detections(seed, 1.0, 0.0, number=120)
    found = find_calibration([matches], 0.05)
    best = optimal_lrp(matches.logits, matches.ious, len(matches.objects)).threshold
    cuts = [cut for cut in np.unique(matches.logits) if cut <= best]
    precisions = [find_calibration([kept(matches, matches.logits >= cut)], 0.05).ap50 for cut in cuts]
    highest = max(cut for cut, ap50 in zip(cuts, precisions, strict=True) if ap50 >= found.ap50 - 0.005)
    assert (scores(matches, found.scale, found.shift) > 0.05).sum() == (matches.logits >= highest).sum()


def test_the_best_cut_has_the_score_halfway_between_threshold_and_one() -> None:
    matches = detections(1, 1.0, 3.0)
    found = find_calibration([matches], 0.05)
    assert found.best_threshold == pytest.approx(0.525)
    best = optimal_lrp(matches.logits, matches.ious, len(matches.objects)).threshold
    is_kept = scores(matches, found.scale, found.shift) > found.best_threshold
    assert is_kept.sum() == (matches.logits >= best).sum()


def test_images_are_one_set_whatever_their_number() -> None:
    matches = detections(2, 1.0, 0.0)
    parts = [kept(matches, matches.labels == label)._replace(objects=matches.objects[:0]) for label in range(3)]
    parts.append(kept(matches, matches.labels < 0))
    assert find_calibration(parts, 0.05) == pytest.approx(find_calibration([matches], 0.05))


def test_no_score_comes_so_close_to_one_that_orders_are_lost() -> None:
    """One detection is far above all others, whose cuts alone would ask for a logit of 60."""
    matches = detections(3, 0.1, 0.0)
    matches.logits[0], matches.ious[0] = 20.0, 0.9
    found = find_calibration([matches], 0.05)
    assert found.scale * 20 + found.shift == pytest.approx(10.0)
    assert found.ap50 - 0.005 <= found.kept_ap50
    assert 0.05 < found.best_threshold < 0.525


def test_detections_that_are_all_right_are_all_kept() -> None:
    matches = Matches(np.array([3.0, 1.0]), np.array([0, 0]), np.array([0.9, 0.6]), np.array([0, 0]))
    found = find_calibration([matches], 0.5)
    assert (scores(matches, found.scale, found.shift) > 0.5).all()
    assert found.kept_ap50 == found.ap50 == 1
    assert math.isfinite(found.scale)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.5, math.nan])
def test_thresholds_are_between_zero_and_one(threshold: float) -> None:
    with pytest.raises(InputError, match="a threshold must be between 0 and 1"):
        find_calibration([detections(0, 1.0, 0.0)], threshold)


def test_without_a_hit_nothing_can_be_found() -> None:
    matches = detections(0, 1.0, 0.0)
    with pytest.raises(InputError, match="no detection hits an object of its class"):
        find_calibration([kept(matches, np.isnan(matches.ious))], 0.05)
    with pytest.raises(InputError, match="no detection hits an object of its class"):
        find_calibration([], 0.05)


def test_scores_become_logits_also_far_from_one_half() -> None:
    logits = torch.linspace(-80, 14, 95, dtype=torch.float64)
    torch.testing.assert_close(logits_of(logits.sigmoid().float()), logits, atol=0.1, rtol=1e-6)
    torch.testing.assert_close(logits_of(logits.sigmoid().sqrt().float(), power=2), logits, atol=0.1, rtol=1e-6)


@pytest.mark.parametrize("logit", [20.0, -120.0])
def test_an_image_of_scores_without_an_order_is_refused(logit: float) -> None:
    with pytest.raises(InputError, match="rounded to 0 or 1, and their order is lost"):
        logits_of(torch.full((3,), logit).sigmoid())
    logits_of(torch.full((1,), logit).sigmoid())
    logits_of(torch.zeros(0))
    assert logits_of(torch.tensor([0.0, logit]).sigmoid()).isfinite().all()


def test_an_object_is_hit_once_by_the_best_logit_and_only_within_its_class() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30], [20, 20, 30, 24]])
    labels = torch.tensor([1, 1, 2, 1, 1])
    logits = torch.tensor([1.0, 2.0, 3.0, 0.5, 5.0], requires_grad=True)
    found = match(boxes, logits, labels, boxes[[0, 3]], torch.tensor([1, 1]))
    np.testing.assert_array_equal(found.logits, [5.0, 3.0, 2.0, 1.0, 0.5])
    np.testing.assert_array_equal(found.labels, [1, 2, 1, 1, 1])
    np.testing.assert_allclose(found.ious, [np.nan, np.nan, 0.9, np.nan, 1.0])


def test_a_detection_takes_the_nearest_object_that_is_left() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    found = match(boxes, torch.tensor([2.0, 1.0]), torch.tensor([0, 0]), objects, torch.tensor([0, 0]))
    np.testing.assert_allclose(found.ious, [1.0, 0.8])


def test_images_may_be_empty() -> None:
    empty, none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    found = match(empty, torch.zeros(0), none, torch.rand(2, 4), torch.tensor([0, 1]))
    assert (len(found.logits), len(found.objects)) == (0, 2)
    found = match(torch.rand(3, 4), torch.rand(3), torch.zeros(3, dtype=torch.int64), empty, none)
    assert np.isnan(found.ious).all()
