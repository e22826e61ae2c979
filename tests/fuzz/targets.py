"""What is tried, under the names that the table has."""

from __future__ import annotations

from . import annotations, detections, layouts, losses, metrics, recipes
from .fuzzing import Prepare

TARGETS: dict[str, Prepare] = {
    "annotations": annotations.prepare,
    "detections": detections.prepare,
    "recipes": recipes.prepare,
    "layouts": layouts.prepare,
    "losses": losses.prepare,
    "metrics": metrics.prepare,
}
