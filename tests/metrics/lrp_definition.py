"""oLRP by its definition, one threshold after the other, of detections matched one after the other."""

import math
from collections.abc import Callable
from typing import Any

from pycocotools import mask as rle

NAN = float("nan")
Record = dict[str, Any]
LARGEST_AREA = 1e10
"""Objects beyond it are ignored, and so are detections that find nothing."""


def matched_one_by_one(
    objects: list[Record], found: list[Record], overlap: Callable[[Record, Record], float], cap: int = 100
) -> list[tuple[float, float]]:
    """(score, IoU or NaN) of the detections of one class that count in one image, by the rules of COCO.

    The best detection chooses first: of the free objects the one of the highest IoU, of equal ones the last; one that
    is ignored only if there is no other. Crowd regions stay free.
    """
    free, pairs = list(objects), []
    for one in sorted(found, key=lambda one: -one["score"])[:cap]:
        chosen, best = None, 0.5 - 1e-12
        for is_wanted in (True, False):
            for each in [] if chosen is not None else [each for each in free if counts(each) == is_wanted]:
                iou = overlap(one, each)
                if iou >= best:
                    chosen, best = each, iou
        if chosen is not None and not chosen["iscrowd"]:
            free = [each for each in free if each is not chosen]
        if chosen is not None and counts(chosen):
            pairs.append((one["score"], best))
        elif chosen is None and one["area"] <= LARGEST_AREA:
            pairs.append((one["score"], NAN))
    return pairs


def counts(one: Record) -> bool:
    """Whether an object has to be found."""
    return not one["iscrowd"] and 0 <= one["area"] <= LARGEST_AREA


def run_lengths(segmentation: Any, size: tuple[int, int]) -> Record:
    """The mask of polygons, or of numbers of pixels, in the form of pycocotools."""
    if isinstance(segmentation, dict) and not isinstance(segmentation["counts"], list):
        return segmentation
    parts = rle.frPyObjects(segmentation, *size)
    return rle.merge(parts) if isinstance(parts, list) else parts


def lrp_of_classes(truth: Record, found: list[Record], iou_type: str, cap: int = 100) -> dict[int, tuple[float, ...]]:
    """(oLRP, Loc, FP, FN, threshold, objects) of each category by its id."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}

    def shape(row: Record) -> Any:
        return row["bbox"] if iou_type == "bbox" else run_lengths(row["segmentation"], sizes[row["image_id"]])

    truth_rows, found_rows = ([row | {"shape": shape(row)} for row in rows] for rows in (truth["annotations"], found))
    for row in found_rows:
        row["area"] = row["bbox"][2] * row["bbox"][3] if iou_type == "bbox" else float(rle.area(row["shape"]))

    def overlap(one: Record, other: Record) -> float:
        return float(rle.iou([one["shape"]], [other["shape"]], [other["iscrowd"]])[0][0])

    result = {}
    for category in truth["categories"]:
        pairs, objects = [], 0
        for image in truth["images"]:
            place = (image["id"], category["id"])
            here, ours = (
                [row for row in rows if (row["image_id"], row["category_id"]) == place]
                for rows in (truth_rows, found_rows)
            )
            objects += sum(map(counts, here))
            pairs += matched_one_by_one(here, ours, overlap, cap)
        result[category["id"]] = (*lrp_by_definition(pairs, objects), objects)
    return result


def lrp_by_definition(detections: list[tuple[float, float]], objects: int) -> tuple[float, float, float, float, float]:
    """(oLRP, Loc, FP, FN, threshold) of (score, IoU or NaN) by trying every threshold, written from the definition."""
    if objects == 0:
        return (NAN,) * 5
    best = (1.0, NAN, NAN, 1.0, NAN)
    for threshold in sorted({score for score, _ in detections}):
        kept = [iou for score, iou in detections if score >= threshold]
        distances = [1 - iou for iou in kept if not math.isnan(iou)]
        tp = len(distances)
        fp, fn = len(kept) - tp, objects - tp
        error = (sum(distances) / (1 - 0.5) + fp + fn) / (tp + fp + fn)
        if tp and error <= best[0] + 1e-13:
            best = (error, sum(distances) / tp, fp / (tp + fp), fn / objects, threshold)
    return best
