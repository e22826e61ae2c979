"""A COCO annotation file and its images as a data set.

Legend: N images, A annotations, G objects of an image, C categories.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rankdet.data.images import decode, fit, read_image
from rankdet.data.masks import outline, rasterize
from rankdet.data.packed import PackedBytes
from rankdet.data.records import ReadRecords, Records, raise_errors, read_records
from rankdet.data.sampling import SampleKey, repeat_factors
from rankdet.data.transforms import Placement, Transforms
from rankdet.structures import InputError, Outlines, Source, Target

COCO_MIN_SIZE = 32


class Sample(NamedTuple):
    """One image with its objects, as it enters a batch."""

    image: Tensor
    """(3, h, w) uint8 RGB."""
    target: Target
    source: Source
    skipped: tuple[str, ...] = ()
    """Files that could not be decoded and that this image stands in for."""


class CocoDataset(Dataset[Sample]):
    """Images and objects of an annotation file of COCO, or of another format with the same records.

    Category ids of any kind become labels 0 … C−1 in the order of the ids. Crowd regions are never among the objects,
    and neither are annotations with a box of less than a pixel in width or height, without area, or outside of the
    image (the rules of COCO training).

    Parameters
    ----------
    annotations
        The JSON file.
    images
        The folder of the images.
    transforms
        What is done to the images.
    with_masks
        Read the segmentations too.
    as_outlines
        Hand masks as outlines. Only for segmentations that are polygons.
    keep_empty
        Keep images without objects: True for evaluation, and for training that shall see them; False for the rule of
        COCO training.
    min_size
        Images with a side below this many pixels are dropped. None: 32 where ``keep_empty`` is False (the rule of
        COCO training), 0 elsewhere.
    skip_unreadable
        In place of an image that cannot be decoded take the next one of the same aspect group; ``Sample.skipped``
        names the file. For training only.
    min_object
        Objects whose box is not wider and higher than this, in pixels of the file, are left out; so are images that
        lose all of theirs by it, where ``keep_empty`` is False.
    drop_degenerate
        Drop boxes of zero width or height, and count them in ``num_degenerate``, instead of stopping.
    read
        Reads and checks the annotation file: `rankdet.data.records.read_records`, or that of another format.

    Attributes
    ----------
    categories
        C pairs (id, name), sorted by id.
    category_ids
        C ids: label → id.
    aspect_ratios
        (N,) float64: width / height of the images.
    image_ids
        (N,) int64: ids of the images, in the order of the file.
    ground_truth
        Path of the annotation file, for evaluation.
    num_degenerate
        Boxes of zero width or height that were dropped.

    Raises
    ------
    InputError
        When a file is missing or broken or a record is wrong; the message names both, and says how many more there
        are. Also when an image is missing, broken or of another size than the annotations say.

    Notes
    -----
    The records are kept in a few arrays, which worker processes share, not in millions of objects, which they copy.
    Everything random in a sample comes from the seed in its key: the same key gives the same sample in any process.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        transforms: Transforms | None = None,
        *,
        with_masks: bool = False,
        as_outlines: bool = False,
        keep_empty: bool = True,
        min_size: int | None = None,
        skip_unreadable: bool = False,
        drop_degenerate: bool = False,
        min_object: float = 0.0,
        read: ReadRecords = read_records,
    ) -> None:
        self.ground_truth, self.images = Path(annotations), Path(images)
        self.transforms = Transforms() if transforms is None else transforms
        self.with_masks, self.as_outlines, self.skip_unreadable = with_masks, as_outlines, skip_unreadable
        if not self.images.is_dir():
            raise InputError(f"{self.images}: there is no such folder of images")
        records, findings = read(self.ground_truth, with_masks, drop_degenerate)
        raise_errors(findings)
        self.num_degenerate = len(findings)
        self.categories = records.categories
        self.category_ids = [category_id for category_id, _ in records.categories]
        if min_size is None:
            min_size = 0 if keep_empty else COCO_MIN_SIZE
        self._pack(records, keep_empty, min_size, min_object)
        if not len(self):
            raise InputError(f"{self.ground_truth}: no image is left: none has a usable annotation and the size asked")

    def _pack(self, records: Records, keep_empty: bool, min_size: int, min_object: float) -> None:
        labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
        image_ids, names, sizes, ends = [], [], [], [0]
        boxes, object_labels, segmentations = [], [], []
        for image_id, image in records.images.items():
            height, width = image["height"], image["width"]
            usable = [
                row
                for row in records.annotations[image_id]
                if _is_usable(row, height, width) and min(row["bbox"][2:]) > min_object
            ]
            if min(height, width) < min_size or not (usable or keep_empty):
                continue
            image_ids.append(image_id)
            names.append(image["file_name"].encode())
            sizes.append((height, width))
            ends.append(ends[-1] + len(usable))
            for row in usable:
                x, y, w, h = row["bbox"]
                boxes.append((x, y, x + w, y + h))
                object_labels.append(labels[row["category_id"]])
                if self.with_masks:
                    if self.as_outlines and not isinstance(row["segmentation"], list):
                        raise InputError(
                            f"{self.ground_truth}: annotation {row['id']}: has an RLE, but outlines are asked for, "
                            "which need polygons"
                        )
                    segmentations.append(json.dumps(row["segmentation"], separators=(",", ":")).encode())
        self.image_ids = np.array(image_ids, dtype=np.int64)
        self._names = PackedBytes(names)
        self._sizes = np.array(sizes, dtype=np.int32).reshape(-1, 2)
        self.aspect_ratios = self._sizes[:, 1] / self._sizes[:, 0]
        self._ends = np.array(ends, dtype=np.int64)
        self._boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        self._labels = np.array(object_labels, dtype=np.int64)
        self._segmentations = PackedBytes(segmentations)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_objects(self) -> int:
        """Objects in all images."""
        return len(self._labels)

    def repeats(self, threshold: float) -> NDArray[np.int64]:
        """(N,) how often each image is in an epoch for rare classes to be seen: ⌈r(I)⌉ of `repeat_factors`."""
        images = np.repeat(np.arange(len(self)), np.diff(self._ends))
        return np.ceil(repeat_factors(images, self._labels, len(self), threshold)).astype(np.int64)

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.images / self._names[index].decode()

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of an image in pixels, as the annotation file says."""
        height, width = self._sizes[index].tolist()
        return height, width

    def __getitem__(self, key: SampleKey) -> Sample:
        index, pixels, skipped = self._read(key.index)
        boxes = torch.from_numpy(self._boxes[self._rows(index)].copy())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key.seed)
            placement = self.transforms.place(self.size(index), boxes)
            pixels = self.transforms.recolored(pixels)
        source = Source(int(self.image_ids[index]), str(self.path(index)), self.size(index))
        return Sample(placement.image(pixels), self._target(index, boxes, placement), source, skipped)

    def _read(self, index: int) -> tuple[int, Tensor, tuple[str, ...]]:
        """The image, or the next readable one of its aspect group: its index, its pixels, the files passed over."""
        if not self.skip_unreadable:
            return index, read_image(self.path(index), self.size(index)), ()
        skipped: list[str] = []
        is_landscape = self.aspect_ratios[index] >= 1
        for candidate in ((index + step) % len(self) for step in range(len(self))):
            if (self.aspect_ratios[candidate] >= 1) != is_landscape:
                continue
            path = self.path(candidate)
            try:
                pixels = decode(path)
            except InputError:
                skipped.append(str(path))
            else:  # an image of a wrong size is a mistake of the annotations: it is never passed over
                return candidate, fit(pixels, path, self.size(candidate)), tuple(skipped)
        raise InputError(f"{self.images}: none of {len(skipped)} images can be decoded, the first is {skipped[0]}")

    def _rows(self, index: int) -> slice:
        return slice(int(self._ends[index]), int(self._ends[index + 1]))

    def _target(self, index: int, boxes: Tensor, placement: Placement) -> Target:
        rows = self._rows(index)
        placed = placement.boxes(boxes)
        # Clipping, or shrinking far, may leave nothing of a box, and a crop leaves objects out.
        kept = (placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1]) & placement.shows(boxes)
        masks: Tensor | Outlines | None = None
        if self.with_masks:
            chosen = torch.nonzero(kept).squeeze(1) + rows.start
            segmentations = [json.loads(self._segmentations[row]) for row in chosen.tolist()]
            masks = outline(segmentations, placement) if self.as_outlines else _masks(segmentations, placement)
        return Target(placed[kept], torch.from_numpy(self._labels[rows].copy())[kept], masks)


def _masks(segmentations: Sequence[Any], placement: Placement) -> Tensor:
    """(G, height, width) bool."""
    masks = torch.zeros(len(segmentations), *placement.after, dtype=torch.bool)
    for mask, segmentation in zip(masks, segmentations, strict=True):
        mask.copy_(rasterize(segmentation, placement))
    return masks


def _is_usable(annotation: Mapping[str, Any], height: int, width: int) -> bool:
    """Whether a detector shall learn from the annotation: the rules of COCO training, spec 2.7."""
    x, y, w, h = annotation["bbox"]
    return (
        not annotation.get("iscrowd", 0)
        and w >= 1
        and h >= 1
        and annotation.get("area", w * h) > 0
        and min(x + w, width) > max(x, 0)
        and min(y + h, height) > max(y, 0)
    )
