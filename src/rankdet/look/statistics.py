"""Numbers about a data set: splits, classes, sizes, and how far training and validation differ.

Legend: C classes of the whole data set by name, S splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rankdet.data.usable import is_usable
from rankdet.look.reading import Split

SIZES = {"small": 32, "medium": 96}
"""Sides of squares that COCO's small and medium objects are smaller than; large are the others."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RESHUFFLES = 200
"""Random divisions of the images that the real one is compared with."""


@dataclass(frozen=True)
class SplitNumbers:
    """What one split has.

    Parameters
    ----------
    name, layout, file
        Of the split; the file without its folder.
    images, empty
        Images, and those without any annotation.
    objects, crowds, unused
        Annotations that are no crowd, crowd regions, and objects that a training leaves out.
    masks
        Objects with a segmentation.
    classes
        Classes with an object.
    most
        Objects of the image that has the most.
    image_sizes
        The size of the images, or the range of their sides, in words.
    shares
        Of the objects, those that COCO calls small, medium and large.
    """

    name: str
    layout: str
    file: str
    images: int
    empty: int
    objects: int
    crowds: int
    unused: int
    masks: int
    classes: int
    most: int
    image_sizes: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class ClassNumbers:
    """One class: (objects, images) in each of S splits, and quantiles of √(width · height) in pixels."""

    name: str
    counts: tuple[tuple[int, int], ...]
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Drift:
    """How far the classes of two splits differ.

    Parameters
    ----------
    splits
        Their names.
    distance
        Total variation: half the sum over classes of how much the shares of objects differ, 0 … 1.
    usual, most
        Median and 95 % quantile of the same where the same images are divided at random.
    classes
        (name, share in the first, share in the second), the largest difference first.
    missing
        For each of the two splits the classes that only the other one has.
    """

    splits: tuple[str, str]
    distance: float
    usual: float
    most: float
    classes: list[tuple[str, float, float]]
    missing: tuple[list[str], list[str]]

    @property
    def is_unusual(self) -> bool:
        """Whether fewer than one in twenty random divisions differ as much."""
        return self.distance > self.most

    @property
    def widest(self) -> float:
        """The largest share of a class in any of the two."""
        return max(max(first, second) for _, first, second in self.classes)


def split_numbers(split: Split) -> SplitNumbers:
    """Count what a split has; of one that cannot be read there is nothing."""
    truth = split.truth
    if truth is None:
        return SplitNumbers(
            split.name, split.source.layout, split.source.annotations.name, 0, 0, 0, 0, 0, 0, 0, 0, "–", (0.0, 0.0, 0.0)
        )
    is_object = ~truth.is_crowd
    unused = is_object & ~is_usable(truth)
    per_image = np.bincount(truth.images, minlength=len(truth.image_ids))
    objects_per_image = np.bincount(truth.images[is_object], minlength=len(truth.image_ids))
    return SplitNumbers(
        name=split.name,
        layout=split.source.layout,
        file=split.source.annotations.name,
        images=len(truth.image_ids),
        empty=int((per_image == 0).sum()),
        objects=int(is_object.sum()),
        crowds=int(truth.is_crowd.sum()),
        unused=int(unused.sum()),
        masks=int((truth.has_mask & is_object).sum()),
        classes=len(set(truth.labels[is_object].tolist())),
        most=int(objects_per_image.max(initial=0)),
        image_sizes=_sizes(truth.sizes),
        shares=_shares(truth.boxes[is_object]),
    )


def _sizes(sizes: NDArray[np.int64]) -> str:
    if not len(sizes):
        return "–"
    (low_height, low_width), (high_height, high_width) = sizes.min(axis=0).tolist(), sizes.max(axis=0).tolist()
    if (low_height, low_width) == (high_height, high_width):
        return f"{low_width} × {low_height}"
    return f"{_range(low_width, high_width)} × {_range(low_height, high_height)}"


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}–{high}"


def _shares(boxes: NDArray[np.float64]) -> tuple[float, ...]:
    if not len(boxes):
        return 0.0, 0.0, 0.0
    small, medium = ((boxes[:, 2:].prod(axis=1) < side**2).mean().item() for side in SIZES.values())
    return small, medium - small, 1 - medium


def class_names(splits: Sequence[Split]) -> list[str]:
    """C names of the classes of all splits, in the order of their ids; a name that several share counts once."""
    return list(dict.fromkeys(name for split in splits if split.truth is not None for name in split.truth.names))


def labels_of(split: Split, names: Sequence[str]) -> NDArray[np.int64]:
    """The class among C ``names`` of each label of a split; none where the split cannot be read."""
    places = {name: place for place, name in enumerate(names)}
    own = [] if split.truth is None else split.truth.names
    return np.array([places[name] for name in own], dtype=np.int64)


def class_numbers(splits: Sequence[Split], names: Sequence[str]) -> list[ClassNumbers]:
    """Count the objects of each class and measure their boxes; crowd regions are left out."""
    counts = np.zeros((len(names), len(splits), 2), dtype=np.int64)
    labels, sides = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for column, split in enumerate(splits):
        if split.truth is None:
            continue
        is_object = ~split.truth.is_crowd
        own = labels_of(split, names)[split.truth.labels[is_object]]
        pairs = np.unique(np.stack([own, split.truth.images[is_object]]), axis=1)
        counts[:, column, 0] = np.bincount(own, minlength=len(names))
        counts[:, column, 1] = np.bincount(pairs[0], minlength=len(names))
        labels.append(own)
        sides.append(np.sqrt(split.truth.boxes[is_object, 2:].prod(axis=1)))
    all_labels, all_sides = np.concatenate(labels), np.concatenate(sides)
    order = np.argsort(all_labels, kind="stable")
    ends = np.cumsum(np.bincount(all_labels, minlength=len(names)))
    parts = np.split(all_sides[order], ends[:-1]) if names else []
    return [
        ClassNumbers(
            name,
            tuple((objects, images) for objects, images in counts[place].tolist()),
            tuple(np.quantile(part, QUANTILES).round(1).tolist()) if len(part) else (),
        )
        for place, (name, part) in enumerate(zip(names, parts, strict=True))
    ]


def class_drift(first: Split, second: Split, names: Sequence[str]) -> Drift | None:
    """Compare the classes of two splits; None where one of them has no objects.

    Objects of an image are of few classes, so that objects are no independent draws, and a test that takes them for
    such would nearly always find a difference. The images are divided anew at random, therefore, into splits of the
    same numbers of images.
    """
    images, labels = [], []
    for split in (first, second):
        if split.truth is None or not (~split.truth.is_crowd).any():
            return None
        is_object = ~split.truth.is_crowd
        images.append(split.truth.images[is_object])
        labels.append(labels_of(split, names)[split.truth.labels[is_object]])
    num_first = len(first.truth.image_ids) if first.truth is not None else 0
    num_second = len(second.truth.image_ids) if second.truth is not None else 0
    all_images, all_labels = np.concatenate([images[0], images[1] + num_first]), np.concatenate(labels)
    is_first = np.arange(num_first + num_second) < num_first
    shares = _shares_of_classes(is_first, all_images, all_labels, len(names))
    random = np.random.default_rng(0)
    distances = []
    for _ in range(RESHUFFLES):
        one, other = _shares_of_classes(random.permutation(is_first), all_images, all_labels, len(names))
        distances.append(np.abs(one - other).sum() / 2)
    order = np.argsort(-np.abs(shares[0] - shares[1]), kind="stable")
    rows = [(names[place], shares[0][place].item(), shares[1][place].item()) for place in order.tolist()]
    return Drift(
        splits=(first.name, second.name),
        distance=(np.abs(shares[0] - shares[1]).sum() / 2).item(),
        usual=float(np.quantile(distances, 0.5)),
        most=float(np.quantile(distances, 0.95)),
        classes=rows,
        missing=(
            [name for name, one, other in rows if not one and other],
            [name for name, one, other in rows if one and not other],
        ),
    )


def _shares_of_classes(
    is_first: NDArray[np.bool_], images: NDArray[np.int64], labels: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(C,) shares of the objects in the images of the first part and of the second."""
    chosen = is_first[images]
    counts = np.bincount(labels[chosen], minlength=classes), np.bincount(labels[~chosen], minlength=classes)
    return counts[0] / max(1, counts[0].sum()), counts[1] / max(1, counts[1].sum())
