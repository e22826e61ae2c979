"""The choice of detections among scored boxes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rankdet.heads import select_detections
from rankdet.ranges import Count, Fraction, checked
from rankdet.structures import Detection


@checked
@dataclass(frozen=True)
class DetectionSettings:
    """Which boxes become detections.

    Parameters
    ----------
    score_threshold
        Pairs of box and class up to this score are dropped.
    nms_iou
        IoU above which the lower-scored of two boxes of a class is dropped.
    per_image
        Most detections of an image: the best of all classes that remain.
    """

    score_threshold: Fraction = 0.05
    nms_iou: Fraction = 0.5
    per_image: Count = 100

    def select(self, boxes: Tensor, scores: Tensor) -> Detection:
        """Return detections among boxes (K, C, 4), one for each class, or (K, 1, 4), with scores (K, C)."""
        return Detection(
            *select_detections(
                boxes.expand(-1, scores.shape[1], -1),
                scores,
                threshold=self.score_threshold,
                iou=self.nms_iou,
                limit=self.per_image,
            )
        )
