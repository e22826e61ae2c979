"""Ground truth and detections in COCO form → checked arrays: whatever is wrong is named before anything is measured.

Legend: G objects of a data set, D detections of a data set.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from hotcoco import COCO
from hotcoco import mask as rle
from numpy.typing import NDArray

from rankdet.structures import InputError

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
    """

    coco: COCO
    names: dict[int, str]
    annotation_ids: NDArray[np.int64]
    boxes: NDArray[np.float64]


class Detections(NamedTuple):
    """Checked detections; detection i has the id i + 1 in ``coco``.

    coco
        The detections as the evaluator takes them.
    boxes
        (D, 4) float64, ``(x, y, width, height)`` in pixels; zeros where masks without boxes are compared.
    """

    coco: COCO
    boxes: NDArray[np.float64]


def read_ground_truth(source: GroundTruthSource, iou_type: IouType) -> GroundTruth:
    """Read and check a COCO data set.

    A missing ``iscrowd`` counts as 0; a missing ``area`` is that of the box, or of the mask where masks are compared.
    Categories that share a name are told apart by their id: ``"cat (id 3)"``.

    Raises
    ------
    InputError
        When the file is missing or no JSON, or a record is broken or refers to a picture or category that is not there.
    """
    dataset: Any
    if isinstance(source, COCO):
        where, dataset = "ground truth", source.dataset
    elif isinstance(source, Mapping):
        where, dataset = "ground truth", source
    else:
        where, dataset = str(source), _read_json(source)
    if not isinstance(dataset, Mapping):
        raise InputError(f"{where}: a COCO data set is an object with images, annotations and categories")
    for part in ("images", "annotations", "categories"):
        if not isinstance(dataset.get(part), list):
            raise InputError(f"{where}: no list of {part}")

    image_ids = set(_unique_ids(where, "images", dataset["images"]).tolist())
    category_ids = set(_unique_ids(where, "categories", dataset["categories"]).tolist())
    annotations = [
        _check_annotation(where, row, record, image_ids, category_ids, iou_type)
        for row, record in enumerate(dataset["annotations"])
    ]
    ids = _unique_ids(where, "annotations", annotations)
    boxes = np.array([record["bbox"] for record in annotations], dtype=np.float64).reshape(-1, 4)
    images, categories = dataset["images"], dataset["categories"]
    try:
        coco = COCO({"images": images, "annotations": annotations, "categories": categories})
        if iou_type == "segm" and any("area" not in record for record in annotations):
            annotations = [
                record if "area" in record else {**record, "area": float(rle.area(coco.ann_to_rle(record)))}
                for record in annotations
            ]
            coco = COCO({"images": images, "annotations": annotations, "categories": categories})
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where}: {error}") from error

    names = {int(category["id"]): str(category.get("name", category["id"])) for category in categories}
    shared = Counter(names.values())
    names = {id_: name if shared[name] == 1 else f"{name} (id {id_})" for id_, name in sorted(names.items())}
    order = np.argsort(ids)
    return GroundTruth(coco, names, ids[order], boxes[order])


def read_detections(source: DetectionsSource, ground_truth: GroundTruth, iou_type: IouType) -> Detections:
    """Read and check detections in the COCO result form.

    Where masks are compared a detection's area is that of its mask, or, as in pycocotools, that of its box if all
    records carry one.

    Raises
    ------
    InputError
        When the file is missing or no list in JSON, or a record is broken or refers to a picture or category that
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

    known = {"image_id": ground_truth.coco.get_img_ids(), "category_id": list(ground_truth.names)}
    numbers: dict[str, NDArray[Any]] = {}
    for field, ids in known.items():
        values = _numbers(where, field, columns[field], width=None)
        _require(where, np.isin(values, np.array(ids, dtype=np.float64)), f"unknown {field}", values)
        numbers[field] = values
    scores = _numbers(where, "score", columns["score"], width=None)
    _require(where, np.isfinite(scores), "score is not finite", scores)

    if iou_type == "bbox":
        boxes = _boxes(where, columns["bbox"])
        table = np.column_stack([numbers["image_id"], boxes, scores, numbers["category_id"]])
        return Detections(ground_truth.coco.load_res(table), boxes)

    sizes = {id_: (image.get("height"), image.get("width")) for id_, image in ground_truth.coco.imgs.items()}
    has_boxes = all("bbox" in record for record in records)
    boxes = np.zeros((len(records), 4))
    if has_boxes:
        boxes = _boxes(where, [record["bbox"] for record in records])
    results: list[dict[str, Any]] = []
    for row, (image, category, score, mask) in enumerate(
        zip(
            numbers["image_id"].astype(int).tolist(),
            numbers["category_id"].astype(int).tolist(),
            scores.tolist(),
            columns["segmentation"],
            strict=True,
        )
    ):
        if isinstance(mask, Mapping):
            if not {"size", "counts"} <= mask.keys():
                raise InputError(f"{where}: detection {row}: a segmentation has size and counts")
            if None not in sizes[image] and tuple(mask["size"]) != sizes[image]:
                raise InputError(
                    f"{where}: detection {row}: mask of size {list(mask['size'])} for picture {image} of "
                    f"(height, width) {sizes[image]}"
                )
        elif not isinstance(mask, list):
            raise InputError(f"{where}: detection {row}: a segmentation is a run-length object or a list of polygons")
        results.append({"image_id": image, "category_id": category, "score": score, "segmentation": mask})
        if has_boxes:
            results[row]["bbox"] = boxes[row].tolist()
    try:
        return Detections(ground_truth.coco.load_res(results), boxes)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where}: {error}") from error


def _read_json(path: str | PathLike[str]) -> Any:
    """Read a JSON file; InputError names the file and, where the text is broken, the place in it."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: no JSON: {error}") from error


def _unique_ids(where: str, part: str, records: Sequence[Any]) -> NDArray[np.int64]:
    """Collect the ids of ``records``, each a whole number that no other record has."""
    ids = []
    for row, record in enumerate(records):
        value = record.get("id") if isinstance(record, Mapping) else None
        if not isinstance(value, int) or isinstance(value, bool):
            raise InputError(f"{where}: {part} {row}: id must be a whole number, not {value!r}")
        ids.append(value)
    if len(set(ids)) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise InputError(f"{where}: {part}: id {twice} occurs more than once")
    return np.array(ids, dtype=np.int64)


def _check_annotation(
    where: str, row: int, record: Any, image_ids: set[int], category_ids: set[int], iou_type: IouType
) -> dict[str, Any]:
    """Return a copy of one annotation in which nothing that the evaluator reads is missing."""
    if not isinstance(record, Mapping):
        raise InputError(f"{where}: annotations {row} is no object")
    name = f"{where}: annotation {record.get('id', f'number {row}')}"
    for field, known in (("image_id", image_ids), ("category_id", category_ids)):
        value = record.get(field)
        if not isinstance(value, int) or value not in known:
            raise InputError(f"{name}: unknown {field} {value!r}")
    box = record.get("bbox")
    if iou_type == "segm" and not record.get("segmentation"):
        raise InputError(f"{name} has no segmentation")
    if box is None and iou_type == "segm":
        box = [0.0] * 4
    if not isinstance(box, Sequence) or len(box) != 4:
        raise InputError(f"{name}: bbox must be [x, y, width, height], not {box!r}")
    try:
        box = [float(value) for value in box]
    except (TypeError, ValueError):
        raise InputError(f"{name}: bbox must be four numbers, not {box!r}") from None
    if not all(map(math.isfinite, box)):
        raise InputError(f"{name}: bbox holds NaN or infinity: {box}")
    if min(box[2:]) < 0:
        raise InputError(f"{name}: bbox has a negative width or height: {box}")
    checked = {**record, "bbox": box, "iscrowd": int(bool(record.get("iscrowd")))}
    if checked.get("area") is None:
        checked.pop("area", None)
        if iou_type == "bbox":
            checked["area"] = box[2] * box[3]
    return checked


def _numbers(where: str, field: str, values: list[Any], width: int | None) -> NDArray[np.float64]:
    """Turn a column into float64 (D,) or (D, width); InputError names the first record that does not fit."""
    shape = (len(values),) if width is None else (len(values), width)
    try:
        column = np.array(values, dtype=np.float64)
        if len(values) == 0:
            column = column.reshape(shape)
        if column.shape == shape:
            return column
    except (TypeError, ValueError):
        pass  # the loop below finds the record
    expected = "a number" if width is None else f"{width} numbers"
    for row, value in enumerate(values):
        try:
            fits = np.array(value, dtype=np.float64).shape == shape[1:]
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise InputError(f"{where}: detection {row}: {field} must be {expected}, not {value!r}")
    raise InputError(f"{where}: {field} must be {expected} in every detection")


def _boxes(where: str, values: list[Any]) -> NDArray[np.float64]:
    """Turn the boxes of detections into (D, 4) finite numbers."""
    boxes = _numbers(where, "bbox", values, width=4)
    _require(where, np.asarray(np.isfinite(boxes).all(axis=1)), "bbox holds NaN or infinity")
    _require(where, np.asarray((boxes[:, 2:] >= 0).all(axis=1)), "bbox has a negative width or height")
    return boxes


def _require(where: str, fits: NDArray[np.bool_], message: str, values: NDArray[Any] | None = None) -> None:
    """Raise InputError for the first detection that does not fit."""
    if fits.all():
        return
    row = int(np.argmin(fits))
    value = "" if values is None else f" {values[row]:.15g}"
    raise InputError(f"{where}: detection {row}: {message}{value}")
