"""A model over a data set: its detections in the files' own coordinates and ids, their AP and oLRP."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rankdet.coco import Finding, GroundTruth, GroundTruthSource, Results, ResultsSource, grouped, raise_errors
from rankdet.data import CocoDataset, build_test_loader
from rankdet.data.own import MapDataset, from_map_dataset
from rankdet.data.preparation import comparable, measured
from rankdet.data.progress import with_bar
from rankdet.inference.loading import add_to_checkpoint, build_losses, load
from rankdet.inference.model import Model
from rankdet.inference.ranking_quality import ranking_quality
from rankdet.metrics import RAISE_CAP, cap_findings
from rankdet.metrics import evaluate as measure
from rankdet.metrics.calibration import Outcomes
from rankdet.metrics.evaluator import IouType
from rankdet.recipes import Recipe
from rankdet.runs.folder import one_per_line, output_folder, write_json, write_text
from rankdet.runs.processes import World
from rankdet.structures import InputError


class Evaluation(NamedTuple):
    """An evaluation and the detections that it measured.

    metrics
        The numbers of `rankdet.metrics.evaluate`, of boxes. From a network that finds masks, those of the masks are
        the entry ``masks``. Of calibrated scores, both have the errors from the thresholds on as the entry
        ``calibration`` (`rankdet.metrics.calibration.CalibrationErrors`); the entry ``operating_point`` is that of the
        model, if it has one. The entry ``images_unreadable`` counts images whose file is
        missing, broken or of another size; they are measured as images without detections. The entry ``data_digest``
        tells the data from others (`rankdet.coco.GroundTruth.digest`).
    detections
        COCO results, ordered by image.
    """

    metrics: dict[str, Any]
    detections: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Write detections.json, and then evaluation.json: where the second is, both are."""
        write_text(folder / "detections.json", one_per_line(self.detections) + "\n")
        write_json(folder / "evaluation.json", self.metrics)


def evaluate(
    found: Model | ResultsSource,
    data: str | PathLike[str] | CocoDataset | MapDataset | GroundTruthSource,
    *,
    split: str = "val",
    images: str | PathLike[str] | None = None,
    iou_type: IouType = "bbox",
    out: str | PathLike[str] | None = None,
    ranking: bool = False,
    max_detections: int | None = None,
    only_known: bool = False,
    labels_from: int | None = None,
) -> dict[str, Any]:
    """Measure AP and oLRP of a model on images, or of detections that someone has made already.

    Parameters
    ----------
    found
        A model, a run folder or a checkpoint; or detections: a file of COCO results, one that `rankdet detect` has
        written, or their content. A checkpoint that `rankdet.sweep` gave an operating point is measured there; the
        model of ``rankdet.load(path, operating_point=False)`` is measured by its recipe's settings.
    data
        For a model a data folder, an annotation file, or a data set; for detections an annotation file, or its content.
    split
        The split of a data folder.
    images
        The folder of the images of an annotation file; None: it is looked for around the file.
    iou_type
        What is compared of detections: boxes ``"bbox"`` or masks ``"segm"``. Of a model all that it finds is measured.
    out
        A folder to write evaluation.json into, for a model also detections.json; None: nothing is written.
    ranking
        Whether to measure of a model, too, how well the scores of its last head's positives are ordered; needs a data
        folder.
    max_detections
        The best detections that count in each image. None: as many as the model finds; of detections 100 of each class,
        in LVIS 300 of all. A checkpoint finds as many; a model that is loaded already may find fewer.
    only_known, labels_from
        How detections with other images, categories or ids are read: see `rankdet.metrics.evaluate`.

    Returns
    -------
    dict
        See `rankdet.metrics.evaluate`. The numbers of the masks of a model are its entry ``masks``, those of the
        ranking its entry ``ranking``, errors of calibrated scores the entries ``calibration`` of both. Its entry
        ``images_unreadable`` counts images that could not be read, which its entry ``findings`` names; they are
        measured as images without detections. Where no image has an object, there are these two alone.

    Raises
    ------
    InputError
        When something is missing or broken, no image can be read, or the model has no class of the data. A data set has
        to have just its classes; of a folder or a file those that both have are measured.
    """
    folder = None if out is None else Path(out)
    if isinstance(found, str | PathLike) and (Path(found).is_dir() or Path(found).suffix == ".pt"):
        found = load(found, max_detections=max_detections)
    if isinstance(found, Model):
        found = found if max_detections is None else replace(found, max_detections=max_detections)
        if isinstance(data, str | PathLike):
            where = None if images is None else Path(images)
            metrics = evaluate_on_folder(found, Path(data), split, out=folder, ranking=ranking, images=where)
        elif ranking:
            raise InputError("ranking is measured on a data folder, not on a data set")
        else:
            metrics = _evaluate_on(found, data, folder)  # type: ignore[arg-type]
        return metrics or {}  # this process is the main one
    with nullcontext() if folder is None else output_folder(folder):
        metrics = dict(measure(data, found, iou_type, max_detections, only_known, labels_from))  # type: ignore[arg-type]
        if folder is not None:
            write_json(folder / "evaluation.json", metrics)
    return metrics


def _evaluate_on(model: Model, data: CocoDataset | MapDataset, out: Path | None) -> dict[str, Any] | None:
    """Measure a model on a data set, prepared as the model does; workers are for data folders."""
    if isinstance(data, CocoDataset):
        dataset = data.with_transforms(model.transforms)
    else:
        has_masks = len(data) > 0 and "masks" in data[0][1]
        classes = getattr(data, "classes", None) or model.names
        dataset = from_map_dataset(data, "data", classes, model.transforms, measure_masks=has_masks)
    if [name for _, name in dataset.categories] != model.names:
        raise InputError(f"the classes of the data are {dataset.ground_truth.names}, those of the model {model.names}")
    with nullcontext() if out is None else output_folder(out):
        evaluation = evaluate_model(model, dataset, workers=0)
        if evaluation is not None and out is not None:
            evaluation.write(out)
    return None if evaluation is None else evaluation.metrics


def evaluate_model(
    model: Model,
    dataset: CocoDataset,
    world: World | None = None,
    batch_size: int = 4,
    workers: int = 2,
    progress: bool = False,
) -> Evaluation | None:
    """Detect in all images of a data set and measure.

    The data set prepares the images as the model does; where the model finds masks, it has read those of the objects.
    The processes of ``world`` share the images, ``batch_size`` per batch, each with ``workers`` that read them; without
    ``world`` this process is alone. All processes but the main one get None. Images that cannot be read are measured as
    images without detections. Raises InputError when that is all of them, and leaves no process waiting. ``progress``
    shows a bar on a terminal.
    """
    world = world or World.alone(model.device)
    found = detect_all(model, dataset, world, batch_size, workers, progress)
    with world.together():  # where measuring fails, no process is left waiting
        return None if found is None else _measured(model, dataset, found)
    return None


class Found(NamedTuple):
    """What a model has found in the images of a data set.

    results
        Detections in the files' own coordinates and ids.
    unreadable
        A warning for each image that cannot be read.
    """

    results: Results
    unreadable: list[Finding]


def detect_all(
    model: Model, dataset: CocoDataset, world: World, batch_size: int, workers: int, progress: bool = False
) -> Found | None:
    """Detect in all images of a data set, and measure nothing; arguments are those of `evaluate_model`.

    All processes but the main one get None. Raises InputError when no image can be read, and leaves no process waiting.
    """
    own: list[Results] = []
    reasons: list[str] = []
    with model.evaluating(), world.together():
        dataset.check_readable()
        loader = build_test_loader(dataset, batch_size, workers, rank=world.rank, world_size=world.size)
        for batch in with_bar(loader, "Evaluating", is_shown=progress and world.is_main):
            reasons += batch.skipped
            if not len(batch.images):
                continue
            for source, detection in zip(batch.sources, model.detect_batch(batch), strict=True):
                own.append(Results.of_image(source, detection, dataset.category_ids))
    gathered = world.collect((Results.joined(own), reasons))
    with world.together():
        return _joined(dataset, gathered) if world.is_main else None
    return None


def unreadable_images(dataset: CocoDataset, reasons: Sequence[str]) -> list[Finding]:
    """A warning for each image that cannot be read; raises InputError where that is all of them."""
    if len(reasons) == len(dataset):
        raise InputError(f"none of {len(dataset)} images of {dataset.images} can be read: {reasons[0]}")
    problem = "an image cannot be read and counts as one without detections"
    return [Finding("warning", str(dataset.ground_truth), "", problem, reason) for reason in reasons]


def _joined(dataset: CocoDataset, gathered: Sequence[tuple[Results, list[str]]]) -> Found:
    """What all processes have found."""
    unreadable = unreadable_images(dataset, [reason for _, reasons in gathered for reason in reasons])
    return Found(Results.joined(results for results, _ in gathered), unreadable)


def _measured(model: Model, dataset: CocoDataset, gathered: Found) -> Evaluation:
    """The evaluation of what has been found."""
    truth, cap = dataset.ground_truth, model.max_detections
    found, unreadable = gathered
    if not len(truth.labels):
        said = Finding("warning", str(truth), "", "has no objects: detections are written, and nothing is measured")
        return Evaluation(
            {
                "findings": grouped([said, *unreadable]),
                "images_unreadable": len(unreadable),
                "data_digest": truth.digest(),
            },
            found.records(),
        )
    metrics = _measures(model, truth, found, "bbox")
    if not metrics["findings"]:  # a detector has one cap for all classes of an image
        raise_cap = f"{RAISE_CAP}, detector.testing.per_image={{0}} lets the detector find as many"
        metrics["findings"] = grouped(cap_findings(truth, cap, of_each_class=False, remedy=raise_cap))
    metrics |= {"findings": grouped(unreadable) + metrics["findings"], "images_unreadable": len(unreadable)}
    metrics |= {"data_digest": truth.digest()}
    if model.operating_point is not None:
        metrics |= {"operating_point": model.operating_point.state()}
    if found.masks is not None:
        metrics |= {"masks": _measures(model, truth, found, "segm")}
    return Evaluation(metrics, found.records())


def _measures(model: Model, truth: GroundTruth, found: Results, iou_type: IouType) -> dict[str, Any]:
    """The numbers of boxes or of masks."""
    cap, compared = model.max_detections, alone(found, iou_type)
    metrics: dict[str, Any] = {**measure(truth, compared, iou_type, max_detections=cap)}
    if model.calibration is not None:
        outcomes = Outcomes.of(truth, compared, iou_type, cap).above(model.drawing_thresholds())
        metrics |= {"calibration": outcomes.errors()._asdict()}
    return metrics


def alone(found: Results, iou_type: IouType) -> Results:
    """The boxes of detections without their masks, or the masks without boxes.

    From boxes beside masks the evaluator would take the sizes of detections.
    """
    return replace(found, masks=None) if iou_type == "bbox" else replace(found, boxes=None)


def compared_type(model: Model, asked: IouType | None) -> IouType:
    """What detections of a model are compared by: what is asked for, or masks where it finds them.

    Raises InputError where that is something else, or masks of a model that finds none.
    """
    if asked not in (None, *get_args(IouType)):
        raise InputError(f"iou_type must be 'bbox' or 'segm', not {asked!r}")
    has_masks = _finds_masks(model)
    if asked == "segm" and not has_masks:
        raise InputError("the model finds boxes alone: masks cannot be compared")
    return asked or ("segm" if has_masks else "bbox")


def evaluate_on_folder(
    model: Model,
    folder: Path,
    split: str,
    world: World | None = None,
    out: Path | None = None,
    ranking: bool = False,
    images: Path | None = None,
) -> dict[str, Any] | None:
    """Evaluate a model on a split of a data folder, or on an annotation file with ``images``, the folder of its images.

    The arguments and the result are those of `evaluate`, with the processes of ``world`` that share the images. The
    folder ``out`` is made before anything is computed. What is measured, and what is odd about it, is said on standard
    error. All processes but the main one get None. Classes are matched by name; those that the model and the data have
    in common are measured.

    Raises
    ------
    InputError
        When the data are missing or broken, or have no class of the model, or ``out`` cannot be written into. No
        process is left waiting.
    """
    recipe, world = recipe_of_model(model), world or World.alone(model.device)
    with ExitStack() as stack:
        with world.together():
            # Candidates of the ranking are those of training, masks included.
            dataset, findings = dataset_for(model, folder, split, images, candidates=ranking)
            if world.is_main and out is not None:
                stack.enter_context(output_folder(out))
            if world.is_main:
                said = [f"evaluated on {measured(dataset)} ({dataset.ground_truth})", *findings]
                print("\n".join(said), file=sys.stderr)
        batch_size, workers = recipe.evaluation.batch_size, recipe.data.workers
        evaluation = evaluate_model(model, dataset, world, batch_size, workers, progress=True)
        if evaluation is None:
            return None
        metrics = evaluation.metrics
        if ranking:
            # The loss ranks over a batch, so batches have the size of training.
            batches = build_test_loader(dataset, recipe.data.batch_size, recipe.data.workers)
            losses = build_losses(recipe, model.device, max(1, len(batches)))
            metrics["ranking"] = ranking_quality(model, losses, (batch for batch in batches if len(batch.images)))
        if out is not None:
            evaluation.write(out)
        return metrics


def recipe_of_model(model: Model) -> Recipe:
    """The recipe that a model comes from; raises InputError where there is none."""
    if model.origin is None:
        raise InputError("the model has no recipe that names the format of the folder; give a data set in its place")
    return model.origin.recipe


def _finds_masks(model: Model) -> bool:
    return bool(getattr(model.network, "has_masks", recipe_of_model(model).detector.has_masks))


def dataset_for(
    model: Model,
    folder: Path | None,
    split: str,
    images: Path | None = None,
    candidates: bool = False,
    boxes_alone: bool = False,
) -> tuple[CocoDataset, list[str]]:
    """A split of a data folder, or an annotation file, prepared for a model, with lines on what is odd about it.

    Without a folder it is the split of the data that the recipe of the model names.

    Its classes are those of the model, matched by name. Masks are read where the model finds them, for its
    ``candidates`` too where these are asked for, and not where ``boxes_alone`` are compared. Raises InputError when the
    data are missing or broken, or have no class of the model.
    """
    recipe = recipe_of_model(model)
    data = recipe.data
    if folder is not None and folder.is_file():
        data, split = data.at(None, folder, images), data.validation_split
    elif folder is not None:
        data = data.at(folder)
    has_masks = _finds_masks(model) and not boxes_alone
    dataset = data.build_test_dataset(split, candidates and has_masks, measure_masks=has_masks)
    findings = dataset.findings
    owner = (model.origin and model.origin.path) or "the model"
    dataset, odd = comparable(dataset, model.categories, owner, only_common=True)
    raise_errors([*findings, *odd])
    return dataset, grouped([*findings, *odd])


def optimal_thresholds(metrics: Mapping[str, Any]) -> list[float]:
    """The LRP-optimal score threshold of each class, by label, from an evaluation; [] without any.

    Where masks were measured, they are those of the masks.
    """
    return [numbers["threshold"] for numbers in metrics.get("masks", metrics).get("per_class", {}).values()]


def store_thresholds(model: Model, found: Sequence[float]) -> Model:
    """The model with the LRP-optimal thresholds of an evaluation, which its checkpoint gets as well, in one step.

    ``found`` holds C thresholds by label. Where one is NaN, because the class was not detected, the stored one stays.
    Raises InputError when the model has no checkpoint, or it cannot be written, or thresholds are those of calibrated
    scores; it is untouched then.
    """
    if model.calibration is not None:
        raise InputError("they are those of calibrated scores, which are stored as thresholds of the network's own")
    stored = model.thresholds or [math.nan] * len(model.categories)
    thresholds = [old if math.isnan(new) else new for old, new in zip(stored, found, strict=True)]
    add_to_checkpoint(model, {"thresholds": thresholds}, "thresholds")
    return model.with_thresholds(thresholds)
