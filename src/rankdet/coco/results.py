"""Detections in the form of COCO's result files: one record each, or a few arrays.

Legend: D detections of a data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.findings import are_numbers, shown
from rankdet.coco.ground_truth import GroundTruth
from rankdet.coco.reading import read_json
from rankdet.coco.segmentations import encode_masks, segmentation_problem, to_rle
from rankdet.structures import Detection, InputError, Source

LARGEST_COORDINATE = 1e9
"""Pixels; products of the coordinates of boxes beyond overflow to infinity. A detector may go beyond any image."""


@dataclass(frozen=True, eq=False)
class Results:
    """Sound detections; row i has the id i + 1 where an evaluator asks for ids.

    Parameters
    ----------
    image_ids, category_ids
        (D,) int64, of the data set.
    scores
        (D,) float64.
    boxes
        (D, 4) float64, ``(x, y, width, height)`` in pixels; None where masks alone are known.
    masks
        D run-length objects; None where boxes alone are known.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64] | None = None
    masks: list[dict[str, Any]] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def of_image(cls, source: Source, detection: Detection, category_ids: Sequence[int]) -> Self:
        """Detections of one image, in pixels of its file and on the CPU; ``category_ids`` has the id of each label.

        Examples
        --------
        >>> import torch
        >>> found = Detection(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([0.5]), torch.tensor([1]))
        >>> Results.of_image(Source(7, "a.jpg", (10, 10)), found, [3, 9]).records()
        [{'image_id': 7, 'category_id': 9, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.5}]
        """
        boxes = detection.boxes.clone()
        boxes[:, 2:] -= boxes[:, :2]
        return cls(
            np.full(len(boxes), source.image_id, dtype=np.int64),
            np.array(category_ids, dtype=np.int64)[detection.labels.numpy()],
            detection.scores.double().numpy(),
            boxes.double().numpy(),
            None if detection.masks is None else encode_masks(detection.masks, source.size),
        )

    @classmethod
    def joined(cls, parts: Iterable[Self]) -> Self:
        """Detections of many images as one, by ascending id of the image; those of an image keep their order."""
        nothing = np.zeros(0)
        parts = [cls(nothing.astype(np.int64), nothing.astype(np.int64), nothing, np.zeros((0, 4))), *parts]
        image_ids = np.concatenate([part.image_ids for part in parts])
        order = np.argsort(image_ids, kind="stable")
        boxes = [part.boxes for part in parts if part.boxes is not None]
        masks = [mask for part in parts for mask in part.masks or ()]
        return cls(
            image_ids[order],
            np.concatenate([part.category_ids for part in parts])[order],
            np.concatenate([part.scores for part in parts])[order],
            np.concatenate(boxes)[order],
            [masks[row] for row in order.tolist()] if any(part.masks is not None for part in parts) else None,
        )

    def records(self) -> list[dict[str, Any]]:
        """One record for each detection, as COCO's result files have them."""
        columns: dict[str, list[Any]] = {"image_id": self.image_ids.tolist(), "category_id": self.category_ids.tolist()}
        if self.boxes is not None:
            columns["bbox"] = self.boxes.tolist()
        columns["score"] = self.scores.tolist()
        if self.masks is not None:
            columns["segmentation"] = self.masks
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


ResultsSource = str | PathLike[str] | Sequence[Mapping[str, Any]] | Results


def read_results(source: ResultsSource, ground_truth: GroundTruth, masks: bool) -> Results:
    """Read and check detections in the form of COCO's result files.

    Parameters
    ----------
    source
        Path of the JSON file or the loaded list of ``{image_id, category_id, bbox, score}``, boxes as
        ``[x, y, width, height]`` in pixels; with ``segmentation`` in place of ``bbox`` for masks. `Results` are
        returned as they are.
    ground_truth
        The data set whose images and categories they name.
    masks
        Whether masks are needed, not boxes. Boxes are read too, then, where all records have one.

    Raises
    ------
    InputError
        When the file is missing or no list in JSON, or a record is broken or names an image or category that the ground
        truth does not have. The message names the first such record.
    """
    if isinstance(source, Results):
        return source
    name: str = "detections"
    records: Any = source
    if isinstance(source, str | PathLike):
        name, records = str(source), read_json(source)
    if isinstance(records, Mapping) or not isinstance(records, Sequence):
        raise InputError(f"{name}: detections are a list of objects, not {type(records).__name__}")

    columns: dict[str, list[Any]] = {}
    for field in ("image_id", "category_id", "score", "segmentation" if masks else "bbox"):
        try:
            columns[field] = [record[field] for record in records]
        except (KeyError, TypeError, IndexError):
            row = next(i for i, record in enumerate(records) if not (isinstance(record, Mapping) and field in record))
            raise InputError(f"{name}: detection {row}: key {field!r} is missing") from None

    known = {"image_id": set(ground_truth.image_ids.tolist()), "category_id": set(ground_truth.category_ids)}
    ids: dict[str, NDArray[np.int64]] = {}
    for field, those in known.items():
        values = _numbers(name, field, columns[field], width=None)
        # As they are, because float64 confuses ids above 2**53.
        _require(name, np.array([value in those for value in columns[field]], dtype=bool), f"unknown {field}", values)
        ids[field] = np.array(columns[field], dtype=np.int64)
    scores = _numbers(name, "score", columns["score"], width=None)
    _require(name, np.isfinite(scores), "score is not finite", scores)
    if not masks:
        return Results(ids["image_id"], ids["category_id"], scores, _boxes(name, columns["bbox"]))

    boxes = None
    if all("bbox" in record for record in records):
        boxes = _boxes(name, [record["bbox"] for record in records])
    places = {image_id: place for place, image_id in enumerate(ground_truth.image_ids.tolist())}
    codes = []
    for row, (image_id, segmentation) in enumerate(zip(columns["image_id"], columns["segmentation"], strict=True)):
        size = ground_truth.size(places[image_id])
        problem = segmentation_problem(segmentation, size)
        if problem is not None:
            raise InputError(f"{name}: detection {row}: {problem}")
        codes.append(to_rle(segmentation, size))
    return Results(ids["image_id"], ids["category_id"], scores, boxes, codes)


def _numbers(name: str, field: str, values: list[Any], width: int | None) -> NDArray[np.float64]:
    """A column as float64 (D,) or (D, width); InputError names the first record that does not fit."""
    shape = (len(values),) if width is None else (len(values), width)
    try:
        # By their types first: NumPy takes "1" and true for numbers.
        if are_numbers(values if width is None else list(chain.from_iterable(values))):
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
            fits = len(parts) == (width or 1) and are_numbers(parts)
            np.array(parts if fits else [], dtype=np.float64)
        except (TypeError, OverflowError):
            fits = False
        if not fits:
            raise InputError(f"{name}: detection {row}: {field} must be {expected}, not {shown(value)}")
    raise InputError(f"{name}: {field} must be {expected} in every detection")


def _boxes(name: str, values: list[Any]) -> NDArray[np.float64]:
    """The boxes of detections as (D, 4) finite numbers."""
    boxes = _numbers(name, "bbox", values, width=4)
    within = np.asarray((np.abs(boxes) <= LARGEST_COORDINATE).all(axis=1))  # false for NaN
    _require(name, within, f"bbox is not finite, or goes beyond {LARGEST_COORDINATE:.0f} pixels")
    _require(name, np.asarray((boxes[:, 2:] >= 0).all(axis=1)), "bbox has a negative size")
    return boxes


def _require(name: str, fits: NDArray[np.bool_], message: str, values: NDArray[Any] | None = None) -> None:
    """Raise InputError for the first detection that does not fit."""
    if not fits.all():
        row = int(np.argmin(fits))
        value = "" if values is None else f" {values[row]:.15g}"
        raise InputError(f"{name}: detection {row}: {message}{value}")
