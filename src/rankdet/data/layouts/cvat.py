"""CVAT for images 1.1: one ``annotations.xml`` with all images and their shapes.

hotcoco's reader is not used: it leaves out masks, which CVAT's brush makes, and ellipses, takes a rotated box for an
upright one, keeps no subsets, and takes the parts of a group for objects (hotcoco 1.3.0).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from rankdet.coco.segmentations import flat
from rankdet.data.layouts.draft import Draft, Part, Points, box_around, ellipse, placed_mask, rotated
from rankdet.data.layouts.files import image_files, split_folders
from rankdet.data.layouts.images import NUM_PROBES, folder_with
from rankdet.data.layouts.names import is_inside
from rankdet.data.layouts.source import Reading, Source, by_split
from rankdet.data.layouts.splits import SPLITS, canonical
from rankdet.structures import InputError


@dataclass(frozen=True)
class Export:
    """One ``annotations.xml``, which is parsed when it is needed and once."""

    path: Path

    @cached_property
    def root(self) -> Element:
        """The content of the file; InputError where it is broken or of another kind."""
        try:
            root = ElementTree.fromstring(self.path.read_bytes())
        except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
            raise InputError(f"{self.path}: is no XML that can be read: {error}") from error
        if root.find("track") is not None and root.find("image") is None:
            raise InputError(
                f"{self.path}: is in the format 'CVAT for video', whose frames are no image files; export the task as "
                "'CVAT for images 1.1' or 'COCO 1.0', with images"
            )
        return root

    @cached_property
    def names(self) -> list[str]:
        """The classes in the order of the labels of the task or project, then others that shapes have."""
        labels = [one for one in self.root.iterfind("meta/*/labels/label") if one.find("parent") is None]
        used = [shape.get("label", "") for image in self.root.iterfind("image") for shape in image]
        listed = [(one.findtext("name") or "").strip() for one in labels]
        return [name for name in dict.fromkeys(listed + sorted(used)) if name]

    @cached_property
    def subsets(self) -> list[str]:
        """The subsets of the images, empty where an image is in none."""
        return list(dict.fromkeys(image.get("subset", "") for image in self.root.iterfind("image")))


def find(folder: Path) -> dict[str, Source] | None:
    """The subsets of ``annotations.xml``, the files called like splits, or the folders called so that have one each.

    The images are in ``images/SUBSET``, ``images``, ``data``, ``SUBSET`` or the folder itself. A single subset without
    the name of a split counts as ``train``.

    Raises
    ------
    InputError
        When a file is broken, or of the format "CVAT for video"; when several files are not called like splits.
    """
    files = _exports(folder)
    if len(files) == 1 and canonical(files[0].stem) not in SPLITS:
        return _sources(files[0], folder)
    others = [path.name for path in files if canonical(path.stem) not in SPLITS]
    if others:
        listed = ", ".join(others)
        raise InputError(f"{folder}: several exports of CVAT: {listed}; call them train.xml, val.xml and test.xml")
    found = [(path.stem, _whole(path, folder, is_alone=len(files) == 1)) for path in files]
    if not files:
        for split, below in split_folders(folder).items():
            inside = _exports(below)
            found += [(split, _whole(path, below, is_alone=len(inside) == 1)) for path in inside]
    return by_split(found) or None


def _exports(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.xml")) if _is_export(path)]


def find_file(annotations: Path, images: Path | None) -> Source | None:
    """The source of an ``annotations.xml`` of any name, with all of its subsets."""
    return _whole(annotations, annotations.parent, images) if _is_export(annotations) else None


def _is_export(path: Path) -> bool:
    """Whether a file looks like one of CVAT, as far as its beginning shows."""
    if path.suffix.lower() != ".xml" or not path.is_file():
        return False
    with path.open("rb") as file:
        beginning = file.read(4096)
    return b"<annotations" in beginning and b"<annotation>" not in beginning


def _sources(path: Path, folder: Path) -> dict[str, Source]:
    export = Export(path)
    subsets = [one for one in export.subsets if one] or [""]
    if len(subsets) == 1:
        name = canonical(subsets[0])
        return {name if name in SPLITS else "train": _whole(path, folder, is_alone=True)}
    return by_split(
        (one or "default", Source("CVAT", path, _images_of(export, folder, [one]), partial(read_cvat, export, [one])))
        for one in export.subsets
    )


def _whole(path: Path, folder: Path, images: Path | None = None, is_alone: bool = False) -> Source:
    """The source of a file that is read whole, whatever subsets it has; alone, all images of the folder are its own."""
    export = Export(path)
    images = images or _images_of(export, folder, export.subsets)
    return Source("CVAT", path, images, partial(read_cvat, export, export.subsets, images if is_alone else None))


def _images_of(export: Export, folder: Path, subsets: Sequence[str]) -> Path:
    wanted = [image.get("name", "") for image in export.root.iterfind("image") if image.get("subset", "") in subsets]
    subset = subsets[0] if len(subsets) == 1 and subsets[0] else export.path.stem
    if not is_inside(subset):
        raise InputError(f"{export.path}: has a subset whose name leaves the folder: {subset!r}")
    tried = [folder / "images" / subset, folder / "images", folder / "data", folder / subset, folder]
    return folder_with(wanted[:: max(1, len(wanted) // NUM_PROBES)], tried) or folder


def read_cvat(export: Export, subsets: Sequence[str], folder: Path | None = None) -> Reading:
    """Read the images of some subsets as a COCO document.

    Boxes stay boxes; a rotated one becomes the box around it. Polygons, masks and ellipses become masks. Those of one
    label in one group are parts of one object, and a single box with them is theirs. The attribute ``is_crowd`` makes
    a crowd, as in CVAT's own export to COCO. Other shapes are left out, and occlusion and the order of layers are not
    used.

    Parameters
    ----------
    export
        The file.
    subsets
        The subsets; the empty name is that of images in none.
    folder
        A folder whose images the file should all have; those that it lacks are reported.

    Returns
    -------
    Reading
        The document, and what was left out of it.
    """
    draft = Draft(str(export.path), export.names)
    for image in export.root.iterfind("image"):
        name = image.get("name", "")
        if image.get("subset", "") not in subsets:
            continue
        try:
            height, width = map(int, _numbers(image, "height", "width"))
        except (KeyError, ValueError):
            height, width = 0, 0
        if not name or min(height, width) < 1:
            draft.report("warning", f"image {name or image.get('id')}", "has no name or no size: left out")
            continue
        image_id = draft.add_image(name, (height, width))
        draft.add_parts(image_id, (height, width), _parts(image, (height, width), draft))
    listed = {PurePosixPath(image.get("name", "")).name for image in export.root.iterfind("image")}
    for file in [] if folder is None else image_files(folder):
        if file.name not in listed:
            draft.report("warning", f"image {file.name}", "is not in the file: left out")
    return draft.document(), draft.findings


def _parts(image: Element, size: tuple[int, int], draft: Draft) -> Iterator[Part]:
    """The shapes of an image that have an area; reports the others."""
    for place, shape in enumerate(image):
        record = f"image {image.get('name')} {shape.tag} {place + 1}"
        if shape.tag == "tag":
            draft.report("note", record, "is a tag of the whole image, which is not used")
            continue
        try:
            outlined = _outline(shape, size)
        except (KeyError, ValueError) as error:
            draft.report("warning", record, "has coordinates that are missing or broken: left out", str(error))
            continue
        if outlined is None:
            draft.report("warning", record, f"is of a kind that has no area, {shape.tag}: left out")
            continue
        if not shape.get("label"):
            draft.report("warning", record, "has no label: left out")
            continue
        if shape.tag == "box" and float(shape.get("rotation", 0)):
            draft.report("note", record, "is a rotated box: read as the upright box around it")
        attributes = {one.get("name"): (one.text or "").strip().lower() for one in shape.iterfind("attribute")}
        is_crowd = attributes.get("is_crowd") in ("true", "1")
        group = shape.get("group_id", "0")
        label = draft.labels[shape.get("label", "")]
        yield Part(label, *outlined, None if group == "0" else group, is_crowd, record)


def _outline(shape: Element, size: tuple[int, int]) -> tuple[list[float], Any] | None:
    """The box of a shape and its polygon or run lengths, if it has such; None where it is of a kind without an area.

    Raises KeyError or ValueError when a number is missing or broken.
    """
    rotation = float(shape.get("rotation", 0))
    if shape.tag == "box":
        left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        return box_around(rotated(corners, ((left + right) / 2, (top + bottom) / 2), rotation)), None
    if shape.tag == "mask":
        return _mask(shape, size)
    points: Points
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.attrib["points"].split(";")]
        points = [(float(x), float(y)) for x, y in pairs]
        if len(points) < 3:
            raise ValueError("a polygon has three corners or more")
    elif shape.tag == "ellipse":
        x, y, radius_x, radius_y = _numbers(shape, "cx", "cy", "rx", "ry")
        points = ellipse((x, y), (radius_x, radius_y), rotation)
    else:
        return None
    return box_around(points), flat(points)


def _mask(shape: Element, size: tuple[int, int]) -> tuple[list[float], dict[str, Any]]:
    """The box and the run lengths of a mask, whose own runs are row by row in a part of the image."""
    left, top, width, height = map(int, _numbers(shape, "left", "top", "width", "height"))
    runs = [int(run) for run in shape.attrib["rle"].split(",")]
    if min(width, height, *runs) < 0 or sum(runs) != width * height:
        raise ValueError("the runs do not fill the rectangle of the mask")
    if max(width, height) > max(size):  # either side: the image may be turned
        raise ValueError(f"a mask of {width} × {height} pixels is larger than its image")
    pixels = (np.arange(len(runs)) % 2 == 1).repeat(runs).reshape(height, width)
    return placed_mask(pixels, left, top, size)


def _numbers(element: Element, *names: str) -> list[float]:
    """The numbers of attributes; KeyError or ValueError where one is missing or is none."""
    values = [float(element.attrib[name]) for name in names]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{values} are not finite")
    return values
