"""What is tried, under the names that the table has."""

from __future__ import annotations

from . import annotations, detections, losses, metrics
from .fuzzing import Prepare

TARGETS: dict[str, Prepare] = {
    "annotations": annotations.prepare,
    "detections": detections.prepare,
    "losses": losses.prepare,
    "metrics": metrics.prepare,
}
