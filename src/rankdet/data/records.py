"""A COCO annotation file, read and checked record by record; everything that is wrong with it is found at once.

Legend: N images, A annotations.
"""

import json
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
from hotcoco import mask as rle

from rankdet.structures import InputError


class Finding(NamedTuple):
    """One thing that is wrong or odd in a data set: an error stops training, a warning does not."""

    severity: Literal["error", "warning"]
    file: str
    record: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.record, self.message) if part)


@dataclass(frozen=True)
class Records:
    """The sound records of an annotation file.

    Parameters
    ----------
    categories
        Pairs (id, name), sorted by id.
    images
        N images by id, in the order of the file.
    annotations
        A annotations by image id, in the order of the file; crowd regions are among them.
    """

    categories: list[tuple[int, str]]
    images: dict[int, Mapping[str, Any]]
    annotations: dict[int, list[Mapping[str, Any]]]


def read_records(path: Path, with_masks: bool = False, drop_degenerate: bool = False) -> tuple[Records, list[Finding]]:
    """Read and check a COCO annotation file.

    Parameters
    ----------
    path
        The JSON file.
    with_masks
        Check the segmentations too.
    drop_degenerate
        Boxes without area are a warning, and leave, instead of an error.

    Returns
    -------
    tuple[Records, list[Finding]]
        The sound records and what is wrong with the others.

    Raises
    ------
    InputError
        When the file is missing, is no JSON or has no such sections.
    """
    return check_records(path, load_document(path), with_masks, drop_degenerate)


ReadRecords = Callable[[Path, bool, bool], tuple[Records, list[Finding]]]
"""`read_records` or its like for another format, its arguments by place."""


def check_records(
    path: Path, document: Mapping[str, list[Any]], with_masks: bool, drop_degenerate: bool
) -> tuple[Records, list[Finding]]:
    """The sound records of a document and what is wrong with the others, as `read_records`."""
    findings: list[Finding] = []

    def report(severity: Literal["error", "warning"], record: str, message: str) -> None:
        findings.append(Finding(severity, str(path), record, message))

    categories = _categories(document["categories"], report)
    images = _images(document["images"], report)
    known_categories = {category_id for category_id, _ in categories}
    annotations: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in images}
    seen: set[int] = set()
    for place, annotation in enumerate(document["annotations"]):
        problem = _annotation_problem(annotation, images, known_categories, seen, with_masks)
        if problem is not None:
            report("error", record_name("annotation", place, annotation), problem)
            continue
        seen.add(annotation["id"])
        width, height = annotation["bbox"][2:]
        if width == 0 or height == 0:
            message = f"box {annotation['bbox']} has no area"
            report("warning" if drop_degenerate else "error", f"annotation {annotation['id']}", message)
            continue
        annotations[annotation["image_id"]].append(annotation)
    return Records(sorted(categories), images, annotations), findings


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise InputError that names the first error among the findings and says how many more there are."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        # One bad category is a problem of all its annotations: these are records to look at, not mistakes to count.
        records = "1 more record" if len(errors) == 2 else f"{len(errors) - 1} more records"
        more = f" (and {records} with problems; `rankdet doctor FOLDER` lists all)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")


NUMBERS = frozenset((int, float))
LARGEST_ID = 2**63 - 1  # ids become int64
LARGEST_SIDE = 1_000_000
"""No image is as wide or high in pixels, and no coordinate of an object as large."""
LONGEST_NAME = 255
"""Bytes of a file name without its folders, in the usual file systems."""
Report = Callable[[Literal["error", "warning"], str, str], None]


def read_images(path: Path) -> tuple[dict[int, Mapping[str, Any]], list[Finding]]:
    """Read the images alone: the sound ones by id, and what is wrong with the others.

    Raises
    ------
    InputError
        As `read_records`.
    """
    findings: list[Finding] = []

    def report(severity: Literal["error", "warning"], record: str, message: str) -> None:
        findings.append(Finding(severity, str(path), record, message))

    return _images(load_document(path)["images"], report), findings


def load_document(path: Path) -> dict[str, list[Any]]:
    """The sections of an annotation file; raises InputError as `read_records`."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such annotation file")
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # broken JSON or broken UTF-8
        raise InputError(f"{path}: is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: the top level of a COCO file is an object with images, annotations and categories")
    for section in ("images", "annotations", "categories"):
        if section not in document:
            raise InputError(f"{path}: section {section!r} is missing")
        if not isinstance(document[section], list):
            raise InputError(f"{path}: section {section!r} is not a list")
    if not document["categories"]:
        raise InputError(f"{path}: section 'categories' is empty")
    if not document["images"]:
        raise InputError(f"{path}: section 'images' is empty")
    return document


def _categories(rows: list[Any], report: Report) -> list[tuple[int, str]]:
    found: dict[int, str] = {}
    for place, row in enumerate(rows):
        problem = _missing(row, ("id", "name"))
        if problem is None:
            problem = _id_problem(row["id"], found)
        if problem is None and not _is_encodable(str(row["name"])):
            problem = f"name {_short(row['name'])} is no valid Unicode"
        if problem is None:
            found[row["id"]] = str(row["name"])
        else:
            report("error", record_name("category", place, row), problem)
    return list(found.items())


def _images(rows: list[Any], report: Report) -> dict[int, Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    for place, row in enumerate(rows):
        problem = _image_problem(row, found)
        if problem is None:
            found[row["id"]] = row
        else:
            report("error", record_name("image", place, row), problem)
    return found


def _image_problem(row: Any, found: Mapping[int, Any]) -> str | None:
    problem = _missing(row, ("id", "file_name", "width", "height"))
    if problem is not None:
        return problem
    problem = _id_problem(row["id"], found)
    if problem is not None:
        return problem
    if not isinstance(row["file_name"], str) or not row["file_name"]:
        return f"file_name {_short(row['file_name'])} is not a name"
    if not _is_encodable(row["file_name"]) or "\0" in row["file_name"]:
        return f"file_name {_short(row['file_name'])} cannot be the name of a file"
    name = PurePosixPath(row["file_name"].replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        return f"file_name {_short(row['file_name'])} leaves the folder of images"
    if any(len(part.encode()) > LONGEST_NAME for part in name.parts):
        return f"file_name {_short(row['file_name'])} is longer than {LONGEST_NAME} bytes"
    for side in ("width", "height"):
        if not _is_integer(row[side]) or not 1 <= row[side] <= LARGEST_SIDE:
            return f"{side} {_short(row[side])} is not a positive integer up to {LARGEST_SIDE}"
    return None


def _annotation_problem(
    row: Any,
    images: Mapping[int, Mapping[str, Any]],
    categories: set[int],
    seen: set[int],
    with_masks: bool,
) -> str | None:
    problem = _missing(row, ("id", "image_id", "category_id", "bbox"))
    if problem is not None:
        return problem
    problem = _id_problem(row["id"], seen)
    if problem is not None:
        return problem
    if not _is_integer(row["image_id"]) or row["image_id"] not in images:
        return f"image_id {_short(row['image_id'])} is no image of the file"
    if not _is_integer(row["category_id"]) or row["category_id"] not in categories:
        return f"category_id {_short(row['category_id'])} is no category of the file"
    box = row["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box):
        return f"bbox {_short(box)} is not a list of four numbers [x, y, width, height]"
    if not _are_within(box, LARGEST_SIDE):
        return f"box {_short(box)} is not finite, or goes beyond {LARGEST_SIDE} pixels"
    if box[2] < 0 or box[3] < 0:
        return f"box {box} has a negative size"
    if "area" in row and not (_are_numbers([row["area"]]) and _are_within([row["area"]], LARGEST_SIDE**2)):
        return f"area {_short(row['area'])} is not a finite number of pixels"
    if row.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {_short(row['iscrowd'])} is neither 0 nor 1"
    if with_masks and not row.get("iscrowd", 0):
        image = images[row["image_id"]]
        return _segmentation_problem(row.get("segmentation"), (image["height"], image["width"]))
    return None


def _segmentation_problem(segmentation: Any, size: tuple[int, int]) -> str | None:
    if not segmentation:
        return "has no segmentation, but masks are asked for"
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) % 2 or not _are_numbers(polygon):
                return "a polygon of the segmentation is not a list of numbers x1, y1, x2, y2, …"
            if not _are_within(polygon, LARGEST_SIDE):
                return f"a polygon of the segmentation is not finite, or goes beyond {LARGEST_SIDE} pixels"
        if all(len(polygon) < 6 for polygon in segmentation):
            return "no polygon of the segmentation has three points"
        return None
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        return "the segmentation is neither a list of polygons nor an RLE with size and counts"
    if segmentation["size"] != list(size):
        return f"the size {_short(segmentation['size'])} of the RLE is not that of the image, {list(size)}"
    counts = segmentation["counts"]
    if isinstance(counts, str):
        try:
            area = rle.area({"size": list(size), "counts": counts})
        except ValueError as error:
            return f"the RLE of the segmentation is broken: {error}"
        if not area:
            return "the RLE of the segmentation is empty"
        total = _sum_of_runs(counts)
        return None if total == size[0] * size[1] else _wrong_total(total, size)
    if not isinstance(counts, list) or not all(_is_integer(count) and count >= 0 for count in counts):
        return "the counts of the RLE are neither a string nor a list of integers"
    if sum(counts) != size[0] * size[1]:
        return _wrong_total(sum(counts), size)
    return None if sum(counts[1::2]) else "the RLE of the segmentation is empty"


def _missing(row: Any, keys: tuple[str, ...]) -> str | None:
    if not isinstance(row, dict):
        return f"{_short(row)} is not an object"
    for key in keys:
        if key not in row:
            return f"key {key!r} is missing"
    return None


def record_name(kind: str, place: int, row: Any) -> str:
    """How messages call a record: by its id, or by its place where it has none."""
    if isinstance(row, dict) and "id" in row:
        return f"{kind} {_short(row['id'])}"
    return f"{kind} number {place + 1}"


def _short(value: Any) -> str:
    """A value as messages show it: what is wrong with it shows at its start."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}…"


def _id_problem(value: Any, taken: Container[int]) -> str | None:
    # Evaluators take ids for unsigned.
    if not _is_integer(value) or not 0 <= value <= LARGEST_ID:
        return f"id {_short(value)} is not an integer from 0 to 2**63 - 1"
    return f"id {value} occurs twice" if value in taken else None


def _is_encodable(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # halves of letters, which JSON lets through
        return False
    return True


def _are_within(values: list[Any], limit: int) -> bool:
    # Comparisons hold for integers of any length and fail for NaN.
    return all(-limit <= value <= limit for value in values)


def _wrong_total(total: int, size: tuple[int, int]) -> str:
    return f"the counts of the RLE make {_short(total)} pixels, the image has {size[0] * size[1]}"


def _sum_of_runs(counts: str) -> int:
    """Pixels of a compressed RLE that decodes: 5 bits a letter, the sixth says that the number goes on."""
    letters = np.frombuffer(counts.encode(), dtype=np.uint8).astype(np.int64) - 48
    goes_on = letters & 32 > 0
    goes_on[-1] = False
    ends = np.flatnonzero(~goes_on)
    starts = np.r_[0, ends[:-1] + 1]
    bits = 5 * (np.arange(len(letters)) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((letters & 31) << bits, starts)
    runs -= np.where(letters[ends] & 16, 32 << bits[ends], 0)  # the highest bit is the sign
    # From the fourth on, a number is the difference to the one before the last.
    return int(runs[0] + runs[1::2].cumsum().sum() + runs[2::2].cumsum().sum())


def _is_integer(value: Any) -> bool:
    return type(value) is int  # true and false are instances of int


def _are_numbers(values: list[Any]) -> bool:
    # Types are compared, not asked for their ancestors: true and false are no numbers, and a million boxes are quick.
    return NUMBERS.issuperset(map(type, values))
