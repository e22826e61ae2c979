"""oLRP by its definition, one threshold after the other."""

import math

NAN = float("nan")


def lrp_by_definition(detections: list[tuple[float, float]], objects: int) -> tuple[float, float, float, float, float]:
    """(oLRP, Loc, FP, FN, threshold) of (score, IoU or NaN) by trying every threshold, written from the definition."""
    if objects == 0:
        return (NAN,) * 5
    best = (1.0, NAN, NAN, 1.0, NAN)
    for threshold in sorted({score for score, _ in detections}):
        kept = [iou for score, iou in detections if score >= threshold]
        distances = [1 - iou for iou in kept if not math.isnan(iou)]
        tp = len(distances)
        fp, fn = len(kept) - tp, objects - tp
        error = (sum(distances) / (1 - 0.5) + fp + fn) / (tp + fp + fn)
        if tp and error <= best[0] + 1e-13:
            best = (error, sum(distances) / tp, fp / (tp + fp), fn / objects, threshold)
    return best
