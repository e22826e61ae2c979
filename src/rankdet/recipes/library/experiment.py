"""Names of experiments, and what their recipes have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable

from rankdet.recipes.schema.part import Part, type_of
from rankdet.recipes.schema.recipe import Recipe


def experiment(function: Callable[[], Recipe]) -> Callable[[], Recipe]:
    """Name the recipe that a function returns after the function."""

    @functools.wraps(function)
    def named() -> Recipe:
        return function().changed({"name": function.__name__})

    return named


def require(recipe: Recipe, *detectors: type[Part]) -> None:
    """Raise TypeError unless the detector of a recipe is one of these."""
    if not isinstance(recipe.detector, detectors):
        wanted = " or ".join(str(type_of(detector)) for detector in detectors)
        raise TypeError(f"recipe {recipe.name} has a detector of type {recipe.detector.type}, not {wanted}")
