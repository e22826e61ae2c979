"""Everything that is wrong or odd with a data set, found before a training finds it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdet.data.formats import COCO, LVIS, Format
from rankdet.data.images import is_file, read_image
from rankdet.data.records import Finding, Records
from rankdet.structures import InputError

FORMATS = (COCO, LVIS)
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
        Decode every image and compare its size with the annotations. Takes its time.

    Returns
    -------
    list[Finding]
        Errors stop a training; warnings are things that it drops or that are probably not meant. Empty where all is
        well.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [Finding("error", str(folder), "", "there is no such folder")]
    if not any(form.files(folder) for form in FORMATS):
        tried = ", ".join(pattern for form in FORMATS for pattern in form.patterns)
        return [Finding("error", str(folder), "", f"no annotation file; tried {tried}")]
    # LVIS divides the images of COCO anew: splits are compared within a format only.
    return [finding for form in FORMATS for finding in _check_format(folder, form, with_masks, images)]


def _check_format(folder: Path, form: Format, with_masks: bool, images: bool) -> list[Finding]:
    findings: list[Finding] = []
    first: tuple[Path, list[tuple[int, str]]] | None = None
    owners: dict[Path, Path] = {}
    for file in form.files(folder):
        try:
            records, found = form.read(file, with_masks, False)
        except InputError as error:
            findings.append(_finding(error, file))
            continue
        findings += found
        findings += _odd_records(file, records)
        findings += _check_images(folder, file, form, records, images, owners)
        if first is None:
            first = file, records.categories
        elif records.categories != first[1]:
            findings.append(Finding("warning", str(file), "categories", f"are not those of {first[0]}"))
    return findings


def _finding(error: InputError, file: Path, record: str = "") -> Finding:
    return Finding("error", str(file), record, str(error).removeprefix(f"{file}: "))


def _odd_records(file: Path, records: Records) -> list[Finding]:
    """Records that are sound, but that a training drops or that are probably a mistake."""
    findings = []
    used: set[int] = set()
    for image_id, rows in records.annotations.items():
        image = records.images[image_id]
        seen: set[tuple[Any, ...]] = set()
        for row in rows:
            used.add(row["category_id"])
            key = (row["category_id"], *row["bbox"])
            problem = "is there twice: same class and box" if key in seen else _odd(row, image)
            seen.add(key)
            if problem is not None and not row.get("iscrowd", 0):
                findings.append(Finding("warning", str(file), f"annotation {row['id']}", problem))
    unused = [name for category_id, name in records.categories if category_id not in used]
    if unused:
        listed = ", ".join([*unused[:MOST_NAMES], *(["…"] if len(unused) > MOST_NAMES else [])])
        message = f"{len(unused)} of {len(records.categories)} have no annotation: {listed}"
        findings.append(Finding("warning", str(file), "categories", message))
    return findings


def _odd(row: Mapping[str, Any], image: Mapping[str, Any]) -> str | None:
    x, y, w, h = row["bbox"]
    width, height = image["width"], image["height"]
    if min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
        return f"box {row['bbox']} lies outside of the image of {width} × {height} pixels: it is dropped"
    if w < 1 or h < 1:
        return f"box {row['bbox']} is less than a pixel wide or high: it is dropped"
    if row.get("area", w * h) <= 0:
        return f"area {row['area']} is not positive: it is dropped"
    if x < -1 or y < -1 or x + w > width + 1 or y + h > height + 1:
        return f"box {row['bbox']} leaves the image of {width} × {height} pixels (x2 and y2 in place of a size?)"
    return None


def _check_images(
    folder: Path, file: Path, form: Format, records: Records, decode: bool, owners: dict[Path, Path]
) -> list[Finding]:
    """Images that are missing, in two splits or, where ``decode`` says so, cannot be read."""
    if not records.images:  # what is wrong with them is found already
        return []
    try:
        image_folder = form.find_images(folder, file)
    except InputError as error:
        return [_finding(error, file)]
    findings = []
    for image_id, image in records.images.items():
        path = image_folder / image["file_name"]
        record = f"image {image_id}"
        if not is_file(path):
            findings.append(Finding("error", str(file), record, f"the image {path} is missing"))
            continue
        if path in owners:
            findings.append(Finding("warning", str(file), record, f"the image {path} is in {owners[path]} already"))
        owners.setdefault(path, file)
        if decode:
            try:
                read_image(path, (image["height"], image["width"]))
            except InputError as error:
                findings.append(_finding(error, file, record))
    return findings
