"""What is odd about the annotations of a file together, though each makes sense alone.

Legend: A annotations. Boxes are ``(x, y, width, height)`` in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.findings import Finding
from rankdet.coco.ground_truth import GroundTruth
from rankdet.coco.records import Annotations

NO_MASKS = "masks are asked for, but no object has a sound one"
MOST_CROWDS = 0.1
"""Part of the annotations; of those of COCO 1 % are crowd regions."""
SAME, OTHER = 0.9, 0.5
"""IoU from which two boxes are the same, and below which they contradict each other."""
TOLERANCE = 4.0
"""Pixels by which a box and a segmentation, or their areas, may differ always: tools round."""


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
    return findings + _contradictions(truth, found, objects)


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
    boxes = truth.boxes[~truth.is_crowd]
    if not len(boxes):
        return False
    corners = boxes[:, :2] + boxes[:, 2:]
    return bool(boxes.min() >= 0 and corners.max() <= 1.001 and (truth.sizes.min(axis=1) > 1).all())


class Corners(NamedTuple):
    """Annotations whose boxes are two corners in place of a corner and a size, as other fields say.

    rows
        (A,) bool; all False unless most of the boxes that can be compared are so.
    comparable
        The number of these.
    """

    rows: NDArray[np.bool_]
    comparable: int


def corner_boxes(truth: GroundTruth, outlines: Sequence[list[float] | None]) -> Corners:
    """Find boxes that are corners; ``outlines`` are ``[x, y, width, height]`` around the segmentations of objects."""
    boxes, areas, objects = truth.boxes, truth.areas, ~truth.is_crowd
    around = _filled(outlines)
    has_outline = objects & ~np.isnan(around[:, 0])
    from_corners = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    has_corners = objects & (from_corners[:, 2:] > 0).all(axis=1) & (boxes[:, :2] > 0).any(axis=1)
    by_outline = has_corners & (_ious(from_corners, around) > SAME) & (_ious(boxes, around) < SAME)
    # Without polygons an area tells: a mask has that of the box of the corners to the pixel by chance alone.
    own, other = boxes[:, 2:].prod(axis=1), from_corners[:, 2:].prod(axis=1)
    by_area = has_corners & ~has_outline & (abs(areas - other) <= 1e-3 * other) & (abs(areas - own) > 0.05 * own)
    rows = by_outline | by_area
    known = has_corners & has_outline  # where there are polygons, areas need not be those of boxes
    tells = known if known.any() else has_corners & ~np.isnan(areas)
    number = int((rows & tells).sum())
    is_certain = 2 * number > tells.sum() and (by_outline.any() or number >= 5)
    return Corners(rows if is_certain else np.zeros_like(rows), int((rows | tells).sum()))


def _filled(outlines: Sequence[list[float] | None]) -> NDArray[np.float64]:
    """(A, 4): the outlines, NaN where there is none."""
    known = [row for row, one in enumerate(outlines) if one is not None]
    filled = np.full((len(outlines), 4), np.nan)
    filled[known] = np.array([outlines[row] for row in known], dtype=np.float64).reshape(-1, 4)
    return filled


def _contradictions(truth: GroundTruth, found: Annotations, objects: NDArray[np.bool_]) -> list[Finding]:
    """Boxes that the polygons or the areas of their objects contradict."""
    boxes, areas, own = truth.boxes, truth.areas, truth.boxes[:, 2:].prod(axis=1)
    corners = corner_boxes(truth, found.outlines)
    if corners.rows.any():
        problem = "boxes look like corners x1, y1, x2, y2 in place of x, y, width, height: polygons or areas say so"
        remedy = "`rankdet doctor FOLDER --fix OUT` writes widths and heights"
        detail = f"{int(corners.rows.sum())} of {corners.comparable}"
        return [Finding("warning", truth.source, "", problem, detail, remedy)]

    outlines = _filled(found.outlines)
    findings = []
    for row in np.flatnonzero(objects & (_ious(boxes, outlines) < OTHER)).tolist():
        if np.abs(_corners(boxes[[row]]) - _corners(outlines[[row]])).max() > TOLERANCE:
            detail = f"box {_shown(boxes[row])}, around the segmentation {_shown(outlines[row])}"
            problem = "the box is another than that around the segmentation"
            findings.append(Finding("warning", truth.source, truth.name_of(row), problem, detail))
    for row in np.flatnonzero(objects & (areas > 1.1 * own + TOLERANCE**2) & (own > 0)).tolist():
        detail = f"{areas[row]:.9g} of {own[row]:.9g} pixels"
        findings.append(Finding("warning", truth.source, truth.name_of(row), "the area is larger than the box", detail))
    return findings


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _ious(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A,) IoU of the boxes of each row; NaN where there is none in ``second``, or both are empty."""
    found, rows = np.full(len(first), np.nan), np.flatnonzero(~np.isnan(second[:, 0]))
    first, second = first[rows], second[rows]
    one, two = _corners(first), _corners(second)
    sides = np.minimum(one[:, 2:], two[:, 2:]) - np.maximum(one[:, :2], two[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    union = first[:, 2:].prod(axis=1) + second[:, 2:].prod(axis=1) - shared
    found[rows] = np.divide(shared, union, out=np.full(len(rows), np.nan), where=union > 0)
    return found


def _shown(box: NDArray[np.float64]) -> str:
    return f"[{', '.join(f'{value:.9g}' for value in box.tolist())}]"
