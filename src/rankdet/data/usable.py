"""The annotations that a detector learns from: which sound records are left out, and why.

Legend: A annotations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import Finding, GroundTruth
from rankdet.coco.blocks import flags
from rankdet.coco.findings import Findings


def left_out(truth: GroundTruth, masks: bool = False) -> dict[str, NDArray[np.bool_]]:
    """What is said of an annotation → (A,) bool: those of which it is true.

    These are the rules of COCO training, and the flag ``ignore``, as mmdetection takes it. Where ``masks`` are learned,
    objects need one with a pixel.
    """

    def look(rows: slice) -> tuple[NDArray[np.bool_], ...]:
        left, top, width, height = truth.boxes[rows].T
        image_height, image_width = truth.sizes[truth.images[rows]].T
        areas = np.where(np.isnan(truth.areas[rows]), width * height, truth.areas[rows])
        is_inside = (np.minimum(left + width, image_width) > np.maximum(left, 0)) & (
            np.minimum(top + height, image_height) > np.maximum(top, 0)
        )
        return ~is_inside, (width < 1) | (height < 1), ~(areas > 0)

    is_outside, is_small, is_empty = flags(len(truth.boxes), 3, look)
    reasons = {
        "flagged as a crowd": truth.is_crowd,
        "flagged `ignore`": truth.is_ignored,
        "outside of the image": is_outside,
        "less than a pixel wide or high": is_small,
        "without a positive area": is_empty,
    }
    return reasons | {"without a mask": ~truth.has_mask | truth.has_empty_mask} if masks else reasons


def is_usable(truth: GroundTruth, min_object: float = 0.0, masks: bool = False) -> NDArray[np.bool_]:
    """(A,) bool: the annotations that are not `left_out`, with a box wider and higher than ``min_object`` pixels."""
    (is_large,) = flags(len(truth.boxes), 1, lambda rows: (truth.boxes[rows, 2:].min(axis=1) > min_object,))
    return is_large & ~np.logical_or.reduce(list(left_out(truth, masks).values()))


def unlearnable(truth: GroundTruth, masks: bool = False) -> list[Finding]:
    """Warnings on annotations that are mistakes: a training does not take them, though an evaluation does."""
    findings = Findings()
    (is_flat,) = flags(len(truth.boxes), 1, lambda rows: ((truth.boxes[rows, 2:] == 0).any(axis=1),))
    for row in np.flatnonzero(is_flat).tolist():
        findings.add(_warning(truth, row, "the box has no area: left out of training", shown_box(truth, row)))
    if masks:
        problem = "the segmentation has no pixel in the image: left out of training"
        for row in np.flatnonzero(truth.has_empty_mask & ~truth.is_crowd & ~is_flat).tolist():
            findings.add(_warning(truth, row, problem))
    return findings.rows()


def _warning(truth: GroundTruth, row: int, problem: str, detail: str = "") -> Finding:
    return Finding("warning", truth.source, truth.name_of(row), problem, detail)


def shown_box(truth: GroundTruth, row: int) -> str:
    """The box of an annotation in messages, as its file has it."""
    return f"box [{', '.join(f'{value:.9g}' for value in truth.boxes[row].tolist())}]"
