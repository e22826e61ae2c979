"""The annotations that a detector learns from: which sound records are left out, and why.

Legend: A annotations.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import Finding, GroundTruth


def left_out(truth: GroundTruth) -> dict[str, NDArray[np.bool_]]:
    """Reason → (A,) bool: the annotations that it concerns. These are the rules of COCO training."""
    left, top, width, height = truth.boxes.T
    image_height, image_width = truth.sizes[truth.images].T
    areas = np.where(np.isnan(truth.areas), width * height, truth.areas)
    is_inside = (np.minimum(left + width, image_width) > np.maximum(left, 0)) & (
        np.minimum(top + height, image_height) > np.maximum(top, 0)
    )
    return {
        "is a crowd": truth.is_crowd,
        "lies outside of the image": ~is_inside,
        "is less than a pixel wide or high": (width < 1) | (height < 1),
        "has an area that is not positive": ~(areas > 0),
    }


def is_usable(truth: GroundTruth, min_object: float = 0.0) -> NDArray[np.bool_]:
    """(A,) bool: the annotations that are not `left_out`, with a box wider and higher than ``min_object`` pixels."""
    is_out = np.stack(list(left_out(truth).values())).any(axis=0)
    return ~is_out & (truth.boxes[:, 2:].min(axis=1) > min_object)


def unlearnable(truth: GroundTruth, masks: bool = False, drop_degenerate: bool = False) -> list[Finding]:
    """Annotations that a training does not take, though an evaluation does.

    Where masks are learned, those of objects must have a pixel. A box of zero width or height is an error, or, with
    ``drop_degenerate``, left out with a warning.
    """
    findings = []
    is_flat = (truth.boxes[:, 2:] == 0).any(axis=1)
    for row in np.flatnonzero(is_flat).tolist():
        severity: Literal["error", "warning"] = "warning" if drop_degenerate else "error"
        findings.append(Finding(severity, truth.source, truth.name_of(row), f"{shown_box(truth, row)} has no area"))
    if masks:
        for row in np.flatnonzero(truth.has_empty_mask & ~truth.is_crowd & ~is_flat).tolist():
            findings.append(Finding("error", truth.source, truth.name_of(row), "the RLE of the segmentation is empty"))
    return findings


def shown_box(truth: GroundTruth, row: int) -> str:
    """The box of an annotation in messages, as its file has it."""
    return f"box [{', '.join(f'{value:.9g}' for value in truth.boxes[row].tolist())}]"
