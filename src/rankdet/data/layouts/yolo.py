"""YOLO: a text file per image with boxes or polygons in fractions of its sides, and ``data.yaml`` with the classes.

hotcoco's reader is not used: it refuses a whole set for one polygon, leaves out images without a label file, takes the
size of photographs before they are turned, and gives file names without a suffix (hotcoco 1.3.0).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from rankdet.coco.segmentations import flat
from rankdet.data.images import is_file, is_folder
from rankdet.data.layouts.draft import Draft, box_around
from rankdet.data.layouts.files import (
    common_folder,
    image_files,
    is_image_name,
    parsed_yaml,
    read_lines,
    split_folders,
    upright_size,
    walk_images,
)
from rankdet.data.layouts.source import Reading, Source, by_split
from rankdet.data.layouts.splits import SPLITS, canonical
from rankdet.data.progress import with_bar
from rankdet.structures import InputError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
SETTINGS_SUFFIXES = (".yaml", ".yml", ".data")
LIST_NAMES = ("classes.txt", "obj.names", "labels.txt")
"""Files with a class in each line, which stand for ``names``."""
IDS = "class numbers go beyond the names: they look like category ids, as sahi writes them, and all names may be wrong"
SLACK = 0.01
"""How far a fraction may lie outside of 0…1, as ultralytics allows: more are pixels, or broken."""


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


def find(folder: Path) -> dict[str, Source] | None:
    """The splits that ``data.yaml`` or ``obj.data`` names, or the folders ``images/train``, ``train/images``.

    Files with a class in each line stand for ``data.yaml``. A path of another machine is looked for by its end.

    Raises
    ------
    InputError
        When ``data.yaml`` is broken or none of its images are there.
    """
    file = _settings_file(folder)
    if file is not None:
        return _sources(_settings(file))
    files = _names_files(folder)
    if not files or not _has_labels(folder):
        return None
    names = [_settings(file).names if file.name in YAML_NAMES else _listed_names(file) for file in files]
    different = next((file for file, other in zip(files, names, strict=True) if other != names[0]), None)
    if different is not None:
        raise InputError(f"{different}: has other classes than {files[0]}; write a data.yaml with those of all splits")
    return _sources(Settings(folder / files[0].name, Path(os.path.abspath(folder)), names[0]))


def find_without_names(folder: Path) -> None:
    """Raise InputError where a folder has labels of YOLO that `find` cannot read, because nothing names the classes."""
    if _has_labels(folder):
        raise InputError(f"{folder}: has labels of YOLO, but no data.yaml or classes.txt with the names of the classes")


def _has_labels(folder: Path) -> bool:
    places = [*_split_folders(folder).values()] or [folder]
    return any(label_file(image) is not None for place in places for image in walk_images(place))


def find_by_settings(file: Path) -> dict[str, Source] | None:
    """The splits that a ``data.yaml`` of any name has, or None where a file is of another kind."""
    return _sources(_settings(file)) if file.suffix in SETTINGS_SUFFIXES else None


def find_file(annotations: Path, images: Path | None) -> Source | None:
    """The source of a ``data.yaml``: its training images, or those of the folder ``images``."""
    if images is not None and annotations.suffix in SETTINGS_SUFFIXES:
        return _source(_settings(annotations), [Path(os.path.abspath(images))])
    sources = find_by_settings(annotations)
    return None if sources is None else sources.get("train", next(iter(sources.values())))


def _source(settings: Settings, places: Sequence[Path]) -> Source:
    """The source of a split in places: folders of images, and files that list images."""
    folders = [place if place.is_dir() else common_folder(_images(settings, place)) for place in places]
    folder = Path(os.path.commonpath(folders))

    def read() -> Reading:
        images = [image for place in places for image in _images(settings, place)]
        return read_yolo(settings, list(dict.fromkeys(images)), folder)

    return Source("YOLO", settings.file, folder, read)


def _sources(settings: Settings) -> dict[str, Source]:
    """The splits that have images; the first of them also reports those that have none."""
    usual = _split_folders(settings.file.parent)
    found: dict[str, list[Path]] = {}
    remarks = []
    for split in SPLITS:
        entries = settings.entries.get(split, [])
        places = [place for entry in entries if (place := _place(settings, entry)) is not None]
        if entries and not places:
            instead = "those of the folder called like the split are taken" if split in usual else "left out"
            remarks.append((split, f"has images that are not there: {instead}", ", ".join(entries)))
            places = [usual[split]] if split in usual else []
        if places:
            found[split] = places
    if not settings.entries:
        whole = {"train": [_of_images(settings.folder)]} if _has_images(settings, settings.folder) else {}
        found = {split: [place] for split, place in usual.items()} or whole
    if not found:
        listed = "; ".join(f"{split}: {', '.join(entries)}" for split, entries in settings.entries.items())
        raise InputError(f"{settings.file}: none of its images are there: {listed or 'it names no split'}")
    sources: dict[str, Source] = {}
    for split, places in found.items():
        told = settings if sources else replace(settings, remarks=tuple(remarks))
        sources[split] = _source(told, places)
    return by_split(sources.items())


def _settings_file(folder: Path) -> Path | None:
    """The file of a folder that names splits and classes, or None."""
    usual = [folder / name for name in (*YAML_NAMES, "obj.data")]
    first = next(filter(is_file, usual), None)
    if first is not None:
        return first
    others = [path for path in sorted(folder.glob("*.y*ml")) if _is_settings(path)]
    if len(others) > 1:
        listed = ", ".join(path.name for path in others)
        raise InputError(f"{folder}: several files describe a data set of YOLO: {listed}; call one of them data.yaml")
    return others[0] if others else None


def _is_settings(path: Path) -> bool:
    try:
        content = parsed_yaml(path.read_bytes(), path)
    except (OSError, InputError):  # another file beside the data, which is not theirs
        return False
    return (
        isinstance(content, dict)
        and "names" in content
        and any(isinstance(key, str) and canonical(key) in SPLITS for key in content)
    )


def _settings(file: Path) -> Settings:
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
    names = _existing(given.get("names", "obj.names"), [folder], min_parts=1)
    if names is None:
        raise InputError(f"{file}: names: there is no file {given.get('names', 'obj.names')}")
    entries = {canonical(key): [value] for key, value in given.items() if canonical(key) in SPLITS}
    return Settings(file, folder, _listed_names(names), entries)


def _listed_names(file: Path) -> dict[int, str]:
    return dict(enumerate(line.strip() for line in read_lines(file) if line.strip()))


def _place(settings: Settings, entry: str) -> Path | None:
    """The folder or list of images that an entry means, or None where there is none or it has no image."""
    found = _existing(entry, _bases(settings), min_parts=1 if entry.endswith(".txt") else 2)
    return found if found is not None and _has_images(settings, found) else None


def _has_images(settings: Settings, place: Path) -> bool:
    return any(True for _ in walk_images(place)) if place.is_dir() else bool(_images(settings, place))


def _images(settings: Settings, place: Path) -> list[Path]:
    """The images of a folder or of a list, which may name images that are missing."""
    if place.is_dir():
        return image_files(place)
    lines = [line.strip() for line in read_lines(place) if line.strip()]
    found = [_existing(line, [place.parent, *_bases(settings)], min_parts=1) for line in lines]
    return [one or Path(os.path.abspath(settings.folder / line)) for one, line in zip(found, lines, strict=True)]


def _bases(settings: Settings) -> list[Path]:
    return [settings.folder, Path(os.path.abspath(settings.file.parent))]


def _existing(text: str, bases: Sequence[Path], min_parts: int) -> Path | None:
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


def _split_folders(folder: Path) -> dict[str, Path]:
    """The folders with images that are called like splits, in a folder or in ``images`` there."""
    below = split_folders(folder / "images") | split_folders(folder)
    return {split: _of_images(path) for split, path in below.items() if any(True for _ in walk_images(path))}


def _of_images(folder: Path) -> Path:
    """The folder, or its folder ``images`` where all others have something else."""
    inside = folder / "images"
    has_own = any(is_image_name(path.name) for path in folder.iterdir())
    return Path(os.path.abspath(inside if inside.is_dir() and not has_own else folder))


def _names_files(folder: Path) -> list[Path]:
    """Files that name the classes of a folder without ``data.yaml``: here, beside labels, or one for each split."""
    splits = [*split_folders(folder).values(), *split_folders(folder / "labels").values()]
    places = [folder, folder / "labels", *splits, *(split / "labels" for split in splits)]
    first = (
        next((place / name for name in (*LIST_NAMES, *YAML_NAMES) if is_file(place / name)), None) for place in places
    )
    return [file for file in first if file is not None]


def read_yolo(settings: Settings, images: Sequence[Path], folder: Path) -> Reading:
    """Read the labels of images as a COCO document.

    The labels of ``images/a.jpg`` are in ``labels/a.txt``, the last ``images`` of the path counts, or beside the image.
    A line of 5 numbers is a box: class, center and size. A line with 3 pairs of numbers or more behind the class is a
    polygon, 4 corners of an oriented box among them. A number more is a confidence and not used. Images without
    a label file have no objects.

    Parameters
    ----------
    settings
        The classes.
    images
        The image files.
    folder
        The folder that the file names of the document are relative to.

    Returns
    -------
    Reading
        The document, with sizes of upright images, and what was left out of it.
    """
    labels = {number: label for label, number in enumerate(sorted(settings.names))}
    draft = Draft(str(settings.file), [settings.names[number] for number in labels])
    reader = _Lines(draft, labels, settings.keypoint_values)
    for split, problem, detail in settings.remarks:
        draft.report("warning", split, problem, detail)
    num_unlabeled = 0
    label_folders = {}
    for image in with_bar(images, "Labels"):
        name = image.relative_to(folder).as_posix()
        size = upright_size(image)
        if isinstance(size, str):
            draft.report("warning", f"image {name}", f"{size}: left out")
            continue
        image_id = draft.add_image(name, size)
        file = label_file(image)
        if file is None:
            num_unlabeled += 1
        else:
            label_folders[file.parent] = image.parent
            reader.read(file, image_id, size)
    for label_folder, image_folder in label_folders.items():
        for file in _without_image(label_folder, image_folder):
            draft.report("warning", "/".join(file.parts[-2:]), "has labels of an image that is missing: left out")
    largest = max(reader.numbers, default=0)
    if largest > max(labels):
        zero = "0 is one of them" if 0 in reader.numbers else "0 never occurs"
        detail = f"the largest is {largest:g}, and {zero}; names go from {min(labels)} to {max(labels)}"
        draft.report("warning", "", IDS, detail, "compare some objects with their names: rankdet look")
    if num_unlabeled and num_unlabeled == len(draft.images):
        looked = ", ".join(str(path) for path in label_candidates(images[0]))
        draft.report("warning", "", "no image has a label file", f"looked for {looked}")
    return draft.document(), draft.findings


def label_candidates(image: Path) -> list[Path]:
    """Where the labels of an image may be.

    Examples
    --------
    >>> [path.as_posix() for path in label_candidates(Path("set/images/train/a.jpg"))]
    ['set/labels/train/a.txt', 'set/images/train/a.txt']
    """
    parts = list(image.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part.lower() == "images"]
    found = [image.with_suffix(".txt")]
    if places:
        parts[places[-1]] = "labels"
        found.insert(0, Path(*parts).with_suffix(".txt"))
    return found


def label_file(image: Path) -> Path | None:
    """The label file of an image, or None where it has none."""
    return next((path for path in label_candidates(image) if is_file(path)), None)


def _without_image(label_folder: Path, image_folder: Path) -> Iterator[Path]:
    """The label files that no image belongs to, in a folder that has nothing but labels."""
    if label_folder != image_folder:
        stems = {path.stem for path in image_folder.iterdir() if is_image_name(path.name)}
        others = {*LIST_NAMES, "train.txt", "val.txt", "test.txt"}
        files = sorted(label_folder.glob("*.txt"))
        yield from (path for path in files if path.stem not in stems and path.name not in others)


@dataclass(frozen=True)
class _Lines:
    """Reads label files into a draft; ``numbers`` are those of the classes in them."""

    draft: Draft
    labels: Mapping[int, int]
    keypoint_values: int
    numbers: set[float] = field(default_factory=set)

    def read(self, file: Path, image_id: int, size: tuple[int, int]) -> None:
        shown = "/".join(file.parts[-2:])
        try:
            lines = read_lines(file)
        except InputError:
            self.draft.report("warning", shown, "is no text file that can be read: left out")
            return
        seen = set()
        for place, line in enumerate(lines):
            row = tuple(line.split())
            if not row:
                continue
            record = f"{shown} line {place + 1}"
            if row in seen:
                self.draft.report("warning", record, "is there twice: left out once")
                continue
            seen.add(row)
            self.add(row, record, image_id, size)

    def add(self, row: Sequence[str], record: str, image_id: int, size: tuple[int, int]) -> None:
        shown = " ".join(row[:6]) + (" …" if len(row) > 6 else "")
        try:
            number, *values = map(float, row)
        except ValueError:
            self.draft.report("warning", record, "has words in place of numbers: left out", shown)
            return
        if number.is_integer():
            self.numbers.add(number)
        if number not in self.labels:
            known = f"class {row[0]}; the classes are {min(self.labels)} to {max(self.labels)}"
            self.draft.report("warning", record, "has a class that has no name: left out", known, "names in data.yaml")
            return
        values = self.without_extras(values, record)
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            self.draft.report("warning", record, "is neither a box nor a polygon: left out", f"{len(row)} numbers")
            return
        if not all(-SLACK <= value <= 1 + SLACK for value in values):
            problem = "has coordinates outside of 0…1: left out (pixels in place of fractions?)"
            self.draft.report("warning", record, problem, shown)
            return
        height, width = size
        label = self.labels[int(number)]
        if len(values) == 4:
            x, y, w, h = values[0] * width, values[1] * height, values[2] * width, values[3] * height
            self.draft.add(image_id, label, [x - w / 2, y - h / 2, w, h])
        else:
            points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
            self.draft.add(image_id, label, box_around(points), [flat(points)])

    def without_extras(self, values: list[float], record: str) -> list[float]:
        """The numbers of a line without keypoints and confidence, and a note on each form that is read in its way."""
        if self.keypoint_values and len(values) == 4 + self.keypoint_values:
            self.draft.report("note", record, "has keypoints, which are not used")
            return values[:4]
        if len(values) == 5 or (len(values) > 6 and len(values) % 2):
            self.draft.report("note", record, "has a number too many, read as a confidence and not used")
            return values[:-1]
        if len(values) == 8:
            self.draft.report(
                "note", record, "has four corners: read as a polygon, also where an oriented box is meant"
            )
        return values
