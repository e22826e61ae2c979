"""From scores to detections, in every detector of boxes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import (
    PositiveInt,
)

from rankdet.recipes.schema.config import Config
from rankdet.recipes.schema.optimization import Fraction

if TYPE_CHECKING:
    from rankdet.detectors import DetectionSettings


class Testing(Config):
    """From scores to detections."""

    score_threshold: Fraction = 0.05
    """Pairs of box and class up to this score are dropped."""
    nms_iou: Fraction = 0.5
    """IoU above which the lower-scored of two boxes of a class goes."""
    per_image: PositiveInt = 100
    """Detections kept per image."""

    def build(self) -> DetectionSettings:
        """The settings as the detector takes them."""
        from rankdet.detectors import DetectionSettings

        return DetectionSettings(self.score_threshold, self.nms_iou, self.per_image)
