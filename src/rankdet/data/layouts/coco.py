"""Folders with annotation files of COCO, under the names that COCO itself and the usual tools give them."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rankdet.coco import read_file_names
from rankdet.data.layouts.images import NUM_PROBES, first_texts, folder_with
from rankdet.data.layouts.names import fits
from rankdet.data.layouts.source import Source, by_split
from rankdet.data.layouts.splits import ALIASES, SPLITS, canonical, without_year
from rankdet.structures import InputError

OTHER_TASKS = ("person_keypoints_", "captions_", "panoptic_", "stuff_", "image_info_", "lvis_")
"""Beginnings of the names of files that lie beside those of COCO and are for something else."""
MOST_FILES = 64
"""JSON files in a folder that are looked into; where there are more, each is of one image."""
SCORE = re.compile(rb'"score"\s*:\s*[0-9]')
"""What detections have and annotations have not; some tools write ``null`` for it."""
SEGMENTATION = re.compile(rb'"segmentation"\s*:\s*(\{|\[\s*[\[0-9])')
"""A segmentation that is not empty: run lengths, polygons or a flat polygon."""
SECTIONS = tuple(map(re.compile, (b'"images"', b'"annotations"', b'"categories"')))
PART, NEAR = 1 << 24, 1 << 12
"""Bytes of a file that are searched at a time, and those behind them that what is searched for may reach into."""


def find(folder: Path) -> dict[str, Source] | None:
    """The splits of a folder with annotation files of COCO.

    By name these are ``annotations/instances_SPLIT.json`` (COCO, CVAT, Datumaro) and ``SPLIT/_annotations.coco.json``
    (Roboflow). Where there is none, all JSON files with the sections of COCO count: those in ``annotations``, in the
    folder itself (``labels.json`` of FiftyOne, ``result.json`` of Label Studio) and in folders called like splits. A
    single file that names none of the usual splits is that of ``train``.
    """
    found = list(_by_name(folder)) or list(_by_content(folder))
    if len(found) == 1 and not _split_in(found[0][0]):
        found = [("train", found[0][1])]
    return by_split((split or path.stem, _source(path, folder)) for split, path in found) or None


def find_file(annotations: Path, images: Path | None) -> Source | None:
    """The source of a JSON file; the images are looked for around it where their folder is not named."""
    if annotations.suffix.lower() != ".json" or not annotations.is_file():
        return None
    folder = annotations.parent
    return _source(annotations, folder.parent if folder.name == "annotations" else folder, images)


def _by_name(folder: Path) -> Iterator[tuple[str, Path]]:
    """Splits as the folder calls them, empty where the name has none, and their files with names of known tools."""
    for path in sorted(folder.glob("annotations/instances*.json")):
        yield path.stem.removeprefix("instances").removeprefix("_"), path
    for path in sorted(folder.glob("*/_annotations.coco.json")):
        yield path.parent.name, path
    if (folder / "_annotations.coco.json").is_file():
        yield "", folder / "_annotations.coco.json"


def _by_content(folder: Path) -> Iterator[tuple[str, Path]]:
    """The same for all JSON files that have the sections of COCO."""
    for path in _coco_files(folder / "annotations"):
        yield _split_in(path.stem), path
    for path in _coco_files(folder):
        yield _split_in(path.stem), path
    for below in sorted(path for path in folder.iterdir() if path.is_dir() and _split_in(path.name) == path.name):
        for path in [*_coco_files(below), *_coco_files(below / "annotations")]:
            yield below.name, path


def _coco_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if len(files) > MOST_FILES:
        return []
    return [path for path in files if not path.name.startswith(OTHER_TASKS) and has_annotations(path)]


def has_annotations(path: Path) -> bool:
    """Whether a JSON file is an object with the three sections of COCO and no scores, as far as its text shows."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        is_object = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
        return is_object and all(_is_in(content, section) for section in SECTIONS) and not _is_in(content, SCORE)


def has_segmentations(path: Path) -> bool:
    """Whether an object of a COCO file has a segmentation, sound or not, as far as its text shows."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return _is_in(content, SEGMENTATION)


def _is_in(content: mmap.mmap, wanted: re.Pattern[bytes]) -> bool:
    """Whether a few letters are in a file; it is never in memory as a whole."""
    for start in range(0, len(content), PART):
        if wanted.search(content, start, start + PART + NEAR):
            return True
        content.madvise(mmap.MADV_DONTNEED)
    return False


def _split_in(name: str) -> str:
    """The word of a name that is a split, with its year; empty where there is none.

    Examples
    --------
    >>> _split_in("annotations_Train"), _split_in("train2017"), _split_in("labels")
    ('Train', 'train2017', '')
    """
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    return next((word for word in words if without_year(canonical(word)) in SPLITS), "")


def _source(annotations: Path, folder: Path, images: Path | None = None) -> Source:
    images = images or _images_of(annotations, folder)
    return Source(_layout(annotations, folder, images), annotations, images)


def _layout(annotations: Path, folder: Path, images: Path) -> str:
    """What messages call the layout of a file: the tool that writes files of this name beside such images."""
    if annotations.name == "_annotations.coco.json":
        return "Roboflow COCO"
    if annotations.name == "instances_default.json":
        return "CVAT or Datumaro COCO"
    if annotations.name == "labels.json" and images.name == "data":
        return "FiftyOne COCO"
    if annotations.name in ("result.json", "result_coco.json") and annotations.parent == folder:
        return "Label Studio COCO"
    return "COCO"


def _images_of(annotations: Path, folder: Path) -> Path:
    """The folder of the images of a file: the first of the usual ones that has any, otherwise the data folder."""
    beside = annotations.parent.parent if annotations.parent.name == "annotations" else annotations.parent
    name = annotations.stem.removeprefix("instances_")
    split = _split_in(name) or name
    bare = without_year(canonical(split))
    names = [name, split, split.rstrip("0123456789"), *(one for one in (*SPLITS, *ALIASES) if canonical(one) == bare)]
    bases = list(dict.fromkeys([beside, folder]))
    tried = [place / name for base in bases for place in (base, base / "images") for name in dict.fromkeys(names)]
    tried += [place for base in bases for place in (base / "images", base / "data", base)]
    tried = [found for each in tried if (found := _existing(each)) is not None]
    for probes in _probes(annotations):
        found = folder_with(probes, tried) or next((place for place in tried if fits(probes, place)), None)
        if found is not None:
            return found
    return folder


def _probes(annotations: Path) -> Iterator[list[str]]:
    """Names of some images, and of others where those are not found: are only the first missing?"""
    yield first_texts(annotations, "file_name")
    with suppress(InputError):  # whoever reads the file reports what is broken
        listed, _ = read_file_names(annotations)
        yield listed[:: max(1, len(listed) // NUM_PROBES)]


def _existing(folder: Path) -> Path | None:
    """The folder, or the one beside it whose name is the same in other letters; None where there is none."""
    if folder.is_dir():
        return folder
    if not folder.parent.is_dir():
        return None
    same = (each for each in folder.parent.iterdir() if each.name.lower() == folder.name.lower() and each.is_dir())
    return next(same, None)
