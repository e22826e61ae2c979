"""What the positives get in a training by Rank & Sort Loss: instance weights, a part of the gradient, masks.

    python benchmarks/positives.py RECIPE [FIELD=VALUE …] --data FOLDER [--every 25] [--stop N]

Trains as ``rankdet train`` does, but evaluates nothing, and prints tables for each head, with means over K iterations.
With ``weights=RUN optimizer.lr=1e-9`` they are of a network that is trained already.

* *Instance weights*: what several weightings give to the same positives, whichever of them the recipe trains with.
  "Effective" is (Σ w)² / Σ w² as a share of the positives: 100 % where all weights are equal, 1 / P where one weight is
  all. "Effective, objects" is the same of the objects, by the sums over their positives. "Lower half" is the share of
  the weight of those positives whose logits are in the lower half. Beside it are the mean IoUs of both halves.
* *One pool*: the images of a batch ranked together, as the loss does it, and "alone", each by itself with a mean over
  the images. "Fewest" and "most" are the positives of an image of the batch. "Crowded" is the share that the image with
  most positives has of the gradient on positives. Gradients are those of L_R + L_S by the logits, and "cosine" is that
  of the angle between both.
* *Masks*: how many positives and objects of a batch get a mask to learn from, in standard forms, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from rankdet.losses import (
    IoUWeights,
    NoWeights,
    Positives,
    Ranking,
    RankingWeights,
    RankSortLoss,
    ScoreWeights,
    Weighting,
    rank_sort_loss_of_labels,
)
from rankdet.recipes import Recipe
from rankdet.report import markdown_table
from rankdet.structures import Assignment, Candidates
from rankdet.training.setup import Training
from trainings import add_training, built, iterations, named_recipe, update

WEIGHTINGS: dict[str, Weighting] = {
    "none": NoWeights(),
    "score": ScoreWeights(),
    "IoU": IoUWeights(),
    "rank": RankingWeights(),
    "rank, δ_loc 1.5": RankingWeights(1.5),
}
WEIGHTS = ("iterations", "weights", "effective", "effective, objects", "lower half", "upper IoU", "lower IoU")
POOL = (
    "positives",
    "fewest",
    "most",
    "negatives per positive",
    "L_R",
    "L_R alone",
    "crowded",
    "crowded alone",
    "cosine",
)
MASKS = ("positives", "objects", "masks", "objects with a mask")
Record = dict[str, float]


@dataclass
class CountedRoIs:
    """In the place of a sampler of RoIs: the same choice, and the number of RoIs of each image."""

    sampler: Callable[[Assignment, int], Assignment] | None
    per_image: list[int] = field(default_factory=list)

    def __call__(self, assignment: Assignment, num_classes: int) -> Assignment:
        """The RoIs of one image."""
        chosen = assignment if self.sampler is None else self.sampler(assignment, num_classes)
        self.per_image.append(int((chosen.labels >= 0).sum()))
        return chosen


@dataclass
class Watched:
    """The positives of a head in each call of its loss.

    ``counts`` gives the candidates of each image. In the place of the weighting of a loss that ranks, it returns the
    same weights and has records of the ranking. As a hook of any loss it has records of the masks.
    """

    counts: Callable[[Candidates], Sequence[int]]
    weighting: Weighting = field(default_factory=NoWeights)
    delta: float = 0.5
    ranking: list[Record] = field(default_factory=list)
    masks: list[Record] = field(default_factory=list)

    def __call__(self, candidates: Candidates, positives: Positives, ranking: Ranking | None = None) -> Tensor:
        """(P,) weights of the loss."""
        if len(positives.rows) and ranking is not None:
            own = positives.logits.gather(1, candidates.labels[positives.rows, None])[:, 0]
            iou = positives.overlap.iou.detach()
            weights = {name: weighting(candidates, positives, ranking) for name, weighting in WEIGHTINGS.items()}
            record = weight_record(weights, own, iou, self._objects(candidates))
            self.ranking.append(record | pool_record(candidates, iou, self.counts(candidates), self.delta))
        return self.weighting(candidates, positives, ranking)

    def look(self, _: nn.Module, arguments: tuple[Candidates]) -> None:
        """Record the masks of the candidates that a loss is called with: a hook before its ``forward``."""
        (candidates,) = arguments
        if candidates.masks is not None and candidates.is_positive.any():
            self.masks.append(mask_record(self._objects(candidates), candidates.masks.rows))

    def _objects(self, candidates: Candidates) -> Tensor:
        """(P,) numbers of the objects of the positives, from 0 on: those of one image and one box are one object."""
        images = [torch.full((count,), number) for number, count in enumerate(self.counts(candidates))]
        keys = torch.cat([torch.cat(images)[candidates.is_positive, None], candidates.boxes.target], dim=1)
        return keys.unique(dim=0, return_inverse=True)[1]


def effective(weights: Tensor) -> float:
    """(Σ w)² / Σ w² of (n,) weights, as a share of n.

    >>> effective(torch.tensor([1.0, 1, 0, 0]))
    0.5
    """
    return float(weights.sum() ** 2 / (weights**2).sum() / len(weights))


def weight_record(weights: dict[str, Tensor], logits: Tensor, iou: Tensor, objects: Tensor) -> Record:
    """How each of some (P,) weights spreads over positives of these (P,) logits, IoUs, and numbers of objects."""
    order = logits.argsort()
    lower, upper = order[: len(order) // 2], order[len(order) // 2 :]
    record = {"upper IoU": float(iou[upper].mean()), "lower IoU": float(iou[lower].mean())}
    for name, values in weights.items():
        of_objects = values.new_zeros(int(objects.max()) + 1).index_add(0, objects, values)
        record[f"{name}, effective"] = effective(values)
        record[f"{name}, effective, objects"] = effective(of_objects)
        record[f"{name}, lower half"] = float(values[lower].sum() / values.sum())
    return record


def pool_record(candidates: Candidates, quality: Tensor, sizes: Sequence[int], delta: float) -> Record:
    """The ranking of one pool of all images, and the mean over each image that has positives."""
    logits, labels, is_positive = candidates.logits, candidates.labels, candidates.is_positive
    counts = [int(part.sum()) for part in is_positive.split(list(sizes))]
    images = zip(logits.split(list(sizes)), labels.split(list(sizes)), quality.split(counts), strict=True)
    together, gradient = loss_and_gradient(logits, labels, quality, delta)
    values, gradients = zip(*(loss_and_gradient(*image, delta) for image in images), strict=True)
    with_positives = sum(count > 0 for count in counts)
    mean_gradient = torch.cat(gradients) / with_positives

    def crowded(gradient: Tensor) -> float:
        of_images = torch.stack([part.sum() for part in gradient.abs()[is_positive].split(counts)])
        return float(of_images[counts.index(max(counts))] / of_images.sum())

    return {
        "positives": sum(counts),
        "fewest": min(counts),
        "most": max(counts),
        "negatives per positive": int((labels >= 0).sum()) * candidates.num_classes / sum(counts) - 1,
        "L_R": together,
        "L_R alone": sum(values) / with_positives,
        "crowded": crowded(gradient),
        "crowded alone": crowded(mean_gradient),
        "cosine": float(cosine_similarity(gradient.flatten(), mean_gradient.flatten(), dim=0)),
    }


def loss_and_gradient(logits: Tensor, labels: Tensor, quality: Tensor, delta: float) -> tuple[float, Tensor]:
    """L_R, and the (M, C) gradient of L_R + L_S by the logits."""
    leaf = logits.detach().requires_grad_()
    found = rank_sort_loss_of_labels(leaf, labels, quality, delta)
    (gradient,) = torch.autograd.grad(found.ranking + found.sorting, leaf)
    return float(found.ranking.detach()), gradient


def mask_record(objects: Tensor, rows: Tensor | None) -> Record:
    """Of how many positives and objects a mask is learned: those in ``rows``, or all."""
    masked = objects if rows is None else objects[rows]
    found = (len(objects), len(objects.unique()), len(masked), len(masked.unique()))
    return dict(zip(MASKS, found, strict=True))


def watched_training(recipe: Recipe, stop: int | None = None) -> dict[str, Watched]:
    """Train a recipe in this process, at most ``stop`` iterations, and watch each of its heads."""
    training = built(recipe)
    found = watch(training)
    for _, batch in iterations(training, stop):
        update(training, training.step(training.model, batch)[0])
    return found


def watch(training: Training) -> dict[str, Watched]:
    """Watch every head of a training."""
    network, images = training.model.network, training.recipe.data.batch_size
    rois = CountedRoIs(None)
    if hasattr(network, "rcnn"):
        rois = network.rcnn.sampler = CountedRoIs(network.rcnn.sampler)

    def counts(candidates: Candidates) -> Sequence[int]:
        """RoIs are counted; anchors are as many in each image."""
        return rois.per_image[-images:] if candidates.head == "rcnn" else [len(candidates.labels) // images] * images

    found = {}
    for head, loss in training.losses.items():
        found[head] = Watched(counts)
        if isinstance(loss, RankSortLoss):
            found[head] = loss.tasks.weighting = Watched(counts, loss.tasks.weighting, loss.delta)
        loss.register_forward_pre_hook(found[head].look)
    return found


def means(records: Sequence[Record], every: int) -> list[tuple[str, Record]]:
    """The means of each window of records, and the iterations that it has."""
    windows = [(start, records[start : start + every]) for start in range(0, len(records), every)]
    return [
        (f"{start + 1}–{start + len(window)}", {key: fmean(record[key] for record in window) for key in window[0]})
        for start, window in windows
    ]


def tables(watched: Watched, every: int) -> str:
    """The tables of a head."""
    ranking, masks = means(watched.ranking, every), means(watched.masks, every)
    rows = [
        [window, name]
        + [f"{100 * mean[f'{name}, {column}']:.0f} %" for column in WEIGHTS[2:5]]
        + [f"{mean[column]:.2f}" for column in WEIGHTS[5:]]
        for window, mean in ranking
        for name in WEIGHTINGS
    ]
    found = [markdown_table(WEIGHTS, rows)] if rows else []
    for columns, windows in ((POOL, ranking), (MASKS, masks)):
        if windows:
            rows = [[window, *(f"{mean[column]:.3g}" for column in columns)] for window, mean in windows]
            found.append(markdown_table(["iterations", *columns], rows))
    return "\n\n".join(found)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--every", type=int, default=25, help="iterations of which a row has the means")
    options = parser.parse_intermixed_args(arguments)
    for head, watched in watched_training(named_recipe(options), options.stop).items():
        print(f"{head}\n\n{tables(watched, options.every)}\n")


if __name__ == "__main__":
    main()
