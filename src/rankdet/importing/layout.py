"""How one origin writes down one family of detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .rules import Rule

LVIS_CLASSES = 1203
Classes = Callable[[Mapping[str, Tensor], Any, int | None], int]
"""Foreign tensors, the detector of the recipe, number of categories where it is known → C."""


@dataclass(frozen=True)
class Layout:
    """Names, class order and number of classes of one family in the checkpoints of one origin.

    Parameters
    ----------
    family
        The type of the detector in recipes.
    marks
        Tensors by which such a checkpoint is told from others.
    rules
        From a built detector to the rules that fill it.
    num_classes
        C of a checkpoint, for a given detector of a recipe.
    recipes
        Built-in recipes that such a checkpoint may belong to. Of those that it fits the one is taken of which it
        changes least, and of several the first.
    lvis_recipes
        The same, where it has the 1203 classes of LVIS.
    ignored
        Prefixes of tensors that detection does not need.
    """

    family: str
    marks: tuple[str, ...]
    rules: Callable[[Any], Iterator[Rule]]
    num_classes: Classes
    recipes: tuple[str, ...]
    lvis_recipes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
