"""A part of the training images that is held out to evaluate on, where a data set has no split for that.

Legend: N images, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from rankdet.coco import GroundTruth
from rankdet.data.layouts.source import Source
from rankdet.structures import InputError


def held_out(source: Source, fraction: float) -> tuple[Source, Source]:
    """The part of a source to learn from, and the other part, to evaluate on.

    ``fraction`` is that of the images to evaluate on. The choice follows from the file names and the objects alone:
    neither the order of the file nor a seed of the training changes it, so that all trainings on a data set are
    compared on the same images.
    """
    parts = [replace(source, part=_Part(fraction, is_validation)) for is_validation in (False, True)]
    return parts[0], parts[1]


@dataclass(frozen=True)
class _Part:
    """Chooses images of a file; parts compare by value, as the sources that have them do."""

    fraction: float
    is_validation: bool

    def __call__(self, truth: GroundTruth) -> NDArray[np.bool_]:
        return choose_validation(truth, self.fraction) == self.is_validation


def choose_validation(truth: GroundTruth, fraction: float) -> NDArray[np.bool_]:
    """(N,) bool: the images to evaluate on, so many of each class as the fraction says.

    Classes are taken from the rarest to the most frequent, as in iterative stratification (Sechidis, Tsoumakas,
    Vlahavas, "On the Stratification of Multi-label Data", ECML PKDD 2011). Of the images of a class, those whose names
    have the smallest hashes are chosen. The only image of a class is learned from; of every other class some image is
    evaluated on too, unless each of them is the only one of another class. Images without objects are divided alike.

    Raises
    ------
    InputError
        When there is only one image.
    """
    num_images = len(truth.image_ids)
    if num_images < 2:
        raise InputError(f"{truth}: data.validation_fraction divides images, and there is only {num_images}")
    names = [truth.file_names[place] for place in range(num_images)]
    order = sorted(range(num_images), key=lambda place: (blake2b(names[place]).digest(), names[place]))
    labels_of = _labels(truth)
    images_of: dict[int, list[int]] = {}
    for place in order:
        for label in labels_of[place]:
            images_of.setdefault(label, []).append(place)
    chosen = _Chosen(labels_of)
    decided: set[int] = set()
    for label in sorted(images_of, key=lambda label: (len(images_of[label]), truth.categories[label][1])):
        own = images_of[label]
        wanted = min(max(1, round(fraction * len(own))), len(own) - 1)
        chosen.take([place for place in own if place not in decided], label, wanted)
        decided.update(own)
    for label, own in images_of.items():  # what rarer classes decided may have left none for a frequent one
        chosen.take(own, label, 1)
    empty = [place for place in order if not labels_of[place]]
    chosen.places.update(empty[: round(fraction * len(empty))])
    if not chosen.places:  # each image is the only one of some class
        chosen.places.add(order[0])
    is_chosen = np.zeros(num_images, dtype=bool)
    is_chosen[list(chosen.places)] = True
    return is_chosen


class _Chosen:
    """The images to evaluate on that are chosen so far; no class loses its last image to learn from."""

    def __init__(self, labels_of: Sequence[set[int]]) -> None:
        self._labels_of = labels_of
        self._left = Counter(label for labels in labels_of for label in labels)
        self._counts: Counter[int] = Counter()
        self.places: set[int] = set()

    def take(self, places: Sequence[int], label: int, wanted: int) -> None:
        """Choose among images until so many of the class are chosen as are wanted, if that can be."""
        for place in places:
            if self._counts[label] >= wanted:
                return
            labels = self._labels_of[place]
            if place not in self.places and all(self._left[other] > 1 for other in labels):
                self.places.add(place)
                self._counts.update(labels)
                self._left.subtract(labels)


def _labels(truth: GroundTruth) -> list[set[int]]:
    """N sets of labels: the classes whose objects, not crowds, are in each image."""
    labels_of: list[set[int]] = [set() for _ in truth.image_ids]
    is_object = ~truth.is_crowd
    for image, label in zip(truth.images[is_object].tolist(), truth.labels[is_object].tolist(), strict=True):
        labels_of[image].add(label)
    return labels_of
