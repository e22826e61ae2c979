"""Finds the image files that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rankdet.data.layouts.files import IMAGE_SUFFIXES
from rankdet.structures import InputError


class ImageFiles(NamedTuple):
    """Image files, and the number of other files and of folders beside them in the folders that were looked into."""

    paths: list[Path]
    others: int = 0
    folders: int = 0

    def passed_over(self) -> str:
        """What was passed over, in words, or "".

        Examples
        --------
        >>> ImageFiles([], others=2, folders=1).passed_over()
        '2 files that are no images and 1 folder were passed over'
        """
        kinds = (
            (self.others, "file that is no image", "files that are no images"),
            (self.folders, "folder", "folders"),
        )
        parts = [f"{count} {one if count == 1 else many}" for count, one, many in kinds if count]
        return (
            f"{' and '.join(parts)} {'was' if self.others + self.folders == 1 else 'were'} passed over" if parts else ""
        )


def find_images(paths: Sequence[Path]) -> ImageFiles:
    """Return image files: of each folder those in it, sorted, and every other path as it is.

    Raises InputError when a path is missing, or a folder holds no image or cannot be read.
    """
    found, others, folders = [], 0, 0
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder")
        if not path.is_dir():
            found.append(path)
            continue
        inside = _entries(path)
        images = [entry for entry in inside if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
        if not images:
            raise InputError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
        below = sum(entry.is_dir() for entry in inside)
        found, others, folders = found + images, others + len(inside) - len(images) - below, folders + below
    return ImageFiles(found, others, folders)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}") from error
