"""Experiments: what the built-in recipes are made by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from typing_extensions import Self

from rankdet.recipes.schema.part import Part, type_of
from rankdet.recipes.schema.recipe import Recipe


class Experiment:
    """A built-in recipe, which a call returns; the first line of its docstring is its description.

    As a decorator it takes the recipe and its description from a function.

    Parameters
    ----------
    base
        Returns the recipe that is changed.
    steps
        Changes in their order: functions of recipes, and mappings for `Recipe.changed`.
    """

    name = ""
    """The name of its variable, which its recipe takes; `rankdet.recipes.library` sets it."""

    def __init__(self, base: Callable[[], Recipe], *steps: Callable[[Recipe], Recipe] | Mapping[str, Any]) -> None:
        self.base, self.steps = base, steps
        self.__doc__ = base.__doc__

    def described(self, description: str) -> Self:
        """Return the experiment itself with this description."""
        self.__doc__ = description
        return self

    def __call__(self) -> Recipe:
        """Return the recipe."""
        recipe = self.base()
        for step in self.steps:
            recipe = step(recipe) if callable(step) else recipe.changed(step)
        return recipe.changed({"name": self.name})


def require(recipe: Recipe, *detectors: type[Part]) -> None:
    """Raise TypeError unless the detector of a recipe is one of these."""
    if not isinstance(recipe.detector, detectors):
        wanted = " or ".join(str(type_of(detector)) for detector in detectors)
        raise TypeError(f"recipe {recipe.name} has a detector of type {recipe.detector.type}, not {wanted}")
