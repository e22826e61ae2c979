"""Finds and checks the image files that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankdet.data.pixels import to_pixels
from rankdet.structures import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return image files: of each folder those in it, sorted, and every other path as it is.

    Raises InputError when a path is missing, or a folder holds no image or cannot be read.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        inside = _images_in(path) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
        found += inside
    return found


def _images_in(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}") from error
    return [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]


def check_images(paths: Sequence[Path]) -> None:
    """Read every image once; raise InputError that names all broken ones."""
    mistakes = []
    for path in paths:
        try:
            to_pixels(path)
        except InputError as error:
            mistakes.append(str(error))
    if mistakes:
        raise InputError("; ".join(mistakes))
