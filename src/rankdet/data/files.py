"""Which files and folders there are, asked for without an error for names that no file system takes."""

import os
from collections.abc import Iterable
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


def missing_files(folder: Path, names: Iterable[str]) -> list[int]:
    """The places among the names, which are below ``folder``, of those that are no files.

    Folders are listed once: asking for each of 100,000 files by itself takes many seconds on a network drive.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for place, path in enumerate(names):
        below, _, name = path.rpartition("/")
        if below not in listed:
            listed[below] = _names_in(folder / below)
        # A link is asked for, and so is what is not listed: some file systems take a name for another's.
        if name not in listed[below] and not is_file(folder / path):
            missing.append(place)
    return missing


def _names_in(folder: Path) -> set[str]:
    """The names of the files in a folder that are no links."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file(follow_symlinks=False)}
    except OSError:
        return set()
