"""Optimal localization recall precision (oLRP) error over matches at IoU 0.5.

Legend: D detections of one class in all images, G its objects.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MATCH_IOU = 0.5
"""The IoU τ from which a detection is a true positive."""


class OptimalLRP(NamedTuple):
    """oLRP error of one class, its parts at the optimal cut, and where that cut is. Lower errors are better.

    error
        The least LRP error over all cut-offs, a fraction.
    localization
        Mean 1 − IoU of the true positives at the optimal cut.
    false_positives
        FP / (TP + FP) there: 1 − precision.
    false_negatives
        FN / G there: 1 − recall.
    threshold
        The score of the last detection kept: keeping ``score >= threshold`` gives these numbers.
    """

    error: float
    localization: float
    false_positives: float
    false_negatives: float
    threshold: float


def optimal_lrp(scores: NDArray[np.float64], ious: NDArray[np.float64], ground_truths: int) -> OptimalLRP:
    r"""Find the cut-off with the least LRP error among all of them at once.

    .. math:: \mathrm{LRP}(s) = \frac{\sum_{\mathrm{TP}} (1 - \mathrm{IoU}) / (1 - \tau) + \mathrm{FP} + \mathrm{FN}}
              {\mathrm{TP} + \mathrm{FP} + \mathrm{FN}}, \qquad \mathrm{oLRP} = \min_s \mathrm{LRP}(s)

    Cut-offs lie between distinct scores only. A threshold keeps or drops all detections of one score together.
    So nobody can apply a cut inside a tie, and its value would depend on the order of the images. Cuts without a true
    positive have the error 1, which no other cut exceeds, and are left out of the search. Of several optimal cuts the
    one with the highest threshold is taken.

    Parameters
    ----------
    scores
        (D,) scores of the detections of one class.
    ious
        (D,) IoU of a true positive with its object, NaN for a false positive.
    ground_truths
        G, the number of objects.

    Returns
    -------
    OptimalLRP
        All NaN where there are no objects; ``(1, nan, nan, 1, nan)`` where there is no true positive.

    Notes
    -----
    Oksuz, Cam, Akbas, Kalkan, "Localization Recall Precision (LRP): A New Performance Metric for Object Detection",
    ECCV 2018, equations (1)–(2) and (4); "One Metric to Measure Them All", TPAMI 2021, with τ = 0.5.

    Differs from the authors' evaluator in ties only: there, cuts inside a run of equal scores count too.

    Examples
    --------
    Two objects; the best detection hits with IoU 0.9, the next one misses. Keeping only the first gives
    (0.1 / 0.5 + 0 + 1) / 2.

    >>> found = optimal_lrp(np.array([0.8, 0.3]), np.array([0.9, np.nan]), 2)
    >>> round(found.error, 6), round(found.localization, 6), found.false_positives, found.false_negatives
    (0.6, 0.1, 0.0, 0.5)
    >>> found.threshold
    0.8
    """
    nan = float("nan")
    if ground_truths == 0:
        return OptimalLRP(nan, nan, nan, nan, nan)
    cuts = lrp_curve(scores, ious, ground_truths)
    if not len(cuts.errors):
        return OptimalLRP(1.0, nan, nan, 1.0, nan)
    best = int(np.argmin(cuts.errors))  # oLRP, eq. (4)
    hits, kept = cuts.true_positives[best], cuts.kept[best]
    return OptimalLRP(
        error=float(cuts.errors[best]),
        localization=float(cuts.distances[best] / hits),
        false_positives=float((kept - hits) / kept),
        false_negatives=float((ground_truths - hits) / ground_truths),
        threshold=float(cuts.thresholds[best]),
    )


class LRPCurve(NamedTuple):
    """The LRP error of one class at each of its K cut-offs that keep a true positive, the highest threshold first.

    thresholds
        (K,) distinct scores: a cut-off keeps ``score >= threshold``.
    errors
        (K,) LRP error, a fraction.
    distances
        (K,) the sum of 1 − IoU over the true positives that are kept.
    true_positives, kept
        (K,) int64, how many true positives, and how many detections, are kept.
    """

    thresholds: NDArray[np.float64]
    errors: NDArray[np.float64]
    distances: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    kept: NDArray[np.int64]


def lrp_curve(scores: NDArray[np.float64], ious: NDArray[np.float64], ground_truths: int) -> LRPCurve:
    """Compute the LRP error at each cut-off, by equation (1); the arguments are those of `optimal_lrp`.

    Examples
    --------
    >>> curve = lrp_curve(np.array([0.8, 0.3]), np.array([0.9, np.nan]), 2)
    >>> curve.thresholds, curve.errors.round(3)
    (array([0.8, 0.3]), array([0.6  , 0.733]))
    """
    order = np.argsort(-scores, kind="stable")
    scores, ious = scores[order], ious[order]
    is_hit = ~np.isnan(ious)
    true_positives = np.cumsum(is_hit)
    distances = np.cumsum(np.where(is_hit, 1 - ious, 0.0))
    ends_tie = np.append(scores[1:] != scores[:-1], np.ones(min(1, len(scores)), dtype=bool))
    cuts = np.flatnonzero(ends_tie & (true_positives > 0))
    hits, kept = true_positives[cuts], cuts + 1
    # TP + FP + FN = kept + (G − TP)
    misses = ground_truths - hits
    errors = (distances[cuts] / (1 - MATCH_IOU) + (kept - hits) + misses) / (kept + misses)  # LRP, eq. (1)
    return LRPCurve(scores[cuts], errors, distances[cuts], hits, kept)
