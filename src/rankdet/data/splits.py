"""Where a folder keeps a split: its annotation file and its images."""

import json
import mmap
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rankdet.coco import raise_errors, read_file_names
from rankdet.coco.lvis import image_file
from rankdet.data.images import is_file
from rankdet.structures import InputError

ALIASES = {"val": ("val", "valid"), "valid": ("valid", "val")}
NUM_PROBES = 16
"""Number of images that are looked for; some of them may be missing."""


class Split(NamedTuple):
    """An annotation file and the folder of its images."""

    annotations: Path
    images: Path


def find_split(folder: Path, split: str) -> Split:
    """Find a split in a folder laid out in one of the usual ways.

    The annotations are ``annotations/instances_{split}.json``, the same name with more behind it
    (``instances_train2017.json``), or ``{split}/_annotations.coco.json``; ``val`` and ``valid`` mean the same. The
    images are in the first of these folders that has any of the first images of the file: ``{name}``,
    ``images/{name}``, ``images/{split}``, ``images``, ``{split}``, the folder itself; ``name`` is ``train2017`` for
    ``instances_train2017.json``.

    Raises
    ------
    InputError
        When nothing fits, with a list of what was tried, or more than one file does, with their names; when the
        images are not found because the annotation file is broken, with what is wrong with it.
    """
    names = ALIASES.get(split, (split,))
    exact = [f"annotations/instances_{name}.json" for name in names]
    exact += [f"{name}/_annotations.coco.json" for name in names]
    annotations = find_annotations(
        Path(folder), split, exact, [f"annotations/instances_{name}*.json" for name in names]
    )
    return Split(annotations, find_images(Path(folder), annotations))


def find_images(folder: Path, annotations: Path) -> Path:
    """The folder of images of an annotation file in a data set; raises InputError where no folder has them."""
    if annotations.stem.startswith("instances_"):
        name = annotations.stem.removeprefix("instances_")
        bare = name.rstrip("0123456789")
        names = list(dict.fromkeys((name, bare, *ALIASES.get(bare, ()))))
    else:
        names = [annotations.parent.name]
    tried = [folder / name for name in names] + [folder / "images" / name for name in names]
    tried += [folder / "images", folder]
    return folder_of_images(folder, annotations, tried, first_texts(annotations, "file_name"))


def find_lvis_split(folder: Path, split: str) -> Split:
    """Find a split of LVIS in a folder.

    The annotations are ``annotations/lvis_v1_{split}.json``, or the same with another version. The images are in
    ``train2017`` and ``val2017`` of the folder or of its folder ``images``: LVIS divides those of COCO anew, so
    validation has images of both.

    Raises
    ------
    InputError
        When no file fits or more than one does, or no folder has the images.
    """
    folder = Path(folder)
    annotations = find_annotations(
        folder, split, [f"annotations/lvis_v1_{split}.json"], [f"annotations/lvis_*_{split}.json"]
    )
    return Split(annotations, find_lvis_images(folder, annotations))


def find_lvis_images(folder: Path, annotations: Path) -> Path:
    """The folder that the images of an annotation file lie in, by the ends of their addresses."""
    first = [image_file(url) for url in first_texts(annotations, "coco_url")]
    names = [name for name in first if name] or first_texts(annotations, "file_name")
    return folder_of_images(folder, annotations, [folder, folder / "images"], names, lvis=True)


def find_annotations(folder: Path, split: str, exact: Sequence[str], patterns: Sequence[str]) -> Path:
    """The annotation file of a split in a folder.

    Of the names ``exact`` that are there, there must be only one. Where none is there, only one file must fit any of
    ``patterns``. Messages call what is looked for ``split``.

    Raises
    ------
    InputError
        When there is no such folder, no file or more than one.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found = [folder / name for name in exact if is_file(folder / name)]
    if not found:
        found = list(dict.fromkeys(sorted(path for pattern in patterns for path in folder.glob(pattern))))
    if len(found) > 1:
        listed = ", ".join(str(path.relative_to(folder)) for path in found)
        raise InputError(
            f"{folder}: several annotation files fit the split {split!r}: {listed}; name one of them fully"
        )
    if not found:
        tried = ", ".join([*exact, *patterns])
        raise InputError(f"{folder}: no annotation file for the split {split!r}; tried {tried}")
    return found[0]


def folder_of_images(
    folder: Path, annotations: Path, tried: Sequence[Path], first: Iterable[str], lvis: bool = False
) -> Path:
    """The first of the folders ``tried`` that has images of an annotation file.

    ``first`` has the names of the first images, found without parsing the file. It is read where none of them is there.

    Raises
    ------
    InputError
        When the images are in none of them; when the file is broken, with what is wrong with it.
    """
    found = _folder_of(first, tried)
    if found is not None:
        return found
    # Is it the file that is wrong? And do later images exist, or was something else called so?
    listed, findings = read_file_names(annotations, lvis)
    if not listed:
        raise_errors(findings)
    found = _folder_of(listed[:: max(1, len(listed) // NUM_PROBES)], tried)
    if found is not None:
        return found
    places = ", ".join(str(candidate.relative_to(folder)) for candidate in tried)
    raise InputError(f"{annotations}: its images ({listed[0]!r}, …) are in none of the folders {places} of {folder}")


def first_texts(annotations: Path, key: str) -> list[str]:
    """The first texts under a key of an annotation file, without parsing what may be half a gigabyte."""
    if not annotations.stat().st_size:
        return []  # nothing can be mapped
    pattern = re.compile(rb'"' + key.encode() + rb'"\s*:\s*("(?:[^"\\]|\\.)*")')
    with annotations.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = [match[1] for match in islice(pattern.finditer(content), NUM_PROBES)]
    texts = []
    for text in found:
        with suppress(ValueError):  # whoever parses the file reports what is broken
            texts.append(str(json.loads(text)))
    return texts


def _folder_of(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """The first folder that has any of the images: one of them missing must not hide the others."""
    names = list(names)
    return next((folder for folder in folders if any(is_file(folder / name) for name in names)), None)
