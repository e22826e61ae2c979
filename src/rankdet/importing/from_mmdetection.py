"""Names of mmdetection 2.x and 3.x, and of the authors' fork of 2.8 for Rank & Sort Loss.

Detectors, backbones and heads of these versions have the same names; class order, anchor order and the layout of pooled
features are those of this package. What differs: the scales of ATSS are tensors of their own, and the last layer of a
mask head is a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from rankdet.backbones import FPN
from rankdet.detectors import ATSS, PAA, FasterRCNN, MaskRCNN
from rankdet.recipes.detectors import Detector
from rankdet.recipes.detectors.one_stage import OneStage

from .adapting import adapt_to_config
from .layout import Layout
from .rules import Rule, rule

adapt = adapt_to_config

IGNORED = ("data_preprocessor",)
"""Mean and standard deviation of the pixels, which a recipe holds."""


def faster_rcnn(detector: FasterRCNN) -> Iterator[Rule]:
    """Of Faster R-CNN."""
    yield from backbone_and_pyramid(detector.fpn)
    yield from rpn()
    yield from box_head("rcnn.head", "roi_head.bbox_head")


def mask_rcnn(detector: MaskRCNN) -> Iterator[Rule]:
    """Of Mask R-CNN."""
    yield from backbone_and_pyramid(detector.fpn)
    yield from rpn()
    yield from box_head("rcnn.head", "roi_head.bbox_head")
    yield from mask_head(detector)


def dense(detector: ATSS | PAA) -> Iterator[Rule]:
    """Of ATSS and PAA, which have the same names: PAA's IoU head is called centerness."""
    yield from backbone_and_pyramid(detector.fpn)
    head = detector.dense.head
    yield from tower("dense.head.classification_tower", "bbox_head.cls_convs", head.classification_tower)
    yield from tower("dense.head.regression_tower", "bbox_head.reg_convs", head.regression_tower)
    yield rule("dense.head.classifier", "bbox_head.atss_cls")
    yield rule("dense.head.regressor", "bbox_head.atss_reg")
    yield rule("dense.head.auxiliary", "bbox_head.atss_centerness")
    scales = (f"bbox_head.scales.{level}.scale" for level in range(len(head.scales)))
    yield rule("dense.head.scales", *scales, convert=stacked)


def backbone_and_pyramid(fpn: FPN) -> Iterator[Rule]:
    """Of all detectors. Levels behind the backbone's are further output convolutions there."""
    yield rule("backbone.network", "backbone")
    levels = len(fpn.laterals)
    for level in range(levels):
        yield rule(f"fpn.laterals.{level}", f"neck.lateral_convs.{level}.conv")
        yield rule(f"fpn.outputs.{level}", f"neck.fpn_convs.{level}.conv")
    for level in range(len(fpn.coarser)):
        yield rule(f"fpn.coarser.{level}", f"neck.fpn_convs.{levels + level}.conv")


def rpn() -> Iterator[Rule]:
    """Of the region proposal network."""
    yield rule("rpn.head.convolution", "rpn_head.rpn_conv")
    yield rule("rpn.head.classifier", "rpn_head.rpn_cls")
    yield rule("rpn.head.regressor", "rpn_head.rpn_reg")


def box_head(own: str, foreign: str) -> Iterator[Rule]:
    """Of the second stage."""
    yield rule(f"{own}.first", f"{foreign}.shared_fcs.0")
    yield rule(f"{own}.second", f"{foreign}.shared_fcs.1")
    yield rule(f"{own}.classifier", f"{foreign}.fc_cls")
    yield rule(f"{own}.regressor", f"{foreign}.fc_reg")


def mask_head(detector: MaskRCNN) -> Iterator[Rule]:
    """Of the mask branch."""
    for number in range(len(detector.mask.head.convolutions)):
        yield rule(f"mask.head.convolutions.{number}", f"roi_head.mask_head.convs.{number}.conv")
    yield rule("mask.head.upsampling", "roi_head.mask_head.upsample")
    yield rule("mask.head.classifier", "roi_head.mask_head.conv_logits", convert=as_linear)


def tower(own: str, foreign: str, layers: nn.Sequential) -> Iterator[Rule]:
    """Of convolutions, each with its normalization and ReLU."""
    for number in range(len(layers) // 3):
        yield rule(f"{own}.{3 * number}", f"{foreign}.{number}.conv")
        yield rule(f"{own}.{3 * number + 1}", f"{foreign}.{number}.gn")


def stacked(*scales: Tensor) -> Tensor:
    """L numbers, as tensors of their own → (L,)."""
    return torch.stack([scale.reshape(()) for scale in scales])


def as_linear(tensor: Tensor) -> Tensor:
    """The weight (C, channels, 1, 1) of a convolution → (C, channels); a bias stays."""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor


def rcnn_classes(tensors: Mapping[str, Tensor], detector: Detector, num_categories: int | None) -> int:
    """C, from four deltas for each class."""
    return len(tensors["roi_head.bbox_head.fc_reg.bias"]) // 4


def dense_classes(tensors: Mapping[str, Tensor], detector: Detector, num_categories: int | None) -> int:
    """C, from a logit for each class and anchor of a cell."""
    assert isinstance(detector, OneStage)
    return len(tensors["bbox_head.atss_cls.bias"]) // len(detector.dense.anchor_scales)


LAYOUTS = (
    Layout(
        family="mask_rcnn",
        marks=("roi_head.bbox_head.fc_reg.bias", "roi_head.mask_head.conv_logits.bias"),
        rules=mask_rcnn,
        num_classes=rcnn_classes,
        recipes=("rs_mask_rcnn_r50_coco", "mask_rcnn_r50_coco"),
        ignored=IGNORED,
    ),
    Layout(
        family="faster_rcnn",
        marks=("roi_head.bbox_head.fc_reg.bias",),
        rules=faster_rcnn,
        num_classes=rcnn_classes,
        recipes=("rs_faster_rcnn_r50_coco", "faster_rcnn_l1_r50_coco"),
        ignored=IGNORED,
    ),
    Layout(
        family="atss",
        marks=("bbox_head.atss_cls.bias",),
        rules=dense,
        num_classes=dense_classes,
        recipes=("rs_atss_r50_coco", "atss_r50_coco", "focal_atss_r50_coco", "ap_centerness_atss_r50_coco"),
        ignored=IGNORED,
    ),
    Layout(
        family="paa",
        marks=("bbox_head.atss_cls.bias",),
        rules=dense,
        num_classes=dense_classes,
        recipes=("rs_paa_r50_coco", "paa_r50_coco", "focal_paa_r50_coco", "ap_iou_paa_r50_coco"),
        ignored=IGNORED,
    ),
)
