"""What ``data.yaml`` of YOLO, or a file of darknet, says of a data set: its classes and where its splits are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rankdet.data.files import is_file, is_folder
from rankdet.data.layouts.files import parsed_yaml, read_lines
from rankdet.data.layouts.splits import SPLITS, canonical
from rankdet.structures import InputError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
SETTINGS_SUFFIXES = (".yaml", ".yml", ".data")
LIST_NAMES = ("classes.txt", "obj.names", "labels.txt")
"""Files with a class in each line, which stand for ``names``."""


@dataclass(frozen=True)
class Settings:
    """What ``data.yaml`` says, or the files that stand for it.

    file
        The file, for messages.
    folder
        What paths of splits are relative to.
    names
        The classes by number; numbers may be missing.
    entries
        Where each split is: folders, or text files with a path of an image in each line.
    keypoint_values
        Numbers that follow the box in a line of a pose, 0 where the set has none.
    remarks
        What is odd about splits: the split, the problem, and the paths.
    """

    file: Path
    folder: Path
    names: Mapping[int, str]
    entries: Mapping[str, Sequence[str]] = field(default_factory=dict)
    keypoint_values: int = 0
    remarks: tuple[tuple[str, str, str], ...] = ()


def is_settings(path: Path) -> bool:
    """Whether a file has names of classes and at least one split."""
    try:
        content = parsed_yaml(path.read_bytes(), path)
    except (OSError, InputError):  # another file beside the data, which is not theirs
        return False
    return (
        isinstance(content, dict)
        and "names" in content
        and any(isinstance(key, str) and canonical(key) in SPLITS for key in content)
    )


def read_settings(file: Path) -> Settings:
    """The settings of a ``data.yaml``, or of a file of darknet; raises InputError where it is broken."""
    if file.suffix == ".data":
        return _darknet_settings(file)
    try:
        content = parsed_yaml(file.read_bytes(), file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: is not an object with names of classes and folders of images")
    folder = Path(os.path.abspath(file.parent))
    given = Path(os.path.abspath(folder / _text(file, "path", content.get("path") or "")))
    entries = {}
    for key, value in content.items():
        split = canonical(key) if isinstance(key, str) else ""
        if split in SPLITS and value:
            listed = value if isinstance(value, list) else [value]
            entries[split] = [_text(file, key, entry) for entry in listed]
    return Settings(
        file,
        given if is_folder(given) else folder,
        _names(file, content.get("names"), content.get("nc")),
        entries,
        _keypoint_values(file, content.get("kpt_shape")),
    )


def _text(file: Path, key: str, value: Any) -> str:
    """A text, or a number as one; InputError where there is a list or an object, which may be endless in YAML."""
    if value is None or isinstance(value, list | dict | tuple | set):
        raise InputError(f"{file}: {key}: has a list, an object or nothing in place of a text")
    return str(value)


def _names(file: Path, names: Any, number: Any) -> dict[int, str]:
    if isinstance(names, list) and names:
        return {place: _text(file, "names", name) for place, name in enumerate(names)}
    if isinstance(names, dict) and names:
        texts = [_text(file, "names", name) for name in names.values()]
        try:
            return dict(zip(map(int, names), texts, strict=True))
        except (TypeError, ValueError) as error:
            raise InputError(f"{file}: names: its keys are not the numbers of the classes") from error
    if type(number) is int and number > 0:
        return {place: f"class_{place}" for place in range(number)}
    raise InputError(f"{file}: names: is no list of classes, and no object with a name for each number")


def _keypoint_values(file: Path, shape: Any) -> int:
    if shape is None:
        return 0
    if isinstance(shape, list) and len(shape) == 2 and all(type(one) is int and one > 0 for one in shape):
        return int(shape[0] * shape[1])
    raise InputError(f"{file}: kpt_shape: is not [number of keypoints, values of each]")


def _darknet_settings(file: Path) -> Settings:
    """The settings of a file of darknet: lines such as ``train = data/train.txt``."""
    pairs = [line.partition("=") for line in read_lines(file)]
    given = {key.strip(): value.strip() for key, _, value in pairs}
    folder = Path(os.path.abspath(file.parent))
    names = existing(given.get("names", "obj.names"), [folder], min_parts=1)
    if names is None:
        raise InputError(f"{file}: names: there is no file {given.get('names', 'obj.names')}")
    entries = {canonical(key): [value] for key, value in given.items() if canonical(key) in SPLITS}
    return Settings(file, folder, listed_names(names), entries)


def listed_names(file: Path) -> dict[int, str]:
    """The classes by number, one in each line of a file; raises InputError where it cannot be read."""
    return dict(enumerate(line.strip() for line in read_lines(file) if line.strip()))


def bases(settings: Settings) -> list[Path]:
    """The folders that paths of splits may be relative to, the stated one first."""
    return [settings.folder, Path(os.path.abspath(settings.file.parent))]


def existing(text: str, bases: Sequence[Path], min_parts: int) -> Path | None:
    """A path as it is, without leading ``..``, or by its end of at least ``min_parts`` parts; None where there is none.

    Roboflow writes paths as if ``data.yaml`` were in the folder of a split, and CVAT those of another machine.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    parts = [part for part in path.parts if part not in ("..", ".", "/")]
    ends = [PurePosixPath(*parts[start:]) for start in range(max(1, len(parts) - min_parts + 1))]
    for base in bases:
        for candidate in (path, *ends):
            found = Path(os.path.abspath(base / candidate))
            if is_file(found) or is_folder(found):
                return found
    return None
