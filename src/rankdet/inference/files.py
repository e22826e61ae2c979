"""Finds the image files that a user names."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rankdet.data.layouts.files import IMAGE_SUFFIXES, image_files
from rankdet.structures import InputError, counted


class ImageFiles(NamedTuple):
    """Image files, each once, and the number of other files and of folders that were passed over where they lie."""

    paths: list[Path]
    others: int = 0
    folders: int = 0

    def passed_over(self) -> str:
        """What was passed over, in words, or "".

        Examples
        --------
        >>> ImageFiles([], others=2).passed_over()
        '2 files that are no images were passed over'
        >>> ImageFiles([], others=2, folders=1).passed_over()
        '2 files that are no images and 1 folder were passed over (--recursive looks into folders)'
        """
        kinds = (
            (self.others, "file that is no image", "files that are no images"),
            (self.folders, "folder", "folders"),
        )
        parts = [counted(*kind) for kind in kinds if kind[0]]
        remedy = " (--recursive looks into folders)" if self.folders else ""
        verb = "was" if self.others + self.folders == 1 else "were"
        return f"{' and '.join(parts)} {verb} passed over{remedy}" if parts else ""


def find_images(paths: Sequence[Path], recursive: bool = False) -> ImageFiles:
    """Return image files, each once: of each folder and pattern those in it, sorted, and every other path as it is.

    Parameters
    ----------
    paths
        Files, folders, and patterns such as ``photos/**/*.jpg``, in which ``**`` means any folders. A path that is
        there is never taken for a pattern.
    recursive
        Whether to look into folders of folders and those that a pattern fits, too; hidden ones are passed over.

    Raises
    ------
    InputError
        When a path is missing, a pattern fits no image, or a folder holds none or cannot be read.
    """
    found: dict[str, Path] = {}
    others, folders = 0, 0
    for path in paths:
        if path.is_dir() and recursive:
            images = image_files(path)
            what = "no images in this folder or in those in it"
        elif path.is_dir() or (glob.has_magic(str(path)) and not path.exists()):
            inside = _entries(path) if path.is_dir() else [Path(name) for name in glob.glob(str(path), recursive=True)]
            images = [entry for entry in inside if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()]
            below = [entry for entry in inside if entry.is_dir()]
            others += len(inside) - len(images) - len(below)
            if recursive:  # folders that a pattern fits are like those that are named
                images += [image for folder in below for image in image_files(folder)]
            else:
                folders += len(below)
            images.sort()
            what = "no images in this folder" if path.is_dir() else "no image fits this pattern"
        elif path.exists():
            images = [path]
            what = ""
        else:
            raise InputError(f"{path}: no such file or folder")
        if not images:
            raise InputError(f"{path}: {what} ({', '.join(IMAGE_SUFFIXES)})")
        for image in images:
            found.setdefault(os.path.abspath(image), image)  # not resolved: a link is an image of its own
    return ImageFiles(list(found.values()), others, folders)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}") from error
