"""YOLO: a text file per image with boxes or polygons in fractions of its sides, and ``data.yaml`` with the classes.

Here is how a folder is recognized, and which images a split has.

hotcoco's reader is not used: it refuses a whole set for one polygon, leaves out images without a label file, takes the
size of photographs before they are turned, and gives file names without a suffix (hotcoco 1.3.0).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rankdet.data.files import is_file
from rankdet.data.layouts.files import (
    common_folder,
    image_files,
    is_image_name,
    read_lines,
    split_folders,
    walk_images,
)
from rankdet.data.layouts.source import Reading, Source, by_split
from rankdet.data.layouts.splits import SPLITS
from rankdet.data.layouts.yolo_labels import label_file, read_yolo
from rankdet.data.layouts.yolo_settings import (
    LIST_NAMES,
    SETTINGS_SUFFIXES,
    YAML_NAMES,
    Settings,
    bases,
    existing,
    is_settings,
    listed_names,
    read_settings,
)
from rankdet.structures import InputError


def find(folder: Path) -> dict[str, Source] | None:
    """The splits that ``data.yaml`` or ``obj.data`` names, or the folders ``images/train``, ``train/images``.

    Files with a class in each line stand for ``data.yaml``. A path of another machine is looked for by its end.

    Raises
    ------
    InputError
        When ``data.yaml`` is broken or none of its images are there.
    """
    file = _settings_file(folder)
    if file is not None:
        return _sources(read_settings(file))
    files = _names_files(folder)
    if not files or not _has_labels(folder):
        return None
    names = [read_settings(file).names if file.name in YAML_NAMES else listed_names(file) for file in files]
    different = next((file for file, other in zip(files, names, strict=True) if other != names[0]), None)
    if different is not None:
        raise InputError(f"{different}: has other classes than {files[0]}; write a data.yaml with those of all splits")
    return _sources(Settings(folder / files[0].name, Path(os.path.abspath(folder)), names[0]))


def find_without_names(folder: Path) -> None:
    """Raise InputError where a folder has labels of YOLO that `find` cannot read, because nothing names the classes."""
    if _has_labels(folder):
        raise InputError(f"{folder}: has labels of YOLO, but no data.yaml or classes.txt with the names of the classes")


def _has_labels(folder: Path) -> bool:
    places = [*_split_folders(folder).values()] or [folder]
    return any(label_file(image) is not None for place in places for image in walk_images(place))


def find_by_settings(file: Path) -> dict[str, Source] | None:
    """The splits that a ``data.yaml`` of any name has, or None where a file is of another kind."""
    return _sources(read_settings(file)) if file.suffix in SETTINGS_SUFFIXES else None


def find_file(annotations: Path, images: Path | None) -> Source | None:
    """The source of a ``data.yaml``: its training images, or those of the folder ``images``."""
    if images is not None and annotations.suffix in SETTINGS_SUFFIXES:
        return _source(read_settings(annotations), [Path(os.path.abspath(images))])
    sources = find_by_settings(annotations)
    return None if sources is None else sources.get("train", next(iter(sources.values())))


def _source(settings: Settings, places: Sequence[Path]) -> Source:
    """The source of a split in places: folders of images, and files that list images."""
    folders = [place if place.is_dir() else common_folder(_images(settings, place)) for place in places]
    folder = Path(os.path.commonpath(folders))

    def read() -> Reading:
        images = [image for place in places for image in _images(settings, place)]
        return read_yolo(settings, list(dict.fromkeys(images)), folder)

    return Source("YOLO", settings.file, folder, read)


def _sources(settings: Settings) -> dict[str, Source]:
    """The splits that have images; the first of them also reports those that have none."""
    usual = _split_folders(settings.file.parent)
    found: dict[str, list[Path]] = {}
    remarks = []
    for split in SPLITS:
        entries = settings.entries.get(split, [])
        places = [place for entry in entries if (place := _place(settings, entry)) is not None]
        if entries and not places:
            instead = "those of the folder called like the split are taken" if split in usual else "left out"
            remarks.append((split, f"has images that are not there: {instead}", ", ".join(entries)))
            places = [usual[split]] if split in usual else []
        if places:
            found[split] = places
    if not settings.entries:
        whole = {"train": [_of_images(settings.folder)]} if _has_images(settings, settings.folder) else {}
        found = {split: [place] for split, place in usual.items()} or whole
    if not found:
        listed = "; ".join(f"{split}: {', '.join(entries)}" for split, entries in settings.entries.items())
        raise InputError(f"{settings.file}: none of its images are there: {listed or 'it names no split'}")
    sources: dict[str, Source] = {}
    for split, places in found.items():
        told = settings if sources else replace(settings, remarks=tuple(remarks))
        sources[split] = _source(told, places)
    return by_split(sources.items())


def _settings_file(folder: Path) -> Path | None:
    """The file of a folder that names splits and classes, or None."""
    usual = [folder / name for name in (*YAML_NAMES, "obj.data")]
    first = next(filter(is_file, usual), None)
    if first is not None:
        return first
    others = [path for path in sorted(folder.glob("*.y*ml")) if is_settings(path)]
    if len(others) > 1:
        listed = ", ".join(path.name for path in others)
        raise InputError(f"{folder}: several files describe a data set of YOLO: {listed}; call one of them data.yaml")
    return others[0] if others else None


def _place(settings: Settings, entry: str) -> Path | None:
    """The folder or list of images that an entry means, or None where there is none or it has no image."""
    found = existing(entry, bases(settings), min_parts=1 if entry.endswith(".txt") else 2)
    return found if found is not None and _has_images(settings, found) else None


def _has_images(settings: Settings, place: Path) -> bool:
    return any(True for _ in walk_images(place)) if place.is_dir() else bool(_images(settings, place))


def _images(settings: Settings, place: Path) -> list[Path]:
    """The images of a folder or of a list, which may name images that are missing."""
    if place.is_dir():
        return image_files(place)
    lines = [line.strip() for line in read_lines(place) if line.strip()]
    found = [existing(line, [place.parent, *bases(settings)], min_parts=1) for line in lines]
    return [one or Path(os.path.abspath(settings.folder / line)) for one, line in zip(found, lines, strict=True)]


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders with images that are called like splits, in a folder or in ``images`` there."""
    below = split_folders(folder / "images") | split_folders(folder)
    return {split: _of_images(path) for split, path in below.items() if any(True for _ in walk_images(path))}


def _of_images(folder: Path) -> Path:
    """The folder, or its folder ``images`` where all others have something else."""
    inside = folder / "images"
    has_own = any(is_image_name(path.name) for path in folder.iterdir())
    return Path(os.path.abspath(inside if inside.is_dir() and not has_own else folder))


def _names_files(folder: Path) -> list[Path]:
    """Files that name the classes of a folder without ``data.yaml``: here, beside labels, or one for each split."""
    splits = [*split_folders(folder).values(), *split_folders(folder / "labels").values()]
    places = [folder, folder / "labels", *splits, *(split / "labels" for split in splits)]
    first = (
        next((place / name for name in (*LIST_NAMES, *YAML_NAMES) if is_file(place / name)), None) for place in places
    )
    return [file for file in first if file is not None]
