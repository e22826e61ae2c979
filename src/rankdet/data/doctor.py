"""Everything that is wrong or odd with a data set, found before a training."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from rankdet.coco import Finding, GroundTruth
from rankdet.data.images import is_file, read_image
from rankdet.data.layouts import FINDERS, Source
from rankdet.data.usable import left_out, shown_box, unlearnable
from rankdet.structures import InputError

MOST_NAMES = 20
"""Classes that a finding lists."""


def check_folder(folder: Path, *, with_masks: bool = False, images: bool = False) -> list[Finding]:
    """Check all splits of a folder in COCO or LVIS format; one may hold both.

    Parameters
    ----------
    folder
        The data set.
    with_masks
        Check the segmentations too.
    images
        Decode every image and compare its size with the annotations, which takes long.

    Returns
    -------
    list[Finding]
        Errors, which stop a training, and warnings: what a training leaves out, or what is probably a mistake.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [Finding("error", str(folder), "", "there is no such folder")]
    layouts = [sources for find in FINDERS if (sources := find(folder))]
    if not layouts:
        return [Finding("error", str(folder), "", "no annotations of a known layout")]
    # LVIS divides the images of COCO anew: splits are compared within a format only.
    return [finding for sources in layouts for finding in _check_sources(sources.values(), with_masks, images)]


def _check_sources(sources: Iterable[Source], with_masks: bool, images: bool) -> list[Finding]:
    findings: list[Finding] = []
    first: tuple[Path, list[tuple[int, str]]] | None = None
    owners: dict[Path, Path] = {}
    for source in sources:
        file = source.annotations
        try:
            truth, found = source.read(with_masks)
        except InputError as error:
            findings.append(_finding(error, file))
            continue
        findings += found
        findings += unlearnable(truth, with_masks)
        findings += _odd_records(truth)
        findings += _check_images(source, truth, images, owners)
        if first is None:
            first = file, truth.categories
        elif truth.categories != first[1]:
            findings.append(Finding("warning", str(file), "categories", f"are not those of {first[0]}"))
    return findings


def _finding(error: InputError, file: Path, record: str = "") -> Finding:
    return Finding("error", str(file), record, str(error).removeprefix(f"{file}: "))


def _odd_records(truth: GroundTruth) -> list[Finding]:
    """Records that are sound, but that a training leaves out or that are probably a mistake."""
    left, top, width, height = truth.boxes.T
    image_height, image_width = truth.sizes[truth.images].T
    reasons = {f"{reason}: it is left out": rows for reason, rows in left_out(truth).items()}
    leaves = (left < -1) | (top < -1) | (left + width > image_width + 1) | (top + height > image_height + 1)
    reasons["leaves the image (x2 and y2 in place of a size?)"] = leaves
    seen: set[tuple[float, ...]] = set()
    findings = []
    is_flat = (truth.boxes[:, 2:] == 0).any(axis=1)
    for row in np.flatnonzero(~truth.is_crowd & ~is_flat).tolist():
        key = (truth.images[row], truth.labels[row], *truth.boxes[row].tolist())
        problem = next((f"{shown_box(truth, row)} {reason}" for reason, rows in reasons.items() if rows[row]), None)
        if key in seen:
            problem = "is there twice: same class and box"
        seen.add(key)
        if problem is not None:
            findings.append(Finding("warning", truth.source, truth.name_of(row), problem))
    used = set(truth.labels.tolist())
    unused = [name for label, (_, name) in enumerate(truth.categories) if label not in used]
    if unused:
        listed = ", ".join([*unused[:MOST_NAMES], *(["…"] if len(unused) > MOST_NAMES else [])])
        message = f"{len(unused)} of {len(truth.categories)} have no annotation: {listed}"
        findings.append(Finding("warning", truth.source, "categories", message))
    return findings


def _check_images(source: Source, truth: GroundTruth, decode: bool, owners: dict[Path, Path]) -> list[Finding]:
    """Images that are missing or in two splits; with ``decode`` also those that cannot be read."""
    if not len(truth.image_ids):  # what is wrong with them is found already
        return []
    findings, file = [], source.annotations
    for place, (image_id, (height, width)) in enumerate(zip(truth.image_ids, truth.sizes.tolist(), strict=True)):
        path = source.images / truth.file_names[place].decode()
        record = f"image {image_id}"
        if not is_file(path):
            findings.append(Finding("error", str(file), record, f"the image {path} is missing"))
            continue
        if path in owners:
            findings.append(Finding("warning", str(file), record, f"the image {path} is in {owners[path]} already"))
        owners.setdefault(path, file)
        if decode:
            try:
                read_image(path, (height, width))
            except InputError as error:
                findings.append(_finding(error, file, record))
    return findings
