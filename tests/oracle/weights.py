"""Rules of weights that the package does not have yet. What it has, it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rankdet.importing.from_mmdetection import IGNORED, backbone_and_pyramid, box_head, rpn
from rankdet.importing.origins import convert
from rankdet.importing.rules import Rule, rule, translated
from rankdet.recipes import Recipe


def cascade(detector: Any) -> Iterator[Rule]:
    yield from backbone_and_pyramid(detector.fpn)
    yield from rpn()
    for number in range(len(detector.stages)):
        yield from box_head(f"stages.{number}.head", f"roi_head.bbox_head.{number}")


def yolact(detector: Any) -> Iterator[Rule]:
    yield from backbone_and_pyramid(detector.fpn)
    for number in range(len(detector.head.convolutions)):
        yield rule(f"head.convolutions.{number}", f"bbox_head.head_convs.{number}.conv")
    yield rule("head.classifier", "bbox_head.conv_cls")
    yield rule("head.regressor", "bbox_head.conv_reg")
    yield rule("head.coefficients", "bbox_head.conv_coeff")
    for number in range(len(detector.prototypes.convolutions)):
        yield rule(f"prototypes.convolutions.{number}", f"mask_head.protonet.{2 * number}")
    number = len(detector.prototypes.convolutions) + 1
    yield rule("prototypes.enlarged", f"mask_head.protonet.{2 * number}")
    yield rule("prototypes.prototypes", f"mask_head.protonet.{2 * number + 2}")
    # There class c has the map of class c + 1.
    yield rule("semantic.classifier", "mask_head.segm_branch.segm_conv", convert=lambda tensor: tensor.roll(1, 0))


RULES = {"cascade_rcnn": cascade, "yolact": yolact}


def translated_weights(tensors: Mapping[str, Tensor], recipe: Recipe, num_classes: int) -> dict[str, Tensor]:
    """The state dict of the recipe's detector."""
    if recipe.detector.type not in RULES:
        return convert(tensors, recipe)
    detector = recipe.detector.build(num_classes, pretrained=False)
    return translated(tensors, RULES[recipe.detector.type](detector), detector.state_dict(), IGNORED)
