"""What is tried, under the names that the table has."""

from __future__ import annotations

from . import annotations, checkpoints, detections, images, importers, layouts, losses, metrics, recipes
from .fuzzing import Prepare

TARGETS: dict[str, Prepare] = {
    "annotations": annotations.prepare,
    "layouts": layouts.prepare,
    "images": images.prepare,
    "detections": detections.prepare,
    "recipes": recipes.prepare,
    "checkpoints": checkpoints.prepare,
    "importers": importers.prepare,
    "losses": losses.prepare,
    "metrics": metrics.prepare,
}
