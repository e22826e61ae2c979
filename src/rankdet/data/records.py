"""A COCO annotation file, read and checked record by record; everything that is wrong with it is found at once.

Legend: N pictures, A annotations.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

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
    pictures
        N pictures by id, in the order of the file.
    annotations
        A annotations by picture id, in the order of the file; crowd regions are among them.
    """

    categories: list[tuple[int, str]]
    pictures: dict[int, Mapping[str, Any]]
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
    document = _load(path)
    findings: list[Finding] = []

    def report(severity: Literal["error", "warning"], record: str, message: str) -> None:
        findings.append(Finding(severity, str(path), record, message))

    categories = _categories(document["categories"], report)
    pictures = _pictures(document["images"], report)
    known_categories = {category_id for category_id, _ in categories}
    annotations: dict[int, list[Mapping[str, Any]]] = {image_id: [] for image_id in pictures}
    seen: set[int] = set()
    for place, annotation in enumerate(document["annotations"]):
        problem = _annotation_problem(annotation, pictures, known_categories, seen, with_masks)
        if problem is not None:
            report("error", _name("annotation", place, annotation), problem)
            continue
        seen.add(annotation["id"])
        width, height = annotation["bbox"][2:]
        if width == 0 or height == 0:
            message = f"box {annotation['bbox']} has no area"
            report("warning" if drop_degenerate else "error", f"annotation {annotation['id']}", message)
            continue
        annotations[annotation["image_id"]].append(annotation)
    return Records(sorted(categories), pictures, annotations), findings


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise InputError that names the first error among the findings and says how many more there are."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more problems)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")


NUMBERS = frozenset((int, float))
Report = Callable[[Literal["error", "warning"], str, str], None]


def _load(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such annotation file")
    try:
        document = json.loads(path.read_bytes())
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
        if problem is None and not _is_integer(row["id"]):
            problem = f"id {row['id']!r} is not an integer"
        if problem is None and row["id"] in found:
            problem = f"id {row['id']} occurs twice"
        if problem is None:
            found[row["id"]] = str(row["name"])
        else:
            report("error", _name("category", place, row), problem)
    return list(found.items())


def _pictures(rows: list[Any], report: Report) -> dict[int, Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    for place, row in enumerate(rows):
        problem = _picture_problem(row, found)
        if problem is None:
            found[row["id"]] = row
        else:
            report("error", _name("image", place, row), problem)
    return found


def _picture_problem(row: Any, found: Mapping[int, Any]) -> str | None:
    problem = _missing(row, ("id", "file_name", "width", "height"))
    if problem is not None:
        return problem
    if not _is_integer(row["id"]):
        return f"id {row['id']!r} is not an integer"
    if row["id"] in found:
        return f"id {row['id']} occurs twice"
    if not isinstance(row["file_name"], str) or not row["file_name"]:
        return f"file_name {row['file_name']!r} is not a name"
    name = PurePosixPath(row["file_name"].replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts:
        return f"file_name {row['file_name']!r} leaves the folder of pictures"
    for side in ("width", "height"):
        if not _is_integer(row[side]) or row[side] < 1:
            return f"{side} {row[side]!r} is not a positive integer"
    return None


def _annotation_problem(
    row: Any,
    pictures: Mapping[int, Mapping[str, Any]],
    categories: set[int],
    seen: set[int],
    with_masks: bool,
) -> str | None:
    problem = _missing(row, ("id", "image_id", "category_id", "bbox"))
    if problem is not None:
        return problem
    if not _is_integer(row["id"]):
        return f"id {row['id']!r} is not an integer"
    if row["id"] in seen:
        return f"id {row['id']} occurs twice"
    if not _is_integer(row["image_id"]) or row["image_id"] not in pictures:
        return f"image_id {row['image_id']!r} is no picture of the file"
    if not _is_integer(row["category_id"]) or row["category_id"] not in categories:
        return f"category_id {row['category_id']!r} is no category of the file"
    box = row["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box):
        return f"bbox {box!r} is not a list of four numbers [x, y, width, height]"
    if not all(map(math.isfinite, box)):
        return f"box {box} is not finite"
    if box[2] < 0 or box[3] < 0:
        return f"box {box} has a negative size"
    if "area" in row and not (_are_numbers([row["area"]]) and math.isfinite(row["area"])):
        return f"area {row['area']!r} is not a finite number"
    if row.get("iscrowd", 0) not in (0, 1):
        return f"iscrowd {row['iscrowd']!r} is neither 0 nor 1"
    if with_masks and not row.get("iscrowd", 0):
        picture = pictures[row["image_id"]]
        return _segmentation_problem(row.get("segmentation"), (picture["height"], picture["width"]))
    return None


def _segmentation_problem(segmentation: Any, size: tuple[int, int]) -> str | None:
    if not segmentation:
        return "has no segmentation, but masks are asked for"
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) % 2 or not _are_numbers(polygon):
                return "a polygon of the segmentation is not a list of numbers x1, y1, x2, y2, …"
            if not all(map(math.isfinite, polygon)):
                return "a polygon of the segmentation is not finite"
        if all(len(polygon) < 6 for polygon in segmentation):
            return "no polygon of the segmentation has three points"
        return None
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        return "the segmentation is neither a list of polygons nor an RLE with size and counts"
    if segmentation["size"] != list(size):
        return f"the size {segmentation['size']} of the RLE is not that of the picture, {list(size)}"
    counts = segmentation["counts"]
    if isinstance(counts, str):
        try:
            area = rle.area({"size": list(size), "counts": counts})
        except ValueError as error:
            return f"the RLE of the segmentation is broken: {error}"
        return None if area else "the RLE of the segmentation is empty"
    if not isinstance(counts, list) or not all(_is_integer(count) and count >= 0 for count in counts):
        return "the counts of the RLE are neither a string nor a list of integers"
    if sum(counts) != size[0] * size[1]:
        return f"the counts of the RLE make {sum(counts)} pixels, the picture has {size[0] * size[1]}"
    return None if sum(counts[1::2]) else "the RLE of the segmentation is empty"


def _missing(row: Any, keys: tuple[str, ...]) -> str | None:
    if not isinstance(row, dict):
        return f"{row!r} is not an object"
    for key in keys:
        if key not in row:
            return f"key {key!r} is missing"
    return None


def _name(kind: str, place: int, row: Any) -> str:
    """How messages call a record: by its id, or by its place where it has none."""
    if isinstance(row, dict) and "id" in row:
        return f"{kind} {row['id']!r}"
    return f"{kind} number {place + 1}"


def _is_integer(value: Any) -> bool:
    return type(value) is int  # true and false are instances of int


def _are_numbers(values: list[Any]) -> bool:
    # Types are compared, not asked for their ancestors: true and false are no numbers, and a million boxes are quick.
    return NUMBERS.issuperset(map(type, values))
