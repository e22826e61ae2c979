"""Image files and folders of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankdet.data.pixels import to_pixels
from rankdet.structures import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images among ``paths``, folders replaced by the images in them.

    Raises
    ------
    InputError
        When a path is missing or a folder holds no image.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                entry for entry in _entries(path) if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()
            )
            if not inside:
                raise InputError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}") from error


def check_images(paths: Sequence[Path]) -> None:
    """Read every image once; raises InputError that names all broken ones."""
    mistakes = []
    for path in paths:
        try:
            to_pixels(path)
        except InputError as error:
            mistakes.append(str(error))
    if mistakes:
        raise InputError("; ".join(mistakes))
