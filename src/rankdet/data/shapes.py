"""The data set ``shapes``: images of simple objects, made on the spot, for detection and instance segmentation."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rankdet.coco.segmentations import encode_bitmap
from rankdet.data.shapes_drawing import INSIDE, PATTERNS, Bools, Drawing, draw, pattern_and_shape
from rankdet.structures import InputError

Document = dict[str, Any]

FORMAT = 1
"""Increased whenever the same parameters give another set."""
STAMP = "shapes.json"
CLASSES = ("ellipse", "rectangle", "triangle", "ring", "cross")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Layout:
    """Where a set keeps images and annotations, and which fields its records have."""

    images: str = "images/{split}"
    annotations: str = "annotations/instances_{split}.json"
    image_fields: Callable[[Path], dict[str, Any]] = lambda file: {"file_name": file.name}
    """Fields of the record of an image, other than its size."""
    complete: Callable[[dict[str, Document]], None] = lambda documents: None
    """Adds to the documents of all splits what depends on all images."""


def make_shapes(
    folder: Path,
    *,
    train: int = 400,
    val: int = 100,
    test: int = 0,
    size: int = 128,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    tail: float = 0.7,
    progress: bool = False,
) -> Path:
    """Make the data set as an ordinary COCO folder.

    Images show shapes of several kinds on a textured, noisy ground, some over others; some images are empty. The sides
    of shapes are 12 to 60 % of that of the image, small ones more often. Boxes and masks cover the visible part, exact
    to the pixel; masks are compressed RLE. Category ids are sparse on purpose: 1, 3, 7, 13, 21. The set is written
    beside ``folder`` and renamed at the end, so it is there as a whole or not at all. An identical set that is there
    already is kept.

    Parameters
    ----------
    folder
        Where to put the set.
    train, val, test
        Numbers of images; with 0 there is no test split. An image does not depend on how many there are.
    size
        Side of the square images, in pixels.
    seed
        At least 0; the same seed makes the same set on every machine.
    classes
        Names of shapes, the most frequent first: ellipse, rectangle, triangle, ring, cross, star, crescent; with
        ``striped_`` or ``spotted_`` before them they are other classes.
    tail
        Frequency of a class divided by that of the class before it, in (0, 1].
    progress
        Show a progress bar on standard error.

    Returns
    -------
    Path
        ``folder``.

    Raises
    ------
    InputError
        When a parameter is out of its range, something else is at ``folder``, or it cannot be written.
    """
    if not 0 < tail <= 1:
        raise InputError(f"shapes: tail={tail} is not in (0, 1]")
    stamp = make_stamp(train, val, test, size, seed, classes, tail)
    return make_set(Path(folder), stamp, dict.fromkeys(SPLITS, falling(len(classes), tail)), Layout(), progress)


def make_stamp(
    train: int, val: int, test: int, size: int, seed: int, classes: Sequence[str], tail: float
) -> dict[str, Any]:
    """The parameters of a set, as they are written beside it: those of `make_shapes`."""
    stamp: dict[str, Any] = {
        "format": FORMAT,
        "train": train,
        "val": val,
        "size": size,
        "seed": seed,
        "classes": list(classes),
        "tail": tail,
    }
    if test:
        stamp["test"] = test  # sets without a test split have the stamp that they always had
    return stamp


def falling(number: int, tail: float) -> list[float]:
    """Relative frequencies of classes: 1, ``tail``, ``tail``², …"""
    frequencies = [1.0]
    for _ in range(number - 1):
        frequencies.append(frequencies[-1] * tail)
    return frequencies


def make_set(
    folder: Path, stamp: dict[str, Any], frequencies: Mapping[str, Sequence[float]], layout: Layout, progress: bool
) -> Path:
    """Make a set as a whole or not at all; an identical one that is there already is kept.

    ``stamp`` has the parameters of the set, which are written beside it. ``frequencies`` has, for each split, the
    relative frequencies of the classes.

    Raises
    ------
    InputError
        When a parameter is out of its range, something else is at ``folder``, or it cannot be written.
    """
    _check(stamp)
    try:
        _make(folder, stamp, frequencies, layout, progress)
    except OSError as error:
        raise InputError(f"cannot make the shapes in {folder}: {error.strerror or error}") from error
    return folder


def _make(
    folder: Path, stamp: dict[str, Any], frequencies: Mapping[str, Sequence[float]], layout: Layout, progress: bool
) -> None:
    counts = [stamp.get(split, 0) for split in SPLITS]
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        _check_same(folder, stamp)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    documents: dict[str, Document] = {}
    try:
        beside.chmod(0o755)  # temporary folders are private, data sets are not
        with _bar(sum(counts), progress) as advance:
            for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
                if not count:
                    continue
                documents[split] = _document(stamp["classes"])
                images = beside / layout.images.format(split=split)
                images.mkdir(parents=True)
                for index in range(count):
                    drawing = draw((stamp["seed"], number, index), stamp["size"], stamp["classes"], frequencies[split])
                    _add(documents[split], images / f"{index + 1:06d}.png", drawing, layout)
                    advance()
        layout.complete(documents)
        (beside / "annotations").mkdir()
        for split, document in documents.items():
            (beside / layout.annotations.format(split=split)).write_text(json.dumps(document), encoding="utf-8")
        (beside / STAMP).write_text(json.dumps(stamp), encoding="utf-8")
        try:
            os.replace(beside, folder)
        except OSError:
            # Another process was faster: what it made must be the same.
            _check_same(folder, stamp)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def category_id(label: int) -> int:
    """The sparse category id of a label: 1, 3, 7, 13, 21, …"""
    return label * label + label + 1


def _check(stamp: Mapping[str, Any]) -> None:
    train, val, test, size, seed, classes = (
        stamp.get(name, 0) for name in ("train", "val", "test", "size", "seed", "classes")
    )
    if train < 1 or val < 1 or test < 0:
        raise InputError(
            f"shapes: at least one image for train and for val is needed, not train={train}, val={val}, test={test}"
        )
    if size < 32:
        raise InputError(f"shapes: size={size} is less than 32 pixels")
    if seed < 0:
        raise InputError(f"shapes: seed={seed} is negative")
    for name in classes:
        pattern, shape = pattern_and_shape(name)
        if pattern not in PATTERNS or shape not in INSIDE:
            patterns = ", ".join(f"{pattern}_" for pattern in PATTERNS if pattern)
            raise InputError(
                f"shapes: unknown class {name!r}; known are {', '.join(INSIDE)}, also with {patterns} before them"
            )
    if not classes or len(set(classes)) < len(classes):
        raise InputError(f"shapes: classes must be one or more different names, not {list(classes)}")


def _check_same(folder: Path, stamp: dict[str, Any]) -> None:
    try:
        found = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: holds something else than a set of shapes; choose another folder") from error
    if found != stamp:
        held = found if isinstance(found, dict) else {}
        different = ", ".join(
            f"{key} {held.get(key)!r} instead of {stamp.get(key)!r}"
            for key in stamp | held
            if held.get(key) != stamp.get(key)
        )
        raise InputError(f"{folder / STAMP}: a different set of shapes is there: {different}; choose another folder")


def _document(classes: Sequence[str]) -> Document:
    return {
        "info": {"description": "shapes, made by rankdet", "version": str(FORMAT)},
        "licenses": [],
        "images": [],
        "annotations": [],
        "categories": [
            {"id": category_id(label), "name": name, "supercategory": "shape"} for label, name in enumerate(classes)
        ],
    }


def _add(document: Document, file: Path, drawing: Drawing, layout: Layout) -> None:
    """Write one image and add its records."""
    size = len(drawing.pixels)
    image_id = len(document["images"]) + 1
    Image.fromarray(drawing.pixels).save(file, compress_level=1)
    document["images"].append({"id": image_id, **layout.image_fields(file), "width": size, "height": size})
    for label, mask in zip(drawing.labels, drawing.masks, strict=True):
        document["annotations"].append(
            {
                "id": len(document["annotations"]) + 1,
                "image_id": image_id,
                "category_id": category_id(label),
                "bbox": _box(mask),
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": encode_bitmap(mask),
            }
        )


def _box(mask: Bools) -> list[int]:
    """[x, y, width, height] around a mask, in pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    if not shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("Making shapes", total=total)
        yield lambda: bar.advance(task)
