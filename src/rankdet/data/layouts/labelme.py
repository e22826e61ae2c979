"""labelme: a JSON file per image with the shapes that were drawn, and where the image is."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from rankdet.coco.segmentations import flat
from rankdet.data.files import is_file
from rankdet.data.images import BROKEN
from rankdet.data.layouts.draft import Draft, Part, Points, box_around, ellipse, placed_mask, stated_size
from rankdet.data.layouts.files import (
    IMAGE_SUFFIXES,
    common_folder,
    folders_in,
    is_image_name,
    split_folders,
    upright_size,
)
from rankdet.data.layouts.images import first_texts
from rankdet.data.layouts.source import Reading, Source, by_split
from rankdet.data.progress import with_bar

BESIDE = ("annotations", "labels", "json", "jsons")
"""Names of folders of JSON files beside those of images, in lower case."""


@dataclass(frozen=True)
class Folder:
    """All splits of a data set, for classes are numbered alike in them: the JSON files of each."""

    path: Path
    splits: Mapping[str, list[Path]]

    @cached_property
    def contents(self) -> dict[Path, dict[str, Any] | None]:
        """The content of each JSON file without the image in it; None where it is none of labelme."""
        files = [path for paths in self.splits.values() for path in paths]
        return {path: _content(path) for path in with_bar(files, "JSON files")}

    @cached_property
    def names(self) -> list[str]:
        """The classes of all splits."""
        found = (content["shapes"] for content in self.contents.values() if content is not None)
        return sorted({_label(shape) for shapes in found for shape in shapes} - {""})

    @cached_property
    def images(self) -> dict[Path, Path]:
        """The image of each JSON file that has one."""
        found = {path: _image(path) for paths in self.splits.values() for path in paths}
        return {path: image for path, image in found.items() if image is not None}


def find(folder: Path) -> dict[str, Source] | None:
    """The splits that folders with JSON files of labelme are called like, or one folder, which counts as ``train``."""
    splits = {split: files for split, path in split_folders(folder).items() if (files := _files(path))}
    if not splits and (files := _files(folder)):
        splits = {"train": files}
    found = Folder(folder, splits)
    sources = {}
    for split, files in found.splits.items():
        images = [found.images[path] for path in files if path in found.images]
        root = common_folder(images) if images else folder.absolute()
        sources[split] = Source("labelme", files[0].parent, root, partial(read_labelme, found, split, root))
    return by_split(sources.items()) or None


def _files(folder: Path) -> list[Path]:
    """The JSON files of a folder, or of one beside its images, if they are of labelme."""
    places = [folder, *(path for path in folders_in(folder) if path.name.lower() in BESIDE)]
    files = [path for place in places for path in sorted(place.glob("*.json"))]
    # One of them broken, or something else, must not hide the others.
    return files if any(_content(path) is not None for path in files[:3]) else []


def _content(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list) or "imagePath" not in content:
        return None
    content.pop("imageData", None)  # a copy of the image, which may be large
    return content


def _image(path: Path) -> Path | None:
    """The image of a JSON file: where it says, beside it, or one called like it; found without parsing the file."""
    texts = first_texts(path, "imagePath", most=1)
    named = PurePosixPath(*texts).as_posix().replace("\\", "/")
    places = [path.parent, path.parent.parent / "images"]
    candidates = [path.parent / named, *(place / PurePosixPath(named).name for place in places)]
    candidates += [place / f"{path.stem}{suffix}" for place in places for suffix in IMAGE_SUFFIXES]
    # A file may name any other of the machine: only images are taken.
    found = next((one for one in candidates if is_image_name(one.name) and is_file(one)), None)
    return None if found is None else Path(os.path.abspath(found))


def read_labelme(folder: Folder, split: str, root: Path) -> Reading:
    """Read a split as a COCO document whose file names are relative to ``root``.

    Polygons, circles and masks become masks, rectangles boxes; an oriented rectangle becomes the box around it.
    Outlines of one label with one ``group_id`` are parts of one object. Points and lines are left out.

    Returns
    -------
    Reading
        The document, and what was left out of it.
    """
    draft = Draft(str(folder.splits[split][0].parent), folder.names)
    for path in folder.splits[split]:
        content = folder.contents[path]
        if content is None:
            draft.report("warning", path.name, "is no file of labelme that can be read: left out")
            continue
        if path not in folder.images:
            remedy = "labelme keeps a copy under imageData, which has to be saved as a file"
            draft.report("warning", path.name, "has no image file: left out", str(content["imagePath"]), remedy)
            continue
        image = folder.images[path]
        size = stated_size(content.get("imageHeight"), content.get("imageWidth")) or upright_size(image)
        if isinstance(size, str):
            draft.report("warning", path.name, f"has an image that {size}: left out", image.name)
            continue
        image_id = draft.add_image(image.relative_to(root).as_posix(), size)
        draft.add_parts(image_id, size, _parts(content["shapes"], size, draft, path.name))
    return draft.document(), draft.findings


def _parts(shapes: Sequence[Any], size: tuple[int, int], draft: Draft, file: str) -> Iterator[Part]:
    """The shapes that have an area; reports the others."""
    for place, shape in enumerate(shapes):
        record = f"{file} shape {place + 1}"
        if not _label(shape):
            draft.report("warning", record, "has no label: left out")
            continue
        kind = shape.get("shape_type") or "polygon"
        try:
            outlined = _outline(kind, _points(shape), shape.get("mask"), size)
        except (Image.DecompressionBombError, *BROKEN) as error:
            draft.report("warning", record, "has points that are missing or broken: left out", str(error))
            continue
        if outlined is None:
            draft.report("warning", record, f"is of a kind that has no area, {kind}: left out")
            continue
        if kind == "oriented_rectangle":
            draft.report("note", record, "is an oriented rectangle: read as the upright box around it")
        group = shape.get("group_id")
        label = draft.labels[_label(shape)]
        yield Part(label, *outlined, group if isinstance(group, int | str) else None, record=record)


def _label(shape: Any) -> str:
    label = shape.get("label") if isinstance(shape, dict) else None
    return label if isinstance(label, str) else ""


def _points(shape: Mapping[str, Any]) -> Points:
    points = [(float(x), float(y)) for x, y in shape.get("points", [])]
    if not all(math.isfinite(value) for point in points for value in point):
        raise ValueError("a coordinate is not finite")
    return points


def _outline(kind: str, points: Points, mask: Any, size: tuple[int, int]) -> tuple[list[float], Any] | None:
    """The box of a shape and its polygon or run lengths, if it has such; None where it is of a kind without an area."""
    if kind in ("rectangle", "oriented_rectangle"):
        return _box(points, 2), None
    if kind == "polygon":
        return _box(points, 3), flat(points)
    if kind == "circle":
        center, border = points
        radius = math.dist(center, border)
        points = ellipse(center, (radius, radius))
        return box_around(points), flat(points)
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(mask, validate=True))) as file:
            pixels = np.array(file) > 0
        left, top = points[0]
        return placed_mask(pixels, round(left), round(top), size)
    return None


def _box(points: Points, min_points: int) -> list[float]:
    if len(points) < min_points:
        raise ValueError(f"{len(points)} points are too few")
    return box_around(points)
