"""What makes an object or an image worth a look: rules on boxes alone, each with the words that the page has for it.

Legend: N images, A annotations, G objects of an image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import GroundTruth
from rankdet.data import doctor
from rankdet.data.doctor import leaving
from rankdet.data.usable import is_usable


class Kind(NamedTuple):
    """A reason to look at an image.

    name
        The word that the page has for it.
    meaning
        When an object or image is of this kind.
    rank
        ``"broken"`` cannot be used or read, ``"suspicious"`` is probably a mistake, ``"unusual"`` is possibly right.
    """

    name: str
    meaning: str
    rank: Literal["broken", "suspicious", "unusual"]


TINY = 6
"""Pixels; a box of less area than a square of this side is tiny."""
HUGE = 0.9
"""Share of the image from which on a box is huge."""
SAME = 0.9
"""IoU above which two boxes of a class are one object twice."""

UNREADABLE = Kind("unreadable", "The image file is missing or cannot be decoded.", "broken")
ERROR = Kind("error", "A record or the file of the image stops a training.", "broken")
WARNING = Kind("warning", "A record or the file of the image is odd, or left out.", "suspicious")
CORNERS = Kind(
    "corners as size?", "The box leaves the image, and fits if its last two numbers are x2 and y2.", "suspicious"
)
RELATIVE = Kind("relative?", "All boxes of the image lie within 0 … 1, as shares of the image would.", "suspicious")
UNUSED = Kind(
    "not trained on",
    "Less than a pixel wide or high, without area, outside of the image, or flagged to be ignored.",
    "suspicious",
)
LEAVES = Kind("leaves the image", "The box goes beyond the image by more than a pixel.", "suspicious")
TWICE = Kind("twice", f"Another box of the same class covers it with an IoU above {SAME:g}.", "suspicious")
COPIED = Kind("also in another split", "An identical file belongs to another split.", "suspicious")
ALIKE = Kind("nearly in another split", "An image of another split looks almost the same.", "suspicious")
REPEATED = Kind("there twice", "An identical file is in the same split.", "suspicious")
SMALL = Kind("tiny", f"The box covers less than {TINY} × {TINY} pixels.", "unusual")
LARGE = Kind("huge", f"The box covers at least {HUGE:.0%} of the image.", "unusual")
CROWD = Kind("crowd", "A region with many objects: neither trained on nor counted as an error.", "unusual")
EMPTY = Kind("no objects", "The image has no annotation.", "unusual")

KINDS = (
    UNREADABLE,
    ERROR,
    WARNING,
    CORNERS,
    RELATIVE,
    UNUSED,
    LEAVES,
    TWICE,
    COPIED,
    ALIKE,
    REPEATED,
    LARGE,
    SMALL,
    CROWD,
    EMPTY,
)
"""All kinds, the gravest first: the order of the images on the page."""


def objects_of_kinds(truth: GroundTruth) -> dict[Kind, NDArray[np.bool_]]:
    """Kind → (A,) bool: the objects that are of this kind."""
    width, height = truth.boxes[:, 2:].T
    image_height, image_width = truth.sizes[truth.images].T
    is_object = ~truth.is_crowd
    unused = is_object & ~is_usable(truth)
    relative = is_object & _are_relative(truth)
    beyond = leaving(truth)
    corners = is_object & ~unused & beyond[doctor.CORNERS]
    leaves = is_object & ~unused & ~corners & beyond[doctor.LEAVES]
    area = width * height
    return {
        CORNERS: corners,
        RELATIVE: relative,
        UNUSED: unused & ~relative,
        LEAVES: leaves,
        TWICE: is_object & ~unused & _are_twice(truth),
        LARGE: is_object & ~leaves & ~corners & (area >= HUGE * image_width * image_height),
        SMALL: is_object & ~unused & ~relative & (area < TINY**2),
        CROWD: truth.is_crowd,
    }


def _are_relative(truth: GroundTruth) -> NDArray[np.bool_]:
    """(A,) bool: all boxes of the image end within 0 … 1, and not all of them have whole numbers."""
    images, boxes = truth.images, truth.boxes
    is_within = (boxes >= 0).all(axis=1) & (boxes[:, :2] + boxes[:, 2:] <= 1 + 1e-3).all(axis=1)
    is_whole = (boxes == boxes.round()).all(axis=1)
    counts = len(truth.image_ids)
    others = np.bincount(images[~is_within], minlength=counts)
    fractions = np.bincount(images[~is_whole], minlength=counts)
    return np.asarray((others[images] == 0) & (fractions[images] > 0))


def _are_twice(truth: GroundTruth) -> NDArray[np.bool_]:
    """(A,) bool: another object of the same image and class has nearly the same box."""
    result = np.zeros(len(truth.boxes), dtype=bool)
    for rows in _groups(truth):
        boxes = truth.boxes[rows]
        ends, areas = boxes[:, :2] + boxes[:, 2:], boxes[:, 2:].prod(axis=1)
        for place, row in enumerate(rows[:-1].tolist()):
            behind = slice(place + 1, None)
            sides = np.minimum(ends[place], ends[behind]) - np.maximum(boxes[place, :2], boxes[behind, :2])
            inner = sides.clip(min=0).prod(axis=1)
            same = inner > SAME * (areas[place] + areas[behind] - inner)
            if same.any():
                result[row] = True
                result[rows[behind][same]] = True
    return result


def _groups(truth: GroundTruth) -> Iterator[NDArray[np.int64]]:
    """The objects of one image and class, where there are several of them and they are not far too different."""
    rows = np.flatnonzero(~truth.is_crowd & (truth.boxes[:, 2:] > 0).all(axis=1))
    keys = truth.images[rows] * max(1, len(truth.categories)) + truth.labels[rows]
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[order], prepend=-1))
    yield from (group for group in np.split(rows[order], starts[1:]) if len(group) > 1)
