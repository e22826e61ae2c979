"""What a benchmark knows of a detector of another framework."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from torch import Tensor, nn
from torchvision.ops import box_convert

from rankdet.adapters.calibration import Matches, logits_of, match
from rankdet.backbones import TimmBackbone
from rankdet.recipes.library.bccd import LITE0
from rankdet.structures import Batch, Detection, Images

CLASSES = 80
"""Classes of the large detectors, as COCO has them."""


class Detector(Protocol):
    """A detector of another framework, with its own loss until :meth:`use_rank_sort`.

    Attributes
    ----------
    network
        What is trained.
    threshold
        The score from which the framework keeps detections by default.
    """

    network: nn.Module
    threshold: float

    def use_rank_sort(self, boxes: Literal["theirs", "balanced"]) -> None:
        """Learn by Rank & Sort Loss from now on, by the adapter of the framework."""

    def loss(self, batch: Batch) -> Tensor:
        """What is minimized, of a network in training mode."""

    def detect(self, images: Images) -> list[Detection]:
        """The framework's own detections of each image, at any score until :meth:`calibrate`, then by default."""

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Make the default threshold fit, by the adapter of the framework."""


class Family(NamedTuple):
    """A kind of detector in two sizes, and how its framework trains it.

    small
        Makes one for a CPU from the number of classes, (height, width) of all images in pixels, and whether the
        backbone is pretrained.
    large
        Makes one of the usual size, of 80 classes, with random weights, for images of (height, width) in pixels.
    rates
        Learning rates to choose from.
    clip
        The largest norm of the gradient of all weights.
    forms
        The forms that the adapter offers.
    """

    small: Callable[[int, tuple[int, int], bool], Detector]
    large: Callable[[tuple[int, int]], Detector]
    rates: tuple[float, ...]
    clip: float
    forms: tuple[str, ...] = ("theirs", "rs", "rs-balanced")


def lite0(pretrained: bool) -> TimmBackbone:
    """EfficientNet-Lite0 with maps of strides 8, 16 and 32, as in the recipes; ImageNet weights from a package."""
    backbone: TimmBackbone = LITE0.build(pretrained)
    return backbone


def smallest_anchor(size: tuple[int, int]) -> int:
    """Side of the smallest anchors for images of (height, width): the power of two up to an eighth of the shorter.

    >>> smallest_anchor((288, 384)), smallest_anchor((128, 128))
    (32, 16)
    """
    return 1 << (min(size) // 8).bit_length() - 1


def normalized(images: Images) -> Tensor:
    """Pixels (B, 3, H, W) in −1 … 1, as the backbone was pretrained."""
    return images.pixels / 127.5 - 1


def relative_boxes(batch: Batch) -> list[Tensor]:
    """Boxes (n, 4) of the objects of each image as DETRs take them: center and size, relative to the image."""
    found = []
    for target, (height, width) in zip(batch.targets, batch.images.sizes, strict=True):
        relative = target.boxes / target.boxes.new_tensor([width, height, width, height])
        found.append(box_convert(relative, "xyxy", "cxcywh"))
    return found


def matches(detect: Callable[[Images], list[Detection]], batches: Iterable[Batch]) -> Iterator[Matches]:
    """Detections beside objects, for the calibration of frameworks whose adapter has none."""
    for batch in batches:
        for found, target in zip(detect(batch.images), batch.targets, strict=True):
            yield match(found.boxes, logits_of(found.scores), found.labels, target.boxes, target.labels)
