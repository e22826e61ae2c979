"""Image files of folders, as formats need them that do not list images with their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from rankdet.data.files import is_file
from rankdet.data.images import UnreadableImageError, header
from rankdet.data.layouts.splits import SPLITS, canonical
from rankdet.structures import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder and the folders in it, sorted; hidden ones are none."""
    return sorted(walk_images(folder))


def walk_images(folder: Path) -> Iterator[Path]:
    """The same one by one, in no order, to ask for the first without a list of a hundred thousand."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        yield from (Path(place, name) for name in names if is_image_name(name))


def split_folders(folder: Path) -> dict[str, Path]:
    """Split → the folder in a folder that is called like it, by any of its names."""
    found = {canonical(path.name): path for path in folders_in(folder)}
    return {split: found[split] for split in SPLITS if split in found}


def is_image_name(name: str) -> bool:
    """Whether a file name is that of an image: ``._a.jpg``, which macOS leaves in archives, is none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def upright_size(path: Path) -> tuple[int, int] | str:
    """(height, width) of an upright image, from its header, or what is wrong with the file."""
    try:
        return header(path).upright
    except UnreadableImageError:
        return "cannot be read as an image" if is_file(path) else "is missing"


def common_folder(files: Iterable[Path]) -> Path:
    """The innermost folder that all files lie in."""
    return Path(os.path.commonpath([file.parent for file in files]))


def read_lines(path: Path) -> list[str]:
    """The lines of a text file; InputError names a file that is none."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no text file that can be read: {error}") from error


def parsed_yaml(text: str | bytes, path: Path) -> Any:
    """What a text of the file ``path`` says as YAML; InputError names the file where it says nothing."""
    try:
        return yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: is no YAML that can be read: {error}") from error


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted; none where there is no such folder."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
