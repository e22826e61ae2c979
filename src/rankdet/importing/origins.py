"""Where foreign checkpoints come from, and how they are told apart: by names of tensors that only they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from rankdet.recipes import Recipe
from rankdet.structures import InputError

from . import from_mmdetection, from_mmdetection_1, from_torchvision
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
        One for each family of detectors, those with more marks first.
    """

    name: str
    layouts: tuple[Layout, ...]


ORIGINS = (
    Origin("mmdetection 2.x or 3.x", from_mmdetection.LAYOUTS),
    Origin("mmdetection 1.x", from_mmdetection_1.LAYOUTS),
    Origin("torchvision", from_torchvision.LAYOUTS),
)


def fitting_layouts(tensors: Mapping[str, Tensor]) -> tuple[Origin, list[Layout]]:
    """The origin of a checkpoint and its families: those with the most marks; several where names are the same.

    Raises
    ------
    InputError
        When no origin has these names.
    """
    for origin in ORIGINS:
        fitting = [layout for layout in origin.layouts if all(mark in tensors for mark in layout.marks)]
        if fitting:
            most = max(len(layout.marks) for layout in fitting)
            return origin, [layout for layout in fitting if len(layout.marks) == most]
    raise InputError("names of tensors that are of no detector known here")


def convert(tensors: Mapping[str, Tensor], recipe: Recipe, num_categories: int | None = None) -> dict[str, Tensor]:
    """The state dict of a recipe's detector from that of a foreign one, with equal outputs.

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
    _, layouts = fitting_layouts(tensors)
    for layout in layouts:
        if layout.family == recipe.detector.type:
            return converted(tensors, layout, recipe, num_categories)
    families = " or ".join(layout.family for layout in layouts)
    raise InputError(f"the tensors are of {families}, and recipe {recipe.name} has a detector {recipe.detector.type}")


def converted(
    tensors: Mapping[str, Tensor], layout: Layout, recipe: Recipe, num_categories: int | None = None
) -> dict[str, Tensor]:
    """As :func:`convert`, for a layout that is known."""
    num_classes = max(1, layout.num_classes(tensors, recipe.detector, num_categories))
    detector = recipe.detector.build(num_classes, pretrained=False)
    return translated(tensors, layout.rules(detector), detector.state_dict(), layout.ignored)
