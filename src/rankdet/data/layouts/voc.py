"""Pascal VOC: an XML file per image, with boxes whose first pixel is number 1.

hotcoco's reader is not used: it knows no splits, numbers the classes of each folder anew, trusts ``<filename>`` more
than the files that are there, refuses a set where it is missing, and leaves out polygons (hotcoco 1.3.0).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from rankdet.data.files import is_file
from rankdet.data.layouts.draft import Draft
from rankdet.data.layouts.files import (
    folders_in,
    is_image_name,
    read_lines,
    split_folders,
    upright_size,
)
from rankdet.data.layouts.source import Reading, Source, by_split
from rankdet.data.layouts.splits import SPLITS, canonical
from rankdet.data.progress import with_bar

SIDES = ("xmin", "ymin", "xmax", "ymax")
IMAGE_FOLDERS = ("jpegimages", "images", "imgs", "img", "data")
XML_FOLDERS = ("annotations", "labels", "xmls", "xml")
"""Names of folders, in lower case."""
CHOICE = "where it is 1, data.voc_first_pixel=1 says so (rankdet convert: --voc-first-pixel 1)"


@dataclass(frozen=True)
class Split:
    """The XML files of a split and the folder of its images.

    is_listed
        Whether a file of ``ImageSets/Main`` chooses among the images of the folder.
    """

    files: Sequence[Path]
    images: Path
    is_listed: bool = False

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """The image files of the folder by their names without suffixes."""
        found: dict[str, list[str]] = {}
        for path in sorted(self.images.iterdir()):
            if is_image_name(path.name):
                found.setdefault(path.stem, []).append(path.name)
        return found


@dataclass(frozen=True)
class Folder:
    """All splits of a data set, for their boxes and classes are numbered alike.

    given_first_pixel
        The number of the first pixel where a recipe says it; None: boxes have to tell.
    """

    path: Path
    splits: Mapping[str, Split]
    given_first_pixel: int | None = None

    @cached_property
    def roots(self) -> dict[Path, Element | None]:
        """The content of each XML file; None where it is broken."""
        files = [path for split in self.splits.values() for path in split.files]
        return {path: _root(path) for path in with_bar(files, "XML files")}

    @cached_property
    def names(self) -> list[str]:
        """The classes of all splits, so that they have the same numbers in each."""
        roots = filter(None, self.roots.values())
        return sorted({_text(one, "name") for root in roots for one in root.iterfind("object")} - {""})

    @cached_property
    def first_pixel(self) -> tuple[int, str]:
        """The number of the first pixel, and how it is known.

        It is 1, as VOC defines it, or 0, as datumaro, FiftyOne, globox and others write it. Objects at the border tell:
        where none begins before 1 and more begin at 1 than at 2, pixels count from 1. So they do in files of VOC
        itself, which name its database. mmdetection and detectron2 always count from 1.
        """
        if self.given_first_pixel is not None:
            return self.given_first_pixel, "as data.voc_first_pixel says"
        roots = [root for root in self.roots.values() if root is not None]
        boxes = (box for root in roots for box in root.iterfind("object/bndbox"))
        starts = np.array([corners[:2] for box in boxes if (corners := _numbers(box, SIDES)) is not None])
        if (starts < 1).any():
            return 0, "as boxes at the border show"
        if any("VOC" in _text(root, "source/database") for root in roots):
            return 1, "as in VOC, whose database is named"
        if (starts == 1).sum() > (starts == 2).sum():
            return 1, "as boxes at the border show"
        return 0, ""


def find(folder: Path, first_pixel: int | None = None) -> dict[str, Source] | None:
    """The splits of a folder of Pascal VOC.

    These are ``ImageSets/Main/train.txt`` with ``Annotations`` and ``JPEGImages`` or ``images``, folders called like
    splits with XML files, here (Roboflow, FiftyOne) or in ``Annotations``, or a folder of XML files without a split,
    which counts as ``train``. A folder ``VOCdevkit/VOC2012`` is entered. Pixels count from ``first_pixel`` on; None: as
    boxes show.
    """
    years = [path for path in folders_in(folder / "VOCdevkit") if (path / "Annotations").is_dir()]
    if len(years) == 1:
        folder = years[0]
    splits = {}
    for split, path in _split_folders(folder).items():
        if files := _xml_files(path):
            splits[split] = Split(files, _image_folder(path, folder))
    if not splits and (files := _xml_files(folder)):
        splits = _image_sets(folder, files)
    found = Folder(folder, splits, first_pixel)
    return (
        by_split(
            (split, Source("Pascal VOC", folder, one.images, partial(read_voc, found, split)))
            for split, one in found.splits.items()
        )
        or None
    )


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders called like splits, here or in a folder of annotations."""
    found = split_folders(folder)
    for place in _named(folder, XML_FOLDERS):
        found = split_folders(place) | found
    return found


def _named(folder: Path, names: Collection[str]) -> list[Path]:
    """The folders in a folder that have one of some names, in letters of either case."""
    return [path for path in folders_in(folder) if path.name.lower() in names]


def _xml_files(folder: Path) -> list[Path]:
    """The XML files of a folder and its folders of annotations, if they are of Pascal VOC."""
    files = [path for place in (folder, *_named(folder, XML_FOLDERS)) for path in sorted(place.glob("*.xml"))]
    roots = filter(None, map(_root, files[:3]))  # one of them broken must not hide the others
    return files if any(root.tag == "annotation" for root in roots) else []


def _root(path: Path) -> Element | None:
    try:
        return ElementTree.fromstring(path.read_bytes())
    except (OSError, ValueError, LookupError, ElementTree.ParseError):
        return None


def _image_folder(place: Path, folder: Path) -> Path:
    """The folder of the images of the XML files in a place: there, or in a folder of images of the data set."""
    outside = _named(folder, IMAGE_FOLDERS)
    inside = [*_named(place, IMAGE_FOLDERS), place, *_named(place, XML_FOLDERS)]
    same = [path for images in outside for path in folders_in(images) if canonical(path.name) == canonical(place.name)]
    has_images = (path for path in (*inside, *same, *outside) if any(is_image_name(one.name) for one in path.iterdir()))
    return next(has_images, place)


def _image_sets(folder: Path, files: Sequence[Path]) -> dict[str, Split]:
    """The splits that ``ImageSets/Main`` lists; all files are of ``train`` where it lists none."""
    images = _image_folder(folder, folder)
    by_stem = {path.stem: path for path in files}
    lists = {canonical(path.stem): path for path in sorted(folder.glob("ImageSets/Main/*.txt"))}
    if "train" not in lists and "trainval" in lists:
        lists["train"] = lists["trainval"]
    splits = {}
    for split in SPLITS:
        if split in lists:
            # Behind a name may stand 1, 0 or -1, as in the lists of single classes.
            stems = [line.split()[0] for line in read_lines(lists[split]) if line.strip()]
            listed = [by_stem.get(stem, files[0].parent / f"{stem}.xml") for stem in dict.fromkeys(stems)]
            splits[split] = Split(listed, images, is_listed=True)
    return splits or {"train": Split(files, images)}


def read_voc(folder: Folder, name: str) -> Reading:
    """Read a split as a COCO document.

    A box of VOC has the numbers of its first and last pixel, from 1 on: it goes from xmin - 1 to xmax. Most tools write
    coordinates, so that nothing is to be subtracted (`Folder.first_pixel`).
    Objects that are marked as difficult become crowds: neither learned from nor counted as missed, as VOC means it.
    Polygons become masks. Parts of objects, pose and truncation are not used.

    Returns
    -------
    Reading
        The document, and what was left out of it.
    """
    split, draft = folder.splits[name], Draft(str(folder.path), folder.names)
    first_pixel, reason = folder.first_pixel
    if reason:
        draft.report("note", "", f"pixels count from {first_pixel}, {reason}")
    else:
        problem = "no box at the border tells whether pixels count from 0 or 1: 0 is taken, as most tools write it"
        draft.report("note", "", problem, remedy=CHOICE)
    taken = set()
    for path in split.files:
        record = f"{path.parent.name}/{path.name}"
        root = folder.roots[path]
        if root is None:
            _add_without_xml(draft, path, split, record)
            continue
        image = _image_name(root, path, split)
        taken.add(image)
        size = _size(root) or upright_size(split.images / image)
        if isinstance(size, str):
            draft.report("warning", record, f"has no size, and its image {size}: left out", image)
            continue
        image_id = draft.add_image(image, size)
        for place, one in enumerate(root.iterfind("object")):
            _add(draft, image_id, one, f"{record} object {place + 1}", first_pixel)
    if not split.is_listed:
        for image in sorted({name for names in split.names.values() for name in names} - taken):
            draft.report("warning", f"image {image}", "has no XML file: left out")
    if (folder.path / "SegmentationObject").is_dir():
        draft.report("note", "SegmentationObject", "has masks, which are not read")
    return draft.document(), draft.findings


def _add_without_xml(draft: Draft, path: Path, split: Split, record: str) -> None:
    """Add an image that a split lists and that has no XML file, as datumaro writes those without objects."""
    images = split.names.get(path.stem, [])
    size = upright_size(split.images / images[0]) if images and not is_file(path) else "is missing"
    if isinstance(size, str):
        problem = "is no XML that can be read: left out" if is_file(path) else "is missing, as its image is: left out"
        draft.report("warning", record, problem)
    else:
        draft.report("warning", record, "is missing: its image is one without objects")
        draft.add_image(images[0], size)


def _image_name(root: Element, path: Path, split: Split) -> str:
    """The image file of an XML file: one called like it, or one that it names; what it names where neither is there."""
    named = PurePosixPath(_text(root, "filename").replace("\\", "/")).name
    candidates = split.names.get(path.stem, []) or split.names.get(PurePosixPath(named).stem, [])
    if candidates and named not in candidates:
        return candidates[0]
    return named or f"{path.stem}.jpg"


def _size(root: Element) -> tuple[int, int] | None:
    """(height, width) that an XML file states, if it does: some tools write 0."""
    size = root.find("size")
    sides = None if size is None else _numbers(size, ("height", "width"))
    return (int(sides[0]), int(sides[1])) if sides is not None and min(sides) >= 1 else None


def _add(draft: Draft, image_id: int, one: Element, record: str, first_pixel: int) -> None:
    """Add an object, or report why it is left out."""
    name, bndbox, polygon = _text(one, "name"), one.find("bndbox"), one.find("polygon")
    if not name:
        draft.report("warning", record, "has no name: left out")
        return
    corners = None if bndbox is None else _numbers(bndbox, SIDES)
    if corners is None:
        draft.report("warning", record, "has no bndbox of four numbers: left out")
        return
    left, top = corners[0] - first_pixel, corners[1] - first_pixel
    # FiftyOne keeps crowds of COCO under their own name.
    is_difficult = "1" in (_text(one, "difficult"), _text(one, "iscrowd"))
    if is_difficult:
        draft.report("note", record, "is difficult or a crowd: neither learned from nor counted as missed")
    box = [left, top, corners[2] - left, corners[3] - top]
    outline = None if polygon is None else _outline(polygon, first_pixel)
    draft.add(image_id, draft.labels[name], box, None if outline is None else [outline], is_crowd=is_difficult)


def _outline(polygon: Element, first_pixel: int) -> list[float] | None:
    """The corners of a polygon as Roboflow writes it, ``x1``, ``y1``, ``x2``, …; None where they are fewer than 3."""
    values = _numbers(polygon, [f"{axis}{place + 1}" for place in range(len(polygon) // 2) for axis in "xy"])
    return [value - first_pixel for value in values] if values is not None and len(values) >= 6 else None


def _numbers(element: Element, names: Sequence[str]) -> tuple[float, ...] | None:
    """The numbers in elements of these names; None where one is missing or is none."""
    try:
        values = tuple(float(_text(element, name)) for name in names)
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _text(element: Element, name: str) -> str:
    return (element.findtext(name) or "").strip()
