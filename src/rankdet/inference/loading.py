"""Trained detectors from checkpoints, and what they find in images."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankdet.data import CocoDataset, Sample, build_test_loader, collate
from rankdet.data.categories import category_difference
from rankdet.data.images import decode
from rankdet.data.transforms import Placement
from rankdet.inference.evaluation import Detector, detect_batch, evaluate_detector, ranking_quality
from rankdet.recipes import Recipe, validated
from rankdet.runs.checkpoint import FOR_DETECTION, load_checkpoint, load_weights, save_checkpoint
from rankdet.runs.folder import find_checkpoint, output_folder, write_json
from rankdet.runs.processes import World
from rankdet.structures import Detection, InputError, Source, Target

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
NO_THRESHOLD = 0.5
"""Score from which detections of a class are drawn where no evaluation has found its optimal threshold."""


@dataclass(frozen=True)
class TrainedDetector:
    """What a checkpoint holds, ready to detect.

    Parameters
    ----------
    path
        The checkpoint.
    detector
        The network.
    recipe
        What it was trained with.
    categories
        C pairs (id, name) by label.
    thresholds
        C LRP-optimal score thresholds of the last evaluation, NaN where a class has none; None before any evaluation.
    device
        Where the network is.
    """

    path: Path
    detector: Detector
    recipe: Recipe
    categories: list[tuple[int, str]]
    thresholds: list[float] | None
    device: torch.device

    def drawing_thresholds(self, threshold: float | None) -> list[float]:
        """The score from which each class is drawn: ``threshold`` for all, or the LRP-optimal ones."""
        if threshold is not None:
            return [threshold] * len(self.categories)
        found = self.thresholds or [math.nan] * len(self.categories)
        return [NO_THRESHOLD if math.isnan(value) else value for value in found]


def load_detector(path: Path, device: torch.device) -> TrainedDetector:
    """Read a checkpoint, or the newest one of a run folder.

    Raises
    ------
    InputError
        When it cannot be read, is none, is incomplete, or its weights are not those of its recipe.
    """
    found = find_checkpoint(path)
    state = load_checkpoint(found, FOR_DETECTION)
    recipe = validated(state["recipe"], f"recipe in {found}")
    # The checkpoint brings all weights; pretrained ones would only be fetched to be overwritten.
    detector = recipe.detector.build(len(state["categories"]), pretrained=False)
    load_weights(detector, state["detector"], found)
    detector = detector.to(device).eval()
    if recipe.runtime.channels_last:
        detector = detector.to(memory_format=torch.channels_last)
    categories = [(int(number), str(name)) for number, name in state["categories"]]
    return TrainedDetector(found, detector, recipe, categories, state["thresholds"], device)


def evaluate_checkpoint(
    trained: TrainedDetector, folder: Path, split: str, world: World, out: Path, with_ranking: bool = False
) -> dict[str, Any] | None:
    """Evaluate on a split of a data folder; write evaluation.json and detections.json.

    Every process takes its share of the images; only the main one gets an answer and writes.

    Parameters
    ----------
    trained
        What to evaluate.
    folder, split
        The data.
    world
        The processes.
    out
        Folder to write into; made before anything is computed.
    with_ranking
        Measure too how well the scores of the last head's positives are ordered.

    Returns
    -------
    dict or None
        The numbers of `rankdet.metrics.evaluate`, on the main process, those of masks under ``masks`` where the
        detector finds them; with ``with_ranking`` those of `ranking_quality` under ``ranking``, and the name of the
        ``head`` beside them.

    Raises
    ------
    InputError
        When the data are missing or broken, or have other categories than the checkpoint, or ``out`` cannot be
        written into. No process is left waiting.
    """
    with ExitStack() as stack:
        with world.together():
            dataset, recipe = _evaluated_data(trained, folder, split, with_ranking)
            if world.is_main:
                stack.enter_context(output_folder(out))
        evaluation = evaluate_detector(trained.detector, dataset, recipe, world)
        if evaluation is None:
            return None
        metrics = evaluation.metrics
        if with_ranking:
            metrics = metrics | {"ranking": _ranking(trained, dataset, recipe, world.device)}
        write_json(out / "detections.json", evaluation.detections)
        # Last: where it is, everything is.
        write_json(out / "evaluation.json", metrics)
        return metrics


def _ranking(
    trained: TrainedDetector, dataset: CocoDataset, recipe: Recipe, device: torch.device
) -> dict[str, float | str]:
    head = list(recipe.detector.heads)[-1]
    # The loss ranks over a batch, so batches have the size of training.
    batches = build_test_loader(dataset, recipe.data.batch_size, recipe.data.workers)
    losses = {name: config.build(len(batches)).to(device) for name, config in recipe.losses.items()}
    return {"head": head, **ranking_quality(trained.detector, losses, batches, recipe, device, head)}


def _evaluated_data(
    trained: TrainedDetector, folder: Path, split: str, with_ranking: bool
) -> tuple[CocoDataset, Recipe]:
    data = trained.recipe.data.model_copy(update={"folder": folder})
    recipe = trained.recipe.model_copy(update={"data": data})
    # Candidates of the ranking are those of training, masks included.
    dataset = data.build_test_dataset(split, with_ranking and recipe.detector.has_masks)
    if dataset.categories != trained.categories:
        raise InputError(
            f"{dataset.ground_truth} has other categories than {trained.path}: "
            f"{category_difference(dataset.categories, trained.categories)}"
        )
    return dataset, recipe


def store_thresholds(trained: TrainedDetector, found: Sequence[float]) -> None:
    """Put the LRP-optimal thresholds of an evaluation into the checkpoint, in one step.

    Parameters
    ----------
    trained
        Whose checkpoint to change.
    found
        C thresholds by label. Where one is NaN, because the class was not detected, the stored one stays.

    Raises
    ------
    InputError
        When the checkpoint cannot be written; it is untouched then.
    """
    # The file could be replaced in its folder all the same, but that is not what its owner said.
    if not os.access(trained.path, os.W_OK):
        raise InputError(f"{trained.path} is read-only")
    stored = trained.thresholds or [math.nan] * len(trained.categories)
    thresholds = [old if math.isnan(new) else new for old, new in zip(stored, found, strict=True)]
    save_checkpoint(trained.path, load_checkpoint(trained.path) | {"thresholds": thresholds})


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The images among ``paths``, folders replaced by the images in them.

    Raises
    ------
    InputError
        When a path is missing or a folder holds no image.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                entry for entry in _entries(path) if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file()
            )
            if not inside:
                raise InputError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read folder {folder}: {error.strerror}") from error


def check_images(paths: Sequence[Path]) -> None:
    """Read every image once; raises InputError that names all broken ones."""
    mistakes = []
    for path in paths:
        try:
            read_photo(path)
        except InputError as error:
            mistakes.append(str(error))
    if mistakes:
        raise InputError("; ".join(mistakes))


def read_photo(path: Path) -> Tensor:
    """(3, H, W) uint8 RGB, the right way up by EXIF; raises InputError that names ``path``."""
    return decode(path, follow_exif=True)


def detect_images(trained: TrainedDetector, paths: Sequence[Path]) -> Iterator[tuple[Path, Tensor, Detection]]:
    """Each image (3, H, W) with what is found in it, in pixels of the file."""
    transforms = trained.recipe.data.build_transforms(training=False)
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    for number, path in enumerate(paths):
        pixels = read_photo(path)
        size = (pixels.shape[1], pixels.shape[2])
        placement: Placement = transforms.place(size)
        batch = collate([Sample(placement.image(pixels), nothing, Source(number, str(path), size))])
        yield path, pixels, detect_batch(trained.detector, batch, trained.recipe, trained.device)[0]


def above(detection: Detection, thresholds: Sequence[float]) -> Detection:
    """The detections whose score reaches the threshold of their class.

    Examples
    --------
    >>> found = Detection(torch.zeros(2, 4), torch.tensor([0.9, 0.6]), torch.tensor([0, 1]))
    >>> above(found, [0.5, 0.7]).labels
    tensor([0])
    """
    return detection.select(detection.scores >= torch.tensor(thresholds)[detection.labels])
