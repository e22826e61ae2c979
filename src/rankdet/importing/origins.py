"""Programs whose checkpoints can be imported; a checkpoint is recognized by names of tensors that only it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rankdet.recipes import Recipe
from rankdet.structures import InputError

from . import from_mmdetection, from_mmdetection_1, from_torchvision, from_transformers
from .adapting import Adaptation
from .layout import Layout
from .rules import translated


@dataclass(frozen=True)
class Origin:
    """A program whose checkpoints can be imported."""

    name: str
    layouts: tuple[Layout, ...]
    adapt: Callable[[Adaptation, Recipe, Mapping[str, Tensor], Mapping[str, Any]], None]
    """Function that records what its networks change in a recipe, by the tensors and the configuration in the file."""
    backbone: str = "backbone"
    """Prefix of the tensors of the backbone."""


ORIGINS = (
    Origin("mmdetection 2.x or 3.x", from_mmdetection.LAYOUTS, from_mmdetection.adapt),
    Origin("mmdetection 1.x", from_mmdetection_1.LAYOUTS, from_mmdetection_1.adapt),
    Origin("torchvision", from_torchvision.LAYOUTS, from_torchvision.adapt, from_torchvision.BACKBONE),
    Origin("transformers", from_transformers.LAYOUTS, from_transformers.adapt, from_transformers.BACKBONE),
)


def fitting_layouts(tensors: Mapping[str, Tensor]) -> tuple[Origin, list[Layout]]:
    """Return the origin of a checkpoint and the layouts with the most marks in it; several if their names are the same.

    Raises
    ------
    InputError
        When no origin has these names, or the detector has no counterpart here.
    """
    for mark, kind in from_torchvision.OTHERS.items():
        if mark in tensors:
            raise InputError(f"its tensors are those of {kind}, and no detector here is like it")
    for origin in ORIGINS:
        fitting = [layout for layout in origin.layouts if all(mark in tensors for mark in layout.marks)]
        if fitting:
            most = max(len(layout.marks) for layout in fitting)
            return origin, [layout for layout in fitting if len(layout.marks) == most]
    known = (f"{layout.family} of {origin.name}" for origin in ORIGINS for layout in origin.layouts)
    raise InputError(
        f"its tensors ({', '.join(list(tensors)[:3])} …) have names of no detector that can be imported, which are "
        f"{', '.join(dict.fromkeys(known))}"
    )


def convert(tensors: Mapping[str, Tensor], recipe: Recipe, num_categories: int | None = None) -> dict[str, Tensor]:
    """Convert a foreign state dict to that of a recipe's detector.

    Names, class order and layouts become those of the recipe's detector. Only tensors are converted: order of colors,
    box coding and anchors are assumed to be those of the recipe.

    ``num_categories`` (C) is needed if the names and shapes in the file do not determine it.

    Raises
    ------
    InputError
        When the names are those of no known detector, or of another family than the recipe's, and when tensors are
        missing, left over or of another shape.
    """
    origin, layouts = fitting_layouts(tensors)
    for layout in layouts:
        if layout.family == recipe.detector.type:
            return converted(tensors, layout, recipe, num_categories)[1]
    raise InputError(other_family(origin, layouts, recipe))


def other_family(origin: Origin, layouts: Sequence[Layout], recipe: Recipe) -> str:
    """Return the message for a recipe with another detector."""
    families = " or ".join(layout.family for layout in layouts)
    return f"its tensors are of {families} of {origin.name}, and recipe {recipe.name} has a {recipe.detector.type}"


def converted(
    tensors: Mapping[str, Tensor], layout: Layout, recipe: Recipe, num_categories: int | None = None
) -> tuple[int, dict[str, Tensor]]:
    """Return C, and the state dict as :func:`convert` does, for a known layout."""
    num_classes = max(1, layout.num_classes(tensors, recipe.detector, num_categories))
    with torch.device("meta"):  # only names, shapes and types are wanted: no memory, no random numbers
        detector = recipe.detector.build(num_classes, pretrained=False)
    return num_classes, translated(tensors, layout.rules(detector), detector.state_dict(), layout.ignored)
