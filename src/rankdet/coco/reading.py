"""The one reader of annotation files: record by record, with everything that is wrong found at once.

Its steps are: parse, normalize (`_normalized_image`, `_normalized_annotation`), check (`_image_problem`,
`_annotation_problem`), pack. What only some uses need of a file is an argument. Which sound objects a detector learns
from is decided later, in `rankdet.data.usable`.

Legend: N images, A annotations, C categories.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from hotcoco import COCO

from rankdet.coco.findings import (
    LARGEST_SIDE,
    Finding,
    are_numbers,
    are_within,
    box_problem,
    id_problem,
    is_encodable,
    is_integer,
    missing_key,
    record_name,
    shown,
)
from rankdet.coco.ground_truth import Federation, GroundTruth
from rankdet.coco.lvis import (
    LISTS,
    address_problem,
    frequency_problem,
    image_file,
    is_federated,
    list_problems,
    with_empty_lists,
)
from rankdet.coco.packed import PackedBytes
from rankdet.coco.segmentations import is_empty, plain, segmentation_problem
from rankdet.structures import InputError

GroundTruthSource = str | PathLike[str] | Mapping[str, Any] | COCO
Records = dict[int, Mapping[str, Any]]
"""Sound records of a section of the file, by id."""
LONGEST_NAME = 255
"""Bytes of a file name without its folders, in the usual file systems."""


def read_json(path: str | PathLike[str]) -> Any:
    """The content of a JSON file; InputError names the file and, where the text is broken, the place in it."""
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # broken JSON or broken UTF-8
        raise InputError(f"{path}: is not valid JSON: {error}") from error


def read_ground_truth(
    source: GroundTruthSource, *, files: bool = False, masks: bool = False, lvis: bool = False, name: str | None = None
) -> tuple[GroundTruth, list[Finding]]:
    """Read and check an annotation file of COCO or LVIS.

    A missing ``iscrowd`` counts as 0, and null counts as missing. The rules of LVIS hold where some image has
    ``neg_category_ids``: then all images have both lists, and all categories a frequency.

    Parameters
    ----------
    source
        Path of the JSON file, the loaded object, or a ``hotcoco.COCO``.
    files
        Whether the images are read: each record names a file and its size, and there is at least one. Boxes are
        needed.
    masks
        Whether segmentations are needed: each object that is no crowd has one. A box may be missing where ``files`` is
        False.
    lvis
        Whether the file is in LVIS format. The file of an image is the end of its ``coco_url``
        (``train2017/000000391895.jpg``), and ``file_name`` counts only where there is no such address.
    name
        What messages call the file, where ``source`` is loaded already.

    Returns
    -------
    tuple[GroundTruth, list[Finding]]
        The sound records, and what is wrong with the others.

    Raises
    ------
    InputError
        When the file is missing, is no JSON or lacks one of its three sections.
    """
    name, document = _document(source, files, name)
    reader = _Reader(name, files, masks, lvis)
    categories = reader.categories(document["categories"])
    images = reader.images(document["images"])
    category_ids = sorted(categories)
    labels = {id_: label for label, id_ in enumerate(category_ids)}
    places = {image_id: place for place, image_id in enumerate(images)}
    annotations = reader.annotations(document["annotations"], images, labels)
    federation = None
    if lvis or is_federated(images.values()):
        reader.check_federation(document["categories"], images, labels)
        federation = Federation(
            np.array([str(categories[id_].get("frequency")) for id_ in category_ids]),
            PackedBytes(_packed({one: row.get(one) for one in LISTS}) for row in images.values()),
        )
    rows = annotations.values()
    outlines = [(row.get("segmentation") or None) if masks else None for row in rows]
    packed = PackedBytes(b"" if one is None else _packed(plain(one)) for one in outlines)
    truth = GroundTruth(
        source=name,
        categories=[(id_, str(categories[id_].get("name", id_))) for id_ in category_ids],
        image_ids=np.array(list(images), dtype=np.int64),
        sizes=np.array([reader.size(row) for row in images.values()], dtype=np.int64).reshape(-1, 2),
        file_names=PackedBytes(_file_name(row).encode() for row in images.values()),
        annotation_ids=np.array(list(annotations), dtype=np.int64),
        images=np.array([places[row["image_id"]] for row in rows], dtype=np.int64),
        labels=np.array([labels[row["category_id"]] for row in rows], dtype=np.int64),
        boxes=np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
        areas=np.array([row.get("area", np.nan) for row in rows], dtype=np.float64),
        is_crowd=np.array([row.get("iscrowd", 0) == 1 for row in rows], dtype=bool),
        segmentations=packed if masks else None,
        has_empty_mask=np.array([is_empty(one) for one in outlines], dtype=bool),
        federation=federation,
    )
    return truth, reader.findings


def read_file_names(path: Path, lvis: bool = False) -> tuple[list[str], list[Finding]]:
    """The file names of the sound images of an annotation file, and what is wrong with the others.

    Raises InputError when the file is missing, is no JSON or lacks one of its three sections.
    """
    name, document = _document(path, files=True)
    reader = _Reader(name, files=True, masks=False, lvis=lvis)
    images = reader.images(document["images"])
    return [row["file_name"] for row in images.values()], reader.findings


@dataclass(frozen=True)
class _Reader:
    """The sound records of the sections of one file, and what is wrong with the others.

    ``files``, ``masks`` and ``lvis`` are what is needed, as in `read_ground_truth`.
    """

    name: str
    files: bool
    masks: bool
    lvis: bool
    findings: list[Finding] = field(default_factory=list)

    def report(self, kind: str, place: int, row: Any, problem: str) -> None:
        self.findings.append(Finding("error", self.name, record_name(kind, place, row), problem))

    def size(self, image: Mapping[str, Any]) -> tuple[int, int]:
        """(height, width) of a sound image; 0 where it is not known or not needed."""
        return (image.get("height") or 0, image.get("width") or 0) if self.files or self.masks else (0, 0)

    def categories(self, rows: list[Any]) -> Records:
        return self._sound("category", rows, lambda row, found: (row, _category_problem(row, found)))

    def images(self, rows: list[Any]) -> Records:
        def check(given: Any, found: Records) -> tuple[Any, str | None]:
            row, problem = _normalized_image(given, by_address=self.files and self.lvis)
            return row, problem or _image_problem(row, found, self.files, self.files or self.masks)

        return self._sound("image", rows, check)

    def annotations(self, rows: list[Any], images: Records, categories: Mapping[int, Any]) -> Records:
        def check(given: Any, found: Records) -> tuple[Any, str | None]:
            row = _normalized_annotation(given, needs_box=self.files or not self.masks)
            problem = _annotation_problem(row, found, images, categories)
            if problem is None and self.masks:
                problem = _mask_problem(row, self.size(images[row["image_id"]]))
            return row, problem

        return self._sound("annotation", rows, check)

    def _sound(self, kind: str, rows: list[Any], check: Callable[[Any, Records], tuple[Any, str | None]]) -> Records:
        """Return the sound records of a section by id, normalized, and report what ``check`` finds in the others."""
        found: Records = {}
        for place, given in enumerate(rows):
            row, problem = check(given, found)
            if problem is None:
                found[row["id"]] = row
            else:
                self.report(kind, place, row, problem)
        return found

    def check_federation(self, categories: list[Any], images: Records, known: Mapping[int, Any]) -> None:
        """Report what LVIS finds wrong with records, though they are sound for COCO."""
        for place, row in enumerate(categories):
            problem = frequency_problem(row) if isinstance(row, dict) else None
            if problem is not None:
                self.report("category", place, row, problem)
        for place, row in enumerate(images.values()):
            for problem in list_problems(row, known):
                self.report("image", place, row, problem)


def _document(source: GroundTruthSource, files: bool, name: str | None = None) -> tuple[str, Mapping[str, list[Any]]]:
    """What messages call a source, and its content with all three sections."""
    name, document = name or "ground truth", source
    if isinstance(source, COCO):
        document = source.dataset | {"images": with_empty_lists(source.dataset["images"])}
    elif isinstance(source, str | PathLike):
        name, document = str(source), read_json(source)
    if not isinstance(document, Mapping):
        raise InputError(f"{name}: the top level of a COCO file is an object with images, annotations and categories")
    for section in ("images", "annotations", "categories"):
        if section not in document:
            raise InputError(f"{name}: section {section!r} is missing")
        if not isinstance(document[section], list):
            raise InputError(f"{name}: section {section!r} is not a list")
        if files and section != "annotations" and not document[section]:
            raise InputError(f"{name}: section {section!r} is empty")
    return name, document


def _normalized_image(row: Any, by_address: bool) -> tuple[Any, str | None]:
    """A record of an image in the form that is checked, and what is wrong where it has no such form."""
    if not by_address or not isinstance(row, dict):
        return row, None
    problem = address_problem(row)
    return (row | {"file_name": image_file(row["coco_url"])} if problem is None and "coco_url" in row else row), problem


def _normalized_annotation(row: Any, needs_box: bool) -> Any:
    """An annotation in the form that is checked: what is null is missing, and a box that nobody needs is empty."""
    if not isinstance(row, dict):
        return row
    nulls = [key for key in ("iscrowd", "area") if row.get(key, 0) is None]
    if nulls:
        row = {key: value for key, value in row.items() if key not in nulls}
    return row if needs_box or row.get("bbox") is not None else row | {"bbox": [0.0] * 4}


def _category_problem(row: Any, found: Mapping[int, Any]) -> str | None:
    problem = missing_key(row, ("id",)) or id_problem(row["id"], found)
    if problem is None and not is_encodable(str(row.get("name"))):
        return f"name {shown(row['name'])} is no valid Unicode"
    return problem


def _image_problem(row: Any, found: Mapping[int, Any], files: bool, sizes: bool) -> str | None:
    problem = missing_key(row, ("id", "file_name", "width", "height") if files else ("id",))
    problem = problem or id_problem(row["id"], found) or (_file_name_problem(row["file_name"]) if files else None)
    if problem is not None or not sizes:
        return problem
    for side in ("width", "height"):
        value = row.get(side)
        if (files or value is not None) and not (is_integer(value) and 1 <= value <= LARGEST_SIDE):
            return f"{side} {shown(value)} is not a positive integer up to {LARGEST_SIDE}"
    return None


def _file_name_problem(value: Any) -> str | None:
    if not isinstance(value, str) or not value:
        return f"file_name {shown(value)} is not a name"
    if not is_encodable(value) or "\0" in value:
        return f"file_name {shown(value)} cannot be the name of a file"
    name = PurePosixPath(value.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        return f"file_name {shown(value)} leaves the folder of images"
    if any(len(part.encode()) > LONGEST_NAME for part in name.parts):
        return f"file_name {shown(value)} is longer than {LONGEST_NAME} bytes"
    return None


def _annotation_problem(
    row: Any, taken: Mapping[int, Any], images: Mapping[int, Any], categories: Mapping[int, Any]
) -> str | None:
    problem = missing_key(row, ("id", "image_id", "category_id", "bbox")) or id_problem(row["id"], taken)
    if problem is not None:
        return problem
    if not is_integer(row["image_id"]) or row["image_id"] not in images:
        return f"image_id {shown(row['image_id'])} is no image of the file"
    if not is_integer(row["category_id"]) or row["category_id"] not in categories:
        return f"category_id {shown(row['category_id'])} is no category of the file"
    problem = box_problem(row["bbox"], LARGEST_SIDE)
    if problem is not None:
        return problem
    if "area" in row and not (are_numbers([row["area"]]) and are_within([row["area"]], LARGEST_SIDE**2)):
        return f"area {shown(row['area'])} is not a finite number of pixels"
    if row.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {shown(row['iscrowd'])} is neither 0 nor 1"
    return None


def _mask_problem(row: Mapping[str, Any], size: tuple[int, int]) -> str | None:
    """What is wrong with the segmentation of an annotation that is sound otherwise, or None."""
    if row.get("segmentation"):
        return segmentation_problem(row["segmentation"], size if all(size) else None)
    return None if row.get("iscrowd", 0) else "has no segmentation, but masks are asked for"


def _file_name(image: Mapping[str, Any]) -> str:
    """The name of the file of a sound image, or its address; empty where it has none and needs none."""
    name = image.get("file_name") or image.get("coco_url") or ""
    return name if isinstance(name, str) and is_encodable(name) else ""


def _packed(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
