"""The content of an annotation file, in a few arrays.

Legend: N images, A annotations, C categories.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.packed import PackedBytes
from rankdet.structures import InputError


@dataclass(frozen=True, eq=False)
class Federation:
    """What LVIS has beyond COCO: where classes were looked for, and how frequent they are in training.

    A detection counts where its class has an object in the image, or was looked for in vain (``neg_category_ids``).
    Where the objects of a class are not all annotated (``not_exhaustive_category_ids``), a detection of it that hits
    none is no mistake.

    Parameters
    ----------
    frequencies
        C times ``"r"``, ``"c"`` or ``"f"``: classes in up to 10, in 11 to 100 and in more training images.
    lists
        N objects in JSON with the two lists of category ids of each image.
    """

    frequencies: NDArray[np.str_]
    lists: PackedBytes

    def lists_of(self, image: int) -> dict[str, list[int]]:
        """The two lists of an image, by its place in the file."""
        lists: dict[str, list[int]] = json.loads(self.lists[image])
        return lists


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The sound records of an annotation file, made by `rankdet.coco.read_ground_truth`.

    A training takes its objects from it and an evaluation compares with it, so a file is read and checked once. Worker
    processes share arrays, but would copy millions of objects.

    Parameters
    ----------
    source
        Path of the file, for messages.
    categories
        C pairs (id, name), sorted by id; the place of a category is its label.
    image_ids
        (N,) int64, in the order of the file.
    sizes
        (N, 2) int64, (height, width) in pixels; 0 where the file was read without.
    file_names
        N file names; empty where the file was read without.
    annotation_ids
        (A,) int64, in the order of the file.
    images
        (A,) int64, the place of the image of each annotation.
    labels
        (A,) int64, 0 … C−1.
    boxes
        (A, 4) float64, ``(x, y, width, height)`` in pixels.
    areas
        (A,) float64 in pixels; NaN where the file names none.
    is_crowd
        (A,) bool: the annotation is a region with many objects.
    segmentations
        A segmentations in JSON, empty where there is none; None where the file was read without masks.
    has_empty_mask
        (A,) bool: the segmentation is an RLE without a pixel.
    federation
        What LVIS has beyond COCO; None for COCO.
    """

    source: str
    categories: list[tuple[int, str]]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    file_names: PackedBytes
    annotation_ids: NDArray[np.int64]
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    segmentations: PackedBytes | None
    has_empty_mask: NDArray[np.bool_]
    federation: Federation | None

    def __str__(self) -> str:
        return self.source

    @property
    def category_ids(self) -> list[int]:
        """C ids: label → id."""
        return [id_ for id_, _ in self.categories]

    @property
    def names(self) -> list[str]:
        """C names; categories that share one are told apart by their id: ``"cat (id 3)"``."""
        shared = Counter(name for _, name in self.categories)
        return [name if shared[name] == 1 else f"{name} (id {id_})" for id_, name in self.categories]

    def size(self, image: int) -> tuple[int, int] | None:
        """(height, width) of an image in pixels, by its place in the file; None where it is not known."""
        height, width = self.sizes[image].tolist()
        return (height, width) if height and width else None

    def name_of(self, annotation: int) -> str:
        """What messages call an annotation, by its place in the file."""
        return f"annotation {self.annotation_ids[annotation]}"

    def segmentation(self, annotation: int) -> Any:
        """The segmentation of an annotation, by its place in the file: polygons, or an object with run lengths."""
        if self.segmentations is None:
            raise ValueError(f"{self} was read without masks")
        return json.loads(self.segmentations[annotation] or "null")

    def check_categories(self, expected: Sequence[tuple[int, str]], owner: object) -> None:
        """Raise InputError, which names the differences, unless the categories are those of ``owner``."""
        if list(expected) == self.categories:
            return
        parts = [
            ", ".join(f"{number} {name!r}" for number, name in own if (number, name) not in other) + f" only in {place}"
            for own, other, place in (
                (self.categories, expected, "the first"),
                (expected, self.categories, "the second"),
            )
            if set(own) - set(other)
        ]
        raise InputError(f"{self} has other categories than {owner}: {', '.join(parts)}")
