"""A COCO annotation file and its images as a data set.

Legend: N images, A annotations, G objects of an image, C categories.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import Self

from rankdet.coco import Finding, GroundTruth, raise_errors
from rankdet.data.files import missing_files
from rankdet.data.images import MOST_MEASURED, UnreadableImageError, header, measured_bits, read_image
from rankdet.data.layouts import find_source
from rankdet.data.masks import outline, rasterize
from rankdet.data.sampling import SampleKey, repeat_factors
from rankdet.data.transforms import Placement, Transforms
from rankdet.data.usable import is_usable, left_out, unlearnable
from rankdet.structures import InputError, Outlines, Source, Target, counted

COCO_MIN_SIZE = 32
"""Images with a side below this many pixels are left out of COCO training."""


class Sample(NamedTuple):
    """One image with its objects, as it enters a batch."""

    image: Tensor
    """(3, h, w) uint8 RGB."""
    target: Target
    source: Source
    skipped: tuple[str, ...] = ()
    """Why files could not be read in whose place this image was taken, each named."""


class CocoDataset(Dataset[Sample]):
    """Images and objects of an annotation file of COCO, or of another format with the same records.

    Category ids of any kind become labels 0 … C−1 in the order of the ids. By the rules of COCO training
    (`rankdet.data.usable`) some annotations are left out of the objects: crowd regions, boxes of less than a pixel in
    width or height, boxes outside of the image, and those without area.

    Parameters
    ----------
    annotations
        The JSON file.
    images
        The folder of the images.
    transforms
        What is done to the images.
    with_masks
        Give targets the masks of their objects.
    as_outlines
        Give masks as outlines. Only for segmentations that are polygons.
    measure_masks
        Read the segmentations without giving targets masks: ``ground_truth`` is for an evaluation by masks.
    keep_empty
        Keep images without objects: True for evaluation, and for training that uses them as background; False for the
        rule of COCO training.
    min_size
        Images with a side below this many pixels are left out. None: 32 where ``keep_empty`` is False (the rule of
        COCO training), 0 elsewhere.
    skip_unreadable
        Take the next image of the same aspect group in place of one that cannot be read; ``Sample.skipped`` names
        the file. For training only.
    min_object
        Objects whose box is not wider and higher than this, in pixels of the file, are left out. Where ``keep_empty``
        is False, so are images without any other object.
    read
        Reads and checks the annotations, with masks or without: `rankdet.data.layouts.Source.read` of a source. None:
        the format of the file is recognized.
    read_pixels
        Returns the image at a place of the annotation file, (3, H, W) uint8, in place of a file in ``images``. What
        it draws from torch's random numbers follows from the seed of the key.

    Attributes
    ----------
    ground_truth
        The records of the annotation file, for evaluation. Its text form is the path of the file.
    categories
        C pairs (id, name), sorted by id.
    category_ids
        C ids: label → id.
    aspect_ratios
        (N,) float64: width / height of the images.
    image_ids
        (N,) int64: ids of the images, in the order of the file.
    findings
        What was left out or changed in reading; there are no errors among them.

    Raises
    ------
    InputError
        When a file is missing or broken or a record is wrong; the message names both, and counts the other wrong
        records. Also when an image is missing, broken or of another size than in the annotations.

    Notes
    -----
    The records are kept in a few arrays, which worker processes share, not in millions of objects, which they copy.
    Everything random in a sample comes from the seed in its key: the same key gives the same sample in any process.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        transforms: Transforms | None = None,
        *,
        with_masks: bool = False,
        as_outlines: bool = False,
        measure_masks: bool = False,
        keep_empty: bool = True,
        min_size: int | None = None,
        skip_unreadable: bool = False,
        min_object: float = 0.0,
        read: Callable[[bool], tuple[GroundTruth, list[Finding]]] | None = None,
        read_pixels: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.images = Path(images)
        self.transforms = Transforms() if transforms is None else transforms
        self.with_masks, self.as_outlines, self.skip_unreadable = with_masks, as_outlines, skip_unreadable
        self._read_pixels = read_pixels
        if read_pixels is None and not self.images.is_dir():
            raise InputError(f"{self.images}: there is no such folder of images")
        if read is None:
            read = find_source(Path(annotations), self.images).read
        self.ground_truth, findings = read(with_masks or measure_masks)
        odd = unlearnable(self.ground_truth, with_masks)
        self.findings = [*findings, *odd]
        raise_errors(self.findings)
        self.categories, self.category_ids = self.ground_truth.categories, self.ground_truth.category_ids
        self._min_size = (0 if keep_empty else COCO_MIN_SIZE) if min_size is None else min_size
        self._is_usable = is_usable(self.ground_truth, min_object, with_masks)
        is_kept = self.ground_truth.sizes.min(axis=1) >= self._min_size
        if not keep_empty:
            is_kept[np.bincount(self.ground_truth.images[self._is_usable], minlength=len(is_kept)) == 0] = False
        self._keep(is_kept)
        if with_masks and as_outlines:
            self._check_outlines()
        self.ground_truth.forget()  # of all that was looked at little is needed again soon
        if not len(self):
            problem, reasons = "no image is left to learn from", self.omissions()
            if not self._is_usable.any():  # no field that keeps empty images would help
                problem, reasons = "no image has an object to learn from", [why.partition(";")[0] for why in reasons]
            error = Finding("error", str(self.ground_truth), "", problem, ", ".join(reasons) or "there is none")
            raise_errors([*self.findings, error])

    def _keep(self, is_kept: NDArray[np.bool_]) -> None:
        """Keep the places of N images, and of their usable annotations, image by image."""
        truth = self.ground_truth
        self._images = np.flatnonzero(is_kept)
        rows = np.flatnonzero(self._is_usable & is_kept[truth.images])
        self._objects = rows[np.argsort(truth.images[rows], kind="stable")]
        counts = np.bincount(truth.images[rows], minlength=len(truth.image_ids))
        self._ends = np.concatenate([[0], np.cumsum(counts[self._images])])
        self.image_ids = truth.image_ids[self._images]
        self.aspect_ratios = truth.sizes[self._images, 1] / truth.sizes[self._images, 0]

    def _check_outlines(self) -> None:
        truth, problem = self.ground_truth, "has an RLE, but outlines are asked for, which need polygons"
        remedy = "data.mask_outlines=false takes both"
        raise_errors(
            Finding("error", truth.source, truth.name_of(row), problem, "", remedy)
            for row in self._objects.tolist()
            if not isinstance(truth.segmentation(row), list)
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def with_transforms(self, transforms: Transforms) -> Self:
        """The same images and objects, prepared in another way."""
        changed = copy(self)
        changed.transforms = transforms
        return changed

    def with_categories(
        self, expected: Sequence[tuple[int, str]], owner: object, only_common: bool = False
    ) -> tuple[Self, list[Finding]]:
        """The same images with the labels of ``expected``, the classes of ``owner``, matched by name.

        Returns what there is to say as well; with an error among it, the data set is unchanged. See
        `rankdet.coco.GroundTruth.with_categories`. With ``only_common`` objects of other classes are left out with a
        warning; that no class is in common remains an error.
        """
        truth, findings = self.ground_truth.with_categories(expected, owner)
        names = {name for _, name in expected}
        others = {f"category {id_}" for id_, name in self.categories if name not in names}
        if only_common and len(others) < len(self.categories):
            findings = [
                finding._replace(severity="warning", problem=f"{finding.problem}: its objects are left out", remedy="")
                if finding.severity == "error" and finding.record in others
                else finding
                for finding in findings
            ]
        if any(finding.severity == "error" for finding in findings):
            return self, findings
        changed = copy(self)
        changed.ground_truth, changed.categories, changed.category_ids = truth, truth.categories, truth.category_ids
        changed._is_usable = self._is_usable[np.isin(self.ground_truth.places, truth.places)]
        changed._keep(np.isin(np.arange(len(truth.image_ids)), self._images))
        return changed, findings

    def without(self, indices: Sequence[int] | NDArray[np.int64]) -> Self:
        """The same data set without some images, by their index."""
        is_kept = np.zeros(len(self.ground_truth.image_ids), dtype=bool)
        is_kept[np.delete(self._images, indices)] = True
        changed = copy(self)
        changed._keep(is_kept)
        return changed

    @property
    def num_objects(self) -> int:
        """Objects in all images."""
        return len(self._objects)

    def omissions(self) -> list[str]:
        """What the annotation file has and this data set has not: how much, why, and the field that keeps it."""
        truth = self.ground_truth
        is_out = np.ones(len(truth.image_ids), dtype=bool)
        is_out[self._images] = False
        is_small = is_out & (truth.sizes.min(axis=1) < self._min_size)
        is_empty = is_out & (np.bincount(truth.images[self._is_usable], minlength=len(is_out)) == 0) & ~is_small
        keeps = "; data.keep_empty=true keeps {}"
        rows = [
            ("image", f"with a side below {self._min_size} pixels{keeps}", is_small),
            ("image", f"without objects{keeps}", is_empty),
            ("image", "whose file is missing", is_out & ~is_small & ~is_empty),
        ]
        is_told = self._is_usable
        for reason, are_out in left_out(truth, self.with_masks).items():
            rows.append(("annotation", reason, are_out & ~is_told))
            is_told = is_told | are_out
        rows += [
            ("annotation", "too small for data.min_object", ~is_told),
            ("annotation", "broken, as warnings say", np.ones(truth.num_left_out, dtype=bool)),
            ("object", "in images that are left out", self._is_usable & is_out[truth.images]),
        ]
        counts = [(int(are_out.sum()), noun, why) for noun, why, are_out in rows]
        return [
            f"{counted(count, noun)} {why.format('it' if count == 1 else 'them')}"
            for count, noun, why in counts
            if count
        ]

    def repeats(self, threshold: float) -> NDArray[np.int64]:
        """(N,) how often each image is in an epoch so that rare classes are seen: ⌈r(I)⌉ of `repeat_factors`."""
        images = np.repeat(np.arange(len(self)), np.diff(self._ends))
        labels = self.ground_truth.labels[self._objects]
        return np.ceil(repeat_factors(images, labels, len(self), threshold)).astype(np.int64)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.images / self.ground_truth.file_names[int(self._images[index])].decode()

    def missing_files(self) -> list[int]:
        """The indices of images whose file is missing; none where the data set reads no files."""
        if self._read_pixels is not None:
            return []
        return missing_files(self.images, (self.ground_truth.file_names[int(place)].decode() for place in self._images))

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image in pixels, from the annotation file."""
        height, width = self.ground_truth.sizes[self._images[index]].tolist()
        return height, width

    def prepared_size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image in pixels as it enters a batch, where nothing about that is random."""
        resize = self.transforms.resize
        return self.size(index) if resize is None else resize.size(self.size(index))

    def with_bits(self, stated: int | None) -> Self:
        """The same images, those of 16 bits scaled by the bits that they use, and with findings that tell so.

        Parameters
        ----------
        stated
            How many bits they use; None: what `rankdet.data.images.measured_bits` finds.
        """
        few = range(0, len(self), max(1, math.ceil(len(self) / MOST_MEASURED)))
        found = None if self._read_pixels is not None else measured_bits([self.path(index) for index in few])
        if found is None:
            return self.with_transforms(replace(self.transforms, significant_bits=stated or 16))
        changed = self.with_transforms(replace(self.transforms, significant_bits=stated or found[0]))
        changed.findings = [*self.findings, _of_bits(str(self.ground_truth), stated, *found)]
        return changed

    def check_readable(self) -> None:
        """Raise InputError where no image file can be read and has the annotated size; only headers are looked at."""
        if self._read_pixels is not None:
            return
        reason = ""
        for index in range(len(self)):
            try:
                header(self.path(index)).check_size(self.size(index), self.path(index))
            except InputError as error:
                reason = reason or str(error)
            else:
                return
        raise InputError(f"none of {len(self)} images of {self.images} can be read, the first: {reason}")

    def __getitem__(self, key: SampleKey) -> Sample:
        index, pixels, skipped = self._read(key)
        objects = self._objects[self._ends[index] : self._ends[index + 1]]
        left_top, sides = np.split(self.ground_truth.boxes[objects], 2, axis=1)
        boxes = torch.from_numpy(np.concatenate([left_top, left_top + sides], axis=1)).float()
        with _seeded(key.seed):
            placement = self.transforms.place(self.size(index), boxes)
            pixels = self.transforms.recolored(pixels)
        source = Source(int(self.image_ids[index]), str(self.path(index)), self.size(index))
        return Sample(placement.image(pixels), self._target(objects, boxes, placement), source, skipped)

    def _read(self, key: SampleKey) -> tuple[int, Tensor, tuple[str, ...]]:
        """The image, or the next readable one of its aspect group: its index, its pixels, the skipped files."""
        index = key.index
        if self._read_pixels is not None:
            with _seeded(key.seed):
                return index, self._read_pixels(int(self._images[index])), ()
        if not self.skip_unreadable:
            return index, self._image(index), ()
        skipped: list[str] = []
        is_landscape = self.aspect_ratios[index] >= 1
        for candidate in ((index + step) % len(self) for step in range(len(self))):
            if (self.aspect_ratios[candidate] >= 1) != is_landscape:
                continue
            try:  # an image of a wrong size is a mistake of the annotations: it is never skipped
                return candidate, self._image(candidate), tuple(skipped)
            except UnreadableImageError as error:
                skipped.append(str(error))
        raise InputError(f"none of {len(skipped)} images of {self.images} can be read, the first: {skipped[0]}")

    def _image(self, index: int) -> Tensor:
        size, transforms = self.size(index), self.transforms
        return read_image(self.path(index), size, transforms.significant_bits, transforms.decoded_size(size))

    def _target(self, objects: NDArray[np.int64], boxes: Tensor, placement: Placement) -> Target:
        placed = placement.boxes(boxes)
        # Clipping, or shrinking far, may leave nothing of a box, and a crop leaves objects out.
        kept = (placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1]) & placement.shows(boxes)
        masks: Tensor | Outlines | None = None
        if self.with_masks:
            segmentations = [self.ground_truth.segmentation(row) for row in objects[kept.numpy()].tolist()]
            masks = outline(segmentations, placement) if self.as_outlines else _masks(segmentations, placement)
        return Target(placed[kept], torch.from_numpy(self.ground_truth.labels[objects])[kept], masks)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of the CPU follow from the seed inside, and go on as before at the end."""
    # Not torch.manual_seed: it seeds GPUs as well, from which a training draws, and takes a fourth of a small sample.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _of_bits(file: str, stated: int | None, bits: int, largest: int) -> Finding:
    """What is told of images of 16 bits that use ``bits`` of them, with values up to ``largest``."""
    detail, remedy = f"values up to {largest} in those looked at", f"data.significant_bits={bits} fits"
    if stated is None:
        problem = f"has images of 16 bits that use {bits}, of which the upper eight are kept"
        return Finding("note", file, "", problem, detail, "data.significant_bits=16 takes them for 16 bits")
    if largest >= 1 << stated:
        problem = f"has images of 16 bits with values beyond data.significant_bits={stated}, which become white"
        return Finding("warning", file, "", problem, detail, remedy)
    if largest < 1 << (stated - 3):
        problem = f"has dark images of 16 bits: they use less than an eighth of data.significant_bits={stated}"
        return Finding("warning", file, "", problem, detail, remedy)
    problem = f"has images of 16 bits that count as {stated}, of which the upper eight are kept"
    return Finding("note", file, "", problem, detail)


def _masks(segmentations: Sequence[Any], placement: Placement) -> Tensor:
    """(G, height, width) bool."""
    masks = torch.zeros(len(segmentations), *placement.after, dtype=torch.bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        mask.copy_(rasterize(segmentation, placement))
    return masks
