"""The records of an annotation file, as they are meant: each is read, or left out with a word on it.

What other tools write in another form, such as ids as texts or a polygon as a flat list, is read with a note. A record
that makes no sense is left out with a warning, or with an error where no record of its section is left.

Legend: N images, A annotations, C categories.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

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
from rankdet.coco.packed import PackedBytes, ends_of
from rankdet.coco.parsing import written
from rankdet.coco.sections import Section, key_problem
from rankdet.coco.segmentations import NUMBERS, is_empty, meant_segmentation, outline_box, plain, segmentation_problem

LONGEST_NAME = 255
"""Bytes of a file name without its folders, in the usual file systems."""
LARGEST_AREA = LARGEST_SIDE**2
"""Pixels."""
UNKNOWN = float("nan")
"""An area that the file does not name."""
NUM_OUTLINES = 1000
"""Annotations, spread over the file, whose segmentation is compared with the box where masks are not asked for."""
WITHOUT_MASK = "left out where masks are learned or compared"


_Column = Any
"""A list or an array."""


@dataclass(frozen=True)
class Image:
    """A record of an image: its file, or its address; its size, 0 where it is not known; the record."""

    file_name: str
    height: int
    width: int
    row: dict[str, Any]


class Outlines(NamedTuple):
    """(K, 4) boxes ``(x, y, width, height)`` around the segmentations of K annotations, and the (K,) rows of these."""

    rows: NDArray[np.int64]
    boxes: NDArray[np.float64]

    @classmethod
    def of(cls, given: Iterable[list[float] | None]) -> Self:
        """Those of all annotations; None where it was not looked at, or has none."""
        known = [(row, box) for row, box in enumerate(given) if box is not None]
        boxes = np.array([box for _, box in known], dtype=np.float64).reshape(-1, 4)
        return cls(np.array([row for row, _ in known], dtype=np.int64), boxes)


class Annotations(NamedTuple):
    """The sound annotations, column by column: see `rankdet.coco.GroundTruth`.

    places
        (A,) places in the section.
    segmentations
        A segmentations in JSON; empty where there is no sound one, or it was not asked for.
    outlines
        Of those whose segmentations were looked at.
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
    segmentations: PackedBytes
    has_empty_mask: NDArray[np.bool_]
    outlines: Outlines
    num_runs: int
    num_left_out: int


@dataclass
class _Part:
    """The sound annotations of a part of a file: see `Annotations`. An id that it has to get is −1."""

    ids: _Column = field(default_factory=list)
    places: _Column = field(default_factory=list)
    images: _Column = field(default_factory=list)
    labels: _Column = field(default_factory=list)
    boxes: _Column = field(default_factory=list)
    areas: _Column = field(default_factory=list)
    is_crowd: _Column = field(default_factory=list)
    is_ignored: _Column = field(default_factory=list)
    has_empty_mask: _Column = field(default_factory=list)
    segmentations: list[bytes] = field(default_factory=list)
    outlines: list[list[float] | None] = field(default_factory=list)
    num_runs: int = 0


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


@dataclass(frozen=True)
class Known:
    """What annotations are read by.

    Parameters
    ----------
    places
        The place of each image by its id.
    sizes
        (N, 2) int64, (height, width) of the images, 0 where it is not known.
    labels
        The label of each category by its id.
    left_out
        Ids of images that were left out.
    masks
        Whether segmentations are read; where they are not, only those of annotations without a box.
    crowds_are_objects
        Whether crowd regions are read as objects.
    """

    places: Mapping[Any, int]
    sizes: NDArray[np.int64]
    labels: Mapping[Any, int]
    left_out: Container[Any]
    masks: bool
    crowds_are_objects: bool

    def size(self, place: int) -> tuple[int, int] | None:
        """(height, width) of an image; None where it is not known."""
        height, width = self.sizes[place].tolist()
        return (height, width) if height and width else None


def read_annotations(section: Section, known: Known) -> Annotations:
    """The sound annotations."""
    found = _Columns(len(section.rows))
    for first, rows in section.parts():
        try:
            part = _plain(section, rows, first, known)
        except NotPlain:  # then each record is looked at
            part = _one_by_one(section, rows, first, known)
        found.add(part)
    return found.finished(section)


class _Columns:
    """The sound annotations so far, in arrays as long as all records need: memory is used where something is."""

    def __init__(self, total: int) -> None:
        self._arrays = {
            name: np.empty((total, *shape), dtype=dtype)
            for names, dtype, shape in (
                (("ids", "places", "images", "labels"), np.int64, ()),
                (("boxes",), np.float64, (4,)),
                (("areas",), np.float64, ()),
                (("is_crowd", "is_ignored", "has_empty_mask"), np.bool_, ()),
            )
            for name in names
        }
        self._lengths = np.empty(total, dtype=np.int64)
        self._letters = bytearray()
        self._outlines: list[Outlines] = []
        self._number = self._num_runs = 0

    def add(self, part: _Part) -> None:
        start, end = self._number, self._number + len(part.ids)
        if start == end:
            return
        for name, array in self._arrays.items():
            array[start:end] = getattr(part, name)
        self._lengths[start:end] = [len(one) for one in part.segmentations]
        self._letters += b"".join(part.segmentations)
        outlines = Outlines.of(part.outlines)
        self._outlines.append(outlines._replace(rows=outlines.rows + start))
        self._number, self._num_runs = end, self._num_runs + part.num_runs

    def finished(self, section: Section) -> Annotations:
        """All of them, with an id for each."""
        arrays = {name: array[: self._number] for name, array in self._arrays.items()}
        _take_repeated(arrays["ids"], arrays["places"], section)
        has_new_id = arrays["ids"] < 0
        _give_ids(arrays["ids"], has_new_id)
        rows, boxes = zip(Outlines.of([]), *self._outlines, strict=True)
        return Annotations(
            **arrays,
            has_new_id=has_new_id,
            segmentations=PackedBytes.of(
                np.frombuffer(self._letters, dtype=np.uint8), ends_of(self._lengths[: self._number])
            ),
            outlines=Outlines(np.concatenate(rows), np.concatenate(boxes)),
            num_runs=self._num_runs,
            num_left_out=len(section.rows) - self._number,
        )


def _take_repeated(ids: NDArray[np.int64], places: NDArray[np.int64], section: Section) -> None:
    """Say which ids occur before, and make them −1."""
    if not len(ids) or (ids[0] >= 0 and (ids[1:] > ids[:-1]).all()):  # as tools write them
        return
    order = np.argsort(ids, kind="stable")
    is_same = ids[order[1:]] == ids[order[:-1]]
    repeats = order[1:][is_same & (ids[order[1:]] >= 0)]
    if not len(repeats):
        return
    told = set(places[repeats].tolist())
    for place, row in enumerate(section.rows):  # what is no object has been told
        if place in told:
            section.place, section.row = place, row
            section.say("warning", "id occurs before: it gets another")
    ids[repeats] = -1


def _give_ids(ids: NDArray[np.int64], has_new_id: NDArray[np.bool_]) -> None:
    """Give the annotations that need it an id that no other has."""
    if not has_new_id.any():
        return
    next_id = int(ids.max()) + 1
    taken: set[int] = set()
    if next_id + len(ids) > LARGEST_ID:
        next_id, taken = 1, set(ids.tolist())
    for row in np.flatnonzero(has_new_id).tolist():
        while next_id in taken:
            next_id += 1
        ids[row] = next_id
        next_id += 1


def _one_by_one(section: Section, rows: Sequence[Any], first: int, known: Known) -> _Part:
    """The sound annotations of a part, whatever there is to say of it."""
    found, step = _Part(), _step(section)
    for row in section.over(rows, first):
        image_id, category_id = row.get("image_id"), row.get("category_id")
        if type(image_id) is not int:
            image_id = section.whole("image_id")
        if image_id not in known.places:
            if image_id in known.left_out:
                section.follow()
            else:
                section.leave_out(key_problem(row, "image_id", "is no image of the file"))
            continue
        if type(category_id) is not int:
            category_id = section.whole("category_id")
        if category_id not in known.labels:
            section.leave_out(key_problem(row, "category_id", "is no category of the file"))
            continue
        place = known.places[image_id]
        crowd, ignored = row.get("iscrowd", 0), row.get("ignore", 0)
        is_crowd = crowd == 1 if type(crowd) is int and 0 <= crowd <= 1 else section.flag("iscrowd")
        if is_crowd is None:
            continue
        is_ignored = ignored == 1 if type(ignored) is int and 0 <= ignored <= 1 else section.flag("ignore")
        if is_ignored is None:
            continue
        if is_crowd and known.crowds_are_objects:
            section.say("note", "is a crowd region: taken as an object, as data.crowds_are_objects says")
            is_crowd = False
        given, box = row.get("segmentation"), row.get("bbox")
        segmentation, outline = None, None
        lacks_box = box is None or (isinstance(box, list) and not box)
        if known.masks or lacks_box:
            segmentation = _segmentation(section, given, known.size(place), is_crowd, known.masks)
            outline = None if segmentation is None else outline_box(segmentation)
        elif section.place % step == 0:
            outline = _outline(given, known.size(place))
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
        own, has_mask = row.get("id"), segmentation is not None and known.masks
        found.ids.append(own if type(own) is int and 0 <= own <= LARGEST_ID else _own_id(section))
        found.places.append(section.place)
        found.images.append(place)
        found.labels.append(known.labels[category_id])
        found.boxes.append(box)
        found.areas.append(_area(section, row.get("area")))
        found.is_crowd.append(is_crowd)
        found.is_ignored.append(is_ignored)
        found.num_runs += is_crowd and _is_runs(given)
        found.segmentations.append(written(segmentation) if has_mask else b"")
        found.has_empty_mask.append(has_mask and is_empty(segmentation, known.size(place), outline))
        found.outlines.append(outline)
    return found


def _plain(section: Section, rows: Sequence[Any], first: int, known: Known) -> _Part:
    """The annotations of a part, where nothing is to be said but of segmentations; `NotPlain` otherwise."""
    columns.check_objects(rows)
    own_ids = columns.ids(columns.column(rows, "id"))
    is_crowd, is_ignored = (columns.flags([row.get(key, 0) for row in rows]) for key in ("iscrowd", "ignore"))
    columns.check(not (known.crowds_are_objects and is_crowd.any()))
    found = _Part(
        ids=own_ids,
        places=np.arange(first, first + len(rows)),
        images=columns.looked_up(columns.column(rows, "image_id"), known.places),
        labels=columns.looked_up(columns.column(rows, "category_id"), known.labels),
        boxes=columns.boxes(columns.column(rows, "bbox"), LARGEST_SIDE),
        areas=columns.numbers_or_nan([row.get("area") for row in rows], LARGEST_AREA),
        is_crowd=is_crowd,
        is_ignored=is_ignored,
        has_empty_mask=[False] * len(rows),
        segmentations=[b""] * len(rows),
        outlines=[None] * len(rows),
        num_runs=sum(_is_runs(rows[place].get("segmentation")) for place in np.flatnonzero(is_crowd).tolist()),
    )
    if not known.masks:
        step = _step(section)
        for place in range(-first % step, len(rows), step):
            found.outlines[place] = _outline(rows[place].get("segmentation"), known.size(int(found.images[place])))
        return found
    images = found.images.tolist()
    for place, (row, image, is_one) in enumerate(
        zip(section.over(rows, first), images, is_crowd.tolist(), strict=True)
    ):
        size = known.size(image)
        segmentation = _segmentation(section, row.get("segmentation"), size, is_one, known.masks)
        if segmentation is not None:
            outline = outline_box(segmentation)
            found.segmentations[place], found.outlines[place] = written(segmentation), outline
            found.has_empty_mask[place] = is_empty(segmentation, size, outline)
    return found


def _step(section: Section) -> int:
    """Every so many annotations, the segmentation is compared with the box though masks are not asked for."""
    return 1 + len(section.rows) // NUM_OUTLINES


def _is_runs(given: Any) -> bool:
    return isinstance(given, dict) and bool(given)


def _own_id(section: Section) -> int:
    """The id of an annotation whose id is no sound integer; −1 where it gets another, for nothing depends on it."""
    row = section.row
    if not isinstance(row, dict) or row.get("id") is None:
        section.say("note", "has no id: it gets one")
        return -1
    id_ = section.whole("id")
    if id_ is None or not 0 <= id_ <= LARGEST_ID:
        section.say("note", "id is not an integer from 0 to 2**63 - 1: it gets another", shown(row["id"]))
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


def _outline(given: Any, size: tuple[int, int] | None) -> list[float] | None:
    """The box around a segmentation that nobody else needs; None where there is no sound one."""
    meant, _ = meant_segmentation(given)
    if meant is None or segmentation_problem(meant, size, needs_size=False) is not None:
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
