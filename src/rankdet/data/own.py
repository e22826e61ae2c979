"""A data set of the caller's, such as torchvision's are, as one of this package.

Legend: N images, G objects of an image, C classes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from rankdet.coco import Finding, GroundTruth, encode_bitmap, read_ground_truth
from rankdet.data.dataset import CocoDataset
from rankdet.data.pixels import to_pixels
from rankdet.data.transforms import Transforms
from rankdet.structures import InputError


class MapDataset(Protocol):
    """What a caller brings: images and targets by index."""

    def __len__(self) -> int:
        """The number of images N."""
        ...

    def __getitem__(self, index: int) -> tuple[Any, Mapping[str, Any]]:
        """An image, as `rankdet.data.pixels.to_pixels` takes it, and its objects.

        The objects are ``boxes`` (G, 4), xyxy in pixels, and ``labels`` (G,), 0 … C−1. Optional are ``masks``
        (G, H, W), ``iscrowd`` (G,) and ``image_id``. Objects and size must be the same each time; the image may vary.
        """
        ...


def from_map_dataset(
    dataset: MapDataset,
    name: str,
    classes: Sequence[str] | None = None,
    transforms: Transforms | None = None,
    *,
    with_masks: bool = False,
    measure_masks: bool = False,
    keep_empty: bool = True,
    min_object: float = 0.0,
) -> CocoDataset:
    """Prepare the images and objects of a caller's data set like those of an annotation file.

    Every item is looked at once: its size and objects decide how images are sampled, and a mistake is found before
    training begins. Objects are kept, images are taken anew each time.

    Parameters
    ----------
    dataset
        The caller's. What it draws from torch's random numbers is reproducible.
    name
        What messages call it.
    classes
        C names, by label; None: the attribute ``classes`` of the data set.
    transforms, with_masks, measure_masks, keep_empty, min_object
        See `CocoDataset`.

    Returns
    -------
    CocoDataset
        The ids of its categories are 1 … C.

    Raises
    ------
    InputError
        When there are no class names, or an image or target has another form; names the item.
    """
    names = getattr(dataset, "classes", None) if classes is None else classes
    if not names or isinstance(names, str) or not all(isinstance(entry, str) for entry in names):
        raise InputError(f"{name}: give the names of the classes, as its attribute classes or by classes=[...]")
    masks = with_masks or measure_masks
    records = _scan(dataset, name, list(names), masks)

    def read(*_: object) -> tuple[GroundTruth, list[Finding]]:
        truth, findings = read_ground_truth(records, files=True, masks=masks)
        return replace(truth, source=name), [finding._replace(file=name) for finding in findings]

    return CocoDataset(
        name,
        name,
        transforms,
        with_masks=with_masks,
        measure_masks=measure_masks,
        keep_empty=keep_empty,
        min_object=min_object,
        read=read,
        read_pixels=_Pixels(dataset, name, [(image["height"], image["width"]) for image in records["images"]]),
    )


@dataclass(frozen=True)
class _Pixels:
    """The images of a caller's data set; a class, so that worker processes of any kind can take it."""

    dataset: MapDataset
    name: str
    sizes: list[tuple[int, int]]

    def __call__(self, index: int) -> Tensor:
        where = f"{self.name}[{index}]"
        pixels = to_pixels(self.dataset[index][0], where, upright=False)
        height, width = self.sizes[index]
        found = f"{pixels.shape[1]} × {pixels.shape[2]} pixels"
        if tuple(pixels.shape[1:]) != (height, width):
            raise InputError(f"{where}: the image has {found}, and had {height} × {width} before")
        return pixels


def _scan(dataset: MapDataset, name: str, classes: Sequence[str], masks: bool) -> dict[str, Any]:
    """The images, categories and annotations in the form of a COCO file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    if not len(dataset):
        raise InputError(f"{name} has no images")
    for index in track(range(len(dataset)), escape(f"Reading {name}"), transient=True):
        where = f"{name}[{index}]"
        try:
            item = dataset[index]
        except Exception as error:
            if sys.version_info >= (3, 11):
                error.add_note(f"raised by {where}")
            raise
        if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[1], Mapping):
            raise InputError(f"{where}: is no pair of an image and a target, the target a mapping")
        height, width = to_pixels(item[0], where, upright=False).shape[1:]  # boxes are of the image as it is given
        image_id = int(item[1].get("image_id", index + 1))
        images.append({"id": image_id, "file_name": str(index), "height": height, "width": width})
        objects = _objects(item[1], where, (height, width), len(classes), masks)
        for row, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
            record = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": int(objects.labels[row]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": int(objects.is_crowd[row]),
            }
            if objects.masks is not None:
                mask = objects.masks[row]
                record |= {"segmentation": encode_bitmap(mask.numpy()), "area": int(mask.sum())}
            annotations.append(record)
    categories = [{"id": label + 1, "name": class_name} for label, class_name in enumerate(classes)]
    return {"images": images, "categories": categories, "annotations": annotations}


class _Objects(NamedTuple):
    boxes: Tensor
    labels: Tensor
    is_crowd: Tensor
    masks: Tensor | None


def _objects(
    target: Mapping[str, Any], where: str, size: tuple[int, int], num_classes: int, with_masks: bool
) -> _Objects:
    for field in ("boxes", "labels", *(["masks"] if with_masks else [])):
        if field not in target:
            raise InputError(f"{where}: the target has no {field}")
    boxes, labels = (torch.as_tensor(target[field]).as_subclass(Tensor) for field in ("boxes", "labels"))
    if not labels.numel():
        boxes, labels = boxes.reshape(-1, 4), labels.long()  # an empty list has no shape and type of its own
    if boxes.ndim != 2 or boxes.shape[1] != 4 or labels.shape != boxes.shape[:1]:
        raise InputError(
            f"{where}: boxes of shape {tuple(boxes.shape)} and labels of shape {tuple(labels.shape)}, not (G, 4) and "
            "(G,) for G objects"
        )
    if labels.is_floating_point():
        raise InputError(f"{where}: labels of {labels.dtype}, not of whole numbers")
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise InputError(
            f"{where}: labels from {int(labels.min())} to {int(labels.max())}; those of {num_classes} classes go from "
            f"0 to {num_classes - 1}, the places in the names of the classes"
        )
    boxes = boxes.double()
    if not boxes.isfinite().all() or (boxes[:, 2:] < boxes[:, :2]).any():
        raise InputError(f"{where}: boxes must be (x1, y1, x2, y2) in pixels, finite, with x1 ≤ x2 and y1 ≤ y2")
    is_crowd = torch.as_tensor(target.get("iscrowd", torch.zeros(len(boxes)))).bool().reshape(-1)
    masks = None
    if with_masks:
        masks = torch.as_tensor(target["masks"]).bool().as_subclass(Tensor)
        if tuple(masks.shape) != (len(boxes), *size):
            raise InputError(f"{where}: masks of shape {tuple(masks.shape)}, not {(len(boxes), *size)}")
    return _Objects(boxes, labels, is_crowd, masks)
