"""What is odd with a data set beyond what a training looks at: in its records, its image files and between its splits.

A training leaves such records out, or learns from them though they are probably a mistake. What stops a training is
found by what prepares it, `rankdet.recipes.schema.data.Data.prepare`.

Legend: N images, A annotations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import Finding, GroundTruth
from rankdet.coco.blocks import ROWS, flags
from rankdet.coco.findings import Findings
from rankdet.data.files import is_file, missing_files
from rankdet.data.images import header, read_image
from rankdet.data.preparation import MISSING
from rankdet.data.progress import with_bar
from rankdet.data.usable import is_usable, left_out, shown_box
from rankdet.structures import InputError

MOST_NAMES = 20
"""Classes that a finding lists."""
ORIENTATION_REMEDY = "`rankdet doctor FOLDER --fix OUT` swaps width and height"
IDENTICAL = "is there twice: same class and box"
LEAVES = "leaves the image"
CORNERS = "leaves the image, and would fit with x2 and y2 in place of width and height"


@dataclass(frozen=True)
class ReadSplit:
    """A split whose annotations are read.

    Parameters
    ----------
    truth
        Its records.
    images
        The folder that the file names of images are relative to.
    severity
        What an image is that cannot be used: an error where a training would stop at it, a warning elsewhere.
    used_ids
        Ids of the images that a training comes to; what is wrong with others is a warning. None: all.
    """

    truth: GroundTruth
    images: Path
    severity: Literal["error", "warning"] = "warning"
    used_ids: NDArray[np.int64] | None = None

    def severity_of(self, place: int) -> Literal["error", "warning"]:
        """What an image is that cannot be used, by its place in the annotation file."""
        return self.severity if self._is_used[place] else "warning"

    @cached_property
    def _is_used(self) -> NDArray[np.bool_]:
        ids = self.truth.image_ids
        return np.ones(len(ids), dtype=np.bool_) if self.used_ids is None else np.isin(ids, self.used_ids)

    def path(self, place: int) -> Path:
        """The file of an image, by its place in the annotation file."""
        return self.images / self.truth.file_names[place].decode()

    def finding(self, place: int, problem: str, detail: str = "", remedy: str = "") -> Finding:
        """A warning about an image, by its place in the annotation file."""
        return Finding("warning", self.truth.source, f"image {self.truth.image_ids[place]}", problem, detail, remedy)


def odd_records(truth: GroundTruth) -> list[Finding]:
    """Annotations and classes that are sound, but that a training leaves out or that are probably a mistake."""
    findings = Findings()
    for row in np.flatnonzero(truth.is_crowd).tolist():
        findings.add(
            Finding("warning", truth.source, truth.name_of(row), "is flagged as a crowd: left out in training")
        )
    is_told = truth.is_crowd
    odd = {f"is {reason}: left out in training": rows for reason, rows in left_out(truth).items()}
    truth.forget()  # of a large file the columns of one question at a time are in memory
    odd[IDENTICAL] = _repeated(truth)
    truth.forget()
    odd |= leaving(truth)
    for problem, rows in odd.items():
        for row in np.flatnonzero(rows & ~is_told).tolist():
            findings.add(Finding("warning", truth.source, truth.name_of(row), problem, shown_box(truth, row)))
        is_told = is_told | rows
    return findings.rows() + _unused_classes(truth) + _shared_names(truth)


def odd_images(split: ReadSplit, decode: bool = False) -> list[Finding]:
    """Image files that cannot be read, that have another size, or whose pixels may be meant in another way.

    Only headers are read, unless all is to be decoded (``decode``).
    """
    truth, is_turned, findings = split.truth, turned_images(split.truth), Findings()
    num_images = len(truth.image_ids)
    missing = missing_files(split.images, (truth.file_names[place].decode() for place in range(num_images)))
    for place in missing:
        findings.add(split.finding(place, MISSING, str(split.path(place))))
    places = np.delete(np.arange(num_images), missing).tolist()
    for place in with_bar(places, f"Images of {Path(truth.source).name}"):
        for finding in _odd_image(split, place, bool(is_turned[place]), decode):
            findings.add(finding)
    return findings.rows()


def _odd_image(split: ReadSplit, place: int, is_turned: bool, decode: bool) -> Iterator[Finding]:
    """What is odd about one image file that is there."""
    path, (height, width) = split.path(place), split.truth.sizes[place].tolist()
    try:
        found = header(path)
        if decode and int(read_image(path, (height, width)).max()) < 32 and found.depth == 8:
            yield split.finding(place, "is nearly black: it uses less than an eighth of its range")
    except InputError as error:
        yield _broken(split, place, path, error)
        return
    if not found.fits((height, width)):
        detail = f"{found.upright[1]} × {found.upright[0]} pixels, {width} × {height} in the annotations"
        odd = split.finding(place, "has another size than its annotations say", detail)
        yield odd._replace(severity=split.severity_of(place))
    elif found.stored != found.upright and found.stored == (height, width) and is_turned:
        problem = "has boxes that leave it as it is annotated, and fit it as EXIF turns it"
        yield split.finding(place, problem, f"orientation {found.orientation}", ORIENTATION_REMEDY)
    elif found.doubt((height, width)):
        yield split.finding(place, found.doubt((height, width)), f"orientation {found.orientation}")
    if found.frames > 1:
        yield split.finding(place, "has several frames, of which the first is read", f"{found.frames}")
    notes = {
        "has transparency, which is ignored": found.is_transparent,
        "has the colors of print (CMYK), which are converted without a profile": found.mode == "CMYK",
    }
    yield from (split.finding(place, note)._replace(severity="note") for note, is_so in notes.items() if is_so)


def shared_images(splits: Sequence[ReadSplit], by_content: bool = False) -> list[Finding]:
    """Images that are in two splits, or twice in one: the same file, or with ``by_content`` also an equal one."""
    findings, owners = Findings(), dict[Path, ReadSplit]()
    # A number for each path: millions of paths would take as much memory as the annotations.
    marks = np.fromiter((hash(path) for _, _, path in _files(splits)), np.int64)
    _, of_each, counts = np.unique(marks, return_inverse=True, return_counts=True)
    for (split, place, path), count in zip(_files(splits), counts[of_each], strict=True):
        if count == 1:
            continue
        if path in owners:
            findings.add(split.finding(place, f"is an image of {owners[path].truth.source} already", str(path)))
        owners.setdefault(path, split)
    return findings.rows() + (_equal_images(splits) if by_content else [])


def _equal_images(splits: Sequence[ReadSplit]) -> list[Finding]:
    first: dict[Path, tuple[ReadSplit, int]] = {}
    for split, place, path in _files(splits):
        first.setdefault(path, (split, place))
    findings, paths = [], list(first)
    for group in equal_files(paths):
        twin, *later = (paths[number] for number in group)
        other, _ = first[twin]
        for path in later:
            split, place = first[path]
            problem = f"has the content of an image of {other.truth.source}"
            findings.append(split.finding(place, problem, f"{path.name} and {twin.name}"))
    return findings


def equal_files(paths: Sequence[Path]) -> list[list[int]]:
    """Groups of places among ``paths`` whose files have the same content; files that cannot be read are in none.

    Only files of which there are several of one size are read. A path that is there several times has one content.
    """
    by_size: dict[int, list[int]] = {}
    for number, path in enumerate(paths):
        if is_file(path):
            by_size.setdefault(path.stat().st_size, []).append(number)
    groups = []
    for numbers in with_bar([numbers for numbers in by_size.values() if len(numbers) > 1], "Equal images"):
        by_content: dict[bytes, list[int]] = {}
        for number in numbers:
            # A file that may not be read is told where its header is.
            with suppress(OSError):
                by_content.setdefault(_digest(paths[number]), []).append(number)
        groups += [group for group in by_content.values() if len(group) > 1]
    return groups


def _digest(path: Path) -> bytes:
    content = blake2b()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            content.update(block)
    return content.digest()


def _files(splits: Sequence[ReadSplit]) -> Iterator[tuple[ReadSplit, int, Path]]:
    for split in splits:
        for place in range(len(split.truth.image_ids)):
            yield split, place, split.path(place)


def _broken(split: ReadSplit, place: int, path: Path, error: InputError) -> Finding:
    problem, _, detail = str(error).removeprefix(f"{path}: ").partition(": ")
    finding = split.finding(place, problem, f"{path}: {detail}" if detail else str(path))
    severity = split.severity_of(place)
    remedy = "data.skip_unreadable=true skips it" if severity == "error" else ""
    return finding._replace(severity=severity, remedy=remedy)


def leaving(truth: GroundTruth) -> dict[str, NDArray[np.bool_]]:
    """Problem → (A,) bool: boxes that leave their image by more than rounding does."""

    def look(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        left, top, width, height = truth.boxes[rows].T
        image_height, image_width = truth.sizes[truth.images[rows]].T
        leaves = (left < -1) | (top < -1) | (left + width > image_width + 1) | (top + height > image_height + 1)
        are_corners = (width > left) & (height > top) & (width <= image_width) & (height <= image_height) & (left >= 0)
        return leaves & are_corners & (top >= 0), leaves

    corners, leaves = flags(len(truth.boxes), 2, look)
    return {CORNERS: corners, LEAVES: leaves}


def turned_images(truth: GroundTruth, back: bool = False) -> NDArray[np.bool_]:
    """(N,) bool: some box leaves the image, and all fit into one with width and height swapped.

    ``back`` asks for the opposite: all fit, and some would leave that other one.
    """

    def look(rows: slice) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        left, top, width, height = truth.boxes[rows].T
        image_height, image_width = truth.sizes[truth.images[rows]].T
        leaves = (left + width > image_width + 1) | (top + height > image_height + 1)
        return leaves, (left + width > image_height + 1) | (top + height > image_width + 1)

    leaves, leaves_other = flags(len(truth.boxes), 2, look)
    if back:
        leaves, leaves_other = leaves_other, leaves
    counts, others = (np.bincount(truth.images[rows], minlength=len(truth.sizes)) for rows in (leaves, leaves_other))
    return (counts > 0) & (others == 0)


def _repeated(truth: GroundTruth) -> NDArray[np.bool_]:
    """(A,) bool: an earlier annotation of the image has the same class and box."""
    by_image = np.argsort(truth.images, kind="stable")
    ends = np.cumsum(np.bincount(truth.images, minlength=1))
    repeats = np.zeros(len(by_image), dtype=bool)
    start = 0
    while start < len(by_image):  # images as many as a block has, and at least one
        end = int(ends[np.searchsorted(ends, min(start + ROWS, len(by_image)))])
        rows = by_image[start:end]
        keys = np.column_stack([truth.images[rows], truth.labels[rows], truth.boxes[rows]])
        order = np.lexsort(keys.T[::-1])  # which keeps the order of equal ones
        repeats[rows[order[1:]]] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
        start = end
    return repeats


def _unused_classes(truth: GroundTruth) -> list[Finding]:
    """Classes that a training cannot learn: without annotations, or with none that it takes."""
    found, taken = np.unique(truth.labels), np.unique(truth.labels[is_usable(truth)])
    every = np.arange(len(truth.categories))
    problems = {
        "no annotation": np.setdiff1d(every, found),
        "no annotation but those that are left out in training": np.setdiff1d(found, taken),
    }
    findings, names = [], truth.names
    for problem, labels in problems.items():
        if len(labels):
            has = "has" if len(labels) == 1 else "have"
            what, listed = f"{len(labels)} of {len(names)} {has} {problem}", _listed([names[label] for label in labels])
            findings.append(Finding("warning", truth.source, "categories", what, listed))
    return findings


def _shared_names(truth: GroundTruth) -> list[Finding]:
    """Classes with the same name, but for case and blanks: they are learned as different ones."""
    owners: dict[str, list[str]] = {}
    for id_, name in truth.categories:
        owners.setdefault(" ".join(name.casefold().split()), []).append(f"{name!r} (id {id_})")
    shared = [" and ".join(names) for names in owners.values() if len(names) > 1]
    problem = "classes share a name, but for case and blanks: they are learned as different ones"
    return [Finding("warning", truth.source, "categories", problem, _listed(shared))] if shared else []


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:MOST_NAMES], *(["…"] if len(names) > MOST_NAMES else [])])
