"""AP, oLRP and speed at many operating points, and the one to use.

Legend: N points.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from rankdet.coco import Results, grouped
from rankdet.data.loading import build_test_loader
from rankdet.data.preparation import measured
from rankdet.data.progress import with_bar
from rankdet.inference.evaluation import alone, compared_type, dataset_for, recipe_of_model, unreadable_images
from rankdet.inference.loading import add_to_checkpoint, checkpoint_to_write, load
from rankdet.inference.model import Model
from rankdet.inference.operating_points import OperatingPoint
from rankdet.metrics import evaluate
from rankdet.metrics.evaluator import IouType
from rankdet.runs.checkpoint import FOR_DETECTION, load_checkpoint
from rankdet.structures import InputError

SCORE_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""What is tried, as far as it is above the network's own threshold."""
STEP_OF_NMS = 0.1
"""How far the IoU thresholds that are tried lie below and above the network's own."""
POINT = "an operating point"
"""What messages call what is stored."""
LOSS_OF_AP = 0.0005
"""AP that a faster operating point may cost."""


class MeasuredPoint(NamedTuple):
    """What an operating point is worth on a data set.

    AP, oLRP
        Of boxes or of masks, as fractions.
    images_per_second
        Of the network and its choice of detections, on its device; without reading images and cutting out masks.
    detections
        Mean number in an image.
    """

    point: OperatingPoint
    AP: float
    oLRP: float
    images_per_second: float
    detections: float


class Sweep(NamedTuple):
    """What a sweep has found.

    model
        At the recommended point.
    points
        N, the first of them the network's own.
    iou_type
        What ``AP`` and ``oLRP`` of the points compare: boxes ``"bbox"`` or masks ``"segm"``.
    recommended
        The highest score threshold whose AP is at most 0.0005 below that of the network's own point, and of these the
        one with the best AP.
    """

    model: Model
    points: list[MeasuredPoint]
    iou_type: IouType
    recommended: MeasuredPoint


def sweep(
    model: Model | str | PathLike[str],
    data: str | PathLike[str],
    *,
    split: str = "val",
    images: str | PathLike[str] | None = None,
    score_thresholds: Sequence[float] = SCORE_THRESHOLDS,
    nms_ious: Sequence[float] | None = None,
    iou_type: IouType | None = None,
    batch_size: int = 1,
    store: bool = True,
) -> Sweep:
    """Measure AP, oLRP and speed at many operating points, and recommend one that is fast and costs no AP.

    Scores of a ranking loss are high, so that nearly everything passes the usual threshold of 0.05 and has to be
    compared in NMS. All points take turns on each batch, so that whatever disturbs the machine disturbs all.

    Parameters
    ----------
    model
        A model, a run folder or a checkpoint, whose network has ``detection`` settings as our detectors have.
    data
        A data folder or an annotation file.
    split
        The split of a data folder.
    images
        The folder of the images of an annotation file; None: it is looked for around the file.
    score_thresholds
        Those that are tried, beside the network's own; lower ones than that are left out.
    nms_ious
        IoU thresholds of NMS; None: the network's own, and 0.1 below and above it. Networks without NMS have none.
    iou_type
        What AP and oLRP compare: boxes ``"bbox"`` or masks ``"segm"``. None: masks where the model finds them.
    batch_size
        Images per pass through the network. Only images of one padded size share a batch.
    store
        Whether the checkpoint gets the recommended point. `rankdet.load` then gives a model that detects there.

    Raises
    ------
    InputError
        When something is missing or broken, the data have no objects, the network has no such settings, or the
        checkpoint cannot be written.

    Notes
    -----
    Oksuz, Cam, Akbas, Kalkan, "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021,
    arXiv:2107.11669, appendix C.6.2: a threshold of 0.40 in place of 0.05 makes RS R-CNNs faster at the same AP.

    Examples
    --------
    >>> found = rankdet.sweep("runs/cells", "cells")  # doctest: +SKIP
    >>> found.recommended.point.score_threshold  # doctest: +SKIP
    0.4
    """
    if not isinstance(model, Model):
        model = load(model, operating_point=False)
    model = replace(model, operating_point=None, calibration=None)
    if store:
        checkpoint_to_write(model, POINT)  # before anything is computed
    points = points_to_try(OperatingPoint.of(model.network), score_thresholds, nms_ious)
    recipe = recipe_of_model(model)
    compared = compared_type(model, iou_type)
    where = None if images is None else Path(images)
    dataset, findings = dataset_for(model, Path(data), split, where, boxes_alone=compared == "bbox")
    by = "masks" if compared == "segm" else "boxes"
    said = [f"measured by {by} of {measured(dataset)} ({dataset.ground_truth})", *findings]
    print("\n".join(said), file=sys.stderr)
    truth = dataset.ground_truth
    if not len(truth.labels):
        raise InputError(f"{truth} has no objects: there is nothing to measure by")
    dataset.check_readable()
    found: list[list[Results]] = [[] for _ in points]
    seconds, number = [0.0] * len(points), 0
    reasons: list[str] = []
    for batch in with_bar(build_test_loader(dataset, batch_size, recipe.data.workers), "Measuring"):
        reasons += batch.skipped
        if not len(batch.images):
            continue
        for is_warm in (False, True) if number == 0 else (True,):
            for place, point in enumerate(points):
                with replace(model, operating_point=point).evaluating():
                    start = time.perf_counter()
                    detections = model.detect_batch(batch)  # they end on the CPU: no device is still at work
                    if is_warm:
                        seconds[place] += time.perf_counter() - start
                if is_warm:
                    if compared == "bbox":  # run lengths of masks would be made for nothing
                        detections = [replace(each, masks=None) for each in detections]
                    found[place] += [
                        Results.of_image(source, each, dataset.category_ids)
                        for source, each in zip(batch.sources, detections, strict=True)
                    ]
        number += len(batch.images)
    for line in grouped(unreadable_images(dataset, reasons)):
        print(line, file=sys.stderr)
    rows = []
    for point, results, time_of_point in zip(points, map(Results.joined, found), seconds, strict=True):
        metrics = evaluate(truth, alone(results, compared), compared, max_detections=model.max_detections)
        rows.append(MeasuredPoint(point, metrics["AP"], metrics["oLRP"], number / time_of_point, len(results) / number))
    if math.isnan(rows[0].AP):  # as where all objects are crowds
        raise InputError(f"{truth} has no objects that AP counts: there is nothing to measure by")
    best = recommended(rows)
    swept = replace(model, operating_point=best.point)
    if store:
        if (stale := stale_calibration(swept)) is not None:
            print(stale, file=sys.stderr)
        store_point(swept)
    return Sweep(swept, rows, compared, best)


def points_to_try(
    own: OperatingPoint, score_thresholds: Sequence[float], nms_ious: Sequence[float] | None = None
) -> list[OperatingPoint]:
    """The network's own point, and all pairs of thresholds with its own among them.

    Examples
    --------
    >>> for point in points_to_try(OperatingPoint(0.05, 0.5), [0.01, 0.4], [0.6]):
    ...     print(point)
    score threshold 0.05, NMS 0.5
    score threshold 0.4, NMS 0.5
    score threshold 0.05, NMS 0.6
    score threshold 0.4, NMS 0.6
    """
    if own.nms_iou is None:
        if nms_ious:
            raise InputError("the network has no IoU threshold of NMS")
        ious: list[float | None] = [None]
    else:
        near = (own.nms_iou + step for step in (-STEP_OF_NMS, STEP_OF_NMS))
        others = [round(value, 6) for value in near if 0 <= value <= 1] if nms_ious is None else nms_ious
        ious = [own.nms_iou, *others]
    scores = [own.score_threshold, *(value for value in score_thresholds if value > own.score_threshold)]
    return list(dict.fromkeys(OperatingPoint(score, iou) for iou in ious for score in scores))


def recommended(points: Sequence[MeasuredPoint]) -> MeasuredPoint:
    """The point to use; see `Sweep`. Among equals the first.

    A higher threshold leaves less to do, so that speeds, which differ from one time to the next, need not be compared.
    Where AP itself is within the loss that is allowed, no point can be told from any other, and the first stays.

    Examples
    --------
    >>> def untrained(score_threshold: float) -> MeasuredPoint:
    ...     return MeasuredPoint(OperatingPoint(score_threshold), 0.0002, 1.0, 10.0, 0.0)
    >>> print(recommended([untrained(0.05), untrained(0.8)]).point)
    score threshold 0.05
    """
    if points[0].AP <= LOSS_OF_AP:
        return points[0]
    good = [each for each in points if each.AP >= points[0].AP - LOSS_OF_AP]
    return max(good, key=lambda each: (each.point.score_threshold, each.AP))


def stale_calibration(model: Model) -> str | None:
    """A warning where the checkpoint of a model has a calibration, and another operating point than the model."""
    state = load_checkpoint(checkpoint_to_write(model, POINT), FOR_DETECTION)
    own = OperatingPoint.of(model.network)
    before = own.state() if state["operating_point"] is None else state["operating_point"]
    if state["calibration"] is None or before == (model.operating_point or own).state():
        return None
    return "warning: the stored calibration is that of another operating point: rankdet calibrate finds it anew"


def store_point(model: Model) -> None:
    """Give the checkpoint of a model its operating point, in one step.

    Raises InputError when the model has no checkpoint, or it cannot be written; it is untouched then.
    """
    state = None if model.operating_point is None else model.operating_point.state()
    add_to_checkpoint(model, {"operating_point": state}, POINT)
