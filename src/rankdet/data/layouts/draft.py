"""A COCO document in the making: what readers of other formats share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rankdet.coco import Finding
from rankdet.coco.segmentations import mask_area

Points = Sequence[tuple[float, float]]
ELLIPSE_POINTS = 72
"""Corners of the polygon that stands for an ellipse: it covers 0.1 % less than the ellipse does."""


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

        The area is that of the mask where it is not given, or that of the box.
        """
        if area is None and isinstance(segmentation, Mapping):
            area = mask_area(segmentation)
        elif area is None:
            area = sum(map(polygon_area, segmentation)) if segmentation else box[2] * box[3]
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

    def document(self) -> dict[str, Any]:
        """The document as it stands."""
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(self.names)]
        return {"images": self.images, "annotations": self.annotations, "categories": categories}


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


def flat(points: Points) -> list[float]:
    """Points as COCO writes a polygon: x1, y1, x2, y2, …"""
    return [value for point in points for value in point]


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
