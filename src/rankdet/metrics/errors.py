"""What kinds of errors detections have: confused classes, and the types of TIDE, both as hotcoco finds them.

Legend: K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.metrics.evaluator import Comparison
from rankdet.metrics.lrp import MATCH_IOU
from rankdet.metrics.matching import Matches

BACKGROUND_IOU = 0.1
"""The IoU below which a detection is on the background, as in TIDE."""


class ErrorTypes(NamedTuple):
    """The error types of TIDE at IoU 0.5, as hotcoco computes them.

    gains
        Type → how much AP50 would gain without errors of this type, a fraction: ``Cls`` (class), ``Loc``
        (localization), ``Both``, ``Dupe`` (second detection), ``Bkg`` (background), ``Miss``, and all of ``FP`` or
        ``FN``.
    counts
        Type → number of such detections, or missed objects.
    """

    gains: dict[str, float]
    counts: dict[str, int]


def error_types(comparison: Comparison) -> ErrorTypes:
    """Find the error types of all detections.

    Notes
    -----
    Bolya, Foley, Hays, Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020.
    """
    evaluation = comparison.evaluator()
    evaluation.params.max_dets = [comparison.max_detections]
    evaluation.evaluate()
    found = evaluation.tide_errors(pos_thr=MATCH_IOU, bg_thr=BACKGROUND_IOU)
    return ErrorTypes(found["delta_ap"], found["counts"])


def confusion(comparison: Comparison, matches: Matches, thresholds: Sequence[float]) -> NDArray[np.int64]:
    """Count which class each object was taken for at IoU 0.5, by the detections from the threshold of their class on.

    An object and a detection of any classes are matched, the best score first. Detections that are neither a true nor
    a false positive, as those in crowd regions, are left out.

    Parameters
    ----------
    comparison
        What is compared.
    matches
        Its matches, by `rankdet.metrics.matching.match`.
    thresholds
        K scores by label; NaN: no detection of the class.

    Returns
    -------
    NDArray[np.int64]
        (K + 1, K + 1): objects of each class by row, what they were taken for by column. The last column has those that
        nothing was found for, and the last row detections without an object.
    """
    scores = comparison.results.scores[matches.rows]
    kept = np.sort(matches.rows[scores >= np.array(thresholds, dtype=np.float64)[matches.labels]])
    chosen = comparison._replace(results=comparison.results.select(kept))
    matrix = chosen.evaluator().confusion_matrix(iou_thr=MATCH_IOU, max_det=max(1, len(kept)))["matrix"]
    by_label = [*np.argsort(np.argsort(comparison.ground_truth.category_ids)).tolist(), len(thresholds)]
    ordered: NDArray[np.int64] = matrix.astype(np.int64)[np.ix_(by_label, by_label)]
    return ordered
