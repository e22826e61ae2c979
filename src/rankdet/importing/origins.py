"""Where foreign checkpoints come from, and how they are told apart: by names of tensors that only they have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rankdet.recipes import Recipe
from rankdet.structures import InputError

from . import from_mmdetection, from_mmdetection_1, from_torchvision
from .adapting import Adaptation
from .layout import Layout
from .rules import translated


@dataclass(frozen=True)
class Origin:
    """A program whose checkpoints can be imported.

    Parameters
    ----------
    name
        For messages.
    layouts
        Of its families of detectors.
    adapt
        Changes a recipe as its networks need it; sees the recipe, the tensors, and the configuration in the file, empty
        where there is none.
    backbone
        Prefix of the tensors of the backbone.
    """

    name: str
    layouts: tuple[Layout, ...]
    adapt: Callable[[Adaptation, Recipe, Mapping[str, Tensor], Mapping[str, Any]], None]
    backbone: str = "backbone"


ORIGINS = (
    Origin("mmdetection 2.x or 3.x", from_mmdetection.LAYOUTS, from_mmdetection.adapt),
    Origin("mmdetection 1.x", from_mmdetection_1.LAYOUTS, from_mmdetection_1.adapt),
    Origin(
        "torchvision",
        from_torchvision.LAYOUTS,
        from_torchvision.adapt,
        from_torchvision.BACKBONE,
    ),
)


def fitting_layouts(tensors: Mapping[str, Tensor]) -> tuple[Origin, list[Layout]]:
    """The origin of a checkpoint and its families: those with the most marks; several where names are the same.

    Raises
    ------
    InputError
        When no origin has these names, or a detector of it that nothing here is like.
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
    """The state dict of a recipe's detector from that of a foreign one.

    Names, class order and layouts are those of the recipe's detector then. What is no tensor is not looked at: order of
    colors, box coding and anchors are taken to be those of the recipe.

    Parameters
    ----------
    tensors
        The foreign state dict.
    recipe
        Whose detector it shall become.
    num_categories
        C, where the names and shapes in the file leave it open.

    Raises
    ------
    InputError
        When the names are of no detector that is known, or of one of another family than the recipe's; when tensors
        are missing, left over or of another shape.
    """
    origin, layouts = fitting_layouts(tensors)
    for layout in layouts:
        if layout.family == recipe.detector.type:
            return converted(tensors, layout, recipe, num_categories)[1]
    raise InputError(other_family(origin, layouts, recipe))


def other_family(origin: Origin, layouts: Sequence[Layout], recipe: Recipe) -> str:
    """What is said where a recipe has another detector."""
    families = " or ".join(layout.family for layout in layouts)
    return f"its tensors are of {families} of {origin.name}, and recipe {recipe.name} has a {recipe.detector.type}"


def converted(
    tensors: Mapping[str, Tensor], layout: Layout, recipe: Recipe, num_categories: int | None = None
) -> tuple[int, dict[str, Tensor]]:
    """C, and what :func:`convert` returns, where the layout is known."""
    num_classes = max(1, layout.num_classes(tensors, recipe.detector, num_categories))
    with torch.device("meta"):  # only names, shapes and types are wanted: no memory, no random numbers
        detector = recipe.detector.build(num_classes, pretrained=False)
    return num_classes, translated(tensors, layout.rules(detector), detector.state_dict(), layout.ignored)
