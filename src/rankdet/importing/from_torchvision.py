"""Older and newer names of torchvision's Faster and Mask R-CNN with ResNet and feature pyramid.

The background is class 0. The published models have one class for each of COCO's ids 1 … 90, ten of which are unused.
Anchors of a cell have the same order as here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from rankdet.backbones import FPN, CarafeFPN
from rankdet.detectors import FasterRCNN, MaskRCNN
from rankdet.recipes import Recipe
from rankdet.recipes.schema.part import Part

from .adapting import Adaptation
from .categories import COCO
from .layout import Layout
from .rules import Rule, picked, rule

BACKBONE = "backbone.body"
CLASSIFIER = "roi_heads.box_predictor.cls_score"
COCO_ROWS = 91
"""Classes of the published models: the background and the ids 1 … 90."""


NOTES = (
    "box coding and RoIAlign are those of torchvision; what is left moves results a little, AP by how much was not "
    "measured:",
    "torchvision rounds the halves of the sides of its anchors, which makes sides differ by up to 2.8 % (finest level)",
    "it divides sizes of image and map to get the stride of a level: where they are not multiples, 61 instead of 64 "
    "pixels on P6 at 800, anchors of that level lie closer together",
    "it resizes without antialiasing and rounds sides down; its published COCO weights were trained with eps 0 in "
    "batch normalization, here it is 1e-5",
)
"""Notes that the command prints."""
OTHERS = {
    "rpn.head.conv.1.0.weight": "torchvision's R-CNN v2 (batch normalization in the pyramid, two convolutions in the "
    "RPN, four in the box head)",
    "backbone.body.0.0.weight": "torchvision's R-CNN with MobileNetV3",
    "roi_heads.keypoint_predictor.kps_score_lowres.weight": "torchvision's Keypoint R-CNN",
    "head.classification_head.cls_logits.weight": "torchvision's RetinaNet or FCOS",
    "backbone.features.0.weight": "torchvision's SSD",
}
"""Tensors of torchvision's detectors without a counterpart here, and the names of those detectors."""


@dataclass(frozen=True)
class Names:
    """Names that torchvision 0.13 changed; braces hold a number."""

    pyramid: str
    rpn: str
    masks: tuple[str, ...]


OLDER = Names(
    pyramid="backbone.fpn.{}_blocks.{}",
    rpn="rpn.head.conv",
    masks=tuple(f"roi_heads.mask_head.mask_fcn{number}" for number in (1, 2, 3, 4)),
)
"""Names before 0.13, which the published files of COCO also have."""
NEWER = Names(
    pyramid="backbone.fpn.{}_blocks.{}.0",
    rpn="rpn.head.conv.0.0",
    masks=tuple(f"roi_heads.mask_head.{number}.0" for number in (0, 1, 2, 3)),
)


def faster_rcnn(detector: FasterRCNN | MaskRCNN, names: Names) -> Iterator[Rule]:
    """Yield the rules of Faster R-CNN."""
    yield rule("backbone.network", BACKBONE)
    assert isinstance(detector.fpn, FPN | CarafeFPN)  # all that recipes have
    for level in range(len(detector.fpn.laterals)):
        yield rule(f"fpn.laterals.{level}", names.pyramid.format("inner", level))
        yield rule(f"fpn.outputs.{level}", names.pyramid.format("layer", level))
    yield rule("rpn.head.convolution", names.rpn)
    yield rule("rpn.head.classifier", "rpn.head.cls_logits")
    yield rule("rpn.head.regressor", "rpn.head.bbox_pred")
    num_classes = detector.num_classes
    yield rule("rcnn.head.first", "roi_heads.box_head.fc6")
    yield rule("rcnn.head.second", "roi_heads.box_head.fc7")
    logits = partial(logits_background_last, num_classes=num_classes)
    yield rule("rcnn.head.classifier", CLASSIFIER, convert=logits)
    deltas = partial(classes_alone, num_classes=num_classes, per_class=4)
    yield rule("rcnn.head.regressor", "roi_heads.box_predictor.bbox_pred", convert=deltas)


def mask_rcnn(detector: MaskRCNN, names: Names) -> Iterator[Rule]:
    """Yield the rules of Mask R-CNN."""
    yield from faster_rcnn(detector, names)
    for number, foreign in enumerate(names.masks):
        yield rule(f"mask.head.convolutions.{number}", foreign)
    yield rule("mask.head.upsampling", "roi_heads.mask_predictor.conv5_mask")
    masks = partial(mask_classes_alone, num_classes=detector.num_classes)
    yield rule("mask.head.classifier", "roi_heads.mask_predictor.mask_fcn_logits", convert=masks)


def class_rows(num_rows: int, num_classes: int) -> list[int]:
    """Return the rows of the classes among ``num_rows``, of which the first is the background.

    Examples
    --------
    >>> class_rows(4, 3)
    [1, 2, 3]
    >>> class_rows(91, 80)[11:13]  # "fire hydrant" is 11, "stop sign" 13
    [13, 14]
    """
    if num_rows == COCO_ROWS and num_classes == len(COCO):
        return [number for number, _ in COCO]
    return list(range(1, num_rows))


def classes_alone(tensor: Tensor, num_classes: int, per_class: int = 1) -> Tensor:
    """Drop the background and unused classes: (R · k, …) → (C · k, …), with ``k = per_class``."""
    return picked(tensor, class_rows(len(tensor) // per_class, num_classes), per_class)


def logits_background_last(tensor: Tensor, num_classes: int) -> Tensor:
    """Drop unused classes and move the background to the end: (R, …) → (C + 1, …)."""
    return picked(tensor, [*class_rows(len(tensor), num_classes), 0])


def mask_classes_alone(tensor: Tensor, num_classes: int) -> Tensor:
    """Drop the background and unused classes: (R, channels, 1, 1) → (C, channels), or for a bias (R,) → (C,)."""
    classes = classes_alone(tensor, num_classes)
    return classes.flatten(1) if classes.ndim > 1 else classes


def num_classes(tensors: Mapping[str, Tensor], detector: Part, num_categories: int | None) -> int:
    """Return C: 80 for 91 rows, unless there are known to be 90 categories."""
    rows = len(tensors[f"{CLASSIFIER}.bias"])
    return len(COCO) if rows == COCO_ROWS and num_categories != rows - 1 else rows - 1


def adapt(adaptation: Adaptation, recipe: Recipe, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Record changes of the RoIs, which are read as by torchvision."""
    adaptation.notes += NOTES
    adaptation.change("detector.rcnn.half_pixel_shift", False)
    adaptation.change("detector.rcnn.sampling_ratio", 2)


LAYOUTS = tuple(
    layout
    for names in (NEWER, OLDER)
    for layout in (
        Layout(
            family="mask_rcnn",
            marks=(f"{names.rpn}.bias", f"{CLASSIFIER}.bias", "roi_heads.mask_predictor.mask_fcn_logits.bias"),
            rules=partial(mask_rcnn, names=names),
            num_classes=num_classes,
            recipes=("mask_rcnn_r50_coco",),
        ),
        Layout(
            family="faster_rcnn",
            marks=(f"{names.rpn}.bias", f"{CLASSIFIER}.bias"),
            rules=partial(faster_rcnn, names=names),
            num_classes=num_classes,
            recipes=("faster_rcnn_r50_coco",),
        ),
    )
)
