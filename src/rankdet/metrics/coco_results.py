"""Ground truth and detections in COCO form → checked arrays: whatever is wrong is named before anything is measured.

Legend: G objects of a data set, D detections of a data set.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from hotcoco import COCO, LVISResults
from hotcoco import mask as rle
from numpy.typing import NDArray

from rankdet.metrics.federation import Federation, read_federation, with_empty_lists
from rankdet.metrics.segmentations import LARGEST_SIDE, to_rle
from rankdet.structures import InputError

LARGEST_ID = 2**63 - 1  # ids become int64
LARGEST_COORDINATE = 1e9
"""Boxes that go beyond so many pixels are refused: the products of larger numbers overflow to infinity."""

IouType = Literal["bbox", "segm"]
GroundTruthSource = str | PathLike[str] | Mapping[str, Any] | COCO
DetectionsSource = str | PathLike[str] | Sequence[Mapping[str, Any]]


class GroundTruth(NamedTuple):
    """Checked ground truth.

    coco
        The data set as the evaluator takes it: every annotation has ``area`` and ``iscrowd``.
    names
        Category id → a name that no other category has, by ascending id.
    annotation_ids
        (G,) int64, ascending.
    boxes
        (G, 4) float64, ``(x, y, width, height)`` in pixels, rows as ``annotation_ids``.
    federation
        What LVIS says beyond COCO; None where nothing of the kind is said.
    """

    coco: COCO
    names: dict[int, str]
    annotation_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]
    federation: Federation | None = None

    @property
    def is_federated(self) -> bool:
        """Whether the rules of LVIS hold, not those of COCO."""
        return self.federation is not None

    def load(self, results: Any, max_detections: int) -> COCO:
        """Detections in a form that hotcoco takes; of a federated set the best of each image, of all classes.

        A detection keeps the id that its place gives it, whether others are left out or not.
        """
        return LVISResults(self.coco, results, max_detections) if self.is_federated else self.coco.load_res(results)


class Detections(NamedTuple):
    """Checked detections; detection i has the id i + 1 in ``coco``.

    coco
        The detections as the evaluator takes them, without those beyond the cap of a federated set.
    boxes
        (D, 4) float64, ``(x, y, width, height)`` in pixels; zeros where masks without boxes are compared.
    """

    coco: COCO
    boxes: NDArray[np.float64]


def read_ground_truth(source: GroundTruthSource, iou_type: IouType) -> GroundTruth:
    """Read and check a data set of COCO or LVIS.

    A missing ``iscrowd`` counts as 0; a missing ``area`` is that of the box, or of the mask where masks are compared.
    Categories that share a name are told apart by their id: ``"cat (id 3)"``. LVIS is told by what only its images
    have, ``neg_category_ids``; it knows no crowds.

    Raises
    ------
    InputError
        When the file is missing or no JSON, or a record is broken or refers to an image or category that is not there.
    """
    dataset: Any
    if isinstance(source, COCO):
        where, dataset = "ground truth", source.dataset
        dataset = dataset | {"images": with_empty_lists(dataset["images"])}
    elif isinstance(source, Mapping):
        where, dataset = "ground truth", source
    else:
        where, dataset = str(source), _read_json(source)
    if not isinstance(dataset, Mapping):
        raise InputError(f"{where}: a COCO data set is an object with images, annotations and categories")
    for part in ("images", "annotations", "categories"):
        if not isinstance(dataset.get(part), list):
            raise InputError(f"{where}: no list of {part}")

    _unique_ids(where, "images", dataset["images"])
    sizes = {image["id"]: _size(where, image, iou_type) for image in dataset["images"]}
    category_ids = set(_unique_ids(where, "categories", dataset["categories"]).tolist())
    annotations = [
        _check_annotation(where, row, record, sizes, category_ids, iou_type)
        for row, record in enumerate(dataset["annotations"])
    ]
    federation = read_federation(where, dataset["images"], dataset["categories"])
    if federation is not None:
        annotations = [record | {"iscrowd": 0} for record in annotations]
    ids = _unique_ids(where, "annotations", annotations)
    boxes = np.array([record["bbox"] for record in annotations], dtype=np.float64).reshape(-1, 4)
    categories = dataset["categories"]
    # The evaluator sees what it measures: it refuses an odd license or capture date, which do not matter here.
    images: list[dict[str, Any]] = [{"id": id_} for id_ in sizes]
    if iou_type == "segm":
        images = [{"id": id_, "height": height or 0, "width": width or 0} for id_, (height, width) in sizes.items()]
    classes = [{"id": category["id"], "name": str(category.get("name"))} for category in categories]
    if federation is not None:
        images = [image | federation.images[image["id"]] for image in images]
        classes = [category | {"frequency": federation.frequencies[category["id"]]} for category in classes]
    try:
        coco = COCO({"images": images, "annotations": annotations, "categories": classes})
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{where}: {error}") from error

    names = {int(category["id"]): str(category.get("name", category["id"])) for category in categories}
    shared = Counter(names.values())
    names = {id_: name if shared[name] == 1 else f"{name} (id {id_})" for id_, name in sorted(names.items())}
    order = np.argsort(ids)
    return GroundTruth(coco, names, ids[order], boxes[order], federation)


def read_detections(
    source: DetectionsSource, ground_truth: GroundTruth, iou_type: IouType, max_detections: int
) -> Detections:
    """Read and check detections in the COCO result form.

    Where masks are compared a detection's area is that of its mask, or, as in pycocotools, that of its box if all
    records carry one. Of a federated set the best ``max_detections`` of each image remain, of all classes together.

    Raises
    ------
    InputError
        When the file is missing or no list in JSON, or a record is broken or refers to an image or category that
        the ground truth does not have.
    """
    records: Any
    if isinstance(source, (str, PathLike)):
        where, records = str(source), _read_json(source)
    else:
        where, records = "detections", source
    if isinstance(records, Mapping) or not isinstance(records, Sequence):
        raise InputError(f"{where}: detections are a list of objects, not {type(records).__name__}")

    shape = "bbox" if iou_type == "bbox" else "segmentation"
    columns: dict[str, list[Any]] = {}
    for field in ("image_id", "category_id", "score", shape):
        try:
            columns[field] = [record[field] for record in records]
        except (KeyError, TypeError, IndexError):
            row = next(i for i, record in enumerate(records) if not (isinstance(record, Mapping) and field in record))
            raise InputError(f"{where}: detection {row} has no {field}") from None

    known = {"image_id": set(ground_truth.coco.get_img_ids()), "category_id": ground_truth.names.keys()}
    numbers: dict[str, NDArray[Any]] = {}
    for field, ids in known.items():
        values = _numbers(where, field, columns[field], width=None)
        # As they are, because float64 confuses ids above 2**53.
        _require(where, np.array([value in ids for value in columns[field]], dtype=bool), f"unknown {field}", values)
        numbers[field] = np.array(columns[field], dtype=np.int64)
    scores = _numbers(where, "score", columns["score"], width=None)
    _require(where, np.isfinite(scores), "score is not finite", scores)

    if iou_type == "bbox":
        boxes = _boxes(where, columns["bbox"])
        if max(chain(*known.values()), default=0) <= 2**53:
            table = np.column_stack([numbers["image_id"], boxes, scores, numbers["category_id"]])
            return Detections(ground_truth.load(table, max_detections), boxes)
        fields = ("image_id", "category_id", "bbox", "score")
        rows = zip(*(column.tolist() for column in (*numbers.values(), boxes, scores)), strict=True)
        loaded = ground_truth.load([dict(zip(fields, row, strict=True)) for row in rows], max_detections)
        return Detections(loaded, boxes)

    sizes = {
        id_: (image.get("height") or None, image.get("width") or None) for id_, image in ground_truth.coco.imgs.items()
    }
    has_boxes = all("bbox" in record for record in records)
    boxes = np.zeros((len(records), 4))
    if has_boxes:
        boxes = _boxes(where, [record["bbox"] for record in records])
    results: list[dict[str, Any]] = []
    for row, (image, category, score, mask) in enumerate(
        zip(
            numbers["image_id"].tolist(),
            numbers["category_id"].tolist(),
            scores.tolist(),
            columns["segmentation"],
            strict=True,
        )
    ):
        try:
            checked = to_rle(mask, sizes[image])
        except ValueError as error:
            raise InputError(f"{where}: detection {row}: segmentation {error}") from error
        results.append({"image_id": image, "category_id": category, "score": score, "segmentation": checked})
        if has_boxes:
            results[row]["bbox"] = boxes[row].tolist()
    try:
        return Detections(ground_truth.load(results, max_detections), boxes)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise InputError(f"{where}: {error}") from error


def _read_json(path: str | PathLike[str]) -> Any:
    """Read a JSON file; InputError names the file and, where the text is broken, the place in it."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: no JSON: {error}") from error


def _unique_ids(where: str, part: str, records: Sequence[Any]) -> NDArray[np.int64]:
    """Collect the ids of ``records``, each a whole number that no other record has."""
    ids = []
    for row, record in enumerate(records):
        value = record.get("id") if isinstance(record, Mapping) else None
        if type(value) is not int or not 0 <= value <= LARGEST_ID:
            raise InputError(
                f"{where}: {part} {row}: id must be a whole number from 0 to 2**63 - 1, not {_short(value)}"
            )
        ids.append(value)
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise InputError(f"{where}: {part}: id {twice} occurs more than once")
    return np.array(ids, dtype=np.int64)


def _size(where: str, image: Mapping[str, Any], iou_type: IouType) -> tuple[int | None, int | None]:
    """The (height, width) of an image; None where the file does not say it. Masks need sound ones."""
    for side in ("height", "width"):
        value = image.get(side)
        if iou_type == "segm" and value is not None and not (type(value) is int and 1 <= value <= LARGEST_SIDE):
            raise InputError(f"{where}: image {image['id']}: {side} {_short(value)} is no number of pixels")
    return image.get("height"), image.get("width")


def _check_annotation(
    where: str, row: int, record: Any, sizes: Mapping[int, tuple[Any, Any]], category_ids: set[int], iou_type: IouType
) -> dict[str, Any]:
    """Return a copy of one annotation in which nothing that the evaluator reads is missing."""
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: annotations {row} is no object")
    name = f"{where}: annotation {_short(record['id']) if 'id' in record else f'number {row}'}"
    for field, known in (("image_id", sizes.keys()), ("category_id", category_ids)):
        value = record.get(field)
        if type(value) is not int or value not in known:
            raise InputError(f"{name}: unknown {field} {_short(value)}")
    box = record.get("bbox")
    if iou_type == "segm" and not record.get("segmentation"):
        raise InputError(f"{name} has no segmentation")
    if box is None and iou_type == "segm":
        box = [0.0] * 4
    if not isinstance(box, Sequence) or len(box) != 4:
        raise InputError(f"{name}: bbox must be [x, y, width, height], not {_short(box)}")
    if not all(map(_is_number, map(type, box))):
        raise InputError(f"{name}: bbox must be four numbers, not {_short(box)}")
    if not all(abs(value) <= LARGEST_COORDINATE for value in box):  # false for NaN
        raise InputError(f"{name}: bbox holds NaN or infinity, or a number beyond 1e9: {_short(box)}")
    box = [float(value) for value in box]
    if min(box[2:]) < 0:
        raise InputError(f"{name}: bbox has a negative width or height: {box}")
    crowd, area = record.get("iscrowd") or 0, record.get("area")
    if crowd not in (0, 1):
        raise InputError(f"{name}: iscrowd must be 0 or 1, not {_short(crowd)}")
    if area is not None and not (_is_number(type(area)) and abs(area) <= LARGEST_COORDINATE**2):
        raise InputError(f"{name}: area must be a finite number, not {_short(area)}")
    checked = {field: record.get(field) for field in ("id", "image_id", "category_id")}
    checked |= {"bbox": box, "iscrowd": int(crowd), "area": box[2] * box[3] if area is None else float(area)}
    if iou_type == "segm":
        try:
            checked["segmentation"] = mask = to_rle(record["segmentation"], sizes[record["image_id"]])
        except ValueError as error:
            raise InputError(f"{name}: segmentation {error}") from error
        if area is None:
            checked["area"] = float(rle.area(mask))
    return checked


def _numbers(where: str, field: str, values: list[Any], width: int | None) -> NDArray[np.float64]:
    """Turn a column into float64 (D,) or (D, width); InputError names the first record that does not fit."""
    shape = (len(values),) if width is None else (len(values), width)
    try:
        # By their types first: NumPy takes "1" and true for numbers.
        if all(map(_is_number, set(map(type, values if width is None else chain.from_iterable(values))))):
            column = np.array(values, dtype=np.float64)
            if len(values) == 0:
                column = column.reshape(shape)
            if column.shape == shape:
                return column
    except (TypeError, ValueError, OverflowError):
        pass  # the loop below finds the record
    expected = "a number" if width is None else f"{width} numbers"
    for row, value in enumerate(values):
        try:
            parts = [value] if width is None else list(value)
            fits = len(parts) == (width or 1) and all(_is_number(type(part)) for part in parts)
            np.array(parts if fits else [], dtype=np.float64)
        except (TypeError, OverflowError):
            fits = False
        if not fits:
            raise InputError(f"{where}: detection {row}: {field} must be {expected}, not {_short(value)}")
    raise InputError(f"{where}: {field} must be {expected} in every detection")


def _is_number(kind: type[Any]) -> bool:
    return kind is not bool and issubclass(kind, Real)


def _short(value: Any) -> str:
    """A value as messages show it: what is wrong with it shows at its start."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}…"


def _boxes(where: str, values: list[Any]) -> NDArray[np.float64]:
    """Turn the boxes of detections into (D, 4) finite numbers."""
    boxes = _numbers(where, "bbox", values, width=4)
    within = np.asarray((np.abs(boxes) <= LARGEST_COORDINATE).all(axis=1))  # false for NaN
    _require(where, within, "bbox holds NaN or infinity, or a number beyond 1e9")
    _require(where, np.asarray((boxes[:, 2:] >= 0).all(axis=1)), "bbox has a negative width or height")
    return boxes


def _require(where: str, fits: NDArray[np.bool_], message: str, values: NDArray[Any] | None = None) -> None:
    """Raise InputError for the first detection that does not fit."""
    if fits.all():
        return
    row = int(np.argmin(fits))
    value = "" if values is None else f" {values[row]:.15g}"
    raise InputError(f"{where}: detection {row}: {message}{value}")
