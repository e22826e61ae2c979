"""Rules of weights that the package does not have yet. What it has, it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from rankdet.importing.from_mmdetection import IGNORED, backbone_and_pyramid, tower
from rankdet.importing.origins import convert
from rankdet.importing.rules import Rule, rule, translated
from rankdet.recipes import Recipe


def solov2(detector: Any) -> Iterator[Rule]:
    yield from backbone_and_pyramid(detector)
    head = detector.grid.head
    yield from tower("grid.head.classification_tower", "mask_head.cls_convs", head.classification_tower)
    yield from tower("grid.head.kernel_tower", "mask_head.kernel_convs", head.kernel_tower)
    yield rule("grid.head.classifier", "mask_head.conv_cls")
    yield rule("grid.head.kernels", "mask_head.conv_kernel")
    for level, convolutions in enumerate(detector.grid.mask_features.levels):
        for number in range(len(convolutions)):
            own = f"grid.mask_features.levels.{level}.{number}"
            other = f"mask_head.mask_feature_head.convs_all_levels.{level}.conv{number}"
            yield rule(f"{own}.0", f"{other}.conv")
            yield rule(f"{own}.1", f"{other}.gn")
    yield rule("grid.mask_features.last.0", "mask_head.mask_feature_head.conv_pred.conv")
    yield rule("grid.mask_features.last.1", "mask_head.mask_feature_head.conv_pred.gn")


RULES = {"solov2": solov2}


def translated_weights(tensors: Mapping[str, Tensor], recipe: Recipe, num_classes: int) -> dict[str, Tensor]:
    """The state dict of the recipe's detector."""
    if recipe.detector.type not in RULES:
        return convert(tensors, recipe)
    detector = recipe.detector.build(num_classes, pretrained=False)
    return translated(tensors, RULES[recipe.detector.type](detector), detector.state_dict(), IGNORED)
