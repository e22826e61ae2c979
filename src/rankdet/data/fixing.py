"""A cleaned copy of a data set, with a record of every change; the data set itself stays as it is.

What the reader understands is written in its plain form, and what it leaves out is left out. Beyond that, boxes and
sizes are changed only where other fields or the image files prove what is meant.

Legend: N images, A annotations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rankdet.coco import GroundTruth, raise_errors
from rankdet.coco.findings import record_name
from rankdet.coco.records import Outlines
from rankdet.coco.sections import whole
from rankdet.coco.segmentations import meant_segmentation, outline_box, segmentation_problem
from rankdet.coco.suspicions import are_relative, corner_boxes
from rankdet.data.conversion import write_folder
from rankdet.data.doctor import turned_images
from rankdet.data.images import header
from rankdet.data.layouts import Source, find_layout
from rankdet.data.progress import with_bar
from rankdet.structures import InputError

CHANGES = "changes.json"
"""The record of changes in the copy."""


class Change(NamedTuple):
    """One change: of a field of a record, or a record that is left out.

    file, record
        The annotation file of the original and the record in it.
    field
        What was changed; "" for the whole record.
    before, after
        Its values; ``after`` is None where a record is left out.
    reason
        Why, in words.
    """

    file: str
    record: str
    field: str
    before: Any
    after: Any
    reason: str


def fix_folder(folder: Path, out: Path, *, copy: bool = False, voc_first_pixel: int | None = None) -> list[Change]:
    """Write a cleaned copy of a data folder of any known layout as a COCO folder.

    Parameters
    ----------
    folder
        The data folder.
    out
        The folder to write, which must be empty or not be there. It gets ``changes.json``, too.
    copy
        Copy images. Otherwise files get a second name (a hard link) where the file system can do that.
    voc_first_pixel
        The number, 0 or 1, that the first pixel has in Pascal VOC; None: as its boxes show.

    Returns
    -------
    list[Change]
        All changes, file by file. Cleaning a cleaned copy changes nothing.

    Raises
    ------
    InputError
        When the layout is not known, or no repair is certain: ids of images or categories repeat, or nothing is left.
    """
    changes: list[Change] = []
    layout = find_layout(folder, voc_first_pixel=voc_first_pixel)
    documents = {split: cleaned(source, changes) for split, source in layout.sources.items()}
    record = {"folder": str(folder), "changes": [change._asdict() for change in changes]}
    # Halves of letters, which JSON can hold and UTF-8 cannot, are escaped as in JSON.
    text = json.dumps(record, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")
    write_folder(layout, out, lambda split, _: (documents[split], []), copy=copy, files={CHANGES: text})
    return changes


def cleaned(source: Source, changes: list[Change]) -> dict[str, Any]:
    """The content of a cleaned annotation file; ``changes`` gets all changes.

    Raises InputError where errors are left.
    """
    given, told = source.given()
    # What a foreign format has lost on the way to records is no record that could be compared.
    for one in told:
        if one.severity == "warning" and one.record:
            changes.append(Change(one.file, one.record, "", one.detail or None, None, one.problem))
    content, odd = source.content((given, told))
    truth, findings = source.check(content, masks=True)
    # Which of two records with one id is meant, nobody knows; nor what a section means that makes no sense at all.
    raise_errors(one for one in source.check(content, masks=False)[1] if one.record)
    images, unusable = _cleaned_images(truth, source.images)
    rows = list(given.get("annotations") or ())
    boxes = _proven_boxes(truth, rows)
    mended = {
        **given,
        "images": list(images.values()),
        "annotations": [{**row, "bbox": boxes[place].box} if place in boxes else row for place, row in enumerate(rows)],
    }
    reread, more = source.check(mended, masks=True)
    log = _Log(truth.source, {one.record: one.problem for one in [*more, *findings, *odd]}, changes)
    document = {
        **given,
        "categories": _categories(reread, given["categories"], log),
        "images": _images(images, given["images"], unusable, log),
        "annotations": _annotations(reread, rows, boxes, unusable, log),
    }
    raise_errors(source.check(document, masks=False)[1])
    return document


class _Log(NamedTuple):
    """Where changes are written, and why records are changed, as far as the reader has said it."""

    file: str
    reasons: Mapping[str, str]
    changes: list[Change]

    def difference(
        self, kind: str, place: int, before: Any, after: Mapping[str, Any] | None, reason: str = ""
    ) -> dict[str, Any]:
        """The fields that a record gets and did not have, which are noted; None: the record is left out."""
        record = record_name(kind, place, before)
        reason = reason or self.reasons.get(record, "")
        if after is None:
            self.changes.append(Change(self.file, record, "", before, None, reason or "left out"))
            return {}
        changed = {}
        for key, value in after.items():
            old = before.get(key)
            # 1.0 is 1 in Python, and not in the files of every reader.
            if old != value or (isinstance(old, float) and isinstance(value, int)):
                changed[key] = value
                self.changes.append(Change(self.file, record, key, old, value, reason or "written in the plain form"))
        return changed


def _first_places(rows: Sequence[Any]) -> dict[int, int]:
    """The id of each record → the place of the first record that has it."""
    places: dict[int, int] = {}
    for place, row in enumerate(rows):
        id_ = whole(row.get("id")) if isinstance(row, Mapping) else None
        if id_ is not None:
            places.setdefault(id_, place)
    return places


def _cleaned_images(truth: GroundTruth, folder: Path) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """The id of each image → its file and size, and of those that cannot be used → why."""
    found: dict[int, dict[str, Any]] = {}
    unusable: dict[int, str] = {}
    stored: list[int] = []
    for place in with_bar(range(len(truth.image_ids)), f"Images of {Path(truth.source).name}"):
        image_id, name = int(truth.image_ids[place]), truth.file_names[place].decode()
        height, width = truth.sizes[place].tolist()
        found[image_id] = {"id": image_id, "file_name": name, "height": height, "width": width}
        try:
            head = header(folder / name)
        except InputError as error:
            unusable[image_id] = str(error)
            continue
        if not head.fits((height, width)):
            unusable[image_id] = "the image file has another size"
        elif head.stored == (height, width) != head.upright:
            stored.append(place)
    # One tool has written all sizes: boxes that only fit one way speak for the images whose boxes fit both ways.
    if turned_images(truth)[stored].any() and not turned_images(truth, back=True)[stored].any():
        for place in stored:
            row = found[int(truth.image_ids[place])]
            row["height"], row["width"] = row["width"], row["height"]
    return found, unusable


class _ProvenBox(NamedTuple):
    """What a box is, and why."""

    box: list[float]
    reason: str


def _proven_boxes(truth: GroundTruth, rows: Sequence[Any]) -> dict[int, _ProvenBox]:
    """The place of each annotation whose box is written in a wrong form → the box.

    All boxes that lie within 0 and 1 are relative. A box is taken for two corners where the polygons of the object, or
    its area, say so.
    """
    places, boxes = truth.places.tolist(), truth.boxes
    if are_relative(truth):
        scaled = boxes * np.tile(truth.sizes[truth.images][:, ::-1], 2)
        reason = "the box was relative to the size of the image"
        return {place: _ProvenBox(box, reason) for place, box in zip(places, scaled.tolist(), strict=True)}
    outlines = Outlines.of(_outline(rows[place], truth.size(truth.images[row])) for row, place in enumerate(places))
    rights = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    reason = "the box had x2 and y2 in place of width and height"
    return {
        places[row]: _ProvenBox(rights[row].tolist(), reason)
        for row in np.flatnonzero(corner_boxes(truth, outlines).rows).tolist()
    }


def _outline(row: Mapping[str, Any], size: tuple[int, int] | None) -> list[float] | None:
    """The box around the segmentation of an annotation, if it has a sound one."""
    segmentation, _ = meant_segmentation(row.get("segmentation"))
    if segmentation is None or segmentation_problem(segmentation, size, True) is not None:
        return None
    return outline_box(segmentation)


def _categories(truth: GroundTruth, given: Sequence[Any], log: _Log) -> list[dict[str, Any]]:
    places = _first_places(given)
    kept = {places[id_]: {"id": id_, "name": name} for id_, name in truth.categories}
    return list(_kept("category", given, kept, {}, log))


def _images(
    images: Mapping[int, dict[str, Any]], given: Sequence[Any], unusable: Mapping[int, str], log: _Log
) -> list[dict[str, Any]]:
    places = _first_places(given)
    kept = {places[id_]: row for id_, row in images.items() if id_ not in unusable}
    lost = {places[id_]: reason for id_, reason in unusable.items()}
    return list(_kept("image", given, kept, lost, log))


def _annotations(
    truth: GroundTruth, given: Sequence[Any], boxes: Mapping[int, _ProvenBox], unusable: Mapping[int, str], log: _Log
) -> list[dict[str, Any]]:
    kept: dict[int, dict[str, Any]] = {}
    lost, reasons = {}, {place: proven.reason for place, proven in boxes.items()}
    for row, place in enumerate(truth.places.tolist()):
        image_id = int(truth.image_ids[truth.images[row]])
        if image_id in unusable:
            lost[place] = "its image is left out"
        else:
            kept[place] = _annotation(truth, row, given[place]) | {"image_id": image_id}
    return list(_kept("annotation", given, kept, lost | reasons, log))


def _annotation(truth: GroundTruth, row: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an annotation in their plain form; those that were not there and need not be are none."""
    fields: dict[str, Any] = {
        "id": int(truth.annotation_ids[row]),
        "category_id": truth.categories[truth.labels[row]][0],
        "bbox": truth.boxes[row].tolist(),
        "iscrowd": int(truth.is_crowd[row]),
    }
    if given.get("ignore") is not None:
        fields["ignore"] = int(truth.is_ignored[row])
    if given.get("area") is not None:
        area = float(truth.areas[row])
        fields["area"] = float(fields["bbox"][2] * fields["bbox"][3]) if np.isnan(area) else area
    segmentation = truth.segmentation(row)
    if segmentation is not None or given.get("segmentation"):
        fields["segmentation"] = segmentation or []
    return fields


def _kept(
    kind: str, given: Sequence[Any], kept: Mapping[int, dict[str, Any]], reasons: Mapping[int, str], log: _Log
) -> Iterator[dict[str, Any]]:
    """The records of a section that stay, by their places, with the fields that they get; all others are left out."""
    for place, row in enumerate(given):
        changed = log.difference(kind, place, row, kept.get(place), reasons.get(place, ""))
        if place in kept:
            yield {**row, **changed}
