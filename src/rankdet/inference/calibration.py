"""Calibration of a trained model: its scores then state the IoU, or the precision, of its detections."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rankdet.coco import GroundTruth, Results, grouped
from rankdet.data.preparation import measured
from rankdet.inference.evaluation import alone, compared_type, dataset_for, detect_all, recipe_of_model
from rankdet.inference.loading import add_to_checkpoint, checkpoint_to_write, load
from rankdet.inference.model import Model
from rankdet.inference.score_maps import Calibration, Method, Target
from rankdet.metrics.calibration import CalibrationErrors, Outcomes
from rankdet.metrics.evaluator import IouType
from rankdet.runs.processes import World
from rankdet.structures import InputError

CALIBRATION = "a calibration"
"""What messages call what is stored."""
FEW = 50
"""Detections of a class from the threshold on, below which its map is said to be uncertain."""


class Fitted(NamedTuple):
    """What is found on one set of images.

    thresholds
        C LRP-optimal thresholds of the network's scores; NaN where a class has none.
    calibration
        Fitted on the detections from these thresholds on.
    """

    thresholds: list[float]
    calibration: Calibration


class Calibrated(NamedTuple):
    """A calibrated model, and what calibration is worth to it.

    model
        Its scores are calibrated, and its thresholds are those of these data.
    before, after
        Errors of the detections from the thresholds on, on images that neither the thresholds nor the maps have seen:
        of each half of the images with what was found on the other, averaged.
    per_class
        By name of the class: ``detections`` from the threshold on, the ``threshold``, and the ``calibrated`` score that
        it becomes.
    """

    model: Model
    before: CalibrationErrors
    after: CalibrationErrors
    per_class: dict[str, dict[str, Any]]


def calibrate(
    model: Model | str | PathLike[str],
    data: str | PathLike[str],
    *,
    split: str = "val",
    images: str | PathLike[str] | None = None,
    method: Method = "isotonic",
    target: Target = "iou",
    iou_type: IouType | None = None,
    store: bool = True,
) -> Calibrated:
    """Find maps of the scores of each class, after which a score states what is to be expected of a detection.

    The maps rise: within a class the order of detections, AP and oLRP stay as they are. They are fitted on images that
    the model was not trained on, and on detections from the LRP-optimal threshold of their class on.

    Parameters
    ----------
    model
        A model, a run folder or a checkpoint.
    data
        A data folder or an annotation file.
    split
        The split of a data folder.
    images
        The folder of the images of an annotation file; None: it is looked for around the file.
    method
        ``"isotonic"``: a step function. ``"platt"``: scale and shift of the logits, two numbers for each class, where
        there are few detections.
    target
        What a score states then. ``"iou"``: the expected IoU of the detection with its object, 0 where it hits none.
        ``"precision"``: how likely it hits an object of its class by an IoU of 0.5.
    iou_type
        Whose IoU that is, also of the thresholds: of boxes ``"bbox"`` or of masks ``"segm"``. None: of masks where the
        model finds them.
    store
        Whether the checkpoint gets maps and thresholds, for ``rankdet.load(path, calibrated=True)``.

    Raises
    ------
    InputError
        When something is missing or broken, nothing that was found hits an object, or the checkpoint cannot be written.

    Notes
    -----
    Kuzucu, Oksuz, Sadeghi, Dokania, "On Calibration of Object Detectors: Pitfalls, Evaluation and Baselines", ECCV
    2024, arXiv:2405.20459. Thresholds are optimal for LRP with τ = 0.5, those that an evaluation stores and that
    `detect` draws from; the authors' code takes τ = 0.

    Examples
    --------
    >>> calibrated = rankdet.calibrate("runs/cells", "cells")  # doctest: +SKIP
    >>> rankdet.load("runs/cells", calibrated=True).detect("image.png").scores  # doctest: +SKIP
    """
    if not isinstance(model, Model):
        model = load(model)
    where = None if images is None else Path(images)
    result = calibrate_on_folder(model, Path(data), split, where, method, target, iou_type, store)
    if result is None:
        raise RuntimeError("this process is the main one")
    return result


def calibrate_on_folder(
    model: Model,
    folder: Path,
    split: str,
    images: Path | None,
    method: Method,
    target: Target,
    iou_type: IouType | None,
    store: bool,
    world: World | None = None,
) -> Calibrated | None:
    """Calibrate, with the processes of ``world`` that share the images: see `calibrate`.

    All processes but the main one get None.
    """
    recipe, world = recipe_of_model(model), world or World.alone(model.device)
    model = replace(model, calibration=None)
    with world.together():
        if store:
            checkpoint_to_write(model, CALIBRATION)  # before anything is computed
        compared = compared_type(model, iou_type)
        dataset, findings = dataset_for(model, folder, split, images, boxes_alone=compared == "bbox")
        if world.is_main:
            by = "masks" if compared == "segm" else "boxes"
            said = [f"calibrated by {by} of {measured(dataset)} ({dataset.ground_truth})", *findings]
            print("\n".join(said), file=sys.stderr)
    found = detect_all(model, dataset, world, recipe.evaluation.batch_size, recipe.data.workers, progress=True)
    with world.together():
        if found is None:
            return None
        for line in grouped(found.unreadable):
            print(line, file=sys.stderr)
        results = alone(found.results, compared)
        result = _calibrated(model, dataset.ground_truth, results, method, target, compared)
        if store:
            store_calibration(result.model)
        return result
    return None


def fit(outcomes: Outcomes, method: Method, target: Target) -> Fitted:
    """Find thresholds and maps on what came of the detections in all images of a data set."""
    thresholds = outcomes.thresholds()
    return Fitted(thresholds, Calibration.fit(outcomes.above(thresholds), method, target))


def errors(outcomes: Outcomes, fitted: Fitted) -> tuple[CalibrationErrors, CalibrationErrors]:
    """Errors of the detections from the thresholds on, before and after calibration, on any data set."""
    kept = outcomes.above(fitted.thresholds)
    return kept.errors(), kept.with_scores(fitted.calibration.maps).errors()


def halves(truth: GroundTruth, results: Results) -> list[tuple[GroundTruth, Results]]:
    """Every other image, by ascending id, with the detections in it; and the others."""
    order = np.argsort(truth.image_ids)
    parts = []
    for start in (0, 1):
        part = truth.subset(order[start::2])
        parts.append((part, results.select(np.flatnonzero(np.isin(results.image_ids, part.image_ids)))))
    return parts


def store_calibration(model: Model) -> None:
    """Give the checkpoint of a model its calibration and its thresholds, in one step.

    Raises InputError when the model has no checkpoint, or it cannot be written; it is untouched then.
    """
    state = None if model.calibration is None else model.calibration.state()
    add_to_checkpoint(model, {"calibration": state, "thresholds": model.thresholds}, CALIBRATION)


def _calibrated(
    model: Model, truth: GroundTruth, results: Results, method: Method, target: Target, iou_type: IouType
) -> Calibrated:
    parts = [(truth, results), *halves(truth, results)]
    everything, first, second = (Outcomes.of(*part, iou_type, model.max_detections) for part in parts)
    fitted = fit(everything, method, target)
    if all(math.isnan(threshold) for threshold in fitted.thresholds):
        raise InputError(
            "no detection hits an object of its class: nothing can be calibrated before a model has learned"
        )
    on_halves = [errors(held_out, fit(seen, method, target)) for seen, held_out in ((first, second), (second, first))]
    before, after = (_mean(pair) for pair in zip(*on_halves, strict=True))
    stored = model.thresholds or [math.nan] * len(model.categories)
    thresholds = [old if math.isnan(new) else new for old, new in zip(stored, fitted.thresholds, strict=True)]
    calibrated = replace(model, thresholds=thresholds, calibration=fitted.calibration)
    kept = everything.above(fitted.thresholds).at_half
    shown = zip(kept, fitted.thresholds, fitted.calibration.maps, strict=True)
    rows = (
        {"detections": len(each.scores), "threshold": cut, "calibrated": float(change(np.array(cut)))}
        for each, cut, change in shown
    )
    return Calibrated(calibrated, before, after, dict(zip(truth.names, rows, strict=True)))


def _mean(halves: Sequence[CalibrationErrors]) -> CalibrationErrors:
    """The mean of what is defined; detections add up."""
    columns = [np.array(column)[~np.isnan(column)] for column in zip(*(half[:3] for half in halves), strict=True)]
    laece, laace, dece = (float(column.mean()) if len(column) else math.nan for column in columns)
    return CalibrationErrors(laece, laace, dece, sum(half.detections for half in halves))
