"""How the anchors of a recipe fit the objects of a data set: its own anchors, labels and resizing.

Legend: M anchors of an image, G objects of an image.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_iou

from rankdet.backbones import pyramid_strides
from rankdet.coco import GroundTruth
from rankdet.data import Transforms
from rankdet.data.usable import is_usable
from rankdet.heads import AnchorGenerator, CenteredAnchors, DenseStage, InstanceStage, RegionProposalNetwork
from rankdet.heads.anchors import MapSizes
from rankdet.label_assignment import ATSSAssigner, MaxIoUAssigner, PAAAssigner, PyramidAnchors, assign_by_overlap
from rankdet.look.reading import Split
from rankdet.recipes import Recipe
from rankdet.structures import Assignment, Target

MOST_PAIRS = 3 * 10**8
"""Pairs of anchor and object that are compared; more images are left out, evenly."""
BINS = (0, 8, 16, 32, 64, 128, 256, math.inf)
"""Sides of objects, √(width · height) in pixels of the resized image."""


CPU = torch.device("cpu")
_OfImage = Callable[[tuple[int, int]], PyramidAnchors]
"""The anchors of one image from its (height, width) in pixels, resized."""


@dataclass(frozen=True)
class SizeBin:
    """Objects of one size.

    Parameters
    ----------
    sides
        From and to, in pixels of the resized image.
    objects
        How many there are.
    best_iou
        Median over objects of the IoU with their best anchor.
    below
        Share whose best anchor overlaps them too little to be a positive by itself; None where there is no threshold.
    unmatched
        Share without any positive anchor.
    positives
        Median number of positive anchors.
    """

    sides: tuple[float, float]
    objects: int
    best_iou: float
    below: float | None
    unmatched: float
    positives: float


@dataclass(frozen=True)
class AnchorFit:
    """How the anchors of a recipe fit.

    Parameters
    ----------
    recipe
        Its name.
    rule
        How anchors get their labels, in words.
    bins
        By the size of objects; empty where the detector has no anchors.
    images, all_images
        Images that were looked at, and those that there are.
    """

    recipe: str
    rule: str
    bins: list[SizeBin]
    images: int
    all_images: int

    @property
    def objects(self) -> int:
        """Objects that were looked at."""
        return sum(each.objects for each in self.bins)

    @property
    def unmatched(self) -> float:
        """Share of the objects that have no positive anchor."""
        return sum(each.objects * each.unmatched for each in self.bins) / max(1, self.objects)


class _Anchors(NamedTuple):
    """The anchors of a network and how they get labels."""

    of_image: _OfImage
    assign: Callable[[PyramidAnchors, Target], Assignment]
    rule: str
    threshold: float | None


def anchor_fit(recipe: Recipe, splits: Sequence[Split], num_classes: int) -> AnchorFit:
    """Match the objects of all splits with the anchors of a recipe, after its resizing, as in training.

    The network is built without pretrained weights, and does not run.
    """
    network = recipe.detector.build(max(1, num_classes), pretrained=False)
    found = _anchors_of(network)
    images = [
        (split, place) for split in splits if split.truth is not None for place in range(len(split.truth.image_ids))
    ]
    if found is None:
        return AnchorFit(recipe.name, "This detector has no anchors.", [], 0, len(images))
    transforms = Transforms(recipe.data.build_transforms(training=True).resize)
    objects_of = {id(split): _usable_objects(split.truth) for split in splits if split.truth is not None}
    rows: list[Tensor] = []
    looked_at, pairs = 0, 0
    # A fixed shuffle: wherever the pairs run out, the images are spread over the data set.
    for number in np.random.default_rng(0).permutation(len(images)).tolist():
        if pairs > MOST_PAIRS:
            break
        split, place = images[number]
        if split.truth is None:
            continue
        looked_at += 1
        objects = objects_of[id(split)][place]
        if not len(objects):
            continue
        boxes = torch.from_numpy(split.truth.boxes[objects]).float()
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)
        height, width = split.truth.sizes[place].tolist()
        placement = transforms.place((height, width))
        placed = placement.boxes(boxes)
        placed = placed[(placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1])]
        if not len(placed):
            continue
        anchors = found.of_image(placement.after)
        rows.append(_measured(found, anchors, Target(placed, torch.zeros(len(placed), dtype=torch.int64))))
        pairs += len(anchors.boxes) * len(placed)
    table = torch.cat(rows) if rows else torch.zeros(0, 3)
    return AnchorFit(recipe.name, found.rule, list(_bins(table, found.threshold)), looked_at, len(images))


def _usable_objects(truth: GroundTruth) -> list[NDArray[np.int64]]:
    """The rows of the objects to learn from, image by image."""
    rows = np.flatnonzero(is_usable(truth))
    rows = rows[np.argsort(truth.images[rows], kind="stable")]
    return np.split(rows, np.cumsum(np.bincount(truth.images[rows], minlength=len(truth.image_ids)))[:-1])


def _measured(found: _Anchors, anchors: PyramidAnchors, target: Target) -> Tensor:
    """(G, 3): side in pixels, best IoU and number of positives of each object."""
    labels, matched = found.assign(anchors, target)
    positives = torch.bincount(matched[labels == 0], minlength=len(target.boxes))
    valid = anchors.valid[0]
    best = box_iou(anchors.boxes if valid is None else anchors.boxes[valid], target.boxes).amax(dim=0)
    sides = (target.boxes[:, 2:] - target.boxes[:, :2]).prod(dim=1).sqrt()
    return torch.stack([sides, best, positives.float()], dim=1)


def _bins(table: Tensor, threshold: float | None) -> list[SizeBin]:
    found = []
    for low, high in itertools.pairwise(BINS):
        part = table[(table[:, 0] >= low) & (table[:, 0] < high)]
        if len(part):
            found.append(
                SizeBin(
                    (low, high),
                    len(part),
                    part[:, 1].median().item(),
                    None if threshold is None else (part[:, 1] < threshold).float().mean().item(),
                    (part[:, 2] == 0).float().mean().item(),
                    part[:, 2].median().item(),
                )
            )
    return found


def _anchors_of(network: nn.Module) -> _Anchors | None:
    """The anchors of a network's own parts; None where no part has any."""
    for part in (*network.modules(), *vars(network).values()):
        if isinstance(part, RegionProposalNetwork) and isinstance(part.assigner, MaxIoUAssigner):
            return _by_overlap(_on_grid(part.anchors, part), part.assigner)
        if isinstance(part, DenseStage):
            assigner = getattr(network, "assigner", None)
            if isinstance(assigner, PAAAssigner):
                return _by_overlap(
                    _on_grid(part.anchors), assigner.overlap, "candidate, which the network chooses from"
                )
            if isinstance(assigner, ATSSAssigner):
                return _by_nearness(_on_grid(part.anchors), assigner)
        if isinstance(part, InstanceStage) and isinstance(part.assigner, MaxIoUAssigner):
            return _by_overlap(_on_canvas(part.anchors, network), part.assigner)
    return None


def _by_overlap(of_image: _OfImage, assigner: MaxIoUAssigner, positive: str = "positive") -> _Anchors:
    rule = f"An anchor with an IoU of {assigner.positive_iou:g} or more is a {positive}."
    if assigner.low_quality_iou is not None:
        least = f" from {assigner.low_quality_iou:g} on" if assigner.low_quality_iou else ", however little it overlaps"
        rule += f" An object without any takes its best one{least}."
    return _Anchors(
        of_image,
        lambda anchors, target: assign_by_overlap(assigner, anchors, [target], 1),
        rule,
        assigner.positive_iou,
    )


def _by_nearness(of_image: _OfImage, assigner: ATSSAssigner) -> _Anchors:
    rule = (
        f"Of the {assigner.candidates_per_level} anchors of each level that are nearest to an object, those are "
        "positives that lie in its middle and overlap it more than most of the others."
    )
    return _Anchors(of_image, lambda anchors, target: assigner(anchors, [target], 1), rule, None)


def _on_grid(generator: AnchorGenerator, rpn: RegionProposalNetwork | None = None) -> _OfImage:
    """The anchors of an image that is padded as far as its network needs it."""

    def of_image(size: tuple[int, int]) -> PyramidAnchors:
        padded = [math.ceil(side / generator.size_divisor) * generator.size_divisor for side in size]
        maps = _map_sizes(padded, generator.strides)
        boxes = generator.anchors(maps, CPU)
        valid = generator.valid(maps, size, CPU)
        return PyramidAnchors(
            boxes, generator.num_per_level(maps), [valid if rpn is None else rpn.usable(valid, size, boxes)]
        )

    return of_image


def _on_canvas(anchors: CenteredAnchors, network: nn.Module) -> _OfImage:
    """The anchors of an image that is not padded."""
    own: tuple[int, ...] = network.backbone.strides  # type: ignore[assignment, union-attr]
    strides = pyramid_strides(own, len(anchors.sides) - len(own))

    def of_image(size: tuple[int, int]) -> PyramidAnchors:
        maps = _map_sizes(size, strides)
        return PyramidAnchors(anchors.anchors(maps, size, CPU), anchors.num_per_level(maps), [None])

    return of_image


def _map_sizes(size: Sequence[int], strides: Sequence[int]) -> MapSizes:
    """(height, width) in cells of the map of each level."""
    height, width = size
    return tuple((math.ceil(height / stride), math.ceil(width / stride)) for stride in strides)
