"""COCO average precision and recall: matching and accumulation by hotcoco, the means over them here.

Legend: T IoU thresholds, R recall levels, K classes, A area ranges, M caps on the number of detections.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from hotcoco import COCO, COCOeval
from numpy.typing import NDArray

from rankdet.metrics.coco_results import IouType

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
_IOU_50, _IOU_75 = 0, 5  # places in the thresholds .50, .55, …, .95


class AveragePrecision(NamedTuple):
    """COCO's twelve numbers and the AP of each class, as fractions; NaN where nothing is defined.

    summary
        AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl.
    per_class
        (K,) AP by ascending category id.
    """

    summary: dict[str, float]
    per_class: NDArray[np.float64]


def average_precision(
    ground_truth: COCO, detections: COCO, iou_type: IouType = "bbox", max_detections: int = 100
) -> AveragePrecision:
    """Measure COCO AP and AR.

    Parameters
    ----------
    ground_truth, detections
        A data set and detections loaded into it (``ground_truth.load_res``).
    iou_type
        ``"bbox"`` or ``"segm"``.
    max_detections
        The best detections of a class that count in each picture. AR1 and AR10 keep their caps of 1 and 10
        (never more than ``max_detections``); AR100 is the recall at ``max_detections``.

    Notes
    -----
    Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, in the arithmetic of pycocotools, whose −1
    ("no ground truth") is NaN here.
    """
    evaluation = COCOeval(ground_truth, detections, iou_type)
    evaluation.params.max_dets = [min(1, max_detections), min(10, max_detections), max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    results = evaluation.eval
    if results is None:
        raise RuntimeError("the evaluator returned no result")
    precision: NDArray[np.float64] = results["precision"]  # (T, R, K, A, M), −1 where a class has no object
    recall: NDArray[np.float64] = results["recall"]  # (T, K, A, M)
    best = precision[..., -1]
    summary = {
        "AP": _mean(best[..., _ALL]),
        "AP50": _mean(best[_IOU_50, ..., _ALL]),
        "AP75": _mean(best[_IOU_75, ..., _ALL]),
        "APs": _mean(best[..., _SMALL]),
        "APm": _mean(best[..., _MEDIUM]),
        "APl": _mean(best[..., _LARGE]),
        "AR1": _mean(recall[..., _ALL, 0]),
        "AR10": _mean(recall[..., _ALL, 1]),
        "AR100": _mean(recall[..., _ALL, 2]),
        "ARs": _mean(recall[..., _SMALL, 2]),
        "ARm": _mean(recall[..., _MEDIUM, 2]),
        "ARl": _mean(recall[..., _LARGE, 2]),
    }
    per_class = [_mean(best[:, :, k, _ALL]) for k in range(best.shape[2])]
    return AveragePrecision(summary, np.array(per_class, dtype=np.float64))


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the defined values (those above −1); NaN where there are none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
