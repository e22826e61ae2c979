"""The content of an annotation file, in a few arrays.

Legend: N images, A annotations, C categories.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rankdet.coco.findings import Finding
from rankdet.coco.packed import PackedBytes
from rankdet.coco.parsing import parsed
from rankdet.structures import InputError

if TYPE_CHECKING:
    from rankdet.coco.index import Mapped

NUM_PARSED = 1024
"""Segmentations that are parsed at a time."""
NUM_NAMES = 20
"""Classes that a message lists."""


@dataclass(frozen=True, eq=False)
class Federation:
    """What LVIS has beyond COCO: where classes were looked for, and how frequent they are in training.

    A detection counts where its class has an object in the image, or was looked for in vain (``neg_category_ids``).
    Where the objects of a class are not all annotated (``not_exhaustive_category_ids``), a detection of it that hits
    none is no mistake.

    Parameters
    ----------
    frequencies
        C times ``"r"``, ``"c"`` or ``"f"``: classes in up to 10, in 11 to 100 and in more training images; empty where
        it is not known.
    lists
        N objects in JSON with the two lists of category ids of each image.
    """

    frequencies: NDArray[np.str_]
    lists: PackedBytes

    def lists_of(self, image: int) -> dict[str, list[int]]:
        """The two lists of an image, by its place in the file."""
        lists: dict[str, list[int]] = json.loads(self.lists[image])
        return lists

    def select(self, images: Iterable[int]) -> Federation:
        """Return the lists of some images, by their places in the file."""
        return Federation(self.frequencies, self.lists.select(images))

    def with_labels(self, labels: Sequence[int | None], dropped: Container[int]) -> Federation:
        """Return the rules for other classes: entry i is the label here of their class i, None where it is new.

        Category ids that are ``dropped`` leave the lists.
        """
        frequencies = ["" if label is None else str(self.frequencies[label]) for label in labels]
        lists = self.lists
        if dropped:
            kept = (
                {key: [id_ for id_ in ids if id_ not in dropped] for key, ids in self.lists_of(image).items()}
                for image in range(len(lists))
            )
            lists = PackedBytes(json.dumps(row, separators=(",", ":")).encode() for row in kept)
        return Federation(np.array(frequencies), lists)


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
        C pairs (id, name); the place of a category is its label. Sorted by id, unless `with_categories` gave them
        another order.
    image_ids
        (N,) int64, in the order of the file.
    sizes
        (N, 2) int64, (height, width) in pixels; 0 where the file was read without.
    file_names
        N file names, or addresses; empty where an image has none.
    annotation_ids
        (A,) int64, in the order of the file, all different.
    places
        (A,) int64, the place of each annotation in the section of the file, where some were left out.
    has_new_id
        (A,) bool: the file has no id for the annotation, or had it before.
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
    is_ignored
        (A,) bool: the annotation is flagged ``ignore``. It is no object to learn from. LVIS does not measure by it,
        COCO does.
    segmentations
        A segmentations in JSON, empty where there is no sound one; None where the file was read without masks.
    has_empty_mask
        (A,) bool: the segmentation has no pixel.
    federation
        What LVIS has beyond COCO; None for COCO.
    num_left_out
        Annotations of the file that make no sense and were left out.
    mapped
        The index that columns are mapped from, which other processes then map as well; None where all are in memory.
    """

    source: str
    categories: list[tuple[int, str]]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    file_names: PackedBytes
    annotation_ids: NDArray[np.int64]
    places: NDArray[np.int64]
    has_new_id: NDArray[np.bool_]
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    is_crowd: NDArray[np.bool_]
    is_ignored: NDArray[np.bool_]
    segmentations: PackedBytes | None
    has_empty_mask: NDArray[np.bool_]
    federation: Federation | None
    num_left_out: int = 0
    mapped: Mapped | None = None

    def __getstate__(self) -> dict[str, Any]:
        """All columns but those that are mapped."""
        known = {} if self.mapped is None else self.mapped.fields
        return {name: value for name, value in self.__dict__.items() if name not in known or known[name] is not value}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        mapped = state["mapped"]
        self.__dict__.update(state if mapped is None else {**mapped.fields, **state})

    def __str__(self) -> str:
        return self.source

    def forget(self) -> None:
        """Give back the memory of columns that are mapped; what is needed of them is read again."""
        if self.mapped is not None:
            self.mapped.forget()

    def digest(self) -> str:
        """16 hexadecimal digits of what is to be found: names of images, and the class and the box of each object.

        They are the same for any order of the records, any ids of annotations, any folder of the images, and with or
        without masks. Boxes count to a hundredth of a pixel.
        """
        names, boxes = self.names, np.round(self.boxes * 100).astype(np.int64).tolist()
        of_images: list[list[bytes]] = [[] for _ in self.image_ids]
        rows = zip(self.images.tolist(), self.labels.tolist(), boxes, self.is_crowd.tolist(), strict=True)
        for image, label, box, is_crowd in rows:
            of_images[image].append(f"{names[label]} {box} {is_crowd}".encode())
        described = []
        for image, (id_, objects) in enumerate(zip(self.image_ids.tolist(), of_images, strict=True)):
            name = self.file_names[image].rpartition(b"/")[2] or str(id_).encode()
            described.append(b"\n".join([name, *sorted(objects)]))
        whole = b"\n\n".join(["\n".join(sorted(names)).encode(), *sorted(described)])
        return hashlib.sha256(whole).hexdigest()[:16]

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
        """What messages call an annotation, by its place among the A: by its id, or its place in the file."""
        if self.has_new_id[annotation]:
            return f"annotation number {self.places[annotation] + 1}"
        return f"annotation {self.annotation_ids[annotation]}"

    @property
    def has_mask(self) -> NDArray[np.bool_]:
        """(A,) bool: the annotation has a sound segmentation; False everywhere where the file was read without."""
        if self.segmentations is None:
            return np.zeros(len(self.labels), dtype=bool)
        return self.segmentations.lengths > 0

    def segmentation(self, annotation: int) -> Any:
        """The segmentation of an annotation, by its place in the file: polygons, or an object with run lengths."""
        if self.segmentations is None:
            raise ValueError(f"{self} was read without masks")
        return json.loads(self.segmentations[annotation] or "null")

    def segmentations_of(self, annotations: NDArray[np.int64]) -> Iterator[Any]:
        """The segmentations of many annotations as `segmentation` has them, None where there is no sound one."""
        if self.segmentations is None:
            raise ValueError(f"{self} was read without masks")
        for start in range(0, len(annotations), NUM_PARSED):
            texts = (self.segmentations[row] or b"null" for row in annotations[start : start + NUM_PARSED].tolist())
            yield from parsed(b"[" + b",".join(texts) + b"]")

    def subset(self, places: Sequence[int] | NDArray[np.int64]) -> GroundTruth:
        """Some of the images, by their places in the file and in this order, with their annotations.

        Raises ValueError where a place occurs twice or is none.
        """
        chosen = np.asarray(places, dtype=np.int64).reshape(-1)
        total = len(self.image_ids)
        if len(np.unique(chosen)) != len(chosen) or not np.all((chosen >= 0) & (chosen < total)):
            raise ValueError(f"places are those of different images, 0 to {total - 1}")
        new_places = np.full(total, -1, dtype=np.int64)
        new_places[chosen] = np.arange(len(chosen))
        kept = self._with_annotations(np.flatnonzero(new_places[self.images] >= 0))
        return replace(
            kept,
            image_ids=self.image_ids[chosen],
            sizes=self.sizes[chosen],
            file_names=self.file_names.select(chosen.tolist()),
            images=new_places[kept.images],
            federation=None if self.federation is None else self.federation.select(chosen.tolist()),
            num_left_out=0,  # of which images they are, nobody knows
        )

    def _with_annotations(self, rows: NDArray[np.int64]) -> GroundTruth:
        """Some of the annotations; all images stay."""
        if len(rows) == len(self.labels):  # then nothing is copied
            return self
        return replace(
            self,
            annotation_ids=self.annotation_ids[rows],
            places=self.places[rows],
            has_new_id=self.has_new_id[rows],
            images=self.images[rows],
            labels=self.labels[rows],
            boxes=self.boxes[rows],
            areas=self.areas[rows],
            is_crowd=self.is_crowd[rows],
            is_ignored=self.is_ignored[rows],
            segmentations=None if self.segmentations is None else self.segmentations.select(rows.tolist()),
            has_empty_mask=self.has_empty_mask[rows],
        )

    def with_categories(
        self, expected: Sequence[tuple[int, str]], owner: object = "the model"
    ) -> tuple[GroundTruth, list[Finding]]:
        """The same images and objects, with the labels that a model has learned: classes are matched by name.

        Ids stay those of this file, so that detections in it are written with them. A class that the file does not
        have has no objects, and its expected id, or a free one where that is taken.

        Parameters
        ----------
        expected
            C pairs (id, name), by label.
        owner
            Whose classes they are, for messages.

        Returns
        -------
        tuple[GroundTruth, list[Finding]]
            The categories are those of ``expected``, in its order. An error is found where annotations have a class
            that is not expected, and where several classes share a name and differ in their ids.

        Examples
        --------
        >>> from rankdet.coco import read_ground_truth
        >>> categories = [{"id": 0, "name": "dog"}, {"id": 1, "name": "cat"}]
        >>> truth, _ = read_ground_truth({"images": [], "annotations": [], "categories": categories})
        >>> matched, findings = truth.with_categories([(1, "cat"), (2, "dog"), (3, "cow")])
        >>> matched.categories
        [(1, 'cat'), (0, 'dog'), (3, 'cow')]
        """
        if list(expected) == self.categories:
            return self, []
        labels, findings = match_categories(self.source, self.categories, expected, str(owner))
        new_labels = np.full(len(self.categories), -1, dtype=np.int64)
        for new, old in enumerate(labels):
            if old is not None:
                new_labels[old] = new
        counts = np.bincount(self.labels, minlength=len(self.categories))
        dropped = {self.categories[old][0] for old in np.flatnonzero(new_labels < 0).tolist()}
        for old in np.flatnonzero(new_labels < 0).tolist():
            findings.append(_unexpected(self.source, self.categories[old], int(counts[old]), expected, str(owner)))
        kept = self._with_annotations(np.flatnonzero(new_labels[self.labels] >= 0))
        ids = _own_or_free_ids([None if old is None else self.categories[old][0] for old in labels], expected)
        matched = replace(
            kept,
            categories=[(id_, name) for id_, (_, name) in zip(ids, expected, strict=True)],
            labels=new_labels[kept.labels],
            federation=None if self.federation is None else self.federation.with_labels(labels, dropped),
        )
        return matched, findings

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


def match_categories(
    source: str, own: Sequence[tuple[int, str]], expected: Sequence[tuple[int, str]], owner: str
) -> tuple[list[int | None], list[Finding]]:
    """For each expected class its label in a file, None where the file does not have it, and what is to be said.

    Classes that share a name match only where their ids are the same on both sides.
    """
    ids, expected_ids = _ids_by_name(own), _ids_by_name(expected)
    labels = {id_: label for label, (id_, _) in enumerate(own)}
    found: list[int | None] = []
    findings: list[Finding] = []
    for id_, name in expected:
        here = ids.get(name, [])
        if max(len(here), len(expected_ids[name])) == 1:
            found.append(labels[here[0]] if here else None)
            if here and here[0] != id_:
                problem = f"the category has another id than that of {owner}: they are matched by name"
                findings.append(Finding("note", source, f"category {here[0]}", problem, f"{name!r} is {id_} there"))
        elif here and set(here) == set(expected_ids[name]):
            found.append(labels[id_])
        else:
            found.append(None)
            if here:
                problem = f"categories share a name and have other ids than those of {owner}: cannot be matched"
                remedy = "give each category a name of its own"
                findings.append(Finding("error", source, f"name {name!r}", problem, f"{here}", remedy))
        if not here:
            problem = f"is a class of {owner}, but no category of the file: it has no objects there"
            findings.append(Finding("note", source, f"name {name!r}", problem))
    return found, list(dict.fromkeys(findings))


def _ids_by_name(categories: Sequence[tuple[int, str]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for id_, name in categories:
        found.setdefault(name, []).append(id_)
    return found


def _unexpected(
    source: str, category: tuple[int, str], annotations: int, expected: Sequence[tuple[int, str]], owner: str
) -> Finding:
    """What is said of a class that the expected ones do not have: without annotations it does not matter."""
    id_, name = category
    if not annotations:
        problem = f"the category is no class of {owner} and has no annotations: it is left out"
        return Finding("note", source, f"category {id_}", problem, repr(name))
    names = [repr(other) for _, other in expected[:NUM_NAMES]] + (["…"] if len(expected) > NUM_NAMES else [])
    remedy = f"give the category the name of one of its classes, which are {', '.join(names)}"
    detail = f"{name!r} with {annotations} annotations"
    return Finding("error", source, f"category {id_}", f"the category is no class of {owner}", detail, remedy)


def _own_or_free_ids(ids: Sequence[int | None], expected: Sequence[tuple[int, str]]) -> list[int]:
    """The ids with one for each that is None: the expected one, or a free one where that is taken."""
    taken = {id_ for id_ in ids if id_ is not None}
    found = []
    for id_, (wanted, _) in zip(ids, expected, strict=True):
        chosen = id_
        if chosen is None:
            chosen = wanted if wanted not in taken else next(free for free in count(1) if free not in taken)
            taken.add(chosen)
        found.append(chosen)
    return found
