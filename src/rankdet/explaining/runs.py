"""The losses of a run on a batch of its images.

Legend: M candidates of a head, C classes, P positives, G objects of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.data import CocoDataset, SampleKey, collate
from rankdet.explaining.explanation import Explanation, Loss, explain
from rankdet.inference.evaluation import dataset_for, recipe_of_model
from rankdet.inference.loading import build_losses, load
from rankdet.inference.model import Model
from rankdet.losses import ALRPLoss, APLoss, RankSortLoss, find_positives
from rankdet.structures import Batch, Candidates, InputError, Matched

SEED = 0
"""Of samplers and of the noise of a denoising decoder, so that an explanation can be repeated."""


class RunExplanations(NamedTuple):
    """The explanations of a batch, one for each head with a ranking loss, and lines on the other heads."""

    explanations: list[Explanation]
    notes: list[str]


def explain_run(
    run: str | PathLike[str] | Model,
    images: Sequence[int] | None = None,
    *,
    data: str | PathLike[str] | None = None,
    split: str | None = None,
    image_folder: str | PathLike[str] | None = None,
    heads: Sequence[str] | None = None,
    device: str | torch.device = "auto",
    trust: bool = False,
) -> RunExplanations:
    """Explain the losses of a trained model on a batch of images.

    Parameters
    ----------
    run
        A run folder, a checkpoint, or a loaded model with a recipe.
    images
        Places of images in the split, from 0; they are one batch. None: as many of the first as a batch of the training
        has.
    data
        A data folder or an annotation file; None: where the recipe of the run says.
    split
        The split of a data folder; None: that of the run's evaluations.
    image_folder
        The folder of the images of an annotation file; None: it is looked for around the file.
    heads
        Names of heads; None: all of them.
    device, trust
        See `rankdet.load`.

    Returns
    -------
    RunExplanations
        Images are prepared as for an evaluation: not flipped and not cut. The network is in evaluation mode. Positives
        are named by image and object, each counted from 0 in the batch and in its image, and by the row of the
        candidate: ``image 1, object 0 dog, #2674``.

    Raises
    ------
    InputError
        When something is missing or broken, there is no such image or head, or no head has a ranking loss.
    """
    model = run if isinstance(run, Model) else load(run, device, trust=trust)
    recipe = recipe_of_model(model)
    where, folder = (None if path is None else Path(path) for path in (data, image_folder))
    dataset, _ = dataset_for(model, where, split or recipe.data.validation_split, folder, candidates=True)
    places = list(range(min(len(dataset), recipe.data.batch_size)) if images is None else images)
    batch = _batch(dataset, places)
    losses = build_losses(recipe, model.device, 1)
    on_device = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), model.evaluating(), torch.random.fork_rng(on_device):
        torch.manual_seed(SEED)
        found = model.forward(batch)
    known = [candidates.head for candidates in found]
    for head in heads or ():
        if head not in known:
            raise InputError(f"the network has no head {head!r}; it has {', '.join(known)}")
    explanations, notes = [], []
    for candidates in found:
        if heads is None or candidates.head in heads:
            loss = losses[candidates.head]
            if isinstance(loss, RankSortLoss | APLoss | ALRPLoss):
                explanations.append(_of_head(_on_cpu(candidates), loss, batch, model.names))
            else:
                notes.append(f"Head {candidates.head} has {type(loss).__name__}, which ranks nothing.")
    if not explanations:
        raise InputError(f"nothing to explain: {' '.join(notes)}")
    return RunExplanations(explanations, notes)


def _batch(dataset: CocoDataset, places: Sequence[int]) -> Batch:
    if not places:
        raise InputError("name at least one image")
    for place in places:
        if not 0 <= place < len(dataset):
            raise InputError(f"there is no image {place}: {dataset.ground_truth} has {len(dataset)}, counted from 0")
    return collate([dataset[SampleKey(place, 0)] for place in places])


@torch.no_grad()
def _of_head(
    candidates: Candidates, loss: RankSortLoss | APLoss | ALRPLoss, batch: Batch, names: Sequence[str]
) -> Explanation:
    """What the loss of a head makes of its candidates, which are on the CPU; logits are (M · C) in a row."""
    positives = find_positives(candidates) if isinstance(loss, ALRPLoss) else loss.tasks.find_positives(candidates)
    rows, classes = positives.rows, candidates.num_classes
    labels = candidates.labels[rows]
    targets = torch.zeros_like(candidates.logits, dtype=torch.float32)
    targets[candidates.labels < 0] = -1
    is_positive = torch.zeros_like(targets, dtype=torch.bool)
    is_positive[rows, labels] = True
    errors, kind = None, _kind(loss)
    if isinstance(loss, RankSortLoss):
        targets[rows, labels] = loss.quality(candidates, positives).float()
        if loss.zero_quality_is_negative:
            is_positive &= targets > 0
    elif isinstance(loss, APLoss):
        targets[rows, labels] = 1.0
    else:
        errors = loss.errors(candidates, positives)
        targets[rows, labels] = (1 - errors * (1 - loss.tau)).clamp(0, 1)
    objects = _objects(candidates, rows, batch, len(names))
    called = dict(zip(rows.tolist(), _object_names(objects, batch, names), strict=True))
    images = _images(candidates)

    def name(place: int) -> str:
        row, label = divmod(place, classes)
        of_class = "" if classes == 1 or is_positive[row, label] else f" as {names[label]}"
        owner = called.get(row) or ("" if images is None else f"image {images[row]}")
        return f"{owner}{', ' if owner else ''}#{row}{of_class}"

    return explain(
        candidates.logits.float(),
        targets,
        kind,
        delta=loss.delta,
        is_positive=is_positive,
        localization_errors=errors,
        interpolate=loss.interpolate if isinstance(loss, APLoss) else True,
        names=name,
        title=f"Head {candidates.head}",
    )


def _kind(loss: RankSortLoss | APLoss | ALRPLoss) -> Loss:
    if isinstance(loss, RankSortLoss):
        return "rank_sort"
    return "average_precision" if isinstance(loss, APLoss) else "alrp"


def _object_names(objects: Tensor, batch: Batch, names: Sequence[str]) -> list[str]:
    """What objects of the batch are called, by their places among all: ``image 2, object 1 dog``."""
    called = [
        f"image {image}, object {number} {names[label]}"
        for image, target in enumerate(batch.targets)
        for number, label in enumerate(target.labels.tolist())
    ]
    return [called[place] for place in objects.tolist()]


def _objects(candidates: Candidates, rows: Tensor, batch: Batch, num_classes: int) -> Tensor:
    """(P,) which of G objects each positive learns, by its target, and by class and image where they are known."""
    boxes = torch.cat([target.boxes for target in batch.targets])
    labels = torch.cat([target.labels for target in batch.targets])
    distances = (_target_boxes(candidates, batch)[:, None] - boxes).abs().amax(2)
    if candidates.num_classes == num_classes > 1:
        distances[candidates.labels[rows, None] != labels] = torch.inf
    images = _images(candidates)
    if images is not None:
        owners = torch.cat([torch.full_like(target.labels, place) for place, target in enumerate(batch.targets)])
        distances[images[rows, None] != owners] = torch.inf
    return distances.argmin(1) if len(boxes) else rows


def _target_boxes(candidates: Candidates, batch: Batch) -> Tensor:
    """(P, 4) boxes of the objects that the positives learn, in pixels; around their masks where a head has no boxes."""
    if candidates.boxes is not None:
        return candidates.boxes.target
    if candidates.masks is None:
        raise InputError(f"head {candidates.head!r} has neither boxes nor masks, by which its positives could be named")
    masks, rows = candidates.masks.target > 0.5, candidates.masks.rows
    if rows is not None:  # the first of several masks
        masks = masks[torch.searchsorted(rows, torch.arange(len(rows.unique())))]
    scales = [size / side for size, side in zip(batch.images.pixels.shape[2:], masks.shape[1:], strict=True)]
    bounds = []
    for inside, scale in ((masks.any(1), scales[1]), (masks.any(2), scales[0])):
        first = inside.int().argmax(1)
        last = inside.shape[1] - inside.flip(1).int().argmax(1)
        bounds.append((first * scale, last * scale))
    (left, right), (top, bottom) = bounds
    return torch.stack([left, top, right, bottom], 1)


def _images(candidates: Candidates) -> Tensor | None:
    """(M,) the image of each candidate; None where the head does not tell."""
    if candidates.per_image is None:
        return None
    return torch.arange(len(candidates.per_image)).repeat_interleave(torch.tensor(candidates.per_image))


def _on_cpu(candidates: Candidates) -> Candidates:
    """What ranking losses look at, on the CPU."""

    def moved(pairs: Matched | None) -> Matched | None:
        if pairs is None:
            return None
        rows = None if pairs.rows is None else pairs.rows.cpu()
        return Matched(pairs.predicted.cpu(), pairs.target.cpu(), rows)

    return Candidates(
        candidates.head,
        candidates.logits.cpu(),
        candidates.labels.cpu(),
        candidates.num_classes,
        boxes=moved(candidates.boxes),
        masks=moved(candidates.masks),
        per_image=candidates.per_image,
        rows=None if candidates.rows is None else candidates.rows.cpu(),
        quality=None if candidates.quality is None else candidates.quality.cpu(),
    )
