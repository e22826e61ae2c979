"""Data folders of any layout → COCO folders, written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from rankdet.coco import Finding
from rankdet.coco.sections import whole
from rankdet.data.files import is_file
from rankdet.data.layouts import Layout, Reading, Source, find_layout
from rankdet.data.progress import with_bar
from rankdet.structures import InputError

MOST_LETTERS = 100
"""Of the name of a split in names of files."""


@dataclass(frozen=True)
class ConvertedSplit:
    """What was written of a split.

    annotations
        The annotation file.
    images, objects, masks, crowds
        Numbers of sound records: images, objects that are no crowds, those among them with a mask, and crowds.
    missing
        Images whose file is not there. Their records are written all the same.
    """

    annotations: Path
    images: int
    objects: int
    masks: int
    crowds: int
    missing: int


@dataclass(frozen=True)
class Conversion:
    """What a conversion has read and written: the name of the layout, the splits, and what is odd with the records."""

    layout: str
    splits: Mapping[str, ConvertedSplit]
    findings: Sequence[Finding]


def convert_folder(
    folder: Path,
    out: Path,
    *,
    copy: bool = False,
    progress: bool = False,
    voc_first_pixel: int | None = None,
) -> Conversion:
    """Write a data folder of any known layout as a COCO folder.

    The annotations are ``annotations/instances_SPLIT.json``, and the images of a split lie in ``images/SPLIT`` under
    the names that they have. LVIS keeps the names of its files, and images that its splits share. Records are written
    as they are, also those that a training leaves out, with the names and sizes of images by which they are read.
    Image files are not changed.

    Parameters
    ----------
    folder
        The data folder.
    out
        The folder to write, which must be empty or not be there.
    copy
        Copy images. Otherwise a file has a second name (a hard link) where the file system can do that, so that a
        change of its content is one in both folders.
    progress
        Show a progress bar on standard error, where that is a terminal.
    voc_first_pixel
        The number, 0 or 1, that the first pixel has in Pascal VOC; None: as its boxes show.

    Raises
    ------
    InputError
        When the layout is not known, no split has an object, or ``out`` holds something or cannot be written.
    """
    layout = find_layout(folder, voc_first_pixel=voc_first_pixel)
    return write_folder(layout, out, lambda _, source: source.content(), copy=copy, progress=progress)


def write_folder(
    layout: Layout,
    out: Path,
    read: Callable[[str, Source], Reading],
    *,
    copy: bool = False,
    progress: bool = False,
    files: Mapping[str, str] = MappingProxyType({}),
) -> Conversion:
    """Write the splits of a layout as a COCO folder, whole or not at all; see `convert_folder`.

    ``read`` returns the content that is written of a split, and what is odd about it. ``files`` are text files that the
    folder gets as well: name → content.
    """
    out = Path(out)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: is there already and not an empty folder; choose another one")
    splits, findings = {}, []
    with _folder_beside(out) as beside:
        for split, source in layout.sources.items():
            try:
                splits[split], found = _convert(split, source, read(split, source), beside, out, copy, progress)
            except InputError as error:
                problem, detail = "the split cannot be read: left out", str(error)
                found = [Finding("warning", str(source.annotations), split, problem, detail)]
            findings += found
        if not any(one.objects for one in splits.values()):
            broken = [finding.detail for finding in findings if finding.record in layout.sources]
            raise InputError(f"{layout.folder}: no split has an object{': ' if broken else ''}{'; '.join(broken)}")
        for name, text in files.items():
            (beside / name).write_text(text, encoding="utf-8")
    return Conversion(layout.name, splits, findings)


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A new folder that becomes ``out`` in one step at the end, and is removed where something fails."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"{out}: cannot be made: {error.strerror or error}") from error
    try:
        beside.chmod(0o755)  # temporary folders are private, data sets are not
        yield beside
        os.replace(beside, out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):  # a file that cannot be read is named as it is
            raise
        raise InputError(f"{out}: the disk is full: nothing is written; make room, or choose another folder") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _convert(
    split: str, source: Source, reading: Reading, beside: Path, out: Path, copy: bool, progress: bool
) -> tuple[ConvertedSplit, list[Finding]]:
    """Write a split below ``beside``; returns what it has, with paths as they will be, and the findings."""
    document, findings = reading
    truth, found = source.check(document, masks=False)
    name = re.sub(r"[^\w.-]+", "_", split).strip("._")[-MOST_LETTERS:] or "split"
    # Splits of LVIS share images, and its files are known by their names.
    annotations = Path("annotations", f"lvis_v1_{name}.json" if source.is_lvis else f"instances_{name}.json")
    path = beside / annotations
    if path.exists():
        raise InputError(f"its file would be called {annotations.name}, as that of another split")
    target = beside / "images" if source.is_lvis else beside / "images" / name
    target.mkdir(parents=True, exist_ok=True)
    places = {image_id: place for place, image_id in enumerate(truth.image_ids.tolist())}
    rows, missing = [], 0
    given = document["images"]
    for row in with_bar(given, f"Images of {split}", progress):
        if isinstance(row, Mapping) and (place := places.pop(whole(row.get("id")), None)) is not None:
            file_name, (height, width) = truth.file_names[place].decode(), truth.sizes[place].tolist()
            row = {**row, "file_name": file_name, "height": height, "width": width}
            missing += not _place(file_name, source.images, target, copy)
        rows.append(row)
    path.parent.mkdir(exist_ok=True)
    content = {**document, "images": rows, "annotations": list(document.get("annotations") or ())}
    path.write_text(json.dumps(content), encoding="utf-8")
    num_objects = int((~truth.is_crowd).sum())
    num_masks = sum(bool(row.get("segmentation") and not row.get("iscrowd")) for row in _objects(document))
    counts = ConvertedSplit(
        annotations=out / annotations,
        images=len(truth.image_ids),
        objects=num_objects,
        masks=min(num_masks, num_objects),
        crowds=len(truth.is_crowd) - num_objects,
        missing=missing,
    )
    return counts, [*findings, *found]


def _objects(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (row for row in document.get("annotations") or [] if isinstance(row, Mapping))


def _place(name: str, images: Path, target: Path, copy: bool) -> bool:
    """Give an image its place below ``target``; returns whether it is there, as names without steps upwards are."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not is_file(images / name):
        return False
    place = target / name
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(images / name, place, copy)
    return True


def _link_or_copy(file: Path, place: Path, copy: bool) -> None:
    """Give a file a second name, or copy it where that is wanted or the file system cannot do otherwise."""
    if not copy:
        try:
            os.link(os.path.realpath(file), place)
        except OSError:  # another file system, or one without hard links
            pass
        else:
            return
    shutil.copyfile(file, place)
