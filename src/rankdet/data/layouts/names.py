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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from rankdet.coco import Finding
from rankdet.coco.findings import record_name, shown
from rankdet.data.images import UnreadableImageError, header
from rankdet.data.layouts.files import IMAGE_SUFFIXES, with_bar

FIELDS = "data.train_images or data.validation_images names the folder of the images"
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
            findings.append(Finding("warning", file, record, f"{problem}: none is taken", detail, FIELDS))
        changed.append(row)
    if names and not there and not any(len(files) == 1 for files in found.values()):
        problem = f"none of the {len(names)} images is in {folder}"
        findings.append(Finding("warning", file, "", problem, f"{shown(min(names))}, …", FIELDS))
    return changed, findings


def with_sizes(rows: Sequence[Any], folder: Path, file: str) -> tuple[list[Any], list[Finding]]:
    """Return records of images with the sizes that annotations do not have, from the headers of upright images.

    An image whose header cannot be read stays without a size.
    """
    is_open = [isinstance(row, Mapping) and not (row.get("width") and row.get("height")) for row in rows]
    if not any(is_open):
        return list(rows), []
    changed, findings = list(rows), []
    places = [place for place, flag in enumerate(is_open) if flag and _is_inside(rows[place].get("file_name"))]
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


def _is_inside(name: Any) -> bool:
    """Whether a name is that of a file inside of a folder, as far as the name shows."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _existing(names: Iterable[str], folder: Path) -> set[str]:
    """The names that are those of files as they are. Folders are listed, which is quicker than to ask for each file."""
    by_folder: dict[str, list[str]] = {}
    for name in filter(_is_inside, names):
        by_folder.setdefault(os.path.dirname(name), []).append(name)
    there: set[str] = set()
    for below, inside in by_folder.items():
        try:
            files = {entry.name for entry in os.scandir(folder / below) if entry.is_file()}
        except (OSError, ValueError):  # no such folder, or no valid name of one
            continue
        there.update(name for name in inside if os.path.basename(name) in files)
    return there


def readings(name: str) -> list[PurePosixPath]:
    """What a name may mean as a path, from the most literal on: without its drive, server and steps upwards.

    Examples
    --------
    >>> [str(path) for path in readings("..\\\\media\\\\a%20b.png")]
    ['media/a%20b.png', 'media/a b.png']
    >>> [str(path) for path in readings("https://host/data/local-files/?d=set/a.png")]
    ['set/a.png']
    """
    plain = name.replace("\\", "/")
    if "?d=" in plain:
        plain = plain.partition("?d=")[2]
    elif "://" in plain:
        plain = urlsplit(plain).path
    plain = re.sub(r"^[A-Za-z]:/", "", plain)
    texts = dict.fromkeys([plain, unquote(plain)])
    return [
        PurePosixPath(*(part for part in PurePosixPath(text).parts if part not in ("/", "//", ".."))) for text in texts
    ]


def _key(name: str) -> str:
    """A name in the form in which names are compared: letters of either case, accents composed."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class _Search:
    """The files below a folder, listed once when a name is not found as it is; ``there`` are the names that are."""

    folder: Path
    there: set[str]

    @cached_property
    def _files(self) -> list[PurePosixPath]:
        return [PurePosixPath(path) for path in sorted(_walk(self.folder))]

    @cached_property
    def _folders(self) -> dict[str, dict[str, list[str]]]:
        """Folder → last part of a name → files; all names as `_key` writes them, with and without their suffix."""
        found: dict[str, dict[str, list[str]]] = {}
        for path in self._files:
            names = found.setdefault(_key(str(path.parent)), {})
            for name in {_key(path.name), *_stem(path.name)}:
                names.setdefault(name, []).append(str(path))
        return found

    @cached_property
    def _ends(self) -> dict[str, list[str]]:
        """End of the path of a folder → the folders whose path ends so."""
        found: dict[str, list[str]] = {}
        for folder in self._folders:
            for end in _ends(PurePosixPath(folder)):
                found.setdefault(str(end), []).append(folder)
        return found

    def _in(self, folders: Iterable[str]) -> dict[str, list[str]]:
        """Last part of a name → files in some folders."""
        found: dict[str, list[str]] = {}
        for folder in folders:
            for name, files in self._folders.get(folder, {}).items():
                found.setdefault(name, []).extend(files)
        return found

    @cached_property
    def _anywhere(self) -> dict[str, list[str]]:
        return self._in(self._folders)

    def find(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Name → the files that it may mean, for the names that fit any.

        Names with the same folder in front are in one folder here; a name that is not there is missing, though some
        other folder has a file of this name.
        """
        by_folder: dict[PurePosixPath, list[str]] = {}
        for name in sorted(names):
            by_folder.setdefault(readings(name)[-1].parent, []).append(name)
        settled = {PurePosixPath(name).parent for name in self.there}
        found: dict[str, list[str]] = {}
        for parent, group in by_folder.items():
            places = [self._in([_key(str(parent))])] if parent in settled else self._places(group[0])
            found |= next(filter(None, (_fitting(group, files) for files in places)), {})
        return found

    def _places(self, name: str) -> Iterator[dict[str, list[str]]]:
        """The files of the folders that the end of a name's path may mean, from the most likely on."""
        for path in readings(name):
            for end in _ends(path.parent):
                key = _key(str(end))
                if key in self._folders:
                    yield self._in([key])
                if key in self._ends and end.parts:
                    yield self._in(self._ends[key])
        yield self._anywhere


def _fitting(names: Iterable[str], files: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The names whose last part fits files, with these."""
    found = {}
    for name in names:
        last = [_key(path.name) for path in readings(name)]
        keys = dict.fromkeys([*last, *(UPLOAD.sub("", key, count=1) for key in last if UPLOAD.match(key))])
        fitting = next((files[key] for key in keys if key in files), None)
        if fitting:
            found[name] = fitting
    return found


def _ends(path: PurePosixPath) -> Iterator[PurePosixPath]:
    """The ends of the path of a folder, from the longest to the empty one."""
    for start in range(len(path.parts) + 1):
        yield PurePosixPath(*path.parts[start:])


def _stem(name: str) -> list[str]:
    """The name of an image without its suffix, by which a name without any may mean it."""
    stem, suffix = os.path.splitext(name)
    is_sole = os.path.splitext(stem)[1].lower() not in IMAGE_SUFFIXES
    return [_key(stem)] if suffix.lower() in IMAGE_SUFFIXES and is_sole else []


def _walk(folder: Path) -> Iterator[str]:
    """The files below a folder, relative to it; folders behind links are entered once, hidden ones are not."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(folder / below)
            entries = list(os.scandir(folder / below))
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                waiting.append(path)
            elif entry.is_file():
                yield path
