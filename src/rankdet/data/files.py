"""Which files and folders there are, asked for without an error for names that no file system takes."""

import os
from collections.abc import Sequence
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether there is such a file; False also where the file system refuses the name, as too long for instance."""
    try:
        return path.is_file()
    except OSError:
        return False


def is_folder(path: Path) -> bool:
    """The same for a folder."""
    try:
        return path.is_dir()
    except OSError:
        return False


def missing_files(paths: Sequence[Path]) -> list[int]:
    """The places of the paths that are no files.

    Folders are listed once: asking for each of 100,000 files by itself takes many seconds on a network drive.
    """
    names: dict[Path, set[str]] = {}
    missing = []
    for place, path in enumerate(paths):
        if path.parent not in names:
            names[path.parent] = _names_in(path.parent)
        # A link is asked for, and so is what is not listed: some file systems take a name for another's.
        if path.name not in names[path.parent] and not is_file(path):
            missing.append(place)
    return missing


def _names_in(folder: Path) -> set[str]:
    """The names of the files in a folder that are no links."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except OSError:
        return set()
