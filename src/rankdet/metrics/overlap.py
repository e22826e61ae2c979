"""Overlap of detections with the objects that they are compared with, pair by pair, in the arithmetic of pycocotools.

Legend: P pairs of a detection and an object, D detections, O objects.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from hotcoco import mask as rle
from numpy.typing import NDArray

from rankdet.coco.segmentations import mask_area

LARGEST_AREA = 1e10
"""Pixels; what is larger, or has a negative area, is neither found nor missed."""
Columns = NDArray[np.float64]
"""(4, n) left, top, width and height of boxes."""


class Overlap(Protocol):
    """What detections share with objects, as boxes or as masks."""

    areas: NDArray[np.float64]
    """(D,) in pixels; up to `LARGEST_AREA` it may be too large."""

    def ious(self, rows: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.float64]:
        """(P,) IoU of the detections in ``rows`` with ``objects``; of a crowd region the part of the detection inside.

        The pairs of a detection are neighbours, and detections have all objects in common, or none.
        """


class BoxOverlap:
    """Overlap of (D, 4) and (O, 4) boxes ``(x, y, width, height)``; ``is_crowd`` (O,) marks crowd regions.

    Examples
    --------
    >>> boxes = np.array([[0.0, 0.0, 4.0, 4.0], [2.0, 0.0, 4.0, 4.0]])
    >>> overlap = BoxOverlap(boxes, boxes, np.array([False, True]))
    >>> overlap.ious(np.array([0, 1, 0]), np.array([0, 0, 1])).round(3)
    array([1.   , 0.333, 0.5  ])
    """

    def __init__(
        self, detections: NDArray[np.float64], objects: NDArray[np.float64], is_crowd: NDArray[np.bool_]
    ) -> None:
        self._detections, self._objects = np.ascontiguousarray(detections.T), np.ascontiguousarray(objects.T)
        self._is_crowd = is_crowd
        self.areas = self._detections[2] * self._detections[3]

    def ious(self, rows: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.float64]:
        """(P,) IoU: see `Overlap.ious`."""
        first, second = self._detections[:, rows], self._objects[:, objects]
        shared = _shared(first, second)
        whole = first[2] * first[3]
        union = np.where(self._is_crowd[objects], whole, whole + second[2] * second[3] - shared)
        return np.divide(shared, union, out=np.zeros(len(union)), where=union > 0)


class MaskOverlap:
    """Overlap of D and O run-length objects.

    Detections that have ``boxes`` (D, 4) are measured by them, others by their ``pixels`` (D,), if these are counted.
    """

    def __init__(
        self,
        detections: list[dict[str, Any]],
        objects: list[dict[str, Any]],
        is_crowd: NDArray[np.bool_],
        boxes: NDArray[np.float64] | None,
        pixels: NDArray[np.int64] | None = None,
    ) -> None:
        self._detections, self._objects, self._is_crowd = detections, objects, is_crowd
        if boxes is not None:
            self.areas = boxes[:, 2] * boxes[:, 3]
        else:
            self.areas = _most_pixels(detections) if pixels is None else pixels.astype(np.float64)

    def ious(self, rows: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.float64]:
        """(P,) IoU: see `Overlap.ious`."""
        if not len(rows):
            return np.zeros(0)
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        numbers = np.diff(starts, append=len(rows))
        first = objects[starts]  # tells which objects a detection has
        order = np.argsort(first, kind="stable")
        detections = [self._detections[row] for row in rows[starts[order]].tolist()]
        at = [0, *(np.flatnonzero(np.diff(first[order])) + 1).tolist(), len(order)]
        parts = []
        for start, end in pairwise(at):
            others = objects[starts[order[start]] :][: numbers[order[start]]]
            masks = [self._objects[place] for place in others.tolist()]
            parts.append(rle.iou(detections[start:end], masks, self._is_crowd[others].tolist()).reshape(-1))
        found = np.empty(len(rows))
        by_group = np.repeat(starts[order] - (np.cumsum(numbers[order]) - numbers[order]), numbers[order])
        found[by_group + np.arange(len(rows))] = np.concatenate(parts)
        return found


def _shared(first: Columns, second: Columns) -> NDArray[np.float64]:
    """(P,) pixels that boxes share."""
    width = np.minimum(first[0] + first[2], second[0] + second[2]) - np.maximum(first[0], second[0])
    height = np.minimum(first[1] + first[3], second[1] + second[3]) - np.maximum(first[1], second[1])
    return np.clip(width, 0, None) * np.clip(height, 0, None)


def _most_pixels(masks: list[dict[str, Any]]) -> NDArray[np.float64]:
    """The pixels of the images of masks, which no mask exceeds; those of the mask in images beyond `LARGEST_AREA`."""
    most = np.array([mask["size"] for mask in masks], dtype=np.float64).reshape(-1, 2).prod(axis=1)
    large = np.flatnonzero(most > LARGEST_AREA).tolist()
    most[large] = [mask_area(masks[row]) for row in large]
    return most
