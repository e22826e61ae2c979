"""Which files the names of annotations mean, and the sizes of their images where annotations have none.

Tools write names as they know them: with backslashes, as addresses, as paths of a server or of another machine, with
the folder of the split in front, without a suffix. A name is found in three steps, each for the names that are left:
as it is; in the folder that the end of its path names; by its last part alone, where only one file is called so.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from rankdet.coco import Finding
from rankdet.coco.findings import NAMES_FOLDER, record_name, shown
from rankdet.data.images import UnreadableImageError, header
from rankdet.data.layouts.files import (
    IMAGE_SUFFIXES,
)
from rankdet.data.progress import with_bar

UPLOAD = re.compile(r"[0-9a-f]{8}[-_]+(?=.)")
"""What Label Studio puts in front of the name of a file."""


def with_files(rows: Sequence[Any], folder: Path, file: str) -> tuple[list[Any], list[Finding]]:
    """Return records of images with the names of files below ``folder``, and what was changed or is not clear.

    A name that no file fits stays as it is. ``file`` is what findings call the annotations.
    """
    names = {row["file_name"] for row in rows if isinstance(row, Mapping) and isinstance(row.get("file_name"), str)}
    there = _existing(names, folder)
    if names == there:
        return list(rows), []
    found = _Search(folder, there).find(names - there)
    taken = Counter([*there, *(files[0] for files in found.values() if len(files) == 1)])
    changed, findings = [], []
    for place, row in enumerate(rows):
        name = row.get("file_name") if isinstance(row, Mapping) else None
        files = found.get(name, ()) if isinstance(name, str) else ()
        record = record_name("image", place, row)
        if len(files) == 1 and taken[files[0]] == 1:
            row = {**row, "file_name": files[0]}
            detail = f"{shown(name)} is {files[0]!r}"
            findings.append(Finding("note", file, record, "file_name is written in another way", detail))
        elif files:
            problem = "file_name fits several files" if len(files) > 1 else "file_name fits the file of another name"
            detail = f"{shown(name)}: {', '.join(map(repr, files[:3]))}"
            findings.append(Finding("warning", file, record, f"{problem}: none is taken", detail, NAMES_FOLDER))
        changed.append(row)
    is_any = bool(there) or any(len(files) == 1 for files in found.values())
    return changed, findings + ([] if is_any else _none_there(names, folder, file))


def as_given(names: Set[str], folder: Path, file: str) -> list[Finding] | None:
    """What is said of names of files that all stay as they are; None where one is changed, or is not clear."""
    there = _existing(names, folder)
    if names == there:
        return []
    if _Search(folder, there).find(names - there):
        return None
    return [] if there else _none_there(names, folder, file)


def _none_there(names: Set[str], folder: Path, file: str) -> list[Finding]:
    """What is said where none of the names is that of a file."""
    if not any(map(is_inside, names)):  # of names that lead out of the folder the reader says so
        return []
    problem = f"none of the {len(names)} images is in {folder}"
    return [Finding("warning", file, "", problem, f"{shown(min(names))}, …", NAMES_FOLDER)]


def with_sizes(rows: Sequence[Any], folder: Path, file: str) -> tuple[list[Any], list[Finding]]:
    """Return records of images with the sizes that annotations do not have, from the headers of upright images.

    An image whose header cannot be read stays without a size.
    """
    is_open = [isinstance(row, Mapping) and not (row.get("width") and row.get("height")) for row in rows]
    if not any(is_open):
        return list(rows), []
    changed, findings = list(rows), []
    places = [place for place, flag in enumerate(is_open) if flag and is_inside(rows[place].get("file_name"))]
    for place in with_bar(places, "Sizes of images"):
        row = rows[place]
        try:
            height, width = header(folder / row["file_name"]).upright
        except (UnreadableImageError, ValueError):  # as is reported where the image is read
            continue
        changed[place] = {**row, "width": width, "height": height}
        problem = "has no width and height: those of the image file are taken"
        findings.append(Finding("note", file, record_name("image", place, row), problem, f"{width} × {height}"))
    return changed, findings


def fits(names: Iterable[str], folder: Path) -> bool:
    """Whether any of the names means a file below a folder."""
    return bool(_Search(folder, set()).find(names))


def is_inside(name: Any) -> bool:
    """Whether a name is that of a file inside of a folder, as far as the name shows."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    return not name.startswith("/") and ".." not in name.split("/")


def _existing(names: Iterable[str], folder: Path) -> set[str]:
    """The names that are those of files as they are. Folders are listed, which is quicker than to ask for each file."""
    by_folder: dict[str, list[str]] = {}
    for name in names:
        below = name.rpartition("/")[0]
        if below or not name.startswith("/"):
            by_folder.setdefault(below, []).append(name)
    there: set[str] = set()
    for below, inside in by_folder.items():
        if below and not is_inside(below):
            continue
        try:
            files = {entry.name for entry in os.scandir(folder / below) if entry.is_file()}
        except (OSError, ValueError):  # no such folder, or no valid name of one
            continue
        there.update(name for name in inside if name.rpartition("/")[2] in files)
    return there


def readings(name: str) -> list[str]:
    r"""What a name may mean as a path, from the most literal on: without its drive, server and steps upwards.

    Examples
    --------
    >>> readings(r"..\media\a%20b.png")
    ['media/a%20b.png', 'media/a b.png']
    >>> readings("https://host/data/local-files/?d=set/a.png")
    ['set/a.png']
    """
    plain = name.replace("\\", "/")
    if "?d=" in plain:
        plain = plain.partition("?d=")[2]
    elif "://" in plain:
        plain = urlsplit(plain).path
    elif plain[1:3] == ":/":
        plain = plain[3:]
    texts = dict.fromkeys([plain, unquote(plain)] if "%" in plain else [plain])
    return ["/".join(part for part in text.split("/") if part not in ("", ".", "..")) for text in texts]


def _key(name: str) -> str:
    """A name in the form in which names are compared: letters of either case, accents composed."""
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class _Search:
    """The files below a folder, listed once when a name is not found as it is; ``there`` are the names that are."""

    folder: Path
    there: set[str]

    @cached_property
    def _folders(self) -> dict[str, dict[str, list[str]]]:
        """Folder → last part of a name → files; all names as `_key` writes them, with and without their suffix."""
        found: dict[str, dict[str, list[str]]] = {}
        for folder, files in sorted(_walk(self.folder)):
            names = found.setdefault(_key(folder), {})
            for file in sorted(files):
                path = os.path.join(folder, file)
                for name in (_key(file), *_stem(file)):
                    names.setdefault(name, []).append(path)
        return found

    @cached_property
    def _ends(self) -> dict[str, list[str]]:
        """End of the path of a folder → the folders whose path ends so."""
        found: dict[str, list[str]] = {}
        for folder in self._folders:
            for end in _ends(folder):
                found.setdefault(end, []).append(folder)
        return found

    def _in(self, folders: Sequence[str]) -> dict[str, list[str]]:
        """Last part of a name → files in some folders."""
        if len(folders) == 1:
            return self._folders.get(folders[0], {})
        found: dict[str, list[str]] = {}
        for folder in folders:
            for name, files in self._folders[folder].items():
                found.setdefault(name, []).extend(files)
        return found

    @cached_property
    def _anywhere(self) -> dict[str, list[str]]:
        return self._in(list(self._folders))

    def find(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Name → the files that it may mean, for the names that fit any.

        Names with the same folder in front are in one folder here; a name that is not there is missing, though some
        other folder has a file of this name.
        """
        if not any(self._folders.values()):  # then there is no file at all
            return {}
        by_folder: dict[str, list[tuple[str, list[str]]]] = {}
        for name in sorted(names):
            meanings = readings(name)
            by_folder.setdefault(os.path.dirname(meanings[-1]), []).append((name, meanings))
        settled = {os.path.dirname(name) for name in self.there}
        found: dict[str, list[str]] = {}
        for parent, group in by_folder.items():
            places = [self._in([_key(parent)])] if parent in settled else self._places(group[0][1])
            found |= next(filter(None, (_fitting(group, files) for files in places)), {})
        return found

    def _places(self, meanings: Iterable[str]) -> Iterator[dict[str, list[str]]]:
        """The files of the folders that the end of a name's path may mean, from the most likely on."""
        for path in meanings:
            for end in _ends(_key(os.path.dirname(path))):
                if end in self._folders:
                    yield self._in([end])
                if end and end in self._ends:
                    yield self._in(self._ends[end])
        yield self._anywhere


def _fitting(names: Iterable[tuple[str, list[str]]], files: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The names whose last part fits files, with these."""
    found = {}
    for name, meanings in names:
        last = [_key(os.path.basename(path)) for path in meanings]
        keys = [*last, *(UPLOAD.sub("", key, count=1) for key in last if UPLOAD.match(key))]
        fitting = next((files[key] for key in keys if key in files), None)
        if fitting:
            found[name] = fitting
    return found


def _ends(path: str) -> Iterator[str]:
    """The ends of the path of a folder, from the longest to the empty one."""
    while path:
        yield path
        path = path.partition("/")[2]
    yield ""


def _stem(name: str) -> list[str]:
    """The name of an image without its suffix, by which a name without any may mean it."""
    stem, suffix = os.path.splitext(name)
    is_sole = os.path.splitext(stem)[1].lower() not in IMAGE_SUFFIXES
    return [_key(stem)] if suffix.lower() in IMAGE_SUFFIXES and is_sole else []


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The folders below a folder, relative to it, and their files.

    Folders behind links are entered once, hidden ones are not.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(folder / below)
            entries = [entry for entry in os.scandir(folder / below) if not entry.name.startswith(".")]
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = {entry.name for entry in entries if entry.is_dir()}
        waiting += [os.path.join(below, name) for name in sorted(folders)]
        yield below, [entry.name for entry in entries if entry.name not in folders]
