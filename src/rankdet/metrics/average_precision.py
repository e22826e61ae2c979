"""Average precision and recall of COCO and LVIS: matching and accumulation by hotcoco, the means over them here.

Legend: T IoU thresholds, R recall levels, K classes, A area ranges, M caps on the number of detections.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.lvis import FREQUENCIES
from rankdet.metrics.evaluator import Comparison

_ALL, _SMALL, _MEDIUM, _LARGE = range(4)
IOU_50, IOU_75 = 0, 5  # places in the thresholds .50, .55, …, .95


class AveragePrecision(NamedTuple):
    """The numbers of COCO or LVIS and the AP of each class, as fractions; NaN where nothing is defined.

    summary
        AP, AP50, AP75, APs, APm, APl; of LVIS also APr, APc, APf, means over the rare, the common and the frequent
        classes; then AR1, AR10, AR100, of LVIS only AR300; ARs, ARm, ARl.
    per_class
        (K,) AP by label.
    curves
        (T, R, K) precision at the recall levels 0, 0.01, …, 1, by label: the best at that recall or a higher one. NaN
        for a class without objects.
    """

    summary: dict[str, float]
    per_class: NDArray[np.float64]
    curves: NDArray[np.float64]


def average_precision(comparison: Comparison) -> AveragePrecision:
    """Measure AP and AR.

    AR1 and AR10 keep their caps of 1 and 10 detections (never more than ``max_detections``); AR100 and AR300 are the
    recall at ``max_detections``.

    Notes
    -----
    Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014, in the arithmetic of pycocotools; Gupta, Dollár,
    Girshick, "LVIS", CVPR 2019, in that of lvis-api. Their −1 ("no ground truth") is NaN here.
    """
    cap, federation = comparison.max_detections, comparison.federation
    caps = {"AR1": min(1, cap), "AR10": min(10, cap), "AR100": cap} if federation is None else {"AR300": cap}
    evaluation = comparison.evaluator()
    evaluation.params.max_dets = list(caps.values())
    evaluation.evaluate()
    with warnings.catch_warnings():
        # hotcoco 1.0 takes a set without objects and detections for one that was not evaluated.
        warnings.filterwarnings("ignore", "hotcoco: accumulate")
        evaluation.accumulate()
    results = evaluation.eval
    if results is None:
        raise RuntimeError("the evaluator returned no result")
    # The evaluator has classes by ascending id, which need not be the order of the labels.
    by_label = np.argsort(np.argsort(comparison.ground_truth.category_ids))
    # (T, R, K, A, M) and (T, K, A, M), −1 for a class without objects.
    best: NDArray[np.float64] = results["precision"][..., -1][:, :, by_label]
    recall: NDArray[np.float64] = results["recall"][:, by_label]
    summary = {
        "AP": _mean(best[..., _ALL]),
        "AP50": _mean(best[IOU_50, ..., _ALL]),
        "AP75": _mean(best[IOU_75, ..., _ALL]),
        "APs": _mean(best[..., _SMALL]),
        "APm": _mean(best[..., _MEDIUM]),
        "APl": _mean(best[..., _LARGE]),
    }
    if federation is not None:
        summary |= {f"AP{one}": _mean(best[:, :, federation.frequencies == one, _ALL]) for one in FREQUENCIES}
    summary |= {name: _mean(recall[..., _ALL, place]) for place, name in enumerate(caps)}
    summary |= {
        "ARs": _mean(recall[..., _SMALL, -1]),
        "ARm": _mean(recall[..., _MEDIUM, -1]),
        "ARl": _mean(recall[..., _LARGE, -1]),
    }
    per_class = [_mean(best[:, :, k, _ALL]) for k in range(best.shape[2])]
    curves = np.where(best[..., _ALL] > -1, best[..., _ALL], np.nan)
    return AveragePrecision(summary, np.array(per_class, dtype=np.float64), curves)


def _mean(values: NDArray[np.float64]) -> float:
    """Mean of the defined values (those above −1); NaN where there are none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")
