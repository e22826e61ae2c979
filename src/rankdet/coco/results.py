"""Detections in the form of COCO's result files: one record each, or a few arrays.

Legend: D detections of a data set.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from rankdet.coco import columns
from rankdet.coco.columns import NotPlain
from rankdet.coco.findings import (
    Finding,
    Problem,
    are_numbers,
    box_problem,
    is_finite,
    is_integer,
    missing_key,
    raise_errors,
    record_name,
    shown,
)
from rankdet.coco.ground_truth import GroundTruth
from rankdet.coco.matching import ONLY_KNOWN, Matching, Unknown
from rankdet.coco.parsing import no_collection, read_columns, read_json
from rankdet.coco.segmentations import encode_masks, mask_area, outline_box, segmentation_problem, to_rle
from rankdet.structures import Detection, InputError, Source

LARGEST_COORDINATE = 1e9
"""Pixels; products of the coordinates of boxes beyond overflow to infinity. A detector may go beyond any image."""

BOX_RECORD = {"image_id": int, "category_id": int, "score": float, "bbox": tuple[float, float, float, float]}
MASK_RECORD = {"image_id": int, "category_id": int, "score": float, "segmentation": dict}
OTHER_NAMES = ("file_name", "category_name")
"""Keys that name an image or a category otherwise than by its id."""
NO_BOX = [0.0, 0.0, 0.0, 0.0]
"""That of a mask without a pixel."""
EMPTY = "has a mask without a pixel: finds nothing where masks are compared"


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
    pixels
        (D,) int64, pixels of the masks; None where they were not counted.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    scores: NDArray[np.float64]
    boxes: NDArray[np.float64] | None = None
    masks: list[dict[str, Any]] | None = None
    pixels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def known_boxes(self) -> NDArray[np.float64]:
        """The boxes; ValueError where masks alone are known."""
        if self.boxes is None:
            raise ValueError("boxes are compared, but the detections have none")
        return self.boxes

    @property
    def known_masks(self) -> list[dict[str, Any]]:
        """The masks; ValueError where boxes alone are known."""
        if self.masks is None:
            raise ValueError("masks are compared, but the detections have none")
        return self.masks

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

    def select(self, rows: NDArray[np.int64]) -> Results:
        """The detections in these rows, in this order."""
        return Results(
            self.image_ids[rows],
            self.category_ids[rows],
            self.scores[rows],
            None if self.boxes is None else self.boxes[rows],
            None if self.masks is None else [self.masks[row] for row in rows.tolist()],
            None if self.pixels is None else self.pixels[rows],
        )

    def records(self) -> list[dict[str, Any]]:
        """One record for each detection, as COCO's result files have them."""
        lists: dict[str, list[Any]] = {"image_id": self.image_ids.tolist(), "category_id": self.category_ids.tolist()}
        if self.boxes is not None:
            lists["bbox"] = self.boxes.tolist()
        lists["score"] = self.scores.tolist()
        if self.masks is not None:
            lists["segmentation"] = self.masks
        return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


ResultsSource = str | PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Results


@no_collection()  # nor among them once they are columns
def read_results(
    source: ResultsSource,
    ground_truth: GroundTruth,
    masks: bool,
    only_known: bool = False,
    labels_from: int | None = None,
) -> tuple[Results, list[Finding]]:
    """Read and check detections in the form of COCO's result files, or of a COCO file with scores.

    Parameters
    ----------
    source
        Path of the JSON file or the loaded list of ``{image_id, category_id, bbox, score}``, boxes as
        ``[x, y, width, height]`` in pixels; with ``segmentation`` in place of ``bbox`` for masks. Or an object with
        such a list as ``annotations``, and with ``images`` and ``categories`` whose ids are its own: they are matched
        by file name and by name. `Results` are returned as they are.
    ground_truth
        The data set that they are measured by.
    masks
        Whether masks are needed, not boxes. Boxes are read too, then, where all records have one. Otherwise a record
        without a box has that of its mask.
    only_known
        Whether detections in images or of categories that the ground truth does not have are left out and counted;
        otherwise they are an error.
    labels_from
        0 or 1 where a category_id counts the classes of the ground truth, in the order of their ids, from there on.

    Returns
    -------
    tuple[Results, list[Finding]]
        The detections under the ids of the ground truth, and what was left out or read in another form.

    Raises
    ------
    InputError
        When the file is missing or has another form, or a record is broken or names an image or category that the
        ground truth does not have.
    """
    if isinstance(source, Results):
        return source, []
    if isinstance(source, str | PathLike) and labels_from is None:
        kinds, without = (MASK_RECORD, (*OTHER_NAMES, "bbox", "id")) if masks else (BOX_RECORD, OTHER_NAMES)
        given = read_columns(source, kinds, without)
        if given is not None:
            with suppress(NotPlain):
                results = _from_columns(given, ground_truth)
                return results, _empty_masks(str(source), results, [{}] * len(results))
    name, records, own_images, own_categories = _records(source)
    if not (own_images or own_categories or labels_from is not None):
        try:
            return _plain(name, records, ground_truth, masks)
        except NotPlain:  # then each record is looked at
            pass
    required = ("image_id", "category_id", "score", *(("segmentation",) if masks else ()))
    missing = ((row, record, missing_key(record, required)) for row, record in enumerate(records))
    raise_errors(_broken(name, row, record, *problem) for row, record, problem in missing if problem is not None)
    matching = Matching(name, records, ground_truth, own_images, own_categories, labels_from)
    places = {image_id: place for place, image_id in enumerate(ground_truth.image_ids.tolist())}
    findings: list[Finding] = []
    kept, codes, pixels, image_ids, category_ids = [], [], [], [], []
    for row, record in enumerate(records):
        image, category = matching.image(record), matching.category(record)
        if isinstance(image, Unknown):
            findings.append(_unknown(name, row, record, image, only_known, ONLY_KNOWN))
            continue
        if isinstance(category, Unknown):
            findings.append(_unknown(name, row, record, category, only_known, matching.remedy))
            continue
        size = (ground_truth.size(places[image]) or _size(own_images.get(record["image_id"]))) if masks else None
        problem = _problem(record, size, masks)
        if problem is not None:
            findings.append(_broken(name, row, record, *problem))
            continue
        kept.append(record)
        image_ids.append(image)
        category_ids.append(category)
        if masks:
            codes.append(_code(record["segmentation"], size))
            pixels.append(mask_area(codes[-1]))
            if not pixels[-1]:
                findings.append(_empty(name, row, record))
    raise_errors(findings)
    has_boxes = not masks or (len(kept) > 0 and all(record.get("bbox") is not None for record in kept))
    boxes = (
        [
            (outline_box(record["segmentation"]) or NO_BOX) if record.get("bbox") is None else record["bbox"]
            for record in kept
        ]
        if has_boxes
        else None
    )
    results = Results(
        np.array(image_ids, dtype=np.int64),
        np.array(category_ids, dtype=np.int64),
        np.array([record["score"] for record in kept], dtype=np.float64),
        None if boxes is None else np.array(boxes, dtype=np.float64).reshape(-1, 4),
        codes if masks else None,
        np.array(pixels, dtype=np.int64) if masks else None,
    )
    return results, [*matching.findings, *findings]


def _plain(name: str, records: Sequence[Any], truth: GroundTruth, masks: bool) -> tuple[Results, list[Finding]]:
    """Detections of which nothing is to be said but that masks are empty; `NotPlain` otherwise."""
    has_boxes = not masks or (len(records) > 0 and isinstance(records[0], dict) and "bbox" in records[0])
    keys = ["image_id", "category_id", "score", *["bbox"] * has_boxes, *["segmentation"] * masks]
    columns.check_objects(records, keys, without=(*OTHER_NAMES, *["bbox"] * (not has_boxes)))
    given = {key: columns.column(records, key) for key in keys}
    results = _from_columns(given, truth)
    return results, _empty_masks(name, results, records)


def _empty_masks(name: str, results: Results, records: Sequence[Any]) -> list[Finding]:
    """A note for each mask without a pixel."""
    if results.pixels is None:
        return []
    return [_empty(name, row, records[row]) for row in np.flatnonzero(results.pixels == 0).tolist()]


def _from_columns(given: Mapping[str, list[Any]], truth: GroundTruth) -> Results:
    """Detections from the values of plain records; `NotPlain` where some make no sense."""
    image_ids, category_ids = columns.ids(given["image_id"]), columns.ids(given["category_id"])
    columns.check(np.isin(image_ids, truth.image_ids).all() and np.isin(category_ids, truth.category_ids).all())
    scores = columns.numbers(given["score"], sys.float_info.max)
    boxes = columns.boxes(given["bbox"], LARGEST_COORDINATE) if "bbox" in given else None
    if "segmentation" not in given:
        return Results(image_ids, category_ids, scores, boxes)
    by_id = np.argsort(truth.image_ids)
    sizes = truth.sizes[by_id[np.searchsorted(truth.image_ids, image_ids, sorter=by_id)]]
    return Results(image_ids, category_ids, scores, boxes, *columns.run_lengths(given["segmentation"], sizes))


_Section = Mapping[Any, Mapping[str, Any]]


def _records(source: Any) -> tuple[str, Sequence[Any], _Section, _Section]:
    """What messages call a source, its detections, and its own images and categories by id."""
    name, document = "detections", source
    if isinstance(source, str | PathLike):
        name, document = str(source), read_json(source)
    is_object = isinstance(document, Mapping)
    records = document.get("annotations") if is_object else document
    if isinstance(records, str | Mapping) or not isinstance(records, Sequence):
        kind = "an object without such a list" if is_object else type(document).__name__
        raise InputError(f"{name}: detections are a list of objects, or an object with one as annotations, not {kind}")
    if not is_object:
        return name, records, {}, {}
    return name, records, _by_id(document.get("images")), _by_id(document.get("categories"))


def _by_id(section: Any) -> _Section:
    rows = section if isinstance(section, list) else []
    return {row["id"]: row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), int | str)}


def _size(image: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """(height, width) of an image that the detections describe themselves."""
    height, width = (0, 0) if image is None else (image.get("height", 0), image.get("width", 0))
    return (height, width) if is_integer(height) and is_integer(width) and min(height, width) > 0 else None


def _broken(name: str, row: int, record: Any, problem: str, detail: str = "", remedy: str = "") -> Finding:
    return Finding("error", name, record_name("detection", row, record), problem, detail, remedy)


def _empty(name: str, row: int, record: Any) -> Finding:
    return Finding("note", name, record_name("detection", row, record), EMPTY)


def _unknown(name: str, row: int, record: Any, unknown: Unknown, is_left_out: bool, remedy: str) -> Finding:
    """What is said of a detection whose image or category the ground truth does not have."""
    if is_left_out:
        return Finding(
            "warning", name, record_name("detection", row, record), f"{unknown.problem}: left out", unknown.detail
        )
    return _broken(name, row, record, unknown.problem, unknown.detail, remedy)


def _is_nothing(segmentation: Any) -> bool:
    """Whether a segmentation has no polygon, as some tools write a mask without a pixel."""
    return isinstance(segmentation, list) and all(polygon == [] for polygon in segmentation)


def _code(segmentation: Any, size: tuple[int, int] | None) -> dict[str, Any]:
    """The run lengths of a checked mask, which may have no pixel."""
    if _is_nothing(segmentation) and size is not None:
        return {"size": list(size), "counts": [size[0] * size[1]]}
    return to_rle(segmentation, size)


def _problem(record: Any, size: tuple[int, int] | None, masks: bool) -> Problem | None:
    """What is wrong with a detection of a known image and category, and how, or None."""
    if not are_numbers((record["score"],)) or not is_finite(record["score"]):
        return Problem("score is not a finite number", shown(record["score"]))
    box, segmentation = record.get("bbox"), record.get("segmentation")
    if box is not None and (wrong := box_problem(box, LARGEST_COORDINATE)) is not None:
        return wrong
    if segmentation is None and (masks or box is None):
        return Problem("has no segmentation" if masks else "has neither bbox nor segmentation")
    if _is_nothing(segmentation) and size is not None:
        return None
    return segmentation_problem(segmentation, size, needs_size=masks) if masks or box is None else None
