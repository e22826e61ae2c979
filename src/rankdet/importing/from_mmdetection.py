"""Names of mmdetection 2.x and 3.x, and of the authors' fork of 2.8 for Rank & Sort Loss.

Detectors, backbones and heads of these versions have the same names. Class order, anchor order, the layout of pooled
features and the channels of CARAFE and of deformable convolutions are those of this package. Two things differ: each
scale of ATSS is a separate tensor, and the last layer of a mask head is a convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rankdet.backbones import FPN, CarafeFPN, DeformableConv2d
from rankdet.detectors import ATSS, PAA, YOLACT, CascadeRCNN, FasterRCNN, MaskRCNN, SOLOv2
from rankdet.recipes import Recipe
from rankdet.recipes.schema.detectors import Timm
from rankdet.recipes.schema.part import Part

from .adapting import Adaptation, adapt_to_config
from .categories import COCO
from .layout import LVIS_CLASSES, Layout
from .rules import Rule, is_under, rule

IGNORED = ("data_preprocessor",)
"""Mean and standard deviation of the pixels, which a recipe holds."""
CLASS_COUNTS = (len(COCO), LVIS_CLASSES)
"""Numbers of classes of COCO and LVIS."""


def adapt(adaptation: Adaptation, recipe: Recipe, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Record changes by the configuration, deformable convolutions and CARAFE."""
    adapt_to_config(adaptation, recipe, config)
    backbone, detector = recipe.detector.backbone, recipe.detector
    if isinstance(backbone, Timm):
        is_deformable = any(".conv2.conv_offset." in name for name in tensors)
        adaptation.change("detector.backbone.deformable", is_deformable)
    if "rpn" in detector.heads:
        has_carafe = any(is_under(name, ["neck.upsample_modules"]) for name in tensors)
        adaptation.change("detector.carafe", has_carafe)


def faster_rcnn(detector: FasterRCNN) -> Iterator[Rule]:
    """Yield the rules of Faster R-CNN."""
    yield from backbone_and_pyramid(detector)
    yield from rpn()
    yield from box_head("rcnn.head", "roi_head.bbox_head")


def cascade_rcnn(detector: CascadeRCNN) -> Iterator[Rule]:
    """Yield the rules of Cascade R-CNN."""
    yield from backbone_and_pyramid(detector)
    yield from rpn()
    for stage in range(len(detector.stages)):
        yield from box_head(f"stages.{stage}.head", f"roi_head.bbox_head.{stage}")


def mask_rcnn(detector: MaskRCNN) -> Iterator[Rule]:
    """Yield the rules of Mask R-CNN."""
    yield from backbone_and_pyramid(detector)
    yield from rpn()
    yield from box_head("rcnn.head", "roi_head.bbox_head")
    yield from mask_head(detector)


def dense(detector: ATSS | PAA) -> Iterator[Rule]:
    """Yield the rules of ATSS and PAA, which have the same names: PAA's IoU head is called centerness."""
    yield from backbone_and_pyramid(detector)
    head = detector.dense.head
    yield from tower("dense.head.classification_tower", "bbox_head.cls_convs", head.classification_tower)
    yield from tower("dense.head.regression_tower", "bbox_head.reg_convs", head.regression_tower)
    yield rule("dense.head.classifier", "bbox_head.atss_cls")
    yield rule("dense.head.regressor", "bbox_head.atss_reg")
    yield rule("dense.head.auxiliary", "bbox_head.atss_centerness")
    scales = (f"bbox_head.scales.{level}.scale" for level in range(len(head.scales)))
    yield rule("dense.head.scales", *scales, convert=stacked)


def yolact(detector: YOLACT, semantic: str) -> Iterator[Rule]:
    """Yield the rules of YOLACT. The name of the semantic head varies; prototype layers count with ReLUs."""
    yield from backbone_and_pyramid(detector)
    for number in range(len(detector.head.convolutions)):
        yield rule(f"head.convolutions.{number}", f"bbox_head.head_convs.{number}.conv")
    yield rule("head.classifier", "bbox_head.conv_cls")
    yield rule("head.regressor", "bbox_head.conv_reg")
    yield rule("head.coefficients", "bbox_head.conv_coeff")
    count = len(detector.prototypes.convolutions)
    for number in range(count):
        yield rule(f"prototypes.convolutions.{number}", f"mask_head.protonet.{2 * number}")
    # Between these, interpolation also counts as a layer.
    yield rule("prototypes.enlarged", f"mask_head.protonet.{2 * count + 2}")
    yield rule("prototypes.prototypes", f"mask_head.protonet.{2 * count + 4}")
    yield rule("semantic.classifier", semantic, convert=class_before)


@dataclass(frozen=True)
class GridNames:
    """Names of the parts of SOLOv2, which differ between 1.x and later versions."""

    classification: str
    kernel: str
    classifier: str
    kernels: str
    levels: str
    last: str


GRIDS = GridNames(
    classification="mask_head.cls_convs",
    kernel="mask_head.kernel_convs",
    classifier="mask_head.conv_cls",
    kernels="mask_head.conv_kernel",
    levels="mask_head.mask_feature_head.convs_all_levels",
    last="mask_head.mask_feature_head.conv_pred",
)


def solov2(detector: SOLOv2, names: GridNames) -> Iterator[Rule]:
    """Yield the rules of SOLOv2."""
    yield from backbone_and_pyramid(detector)
    head = detector.grid.head
    yield from tower("grid.head.classification_tower", names.classification, head.classification_tower)
    yield from tower("grid.head.kernel_tower", names.kernel, head.kernel_tower)
    yield rule("grid.head.classifier", names.classifier)
    yield rule("grid.head.kernels", names.kernels)
    own = "grid.mask_features"
    for level, convolutions in enumerate(detector.grid.mask_features.levels):
        assert isinstance(convolutions, nn.ModuleList)
        for step in range(len(convolutions)):
            yield rule(f"{own}.levels.{level}.{step}.0", f"{names.levels}.{level}.conv{step}.conv")
            yield rule(f"{own}.levels.{level}.{step}.1", f"{names.levels}.{level}.conv{step}.gn")
    yield rule(f"{own}.last.0", f"{names.last}.conv")
    yield rule(f"{own}.last.1", f"{names.last}.gn")


def backbone_and_pyramid(
    detector: FasterRCNN | MaskRCNN | CascadeRCNN | ATSS | PAA | YOLACT | SOLOv2,
) -> Iterator[Rule]:
    """Yield the rules of all backbones and pyramids. There, coarser levels are further output convolutions."""
    yield rule("backbone.network", "backbone")
    for name, module in detector.backbone.named_modules():  # type: ignore[attr-defined]
        if isinstance(module, DeformableConv2d):
            foreign = name.replace("network", "backbone", 1)
            yield rule(f"backbone.{name}.offsets", f"{foreign}.conv_offset")
    fpn = detector.fpn
    assert isinstance(fpn, FPN | CarafeFPN)  # all that recipes have
    levels = len(fpn.laterals)
    for level in range(levels):
        yield rule(f"fpn.laterals.{level}", f"neck.lateral_convs.{level}.conv")
    for level in range(len(fpn.outputs)):
        yield rule(f"fpn.outputs.{level}", f"neck.fpn_convs.{level}.conv")
    # With CARAFE they are laterals, otherwise outputs.
    coarser = "lateral_convs" if isinstance(fpn, CarafeFPN) else "fpn_convs"
    for level in range(len(fpn.coarser)):
        yield rule(f"fpn.coarser.{level}", f"neck.{coarser}.{levels + level}.conv")
    if isinstance(fpn, CarafeFPN):
        for level in range(len(fpn.upsamplers)):
            yield rule(f"fpn.upsamplers.{level}.compressor", f"neck.upsample_modules.{level}.channel_compressor")
            yield rule(f"fpn.upsamplers.{level}.encoder", f"neck.upsample_modules.{level}.content_encoder")


def rpn() -> Iterator[Rule]:
    """Yield the rules of the region proposal network."""
    yield rule("rpn.head.convolution", "rpn_head.rpn_conv")
    yield rule("rpn.head.classifier", "rpn_head.rpn_cls")
    yield rule("rpn.head.regressor", "rpn_head.rpn_reg")


def box_head(own: str, foreign: str) -> Iterator[Rule]:
    """Yield the rules of an R-CNN stage."""
    yield rule(f"{own}.first", f"{foreign}.shared_fcs.0")
    yield rule(f"{own}.second", f"{foreign}.shared_fcs.1")
    yield rule(f"{own}.classifier", f"{foreign}.fc_cls")
    yield rule(f"{own}.regressor", f"{foreign}.fc_reg")


def mask_head(detector: MaskRCNN) -> Iterator[Rule]:
    """Yield the rules of the mask branch."""
    for number in range(len(detector.mask.head.convolutions)):
        yield rule(f"mask.head.convolutions.{number}", f"roi_head.mask_head.convs.{number}.conv")
    yield rule("mask.head.upsampling", "roi_head.mask_head.upsample")
    yield rule("mask.head.classifier", "roi_head.mask_head.conv_logits", convert=as_linear)


def tower(own: str, foreign: str, layers: nn.Sequential) -> Iterator[Rule]:
    """Yield the rules of convolutions that are each followed by normalization and ReLU."""
    for number in range(len(layers) // 3):
        yield rule(f"{own}.{3 * number}", f"{foreign}.{number}.conv")
        yield rule(f"{own}.{3 * number + 1}", f"{foreign}.{number}.gn")


def class_before(tensor: Tensor) -> Tensor:
    """Move the semantic maps (C, …) of YOLACT to their classes; mmdetection learns each at the class before it.

    That code was written when labels counted from 1, so that the map of the first class is now the last.
    """
    return tensor.roll(1, dims=0)


def stacked(*scales: Tensor) -> Tensor:
    """Stack L tensors of one number each to (L,)."""
    return torch.stack([scale.reshape(()) for scale in scales])


def as_linear(tensor: Tensor) -> Tensor:
    """Convert the weight (C, channels, 1, 1) of a convolution to (C, channels); a bias is unchanged."""
    return tensor.flatten(1) if tensor.ndim > 1 else tensor


def rcnn_classes(tensors: Mapping[str, Tensor], detector: Part, num_categories: int | None) -> int:
    """Return C, from four deltas for each class."""
    return len(tensors["roi_head.bbox_head.fc_reg.bias"]) // 4


def cascade_classes(tensors: Mapping[str, Tensor], detector: Part, num_categories: int | None) -> int:
    """Return C, from logits that may include the background."""
    rows = len(tensors["roi_head.bbox_head.0.fc_cls.bias"])
    return cascade_count(rows, detector.rcnn1.softmax, num_categories)


def cascade_count(rows: int, softmax: bool, num_categories: int | None) -> int:
    """Return C for a number of logits: the number of categories if known, otherwise that of COCO or LVIS if it fits.

    Examples
    --------
    >>> cascade_count(81, False, None), cascade_count(4, True, None), cascade_count(4, False, 3)
    (80, 3, 3)
    """
    if num_categories is not None:
        return num_categories
    likely = [count for count in CLASS_COUNTS if rows in (count, count + 1)]
    return likely[0] if likely else rows - softmax


def dense_classes(tensors: Mapping[str, Tensor], detector: Part, num_categories: int | None) -> int:
    """Return C, from a logit for each class and anchor of a cell."""
    return len(tensors["bbox_head.atss_cls.bias"]) // len(detector.dense.anchor_scales)


def yolact_classes(tensors: Mapping[str, Tensor], detector: Part, num_categories: int | None) -> int:
    """Return C, from a logit for each class and anchor of a cell, and perhaps the background."""
    rows = len(tensors["bbox_head.conv_cls.bias"]) // len(detector.anchor_ratios)
    return cascade_count(rows, detector.softmax, num_categories)


def grid_classes(tensors: Mapping[str, Tensor], detector: Part, num_categories: int | None, names: GridNames) -> int:
    """Return C, from a logit for each class."""
    return len(tensors[f"{names.classifier}.bias"])


def grid_layout(names: GridNames) -> Layout:
    """Return the layout of SOLOv2 with these names."""
    return Layout(
        "solov2", (f"{names.kernels}.bias",), partial(solov2, names=names), partial(grid_classes, names=names),
        SOLOV2_RECIPES, ignored=IGNORED,
    )  # fmt: skip


ATSS_RECIPES = ("rs_atss_r50_coco", "atss_r50_coco", "focal_atss_r50_coco", "ap_centerness_atss_r50_coco")
PAA_RECIPES = ("rs_paa_r50_coco", "paa_r50_coco", "focal_paa_r50_coco", "ap_iou_paa_r50_coco")
FASTER_RECIPES = (
    "rs_faster_rcnn_r50_coco",
    "faster_rcnn_l1_r50_coco",
    "rs_faster_rcnn_plus_r50_coco",
    "faster_rcnn_plus_r50_coco",
    "rs_faster_rcnn_r101_dcn_3x_coco",
    "rs_faster_rcnn_plus_r101_dcn_3x_coco",
)
MASK_RECIPES = (
    "rs_mask_rcnn_r50_coco",
    "mask_rcnn_r50_coco",
    "rs_mask_rcnn_plus_r50_coco",
    "rs_mask_rcnn_r101_3x_coco",
    "rs_mask_rcnn_plus_r101_3x_coco",
    "rs_mask_rcnn_plus_r101_dcn_3x_coco",
    "rs_mask_rcnn_plus_x101_dcn_3x_coco",
)
LVIS_RECIPES = ("rs_mask_rcnn_r50_lvis", "mask_rcnn_r50_lvis")
YOLACT_RECIPES = ("rs_yolact_r50_coco", "yolact_r50_coco")
SOLOV2_RECIPES = ("rs_solov2_r101_coco", "solov2_r101_coco", "rs_solov2_light_r34_coco", "solov2_light_r34_coco")
SEGMENTATION = {"2.x": "segm_head.segm_conv", "3.x": "mask_head.segm_branch.segm_conv"}
"""Name of YOLACT's semantic head, by version."""


def _yolact_layout(semantic: str, *marks: str) -> Layout:
    return Layout(
        "yolact", ("bbox_head.conv_coeff.bias", *marks), partial(yolact, semantic=semantic), yolact_classes,
        YOLACT_RECIPES, ignored=IGNORED,
    )  # fmt: skip


REGRESSOR = "roi_head.bbox_head.fc_reg.bias"
LAYOUTS = (
    Layout(
        "mask_rcnn", (REGRESSOR, "roi_head.mask_head.conv_logits.bias"), mask_rcnn, rcnn_classes, MASK_RECIPES,
        LVIS_RECIPES, IGNORED,
    ),
    Layout("faster_rcnn", (REGRESSOR,), faster_rcnn, rcnn_classes, FASTER_RECIPES, ignored=IGNORED),
    Layout(
        "cascade_rcnn", ("roi_head.bbox_head.0.fc_cls.bias",), cascade_rcnn, cascade_classes,
        ("rs_cascade_rcnn_r50_coco", "cascade_rcnn_r50_coco"), ignored=IGNORED,
    ),
    Layout("atss", ("bbox_head.atss_cls.bias",), dense, dense_classes, ATSS_RECIPES, ignored=IGNORED),
    Layout("paa", ("bbox_head.atss_cls.bias",), dense, dense_classes, PAA_RECIPES, ignored=IGNORED),
    _yolact_layout(SEGMENTATION["3.x"]),
    _yolact_layout(SEGMENTATION["2.x"], f"{SEGMENTATION['2.x']}.bias"),
    grid_layout(GRIDS),
)  # fmt: skip
