"""Image folders of Hugging Face: images, and ``metadata.jsonl`` or ``metadata.csv`` with the objects of each."""

from __future__ import annotations

import ast
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from rankdet.coco.findings import are_numbers, shown
from rankdet.data.layouts.draft import Draft, stated_size
from rankdet.data.layouts.files import (
    image_files,
    parsed_yaml,
    split_folders,
    upright_size,
)
from rankdet.data.layouts.source import Reading, Source, by_split
from rankdet.data.layouts.splits import SPLITS, canonical
from rankdet.data.progress import with_bar
from rankdet.structures import InputError

FILES = ("metadata.jsonl", "metadata.csv")
OBJECTS = ("objects", "annotations")
BOXES = ("bbox", "bboxes", "boxes", "box")
CLASSES = ("categories", "category", "category_id", "labels", "label", "classes", "class", "class_id", "name")
CROWDS = ("iscrowd", "is_crowd")
MASKS = ("segmentation", "segmentations")


@dataclass(frozen=True)
class ImageFolder:
    """All splits of a data set, for classes are numbered alike in them.

    splits
        Split → its metadata file, and the beginning of the file names that are its own.
    """

    path: Path
    splits: Mapping[str, tuple[Path, str]]

    @cached_property
    def rows(self) -> dict[Path, list[Any]]:
        """The records of each metadata file; text that is no record stays a text."""
        return {path: list(_records(path)) for path, _ in self.splits.values()}

    @cached_property
    def listed(self) -> dict[int, str]:
        """The names of classes that are numbers, as the card ``README.md`` lists them; none where it has no list."""
        return _class_labels(self.path / "README.md")

    @cached_property
    def names(self) -> list[str]:
        """The listed classes, then others of any split: numbers in their order, then names."""
        found = [value for rows in self.rows.values() for row in rows for one in _objects(row) for value in _class(one)]
        numbers = sorted({value for value in found if isinstance(value, int)})
        words = sorted({value for value in found if isinstance(value, str)})
        return list(dict.fromkeys([*self.listed.values(), *map(self.name, numbers), *words]))

    def name(self, value: int | str) -> str:
        """The name of a class that is a number or a name."""
        return value if isinstance(value, str) else self.listed.get(value, str(value))


def find(folder: Path) -> dict[str, Source] | None:
    """The splits of an image folder.

    They are folders called like splits, here or in ``data``, with a metadata file each. One metadata file here is
    that of ``train``, or of all splits where file names begin with them.
    """
    below = split_folders(folder / "data") | split_folders(folder)
    splits = {split: (file, "") for split, path in below.items() if (file := _metadata(path)) is not None}
    file = _metadata(folder)
    if not splits and file is not None:
        starts = {name.split("/")[0] for row in _records(file) if "/" in (name := _file_name(row))}
        known = {canonical(start): start for start in starts if canonical(start) in SPLITS}
        splits = {split: (file, f"{start}/") for split, start in known.items()} or {"train": (file, "")}
    found = ImageFolder(folder, splits)
    if not any(_objects(row) for rows in found.rows.values() for row in rows):
        return None  # texts or classes of whole images
    sources = {
        split: Source("Hugging Face image folder", path, path.parent / start, partial(read_image_folder, found, split))
        for split, (path, start) in found.splits.items()
    }
    return by_split(sources.items()) or None


def find_file(annotations: Path, images: Path | None) -> Source | None:
    """The source of a metadata file, with all of its rows; its images lie beside it."""
    if annotations.name not in FILES or not annotations.is_file():
        return None
    folder = annotations.parent
    if images is not None and images.resolve() != folder.resolve():
        raise InputError(f"{annotations}: names images beside it, not in {images}: leave the folder of images out")
    found = ImageFolder(folder, {"train": (annotations, "")})
    return Source("Hugging Face image folder", annotations, folder, partial(read_image_folder, found, "train"))


def _metadata(folder: Path) -> Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read_image_folder(folder: ImageFolder, split: str) -> Reading:
    """Read a split as a COCO document.

    ``objects`` of a row has lists ``bbox`` and ``categories``, or is a list of objects. Boxes are [x, y, width, height]
    in pixels, as in COCO. Classes are names, or numbers whose names the card ``README.md`` lists. Where they are there,
    ``area``, ``iscrowd`` and ``segmentation`` count, too.

    Returns
    -------
    Reading
        The document, and what was left out of it.
    """
    file, start = folder.splits[split]
    draft = Draft(str(file), folder.names)
    if any(name.isdecimal() for name in folder.names):
        draft.report("note", "", "has classes that are numbers without a name", remedy="class_label in README.md")
    taken = set()
    for place, row in enumerate(with_bar(folder.rows[file], "Images")):
        record, name = f"row {place + 1}", _file_name(row)
        if not name:
            draft.report("warning", record, "has no file_name: left out", shown(row))
            continue
        if not name.startswith(start):
            continue
        if name in taken:
            draft.report("warning", record, "has the file_name of another row: left out", name)
            continue
        taken.add(name)
        size = stated_size(row.get("height"), row.get("width")) or upright_size(file.parent / name)
        if isinstance(size, str):
            draft.report("warning", record, f"has an image that {size}: left out", name)
            continue
        _add(draft, folder, draft.add_image(name.removeprefix(start), size), row, record)
    for image in image_files(file.parent / start):
        if image.relative_to(file.parent).as_posix() not in taken:
            draft.report("warning", f"image {image.name}", f"is not in {file.name}: left out")
    return draft.document(), draft.findings


def _add(draft: Draft, folder: ImageFolder, image_id: int, row: Any, record: str) -> None:
    """Add the objects of a row, and report those that are left out."""
    objects = _objects(row)
    if isinstance(objects, str):
        draft.report("warning", record, f"{objects}: left out")
        return
    for place, one in enumerate(objects):
        name = f"{record} object {place + 1}"
        box, classes = _value(one, BOXES), _class(one)
        if not classes:
            draft.report("warning", name, "has no category: left out", shown(one))
        elif not isinstance(box, list) or len(box) != 4 or not are_numbers(box):
            draft.report("warning", name, "has no bbox of four numbers: left out", shown(box))
        else:
            label = draft.labels[folder.name(classes[0])]
            area = one.get("area")
            draft.add(
                image_id,
                label,
                box,
                _value(one, MASKS) or None,
                area=area if isinstance(area, int | float) else None,
                is_crowd=_value(one, CROWDS) in (1, True),
            )


def _records(path: Path) -> Iterator[Any]:
    """The rows of a metadata file; a line that is no JSON is returned as text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no text file that can be read: {error}") from error
    if path.suffix == ".csv":
        for row in csv.DictReader(io.StringIO(text)):
            yield {key: _literal(value) if key != "file_name" else value for key, value in row.items() if key}
        return
    for line in text.splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield line


def _literal(text: Any) -> Any:
    """A cell of a table: JSON, what Python prints of lists and dictionaries, or the text itself."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return text


def _file_name(row: Any) -> str:
    name = row.get("file_name") if isinstance(row, dict) else None
    return name.replace("\\", "/").removeprefix("./") if isinstance(name, str) else ""


def _objects(row: Any) -> list[Mapping[str, Any]] | str:
    """The objects of a row, each with its own values, or what is wrong with them."""
    if not isinstance(row, dict):
        return []
    given = _value(row, OBJECTS) if any(key in row for key in OBJECTS) else row
    if given is None or given == []:
        return []
    if isinstance(given, list):
        return [one for one in given if isinstance(one, dict)]
    if not isinstance(given, dict):
        return "has objects that are neither lists of values nor a list of objects"
    columns = {key: values for key, values in given.items() if isinstance(values, list)}
    boxes = _value(columns, BOXES)
    if boxes is None:
        return []
    wanted = (*BOXES, *CLASSES, *CROWDS, *MASKS, "area")
    columns = {key: values for key, values in columns.items() if key in wanted}
    if any(len(values) != len(boxes) for values in columns.values()):
        return "has lists of objects that differ in length"
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _class(one: Any) -> list[int | str]:
    """The class of an object, number or name, in a list; an empty list where it has none."""
    value = _value(one, CLASSES) if isinstance(one, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return [value] if (isinstance(value, str) and value) or type(value) is int else []


def _value(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if key in row), None)


def _class_labels(card: Path) -> dict[int, str]:
    """The names of ``class_label`` in the head of a dataset card; none where there is no such list."""
    try:
        head = parsed_yaml(card.read_text(encoding="utf-8").split("---")[1], card)
    except (OSError, ValueError, IndexError, InputError):  # a card is for people, and need not have a list of classes
        return {}
    found = next(_named(head, "class_label"), None)
    names = found.get("names") if isinstance(found, dict) else None
    pairs = names.items() if isinstance(names, dict) else enumerate(names if isinstance(names, list) else [])
    are_texts = ((str(number), str(name)) for number, name in pairs if isinstance(name, int | str))
    return {int(number): name for number, name in are_texts if number.isdecimal()}


def _named(value: Any, key: str) -> Iterator[Any]:
    """Whatever lies under a key of nested lists and dictionaries."""
    seen: set[int] = set()  # YAML can name one list in many places, and in itself
    waiting = [value]
    while waiting:
        inside = waiting.pop()
        if not isinstance(inside, dict | list) or id(inside) in seen:
            continue
        seen.add(id(inside))
        if isinstance(inside, dict) and key in inside:
            yield inside[key]
        waiting += reversed(list(inside.values()) if isinstance(inside, dict) else inside)
