"""Detections in the form of COCO's result files: one record each, or a few arrays.

Legend: D detections of a data set.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.findings import (
    Finding,
    are_numbers,
    box_problem,
    is_finite,
    missing_key,
    raise_errors,
    record_name,
    shown,
)
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
        truth does not have. The message names the first such record and counts the others.
    """
    if isinstance(source, Results):
        return source
    name: str = "detections"
    records: Any = source
    if isinstance(source, str | PathLike):
        name, records = str(source), read_json(source)
    if isinstance(records, Mapping) or not isinstance(records, Sequence):
        raise InputError(f"{name}: detections are a list of objects, not {type(records).__name__}")

    places = {image_id: place for place, image_id in enumerate(ground_truth.image_ids.tolist())}
    sizes = [ground_truth.size(place) for place in range(len(places))]
    category_ids = frozenset(ground_truth.category_ids)
    findings = []
    for row, record in enumerate(records):
        problem = _problem(record, places, category_ids, masks)
        if problem is None and masks:
            problem = segmentation_problem(record["segmentation"], sizes[places[record["image_id"]]])
        if problem is not None:
            findings.append(Finding("error", name, record_name("detection", row, record), problem))
    raise_errors(findings)
    has_boxes = all("bbox" in record for record in records)
    return Results(
        np.array([record["image_id"] for record in records], dtype=np.int64),
        np.array([record["category_id"] for record in records], dtype=np.int64),
        np.array([record["score"] for record in records], dtype=np.float64),
        np.array([record["bbox"] for record in records], dtype=np.float64).reshape(-1, 4) if has_boxes else None,
        [to_rle(record["segmentation"], sizes[places[record["image_id"]]]) for record in records] if masks else None,
    )


def _problem(record: Any, image_ids: Container[Any], category_ids: Container[Any], masks: bool) -> str | None:
    """What is wrong with a detection, its mask aside, or None."""
    problem = missing_key(record, ("image_id", "category_id", "score", "segmentation" if masks else "bbox"))
    if problem is not None:
        return problem
    for field, known in (("image_id", image_ids), ("category_id", category_ids)):
        if not are_numbers((record[field],)) or record[field] not in known:
            return f"unknown {field} {shown(record[field])}"
    if not are_numbers((record["score"],)) or not is_finite(record["score"]):
        return f"score {shown(record['score'])} is not a finite number"
    return box_problem(record["bbox"], LARGEST_COORDINATE) if "bbox" in record else None
