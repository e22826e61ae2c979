"""A model over a data set: its detections in the files' own coordinates and ids, their AP and oLRP."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rankdet.coco import Results, category_difference
from rankdet.data import CocoDataset, build_test_loader
from rankdet.inference.model import Model
from rankdet.inference.ranking_quality import ranking_quality
from rankdet.metrics import evaluate
from rankdet.runs.checkpoint import load_checkpoint, save_checkpoint
from rankdet.runs.folder import output_folder, write_json
from rankdet.runs.processes import World
from rankdet.structures import InputError


class Evaluation(NamedTuple):
    """An evaluation and the detections that it measured.

    metrics
        The numbers of `rankdet.metrics.evaluate`, of boxes. From a network that finds masks, those of the masks are
        the entry ``masks``.
    detections
        COCO results, ordered by image.
    """

    metrics: dict[str, Any]
    detections: list[dict[str, Any]]


def evaluate_model(
    model: Model, dataset: CocoDataset, world: World | None = None, batch_size: int = 4, workers: int = 2
) -> Evaluation | None:
    """Detect in all images of a data set and measure.

    Parameters
    ----------
    model, dataset
        What to evaluate, and on what. The data set prepares the images as the model does; where the model finds masks,
        it has read those of the objects.
    world
        The processes that share the images; None: this one alone.
    batch_size, workers
        Images per process and batch, and processes that read them.

    Returns
    -------
    Evaluation or None
        None on all processes but the main one.

    Raises
    ------
    InputError
        When an image cannot be read by any process. No process is left waiting.
    """
    world = world or World.alone(model.device)
    loader = build_test_loader(dataset, batch_size, workers, rank=world.rank, world_size=world.size)
    own: list[Results] = []
    with model.evaluating(), world.together():
        for batch in loader:
            for source, detection in zip(batch.sources, model.detect_batch(batch), strict=True):
                own.append(Results.of_image(source, detection, dataset.category_ids))
    gathered = world.gather(Results.joined(own))
    if not world.is_main:
        return None
    found = Results.joined(gathered)
    metrics: dict[str, Any] = {**evaluate(dataset.ground_truth, found, max_detections=model.max_detections)}
    if found.masks is not None:
        # Without boxes, for the evaluator would take the sizes of the detections from these.
        masks = replace(found, boxes=None)
        metrics |= {"masks": evaluate(dataset.ground_truth, masks, "segm", max_detections=model.max_detections)}
    return Evaluation(metrics, found.records())


def evaluate_on_folder(
    model: Model, folder: Path, split: str, world: World | None = None, out: Path | None = None, ranking: bool = False
) -> dict[str, Any] | None:
    """Evaluate a model on a split of a data folder; write evaluation.json and detections.json where ``out`` is given.

    Parameters
    ----------
    model
        A model with an origin, whose recipe names the format of the data.
    folder, split
        The data.
    world
        The processes that share the images; None: this one alone.
    out
        Folder to write into; it is made before anything is computed.
    ranking
        Whether to measure, too, how well the scores of the last head's positives are ordered.

    Returns
    -------
    dict or None
        On the main process the numbers of `rankdet.metrics.evaluate`, those of masks as the entry ``masks`` where the
        network finds them. With ``ranking`` also those of `ranking_quality` as the entry ``ranking``, with the name of
        its ``head``.

    Raises
    ------
    InputError
        When the data are missing or broken, or have other categories than the model, or ``out`` cannot be written
        into. No process is left waiting.
    """
    if model.origin is None:
        raise InputError("the model has no recipe that names the format of its data; evaluate it with evaluate_model")
    recipe, world = model.origin.recipe, world or World.alone(model.device)
    with ExitStack() as stack:
        with world.together():
            data = recipe.data.model_copy(update={"folder": folder})
            # Candidates of the ranking are those of training, masks included.
            has_masks = recipe.detector.has_masks
            dataset = data.build_test_dataset(split, ranking and has_masks, measure_masks=has_masks)
            if dataset.categories != list(model.categories):
                raise InputError(
                    f"{dataset.ground_truth} has other categories than {model.origin.path or 'the model'}: "
                    f"{category_difference(dataset.categories, list(model.categories))}"
                )
            if world.is_main and out is not None:
                stack.enter_context(output_folder(out))
        evaluation = evaluate_model(model, dataset, world, recipe.evaluation.batch_size, recipe.data.workers)
        if evaluation is None:
            return None
        metrics = evaluation.metrics
        if ranking:
            head = list(recipe.detector.heads)[-1]
            # The loss ranks over a batch, so batches have the size of training.
            batches = build_test_loader(dataset, recipe.data.batch_size, recipe.data.workers)
            losses = {name: config.build(len(batches)).to(model.device) for name, config in recipe.losses.items()}
            metrics = metrics | {"ranking": {"head": head, **ranking_quality(model, losses, batches, head)}}
        if out is not None:
            write_json(out / "detections.json", evaluation.detections)
            # Last: where it is, everything is.
            write_json(out / "evaluation.json", metrics)
        return metrics


def optimal_thresholds(metrics: Mapping[str, Any]) -> list[float]:
    """The LRP-optimal score threshold of each class, by label, from `rankdet.metrics.evaluate`."""
    return [numbers["threshold"] for numbers in metrics["per_class"].values()]


def store_thresholds(model: Model, found: Sequence[float]) -> Model:
    """The model with the LRP-optimal thresholds of an evaluation, which its checkpoint gets as well, in one step.

    Parameters
    ----------
    model
        A model that was loaded from a checkpoint.
    found
        C thresholds by label. Where one is NaN, because the class was not detected, the stored one stays.

    Raises
    ------
    InputError
        When the checkpoint cannot be written; it is untouched then.
    """
    path = None if model.origin is None else model.origin.path
    if path is None:
        raise InputError("the model has no checkpoint to store thresholds in")
    # The file could be replaced in its folder all the same, but that is not what its owner said.
    if not os.access(path, os.W_OK):
        raise InputError(f"{path} is read-only")
    stored = model.thresholds or [math.nan] * len(model.categories)
    thresholds = [old if math.isnan(new) else new for old, new in zip(stored, found, strict=True)]
    save_checkpoint(path, load_checkpoint(path) | {"thresholds": thresholds})
    return model.with_thresholds(thresholds)
