"""Optimal localization recall precision (oLRP) error over the evaluator's matches at IoU 0.5.

Legend: D detections of one class in all images, G its objects, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from hotcoco import mask as rle
from numpy.typing import NDArray

from rankdet.metrics.evaluator import Comparison

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


class ClassMatches(NamedTuple):
    """The arguments of `optimal_lrp` for one class; detections matched with a crowd region are left out."""

    scores: NDArray[np.float64]
    ious: NDArray[np.float64]
    ground_truths: int


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
    order = np.argsort(-scores, kind="stable")
    scores, ious = scores[order], ious[order]
    is_hit = ~np.isnan(ious)
    true_positives = np.cumsum(is_hit)
    distances = np.cumsum(np.where(is_hit, 1 - ious, 0.0))
    ends_tie = np.append(scores[1:] != scores[:-1], np.ones(min(1, len(scores)), dtype=bool))
    cuts = np.flatnonzero(ends_tie & (true_positives > 0))
    if cuts.size == 0:
        return OptimalLRP(1.0, nan, nan, 1.0, nan)
    hits, kept = true_positives[cuts], cuts + 1
    # TP + FP + FN = kept + (G − TP)
    misses = ground_truths - hits
    errors = (distances[cuts] / (1 - MATCH_IOU) + (kept - hits) + misses) / (kept + misses)  # LRP, eq. (1)
    best = int(np.argmin(errors))  # oLRP, eq. (4)
    return OptimalLRP(
        error=float(errors[best]),
        localization=float(distances[cuts[best]] / hits[best]),
        false_positives=float((kept[best] - hits[best]) / kept[best]),
        false_negatives=float(misses[best] / ground_truths),
        threshold=float(scores[cuts[best]]),
    )


def match_classes(comparison: Comparison) -> list[ClassMatches]:
    """Match detections with objects at IoU 0.5 by the rules of COCO or LVIS: the matches of each class, by label.

    As in COCO's AP, a detection matched with a crowd region is neither a true nor a false positive, and a crowd region
    is no object. As in LVIS's AP, two others are neither: detections of a class that was not looked for in the image,
    and those without a match where the objects of the class are not all annotated.
    """
    evaluation = comparison.evaluator()
    evaluation.params.iou_thrs = [MATCH_IOU]
    evaluation.params.area_rng = [[0.0, 1e10]]
    evaluation.params.area_rng_lbl = ["all"]
    evaluation.params.max_dets = [comparison.max_detections]
    evaluation.evaluate()

    category_ids = comparison.ground_truth.category_ids
    found: dict[int, list[dict[str, Any]]] = {id_: [] for id_ in category_ids}
    for image in evaluation.eval_imgs:
        if image is not None:
            found[image["category_id"]].append(image)
    return [_class_matches(comparison, found[category]) for category in category_ids]


def _class_matches(comparison: Comparison, images: list[dict[str, Any]]) -> ClassMatches:
    """The matches of one class, from what the evaluator found in each image."""
    counted = ~np.array([ignored for image in images for ignored in image["dtIgnore"][0]], dtype=bool)
    scores = np.array([score for image in images for score in image["dtScores"]], dtype=np.float64)[counted]
    hit = np.array([matched for image in images for matched in image["dtMatched"][0]], dtype=bool)[counted]
    rows = np.array([id_ for image in images for id_ in image["dtIds"]], dtype=np.int64)[counted][hit] - 1
    ids = np.array([id_ for image in images for id_ in image["dtMatches"][0]], dtype=np.int64)[counted][hit]
    ious = np.full(len(hit), np.nan)
    ious[hit] = (_paired_box_iou if comparison.iou_type == "bbox" else _paired_mask_iou)(comparison, rows, ids)
    return ClassMatches(scores, ious, sum(len(image["gtIds"]) - sum(image["gtIgnore"]) for image in images))


def _paired_box_iou(comparison: Comparison, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of the boxes of detection ``rows[i]`` and annotation ``ids[i]``."""
    truth, results = comparison.ground_truth, comparison.results
    if results.boxes is None:
        raise ValueError("boxes are compared, but the detections have none")
    order = np.argsort(truth.annotation_ids)
    first, second = results.boxes[rows], truth.boxes[order[np.searchsorted(truth.annotation_ids, ids, sorter=order)]]
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=1)
    union = first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - intersection
    return np.divide(intersection, union, out=np.zeros(len(union)), where=union > 0)


def _paired_mask_iou(comparison: Comparison, rows: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of the masks of detection ``rows[i]`` and annotation ``ids[i]``, on the run lengths."""
    found = comparison.detections.load_anns((rows + 1).tolist())
    objects = comparison.objects.load_anns(ids.tolist())
    ious = np.empty(len(rows))
    for i, (detection, annotation) in enumerate(zip(found, objects, strict=True)):
        first, second = comparison.detections.ann_to_rle(detection), comparison.objects.ann_to_rle(annotation)
        ious[i] = rle.iou([first], [second], [False])[0, 0]
    return ious
