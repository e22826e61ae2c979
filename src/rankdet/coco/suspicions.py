"""What is odd about the annotations of a file together, though each makes sense alone.

Legend: A annotations. Boxes are ``(x, y, width, height)`` in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.blocks import blocks, flags
from rankdet.coco.findings import Finding, Findings
from rankdet.coco.ground_truth import GroundTruth
from rankdet.coco.records import Annotations, Outlines

NO_MASKS = "masks are asked for, but no object has a sound one"
MOST_CROWDS = 0.1
"""Part of the annotations; of those of COCO 1 % are crowd regions."""
SAME, OTHER = 0.9, 0.5
"""IoU from which two boxes are the same, and below which they contradict each other."""
TOLERANCE = 4.0
"""Pixels by which a box and a segmentation, or their areas, may differ always: tools round."""
LEAST_PART = 0.01
"""Part of its box that an object covers at least; of a mask a pixel wide it is one over the side of the box."""


def suspicions(truth: GroundTruth, found: Annotations, files: bool) -> list[Finding]:
    """Findings on crowds, ignored objects, and boxes that other fields contradict.

    ``found`` has what was read of the annotations of ``truth``. With ``files``, where objects are to be learned, boxes
    that are relative to the size of the image are an error.
    """
    findings = _masks(truth) + _crowds(truth, found.num_runs) + _ignored(truth)
    objects = ~truth.is_crowd
    if not objects.any():
        return findings
    if are_relative(truth):
        problem = "boxes look relative to the size of the image: all lie within 0 and 1"
        remedy = "`rankdet doctor FOLDER --fix OUT` multiplies them by width and height of the image"
        return [*findings, Finding("error" if files else "warning", truth.source, "", problem, "", remedy)]
    return findings + _contradictions(truth, found.outlines)


def _masks(truth: GroundTruth) -> list[Finding]:
    objects = ~truth.is_crowd
    if truth.segmentations is None or not objects.any() or (truth.has_mask & objects).any():
        return []
    remedy = "take a detector of boxes"
    return [Finding("error", truth.source, "", NO_MASKS, "", remedy)]


def _crowds(truth: GroundTruth, num_runs: int) -> list[Finding]:
    """Masks of ordinary objects that a tool has flagged as crowds, as CVAT does with its brush."""
    crowds, total = int(truth.is_crowd.sum()), len(truth.is_crowd)
    if not num_runs or crowds < MOST_CROWDS * total:
        return []
    problem = "many annotations are crowd regions, which are not learned from, and some tools flag all masks so"
    remedy = "data.crowds_are_objects=true takes them as objects"
    return [Finding("warning", truth.source, "", problem, f"{crowds} of {total}", remedy)]


def _ignored(truth: GroundTruth) -> list[Finding]:
    number = int(truth.is_ignored.sum())
    if not number:
        return []
    measured = "measured as objects, as by pycocotools" if truth.federation is None else "not measured, as by lvis-api"
    problem = f"annotations are flagged `ignore`: not learned from, as by mmdetection, and {measured}"
    return [Finding("warning", truth.source, "", problem, f"{number} of {len(truth.is_ignored)}")]


def are_relative(truth: GroundTruth) -> bool:
    """Whether all objects lie within the first pixel, in images that have more."""
    for rows in blocks(len(truth.boxes)):
        boxes = truth.boxes[rows][~truth.is_crowd[rows]]
        if not ((boxes >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 1.001).all()):
            return False
    return not truth.is_crowd.all() and bool((truth.sizes.min(axis=1) > 1).all())


class Corners(NamedTuple):
    """Annotations whose boxes are two corners in place of a corner and a size, as other fields say.

    rows
        (A,) bool; all False unless most of the boxes that can be compared are so.
    comparable
        The number of these.
    """

    rows: NDArray[np.bool_]
    comparable: int


def corner_boxes(truth: GroundTruth, outlines: Outlines) -> Corners:
    """Find boxes that are corners; ``outlines`` are those of objects."""
    has_outline, by_outline = np.zeros((2, len(truth.boxes)), dtype=bool)
    has_outline[outlines.rows] = True

    def compare(rows: slice) -> tuple[NDArray[np.bool_], ...]:
        boxes, areas = truth.boxes[rows], truth.areas[rows]
        sides = boxes[:, 2:] - boxes[:, :2]
        has_corners = ~truth.is_crowd[rows] & (sides > 0).all(axis=1) & (boxes[:, :2] > 0).any(axis=1)
        # Without polygons an area tells: a mask has that of the box of the corners to the pixel by chance alone.
        own, other = boxes[:, 2:].prod(axis=1), sides.prod(axis=1)
        is_other = (abs(areas - other) <= 1e-3 * other) & (abs(areas - own) > 0.05 * own)
        return has_corners, has_corners & ~has_outline[rows] & is_other, has_corners & ~np.isnan(areas)

    has_corners, by_area, has_area = flags(len(truth.boxes), 3, compare)
    for part in blocks(len(outlines.rows)):
        rows, around = outlines.rows[part], outlines.boxes[part]
        boxes = truth.boxes[rows]
        from_corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        by_outline[rows] = has_corners[rows] & (_ious(from_corners, around) > SAME) & (_ious(boxes, around) < SAME)
    is_odd = by_outline | by_area
    known = has_corners & has_outline  # where there are polygons, areas need not be those of boxes
    tells = known if known.any() else has_area
    number = int((is_odd & tells).sum())
    is_certain = 2 * number > tells.sum() and (by_outline.any() or number >= 5)
    return Corners(is_odd if is_certain else np.zeros_like(is_odd), int((is_odd | tells).sum()))


def _contradictions(truth: GroundTruth, outlines: Outlines) -> list[Finding]:
    """Boxes that the polygons or the areas of their objects contradict."""
    corners = corner_boxes(truth, outlines)
    if corners.rows.any():
        problem = "boxes look like corners x1, y1, x2, y2 in place of x, y, width, height: polygons or areas say so"
        remedy = "`rankdet doctor FOLDER --fix OUT` writes widths and heights"
        detail = f"{int(corners.rows.sum())} of {corners.comparable}"
        return [Finding("warning", truth.source, "", problem, detail, remedy)]

    findings = Findings()
    for part in blocks(len(outlines.rows)):
        rows, around = outlines.rows[part], outlines.boxes[part]
        boxes = truth.boxes[rows]
        is_far = np.abs(_corners(boxes) - _corners(around)).max(axis=1) > TOLERANCE
        for place in np.flatnonzero(~truth.is_crowd[rows] & (_ious(boxes, around) < OTHER) & is_far).tolist():
            detail = f"box {_shown(boxes[place])}, around the segmentation {_shown(around[place])}"
            problem = "the box is another than that around the segmentation"
            findings.add(Finding("warning", truth.source, truth.name_of(int(rows[place])), problem, detail))

    def compare(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        own, areas = truth.boxes[rows, 2:].prod(axis=1), truth.areas[rows]
        is_object = ~truth.is_crowd[rows] & (own > 0)
        is_small = (areas > 0) & (areas < LEAST_PART * own)  # without any, an object is left out
        return is_object & (areas > 1.1 * own + TOLERANCE**2), is_object & is_small

    problems = "the area is larger than the box", "the area is less than a hundredth of the box"
    for problem, are_odd in zip(problems, flags(len(truth.boxes), 2, compare), strict=True):
        for row in np.flatnonzero(are_odd).tolist():
            detail = f"{truth.areas[row]:.9g} of {truth.boxes[row, 2:].prod():.9g} pixels"
            findings.add(Finding("warning", truth.source, truth.name_of(row), problem, detail))
    return findings.rows()


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _ious(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K,) IoU of the boxes of each row; NaN where both are empty."""
    one, two = _corners(first), _corners(second)
    sides = np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    union = first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - shared
    return np.divide(shared, union, out=np.full(len(union), np.nan), where=union > 0)


def _shown(box: NDArray[np.float64]) -> str:
    return f"[{', '.join(f'{value:.9g}' for value in box.tolist())}]"
