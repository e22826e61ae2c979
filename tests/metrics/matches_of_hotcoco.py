"""The matches that hotcoco finds at IoU 0.5, read image by image from what it says of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from hotcoco import mask as rle
from numpy.typing import NDArray

from rankdet.metrics.evaluator import Comparison
from rankdet.metrics.matching import ClassMatches


def matches_of_hotcoco(comparison: Comparison) -> list[ClassMatches]:
    """The matches of each class, by label, in the order of `rankdet.metrics.matching.match_classes`."""
    evaluation = comparison.evaluator()
    evaluation.params.iou_thrs = [0.5]
    evaluation.params.area_rng = [[0.0, 1e10]]
    evaluation.params.area_rng_lbl = ["all"]
    evaluation.params.max_dets = [comparison.max_detections]
    evaluation.evaluate()
    found: dict[int, list[dict[str, Any]]] = {id_: [] for id_ in comparison.ground_truth.category_ids}
    for image in evaluation.eval_imgs:
        if image is not None:
            found[image["category_id"]].append(image)
    return [_of_class(comparison, images) for images in found.values()]


def _of_class(comparison: Comparison, images: list[dict[str, Any]]) -> ClassMatches:
    counted = ~np.array([ignored for image in images for ignored in image["dtIgnore"][0]], dtype=bool)
    scores = np.array([score for image in images for score in image["dtScores"]], dtype=np.float64)[counted]
    hit = np.array([matched for image in images for matched in image["dtMatched"][0]], dtype=bool)[counted]
    rows = np.array([id_ for image in images for id_ in image["dtIds"]], dtype=np.int64)[counted][hit] - 1
    ids = np.array([id_ for image in images for id_ in image["dtMatches"][0]], dtype=np.int64)[counted][hit]
    place_of = {id_: place for place, id_ in enumerate(comparison.ground_truth.annotation_ids.tolist())}
    annotations = [place_of[id_] for id_ in ids.tolist()]
    ious = np.full(len(hit), np.nan)
    if comparison.iou_type == "bbox":
        ious[hit] = _box_ious(comparison.results.known_boxes[rows], comparison.ground_truth.boxes[annotations])
    else:
        mask_of = dict(zip(comparison.rows.tolist(), comparison.masks, strict=True))
        ious[hit] = [
            rle.iou([comparison.results.known_masks[row]], [mask_of[place]], [False])[0, 0]
            for row, place in zip(rows.tolist(), annotations, strict=True)
        ]
    order = np.argsort(-scores, kind="stable")
    objects = sum(len(image["gtIds"]) - sum(image["gtIgnore"]) for image in images)
    return ClassMatches(scores[order], ious[order], objects)


def _box_ious(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(first[:, :2], second[:, :2])
    high = np.minimum(first[:, :2] + first[:, 2:], second[:, :2] + second[:, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=1)
    return intersection / (first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - intersection)
