"""Weights of mmdetection for a detector of the package: what `rankdet import` makes of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rankdet.importing import convert
from rankdet.recipes import Recipe


def translated_weights(tensors: Mapping[str, Tensor], recipe: Recipe, num_classes: int) -> dict[str, Tensor]:
    """The state dict of the recipe's detector."""
    return convert(tensors, recipe, num_classes)
