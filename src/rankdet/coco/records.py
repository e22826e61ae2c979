"""The records of an annotation file, as they are meant: each is read, or left out with a word on it.

What other tools write in another form, such as ids as texts or a polygon as a flat list, is read with a note. A record
that makes no sense is left out with a warning, or with an error where no record of its section is left.

Legend: N images, A annotations, C categories.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import columns
from rankdet.coco.columns import NotPlain
from rankdet.coco.findings import (
    LARGEST_ID,
    LARGEST_SIDE,
    NAMES_FOLDER,
    Problem,
    are_numbers,
    are_within,
    box_problem,
    is_encodable,
    shown,
)
from rankdet.coco.lvis import address_problem, image_file
from rankdet.coco.sections import Section, key_problem
from rankdet.coco.segmentations import NUMBERS, is_empty, meant_segmentation, outline_box, plain, segmentation_problem

LONGEST_NAME = 255
"""Bytes of a file name without its folders, in the usual file systems."""
LARGEST_AREA = LARGEST_SIDE**2
"""Pixels."""
UNKNOWN = float("nan")
"""An area that the file does not name."""
NUM_OUTLINES = 1000
"""Annotations, spread over the file, whose polygons are compared with their boxes where masks are not asked for."""
WITHOUT_MASK = "left out where masks are learned or compared"


@dataclass(frozen=True)
class Image:
    """A record of an image: its file, or its address; its size, 0 where it is not known; the record."""

    file_name: str
    height: int
    width: int
    row: dict[str, Any]


class Annotations(NamedTuple):
    """The sound annotations, column by column: see `rankdet.coco.GroundTruth`.

    places
        (A,) places in the section.
    segmentations
        A sound segmentations; None where there is none, or it was not asked for.
    outlines
        ``(x, y, width, height)`` around the polygons of an annotation; None where it was not looked at, or has none.
    num_runs
        Crowds that are run lengths.
    num_left_out
        Records that make no sense.
    """

    ids: NDArray[np.int64]
    places: NDArray[np.int64]
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    is_ignored: NDArray[np.bool_]
    has_new_id: NDArray[np.bool_]
    segmentations: list[Any]
    has_empty_mask: NDArray[np.bool_]
    outlines: list[list[float] | None]
    num_runs: int = 0
    num_left_out: int = 0


@dataclass
class _Found:
    """The sound annotations so far: see `Annotations`."""

    ids: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    boxes: list[Any] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    is_crowd: list[bool] = field(default_factory=list)
    is_ignored: list[bool] = field(default_factory=list)
    has_new_id: list[bool] = field(default_factory=list)
    segmentations: list[Any] = field(default_factory=list)
    has_empty_mask: list[bool] = field(default_factory=list)
    outlines: list[list[float] | None] = field(default_factory=list)
    num_runs: int = 0

    def columns(self, num_left_out: int) -> Annotations:
        """All of them in arrays."""
        return Annotations(
            ids=np.array(self.ids, dtype=np.int64),
            places=np.array(self.places, dtype=np.int64),
            images=np.array(self.images, dtype=np.int64),
            labels=np.array(self.labels, dtype=np.int64),
            boxes=np.array(self.boxes, dtype=np.float64).reshape(-1, 4),
            areas=np.array(self.areas, dtype=np.float64),
            is_crowd=np.array(self.is_crowd, dtype=bool),
            is_ignored=np.array(self.is_ignored, dtype=bool),
            has_new_id=np.array(self.has_new_id, dtype=bool),
            segmentations=self.segmentations,
            has_empty_mask=np.array(self.has_empty_mask, dtype=bool),
            outlines=self.outlines,
            num_runs=self.num_runs,
            num_left_out=num_left_out,
        )


def read_categories(section: Section) -> dict[int, dict[str, Any]]:
    """The sound categories by id, with names that are texts."""
    found: dict[int, dict[str, Any]] = {}
    rows: dict[int, Any] = {}
    for row in section:
        id_ = section.id(rows)
        if id_ is None:
            continue
        rows[id_] = row
        found[id_] = row | {"name": _name(section, row, id_)}
    return found


def _name(section: Section, row: Mapping[str, Any], id_: int) -> str:
    name = row.get("name")
    if isinstance(name, str) and name.strip() and is_encodable(name):
        return name
    if are_numbers([name]):
        section.say("note", "name is a number: read as a text", shown(name))
        return str(name)
    section.say("note", "has no name that is a text: it is called by its id", shown(name))
    return str(id_)


def read_images(section: Section, files: bool, by_address: bool) -> dict[int, Image]:
    """The sound images by id.

    With ``files`` each needs the name of a file and a size. With ``by_address`` the end of its ``coco_url`` is the name
    of its file.
    """
    found: dict[int, Image] = {}
    rows: dict[int, Any] = {}
    for row in section:
        id_ = section.id(rows)
        if id_ is None:
            continue
        problem = address_problem(row) if by_address else None
        address = row.get("coco_url")
        name = image_file(address) if by_address and isinstance(address, str) and address else row.get("file_name")
        if files:
            problem = problem or _file_name_problem(row, name)
        elif not isinstance(name, str) or not is_encodable(name):
            name = address if isinstance(address, str) and is_encodable(address) else ""
        height, width = (_side(section, row, side) for side in ("height", "width"))
        if files and problem is None:
            for side, value in (("height", height), ("width", width)):
                if not value:
                    problem = problem or key_problem(row, side, f"is not a positive integer up to {LARGEST_SIDE}")
        if problem is not None:
            section.leave_out(problem)
            continue
        rows[id_] = row
        found[id_] = Image(str(name), height, width, row)
    return found


def _side(section: Section, row: Mapping[str, Any], key: str) -> int:
    """A side of an image in pixels, 0 where it is not known."""
    value = row.get(key)
    side = value if type(value) is int else section.whole(key)
    return side if side is not None and 1 <= side <= LARGEST_SIDE else 0


def _file_name_problem(row: Mapping[str, Any], value: Any) -> Problem | None:
    if not isinstance(value, str) or not value:
        return key_problem(row, "file_name", "is not a name")
    if not is_encodable(value) or "\0" in value:
        return Problem("file_name cannot be the name of a file", shown(value))
    parts: tuple[str, ...] = (value,)
    if any(one in value for one in ("/", "\\", "..")):
        name = PurePosixPath(value.replace("\\", "/"))
        parts = name.parts
        if name.is_absolute() or ".." in parts:
            return Problem("file_name leaves the folder of images", shown(value), NAMES_FOLDER)
    if any(len(part.encode()) > LONGEST_NAME for part in parts):
        return Problem(f"file_name is longer than {LONGEST_NAME} bytes", shown(value))
    return None


def read_annotations(
    section: Section,
    images: Mapping[int, Image],
    labels: Mapping[Any, int],
    masks: bool,
    left_out: Container[Any],
    crowds_are_objects: bool,
) -> Annotations:
    """The sound annotations.

    ``labels`` has those of the category ids, ``left_out`` the ids of images that were left out. With ``masks``
    segmentations are read; without, only where a box is missing.
    """
    places: dict[Any, int] = {id_: place for place, id_ in enumerate(images)}
    sizes = [(image.height, image.width) if image.height and image.width else None for image in images.values()]
    try:
        return _plain(section, places, labels, sizes, masks, crowds_are_objects)
    except NotPlain:  # then each record is looked at
        pass
    found = _Found()
    taken: set[int] = set()
    step = _step(section)
    for row in section:
        image_id, category_id = row.get("image_id"), row.get("category_id")
        if type(image_id) is not int:
            image_id = section.whole("image_id")
        if image_id not in places:
            if image_id in left_out:
                section.follow()
            else:
                section.leave_out(key_problem(row, "image_id", "is no image of the file"))
            continue
        if type(category_id) is not int:
            category_id = section.whole("category_id")
        if category_id not in labels:
            section.leave_out(key_problem(row, "category_id", "is no category of the file"))
            continue
        place = places[image_id]
        crowd, ignored = row.get("iscrowd", 0), row.get("ignore", 0)
        is_crowd = crowd == 1 if type(crowd) is int and 0 <= crowd <= 1 else section.flag("iscrowd")
        if is_crowd is None:
            continue
        is_ignored = ignored == 1 if type(ignored) is int and 0 <= ignored <= 1 else section.flag("ignore")
        if is_ignored is None:
            continue
        if is_crowd and crowds_are_objects:
            section.say("note", "is a crowd region: taken as an object, as data.crowds_are_objects says")
            is_crowd = False
        given, box = row.get("segmentation"), row.get("bbox")
        size = sizes[place]
        segmentation, outline = None, None
        lacks_box = box is None or (isinstance(box, list) and not box)
        if masks or lacks_box:
            segmentation = _segmentation(section, given, size, is_crowd, masks)
            outline = None if segmentation is None else outline_box(segmentation, lacks_box)
        elif section.place % step == 0:
            outline = _outline(given)
        if lacks_box:
            box = outline
            if box is None:
                section.leave_out(Problem("has neither a box nor a segmentation that it could be taken from"))
                continue
            section.say("note", "has no bbox: that of its segmentation is taken")
        problem = box_problem(box, LARGEST_SIDE)
        if problem is not None:
            section.leave_out(problem)
            continue
        own = row.get("id")
        id_: int = own if type(own) is int and 0 <= own <= LARGEST_ID and own not in taken else _own_id(section, taken)
        taken.add(id_)
        found.ids.append(id_)
        found.has_new_id.append(id_ < 0)
        found.places.append(section.place)
        found.images.append(place)
        found.labels.append(labels[category_id])
        found.boxes.append(box)
        found.areas.append(_area(section, row.get("area")))
        found.is_crowd.append(is_crowd)
        found.is_ignored.append(is_ignored)
        found.num_runs += is_crowd and _is_runs(given)
        found.segmentations.append(segmentation if masks else None)
        found.has_empty_mask.append(segmentation is not None and masks and is_empty(segmentation, size, outline))
        found.outlines.append(outline)
    next_id = max(taken, default=0) + 1
    if next_id + len(found.ids) > LARGEST_ID:
        next_id = 1
    for place, is_new in enumerate(found.has_new_id):
        if is_new:
            while next_id in taken:
                next_id += 1
            found.ids[place] = next_id
            next_id += 1
    return found.columns(len(section.rows) - len(found.ids))


def _plain(
    section: Section,
    places: Mapping[Any, int],
    labels: Mapping[Any, int],
    sizes: Sequence[tuple[int, int] | None],
    masks: bool,
    crowds_are_objects: bool,
) -> Annotations:
    """All annotations, where nothing is to be said but of segmentations; `NotPlain` otherwise."""
    rows = section.rows
    columns.check_objects(rows)
    own_ids = columns.ids(columns.column(rows, "id"))
    columns.check(len(np.unique(own_ids)) == len(own_ids))
    is_crowd, is_ignored = (columns.flags([row.get(key, 0) for row in rows]) for key in ("iscrowd", "ignore"))
    columns.check(not (crowds_are_objects and is_crowd.any()))
    found = Annotations(
        ids=own_ids,
        places=np.arange(len(rows)),
        images=columns.looked_up(columns.column(rows, "image_id"), places),
        labels=columns.looked_up(columns.column(rows, "category_id"), labels),
        boxes=columns.boxes(columns.column(rows, "bbox"), LARGEST_SIDE),
        areas=columns.numbers_or_nan([row.get("area") for row in rows], LARGEST_AREA),
        is_crowd=is_crowd,
        is_ignored=is_ignored,
        has_new_id=np.zeros(len(rows), dtype=bool),
        segmentations=[None] * len(rows),
        has_empty_mask=np.zeros(len(rows), dtype=bool),
        outlines=[None] * len(rows),
        num_runs=sum(_is_runs(rows[place].get("segmentation")) for place in np.flatnonzero(is_crowd).tolist()),
    )
    if not masks:
        for place in range(0, len(rows), _step(section)):
            found.outlines[place] = _outline(rows[place].get("segmentation"))
        return found
    for row, image, is_one in zip(section, found.images.tolist(), is_crowd.tolist(), strict=True):
        segmentation = _segmentation(section, row.get("segmentation"), sizes[image], is_one, masks)
        if segmentation is not None:
            place, outline = section.place, outline_box(segmentation, of_runs=False)
            found.segmentations[place], found.outlines[place] = segmentation, outline
            found.has_empty_mask[place] = is_empty(segmentation, sizes[image], outline)
    return found


def _step(section: Section) -> int:
    """Every so many annotations, polygons are compared with the box though masks are not asked for."""
    return 1 + len(section.rows) // NUM_OUTLINES


def _is_runs(given: Any) -> bool:
    return isinstance(given, dict) and bool(given)


def _own_id(section: Section, taken: set[int]) -> int:
    """The id of an annotation whose id is no new integer; −1 where it gets another, for nothing depends on it."""
    row = section.row
    if not isinstance(row, dict) or row.get("id") is None:
        section.say("note", "has no id: it gets one")
        return -1
    id_ = section.whole("id")
    if id_ is None or not 0 <= id_ <= LARGEST_ID:
        section.say("note", "id is not an integer from 0 to 2**63 - 1: it gets another", shown(row["id"]))
        return -1
    if id_ in taken:
        section.say("warning", "id occurs before: it gets another")
        return -1
    return id_


def _segmentation(section: Section, given: Any, size: tuple[int, int] | None, is_crowd: bool, masks: bool) -> Any:
    """A sound segmentation; None where there is none, which is reported where masks are asked for."""
    meant, form = meant_segmentation(given)
    if form:
        section.say("note", f"segmentation is {form}")
    if meant is None:
        if masks and is_crowd:
            section.say("warning", "is a crowd without a mask: its box is taken where masks are compared")
        elif masks:
            section.say("warning", f"has no segmentation: {WITHOUT_MASK}")
        return None
    problem = segmentation_problem(meant, size, masks)
    if problem is None:
        return plain(meant)
    if masks:
        section.say("warning", f"{problem.what}: {WITHOUT_MASK}", problem.detail)
    return None


def _outline(given: Any) -> list[float] | None:
    """The box around polygons that nobody else needs; None where there are no sound ones."""
    meant, _ = meant_segmentation(given)
    if not isinstance(meant, list) or segmentation_problem(meant, None, needs_size=False) is not None:
        return None
    return outline_box(meant)


def _area(section: Section, value: Any) -> float:
    if value is None:
        return UNKNOWN
    if type(value) in NUMBERS and -LARGEST_AREA <= value <= LARGEST_AREA:  # by far the most
        return float(value)
    if are_numbers([value]) and are_within([value], LARGEST_AREA):
        return float(value)
    section.say("warning", "area is not a finite number of pixels: that of the box or mask counts", shown(value))
    return UNKNOWN
