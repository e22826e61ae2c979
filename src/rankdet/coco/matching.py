"""Which image and which category of a data set a detection of another program means.

Legend: D detections of a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

from rankdet.coco.findings import Finding, are_numbers, shown
from rankdet.coco.ground_truth import GroundTruth
from rankdet.structures import InputError

ONLY_KNOWN = "--only-known (only_known=True) leaves such detections out"
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Unknown:
    """An image or a category that the ground truth does not have: in the same words for all, and this one."""

    problem: str
    detail: str


class FileNames:
    """The images of a data set by the names of their files.

    A name means the image whose whole name is its end, folder by folder, the longest first. Where there is none it
    means the only image of this name in any folder, and then the only one of this name without its suffix.

    Examples
    --------
    >>> names = FileNames(["a/1.png", "b/1.png", "b/2.png"], [7, 8, 9])
    >>> names.find("/data/images/b/1.png"), names.find("2.png"), names.find("2")
    (8, 9, 9)
    >>> names.find("1.png")
    Unknown(problem='several images of the ground truth have the name', detail="'1.png'")
    """

    def __init__(self, names: Iterable[str], image_ids: Iterable[int]) -> None:
        self._whole: dict[str, int] = {}
        self._last: dict[str, list[int]] = {}
        self._stems: dict[str, list[int]] = {}
        for name, image_id in zip(names, image_ids, strict=True):
            if name:
                path = _path(name)
                self._whole[str(path)] = image_id
                self._last.setdefault(path.name, []).append(image_id)
                self._stems.setdefault(path.stem, []).append(image_id)

    def __bool__(self) -> bool:
        return bool(self._whole)

    def find(self, name: str) -> int | Unknown:
        """The id of the image that a name means."""
        path = _path(name)
        for first in range(len(path.parts)):
            whole = "/".join(path.parts[first:])
            if whole in self._whole:
                return self._whole[whole]
        # A stem is all that some tools write; a name with another suffix is the image that was converted.
        found = self._last.get(path.name) or self._stems.get(path.name) or self._stems.get(path.stem) or []
        if len(found) == 1:
            return found[0]
        kind = (
            "several images of the ground truth have the name" if found else "no image of the ground truth has the name"
        )
        return Unknown(kind, repr(name))


def _key(given: Any, name: Any) -> Hashable:
    # True is 1 in a dictionary, and a list is no key.
    if type(given) in (int, str) and (name is None or type(name) is str):
        return given, name
    return repr(given), repr(name), "odd"


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/").removeprefix("/"))


@dataclass
class Matching:
    """The image and the category of each record of a file, as ids of a ground truth.

    Parameters
    ----------
    source
        The file, for messages.
    records
        D records.
    truth
        The data set that they are measured by.
    own_images, own_categories
        The sections of a file that brings its own ids, by id.
    labels_from
        0 or 1 where a category_id counts the classes of the ground truth, in the order of their ids, from there on.
    findings
        What was read in another form.
    """

    source: str
    records: Sequence[Row]
    truth: GroundTruth
    own_images: Mapping[Any, Row] = field(default_factory=dict)
    own_categories: Mapping[Any, Row] = field(default_factory=dict)
    labels_from: int | None = None
    findings: list[Finding] = field(default_factory=list)

    def __post_init__(self) -> None:
        truth = self.truth
        self._image_ids = frozenset(truth.image_ids.tolist())
        names = [truth.file_names[place].decode() for place in range(len(truth.image_ids))]
        self._names = FileNames(names, truth.image_ids.tolist())
        self._category_ids = frozenset(truth.category_ids)
        shared = Counter(name for _, name in truth.categories)
        self._by_name = {name: id_ for id_, name in truth.categories if shared[name] == 1}
        if self.labels_from is not None and self.own_categories:
            raise InputError(f"{self.source} names its own categories: leave out --labels-from (labels_from)")
        self._images: dict[Hashable, int | Unknown] = {}
        self._categories: dict[Hashable, int | Unknown] = {}
        self._stems = self._are_stems()
        self._missing_images()

    def image(self, record: Row) -> int | Unknown:
        """The id of the image of a record."""
        given, name = record["image_id"], record.get("file_name")
        key = _key(given, name)
        if key not in self._images:
            self._images[key] = self._image(given, name)
        return self._images[key]

    def _image(self, given: Any, name: Any) -> int | Unknown:
        if name is None and isinstance(given, int | str):
            name = self.own_images.get(given, {}).get("file_name")
        if isinstance(name, str) and self._names:
            return self._names.find(name)
        if isinstance(given, str) and self._names:
            return self._names.find(given)
        if self._stems and given in self._stems:
            return self._stems[given]
        if are_numbers((given,)) and given in self._image_ids:
            return int(given)
        return Unknown("unknown image_id", shown(given))

    def _are_stems(self) -> dict[int, int]:
        """Number → image where the ids of the records are none of the ground truth, but numbers in names of its files.

        A tool that knows no ids writes the name of the file, as a number where it is one: "000123.jpg" becomes 123.
        """
        given = {record["image_id"] for record in self.records if type(record["image_id"]) is int}
        if self.own_images or not given or any("file_name" in record for record in self.records):
            return {}
        numbers: dict[int, int] = {}
        for place, image_id in enumerate(self.truth.image_ids.tolist()):
            stem = _path(self.truth.file_names[place].decode()).stem
            if stem.isdecimal():
                numbers[int(stem)] = image_id
        num_names = len(given & numbers.keys())
        if num_names <= len(given & self._image_ids):
            return {}
        problem = f"image_id is the number in the name of the file, for {num_names} images: read so"
        self.findings.append(Finding("note", self.source, "", problem))
        return numbers

    def _missing_images(self) -> None:
        """Images that the file does not name though it has a list of them count as images without detections."""
        if not self.own_images:
            return
        found = {self._image(id_, row.get("file_name")) for id_, row in self.own_images.items()}
        missing = [id_ for id_ in self.truth.image_ids.tolist() if id_ not in found]
        if missing:
            examples = ", ".join(map(str, missing[:3])) + (", …" if len(missing) > 3 else "")
            problem = (
                f"{len(missing)} of {len(self._image_ids)} images of the ground truth are not in the file and count"
            )
            self.findings.append(
                Finding("warning", self.source, "", f"{problem} as images without detections", examples)
            )

    def category(self, record: Row) -> int | Unknown:
        """The id of the category of a record."""
        given, name = record["category_id"], record.get("category_name")
        key = _key(given, name)
        if key not in self._categories:
            self._categories[key] = self._category(given, name)
        return self._categories[key]

    def _category(self, given: Any, name: Any) -> int | Unknown:
        own = self.own_categories.get(given) if isinstance(given, int | str) else None
        if own is not None:
            name = own.get("name")
            if (given, name) in self.truth.categories:
                return int(given)
        elif isinstance(given, str):
            name = given
        if isinstance(name, str) and (own is not None or name in self._by_name):
            if name not in self._by_name:
                return Unknown("no category of the ground truth has the name", repr(name))
            if given != self._by_name[name] and not isinstance(given, str):
                self._note_names()
            return self._by_name[name]
        if self.labels_from is not None and type(given) is int:
            label = given - self.labels_from
            if 0 <= label < len(self.truth.categories):
                return self.truth.categories[label][0]
        elif are_numbers((given,)) and given in self._category_ids:
            return int(given)
        return Unknown("unknown category_id", shown(given))

    def _note_names(self) -> None:
        note = Finding("note", self.source, "", "other category ids than in the ground truth: matched by name")
        if note not in self.findings:
            self.findings.append(note)

    @cached_property
    def remedy(self) -> str:
        """What helps where categories are unknown."""
        given = {record["category_id"] for record in self.records if type(record["category_id"]) is int}
        count = len(self.truth.categories)
        fitting = [first for first in (0, 1) if given <= set(range(first, first + count))]
        if self.own_categories or self.labels_from is not None or not fitting:
            return ONLY_KNOWN
        options = " or ".join(f"--labels-from {first} (labels_from={first})" for first in fitting)
        return f"{options} where it counts the classes of the ground truth from there on; {ONLY_KNOWN}"
