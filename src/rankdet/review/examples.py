"""The worst errors as images: false positives of the best scores, and objects that were missed.

Legend: M detections that are true or false positives, O objects.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from rankdet.coco.segmentations import outline_box
from rankdet.data.layouts import Source
from rankdet.look.outlines import outline_path
from rankdet.look.thumbnails import data_url, viewed
from rankdet.metrics import Measurement
from rankdet.metrics.errors import BACKGROUND_IOU
from rankdet.metrics.lrp import MATCH_IOU
from rankdet.metrics.matching import overlap_of
from rankdet.metrics.overlap import BoxOverlap
from rankdet.report import Section, format_value
from rankdet.review.reading import Subject
from rankdet.structures import InputError

MOST_IMAGES = 96
"""Images of all runs together: with them a page stays below 5 MB."""
MOST_EACH, LEAST_EACH = 12, 4
"""Images of one kind and run."""
MOST_OF_ONE = 3
"""Errors that are shown of one image."""
SIDE, QUALITY = 360, 72
"""Longer side of an embedded image in pixels, and its quality as WebP."""
GRID = 0.5
"""Steps of outlines in pixels."""

OF_EXAMPLES = """\
Solid lines are detections, dashed lines objects; the thick one is the error. False positives are those of the best
scores, from the threshold of their class on. Of missed objects come first those that no detection of their class fits
at any score, the largest before the others.
"""


class Shape(NamedTuple):
    """A detection or an object: its box ``(x, y, width, height)`` in pixels, its mask or None, and its kind."""

    box: Sequence[float]
    mask: Any
    kind: str


class Example(NamedTuple):
    """An error: the place of its image in the ground truth, its shape first, what is around it, and what is said."""

    image: int
    shapes: Sequence[Shape]
    name: str
    reason: str


def example_sections(subjects: Sequence[Subject]) -> list[Section]:
    """Images of the worst errors of each run."""
    shown = [subject for subject in subjects if subject.measured is not None and subject.source is not None]
    if not shown:
        return []
    each = max(LEAST_EACH, min(MOST_EACH, MOST_IMAGES // (2 * len(shown))))
    sections = [Section("Worst errors", OF_EXAMPLES)]
    for subject in shown:
        if subject.measured is None or subject.source is None:
            continue
        errors = _Errors(subject.measured)
        false, missed = _few(errors.false_positives(), each), _few(errors.missed(), each)
        for kind, found in (
            ("false positives", map(errors.false_positive, false)),
            ("missed objects", map(errors.missed_object, missed)),
        ):
            figures = [_drawn(one, subject.measured, subject.source) for one in found]
            text = "" if figures else "There are none."
            sections.append(Section(f"{subject.name}: {kind}", text, figures=figures, is_part=True, layout="examples"))
    return sections


def _few(errors: Iterator[tuple[int, int]], most: int) -> Iterator[int]:
    """The first of some errors, each with its image, at most `MOST_OF_ONE` of an image."""
    counts: Counter[int] = Counter()
    for image, error in errors:
        counts[image] += 1
        if counts[image] <= MOST_OF_ONE:
            yield error
            most -= 1
        if not most:
            return


class _Errors:
    """The errors of detections from the threshold of their class on."""

    def __init__(self, measured: Measurement) -> None:
        comparison, matches = measured.comparison, measured.matches
        truth, results = comparison.ground_truth, comparison.results
        self._comparison, self._matches, self._names = comparison, matches, truth.names
        by_id = np.argsort(truth.image_ids)
        places = by_id[np.searchsorted(truth.image_ids, results.image_ids[matches.rows], sorter=by_id)]
        self._images: NDArray[np.int64] = places
        self._overlap = overlap_of(comparison)
        self._object_images = truth.images[comparison.rows]
        self._object_boxes = truth.boxes[comparison.rows]
        self._scores = results.scores[matches.rows]
        thresholds = np.array([numbers["threshold"] for numbers in measured.metrics["per_class"].values()])
        self._thresholds = thresholds
        self._is_kept = self._scores >= thresholds[matches.labels] if len(thresholds) else np.zeros(0, dtype=bool)
        # The score that an object was found with, −inf where it was not.
        self._found_with = np.full(len(comparison.rows), -np.inf)
        is_hit = matches.objects >= 0
        self._found_with[matches.objects[is_hit]] = self._scores[is_hit]

    def false_positives(self) -> Iterator[tuple[int, int]]:
        """The image and the place among the M detections, those of the best scores first."""
        places = np.flatnonzero(np.isnan(self._matches.ious) & self._is_kept)
        return zip(self._images[places].tolist(), places.tolist(), strict=True)

    def false_positive(self, place: int) -> Example:
        """One of them, with the objects of its image."""
        image, label = int(self._images[place]), int(self._matches.labels[place])
        around = np.flatnonzero(self._object_images == image)
        detection = self._detection(place, "main detection")
        reason = self._of_false_positive(place, label, around)
        name = f"{format_value(self._names[label])} {self._scores[place]:.2f}"
        return Example(image, [detection, *(self._object(one, "object") for one in around.tolist())], name, reason)

    def missed(self) -> Iterator[tuple[int, int]]:
        """The image and the place among the O objects, first those that no detection fits, of these the largest."""
        matches = self._matches
        thresholds = self._thresholds[matches.object_labels] if len(self._thresholds) else np.zeros(0)
        is_missed = matches.is_object & ~(self._found_with >= thresholds)
        rows = np.flatnonzero(is_missed)
        order = np.lexsort((-self._comparison.areas[rows], np.isfinite(self._found_with[rows])))
        return zip(self._object_images[rows[order]].tolist(), rows[order].tolist(), strict=True)

    def missed_object(self, row: int) -> Example:
        """One of them, with the detections of its image."""
        image, label = int(self._object_images[row]), int(self._matches.object_labels[row])
        around = np.flatnonzero((self._images == image) & self._is_kept).tolist()
        shapes = [self._detection(place, "detection") for place in around]
        reason = self._of_missed(row, label, np.array(around, dtype=np.int64))
        return Example(image, [self._object(row, "main object"), *shapes], format_value(self._names[label]), reason)

    def _of_false_positive(self, place: int, label: int, around: NDArray[np.int64]) -> str:
        if not len(around):
            return "no object in the image"
        ious = self._overlap.ious(np.full(len(around), self._matches.rows[place]), around)
        is_own = self._matches.object_labels[around] == label
        own = int(np.argmax(np.where(is_own, ious, -1)))
        best = int(np.argmax(ious))
        name = format_value(self._names[int(self._matches.object_labels[around[best]])])
        if is_own[own] and ious[own] >= MATCH_IOU:
            return "second detection of an object"
        if ious[best] >= MATCH_IOU:
            return f"is annotated as {name}"
        if ious[best] >= BACKGROUND_IOU:
            return f"badly localized, IoU {ious[best]:.2f}" + ("" if is_own[best] else f" with {name}")
        return "nothing is annotated there"

    def _of_missed(self, row: int, label: int, around: NDArray[np.int64]) -> str:
        if np.isfinite(self._found_with[row]):
            threshold = self._thresholds[label]
            return f"found with {self._found_with[row]:.2f}, below the threshold {threshold:.2f}"
        if not len(around):
            return "nothing is found in the image"
        ious = self._overlap.ious(self._matches.rows[around], np.full(len(around), row))
        best = int(np.argmax(ious))
        found = int(self._matches.labels[around[best]])
        if found != label and ious[best] >= MATCH_IOU:
            return f"taken for {format_value(self._names[found])}"
        if ious[best] >= MATCH_IOU:
            return "its detection is that of another object"
        is_near = ious[best] >= BACKGROUND_IOU
        return f"the nearest detection has an IoU of {ious[best]:.2f}" if is_near else "nothing is found there"

    def _detection(self, place: int, kind: str) -> Shape:
        results, row = self._comparison.results, int(self._matches.rows[place])
        mask = None if results.masks is None else results.masks[row]
        box = results.boxes[row].tolist() if results.boxes is not None else outline_box(mask) or [0.0] * 4
        return Shape(box, mask, kind)

    def _object(self, row: int, kind: str) -> Shape:
        masks = self._comparison.masks
        return Shape(self._object_boxes[row].tolist(), masks[row] if masks else None, kind)


def _overlaps(box: Sequence[float], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """The IoU of a box with each of several, (n, 4)."""
    overlap = BoxOverlap(np.array([box]), others, np.zeros(len(others), dtype=bool))
    return overlap.ious(np.zeros(len(others), dtype=np.int64), np.arange(len(others)))


def _drawn(example: Example, measured: Measurement, source: Source) -> Markup:
    """A window of the image around the error, with shapes and a caption; without the image where it cannot be read."""
    truth = measured.comparison.ground_truth
    file, box = truth.file_names[example.image].decode(), example.shapes[0].box
    annotated = truth.size(example.image)
    pixels, lost = None, ""
    try:
        pixels = viewed(source.images / file, annotated)
        size = pixels.height, pixels.width
    except InputError:
        size, lost = annotated or (math.ceil(box[1] + box[3]), math.ceil(box[0] + box[2])), " (cannot be read)"
    left, top, width, height = _window(box, size[1], size[0])
    is_seen = _overlaps((left, top, width, height), np.array([shape.box for shape in example.shapes])) > 0
    seen = [shape for shape, is_inside in zip(example.shapes, is_seen.tolist(), strict=True) if is_inside]
    drawn = "".join(map(_lines, reversed(seen)))
    if pixels is not None:
        url = data_url(pixels.crop((left, top, left + width, top + height)), SIDE, QUALITY)
        place = f'x="{left}" y="{top}" width="{width}" height="{height}" preserveAspectRatio="none"'
        drawn = f'<image href="{url}" {place}/>{drawn}'
    label = escape(f"{example.name}, {example.reason}")
    said = f"<b>{escape(example.name)}</b> {escape(example.reason)}<br>{escape(format_value(file))}{lost}"
    return Markup(
        f'<figure class="example"><svg viewBox="{left} {top} {width} {height}" role="img" aria-label="{label}">{drawn}'
        f"</svg><figcaption>{said}</figcaption></figure>"
    )


def _window(box: Sequence[float], width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, width and height of a part of an image around a box: three times its sides, and 48 pixels or more."""
    x, y, w, h = box
    across = min(width, max(48, round(3 * max(w, 4 / 3 * h))))
    down = min(height, max(36, round(0.75 * across), round(1.2 * h)))
    left = min(max(0, round(x + w / 2 - across / 2)), width - across)
    top = min(max(0, round(y + h / 2 - down / 2)), height - down)
    return left, top, across, down


def _lines(shape: Shape) -> str:
    """The outline of a shape, without a mask its box, dark below and light above, to be seen on any image."""
    x, y, width, height = shape.box
    line = f'd="M{x:.1f} {y:.1f}h{width:.1f}v{height:.1f}h{-width:.1f}z"'
    if shape.mask is not None:
        line = f'd="{outline_path(shape.mask, GRID)}" transform="scale({GRID})"'
    under = "main under" if shape.kind.startswith("main") else "under"
    return f'<path class="{under}" {line}/><path class="{shape.kind}" {line}/>'
