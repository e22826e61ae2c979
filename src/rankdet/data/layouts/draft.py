"""A COCO document in the making: what readers of other formats share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import Finding, encode_bitmap
from rankdet.coco.segmentations import mask_area, meant_segmentation, merged, segmentation_problem

Points = Sequence[tuple[float, float]]
ELLIPSE_POINTS = 72
"""Corners of the polygon that stands for an ellipse: it covers 0.1 % less than the ellipse does."""


class Part(NamedTuple):
    """A shape that is an object, or a part of one.

    label, box
        The class, and the box [x, y, width, height].
    outline
        A polygon x1, y1, x2, y2, … or a run-length object; None where the shape is a box.
    group
        What parts of one object share; None where the shape is an object.
    record
        What findings call it.
    """

    label: int
    box: Sequence[float]
    outline: Any = None
    group: Hashable = None
    is_crowd: bool = False
    record: str = ""


@dataclass
class Draft:
    """A COCO document in the making.

    file
        What findings name: one file or folder for all records, so that they can be grouped.
    names
        The classes; class i gets the id i + 1.
    """

    file: str
    names: Sequence[str]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @cached_property
    def labels(self) -> dict[str, int]:
        """Name → class."""
        return {name: label for label, name in enumerate(self.names)}

    def report(
        self,
        severity: Literal["error", "warning", "note"],
        record: str,
        problem: str,
        detail: str = "",
        remedy: str = "",
    ) -> None:
        """Add a finding."""
        self.findings.append(Finding(severity, self.file, record, problem, detail, remedy))

    def add_image(self, file_name: str, size: tuple[int, int] | None = None) -> int:
        """Add an image, of (height, width) where that is known, and return its id."""
        sides = {} if size is None else {"width": size[1], "height": size[0]}
        self.images.append({"id": len(self.images) + 1, "file_name": file_name} | sides)
        return len(self.images)

    def add(
        self,
        image_id: int,
        label: int,
        box: Sequence[float],
        segmentation: Any = None,
        *,
        area: float | None = None,
        is_crowd: bool = False,
    ) -> None:
        """Add an object: class ``label``, box [x, y, width, height], and polygons or run lengths where it has a mask.

        The area is that of the mask where it is not given, or that of the box. A mask that makes no sense has none, and
        is for whoever reads the document.
        """
        if area is None:
            area = _area(segmentation) if segmentation else box[2] * box[3]
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": list(box),
                "area": area,
                "iscrowd": int(is_crowd),
                "segmentation": [] if segmentation is None else segmentation,
            }
        )

    def add_parts(self, image_id: int, size: tuple[int, int], parts: Iterable[Part]) -> None:
        """Add the objects of an image of (height, width).

        Outlines of one class in one group are parts of one object. A box in their group is theirs if it is the only
        one; datumaro writes both of each object.
        """
        groups: dict[Hashable, list[Part]] = {}
        for place, part in enumerate(parts):
            key = place if part.group is None else (part.label, part.is_crowd, part.group)
            groups.setdefault(key, []).append(part)
        for group in groups.values():
            outlined = [part for part in group if part.outline is not None]
            boxes = [part for part in group if part.outline is None]
            objects = [group] if outlined and len(boxes) <= 1 else [outlined, *([box] for box in boxes)]
            for one in filter(None, objects):
                self._add_object(image_id, size, one)

    def _add_object(self, image_id: int, size: tuple[int, int], parts: Sequence[Part]) -> None:
        """Add an object, and note where it has several parts."""
        for part in parts[1:]:
            problem = "is in a group with another shape of its class: read as parts of one object"
            self.report("note", part.record, problem)
        outlines = [part.outline for part in parts if part.outline is not None]
        segmentation: Any = outlines or None
        if any(isinstance(outline, Mapping) for outline in outlines):
            segmentation = merged(outlines, size)
        corners = [((x, y), (x + w, y + h)) for x, y, w, h in (part.box for part in parts)]
        box = box_around([corner for pair in corners for corner in pair])
        self.add(image_id, parts[0].label, box, segmentation, is_crowd=parts[0].is_crowd)

    def document(self) -> dict[str, Any]:
        """The document as it stands."""
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.names)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


def stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) where both are sound sides of an image, otherwise None."""
    return (height, width) if all(type(side) is int and side > 0 for side in (height, width)) else None


def box_around(points: Points) -> list[float]:
    """The box [x, y, width, height] around points.

    Examples
    --------
    >>> box_around([(4, 1), (2, 5), (3, 3)])
    [2, 1, 2, 4]
    """
    left, top = (min(values) for values in zip(*points, strict=True))
    right, bottom = (max(values) for values in zip(*points, strict=True))
    return [left, top, right - left, bottom - top]


def placed_mask(pixels: NDArray[np.bool_], left: int, top: int, size: tuple[int, int]) -> tuple[list[float], Any]:
    """The box and the run lengths of a mask that is given in a rectangle of an image of (height, width).

    Raises ValueError when the rectangle leaves the image, or no pixel is set.
    """
    height, width = pixels.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError("the mask leaves the image")
    if not pixels.any():
        raise ValueError("the mask has no pixel")
    bitmap = np.zeros(size, dtype=bool)
    bitmap[top : top + height, left : left + width] = pixels
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    box = [left + columns[0], top + rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
    return [float(value) for value in box], encode_bitmap(bitmap)


def _area(segmentation: Any) -> float | None:
    """The area of a mask; None where it makes no sense."""
    meant, _ = meant_segmentation(segmentation)
    if meant is None or segmentation_problem(meant, None, needs_size=False) is not None:
        return None
    return mask_area(meant) if isinstance(meant, Mapping) else sum(map(polygon_area, meant))


def polygon_area(polygon: Sequence[float]) -> float:
    """The area that a polygon x1, y1, x2, y2, … encloses.

    Examples
    --------
    >>> polygon_area([0, 0, 4, 0, 4, 3])
    6.0
    """
    xs, ys = polygon[::2], polygon[1::2]
    crossed = (xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
    return abs(sum(crossed)) / 2


def rotated(points: Points, center: tuple[float, float], degrees: float) -> list[tuple[float, float]]:
    """Points turned clockwise, as images show it, around a center.

    Examples
    --------
    >>> [(round(x), round(y)) for x, y in rotated([(2, 0)], (0, 0), 90)]
    [(0, 2)]
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    offsets = [(x - center[0], y - center[1]) for x, y in points]
    return [(center[0] + x * cos - y * sin, center[1] + x * sin + y * cos) for x, y in offsets]


def ellipse(center: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> list[tuple[float, float]]:
    """The corners of a polygon that stands for an ellipse, turned clockwise around its center."""
    angles = [2 * math.pi * step / ELLIPSE_POINTS for step in range(ELLIPSE_POINTS)]
    corners = [(center[0] + radii[0] * math.cos(angle), center[1] + radii[1] * math.sin(angle)) for angle in angles]
    return rotated(corners, center, degrees)
