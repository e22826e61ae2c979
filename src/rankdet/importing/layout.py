"""Layout of one family of detectors in the checkpoints of one origin."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .rules import Rule

LVIS_CLASSES = 1203
Classes = Callable[[Mapping[str, Tensor], Any, int | None], int]
"""Function from foreign tensors, the detector of the recipe and the number of categories (None: unknown) to C."""


@dataclass(frozen=True)
class Layout:
    """Names, class order and number of classes of one family in the checkpoints of one origin."""

    family: str
    marks: tuple[str, ...]
    """Names of tensors that distinguish such a checkpoint from others."""
    rules: Callable[[Any], Iterator[Rule]]
    """Function from a built detector to the rules that fill it."""
    num_classes: Classes
    recipes: tuple[str, ...]
    """Recipes that it may belong to. Of those that fit, the first with the fewest changes is used."""
    lvis_recipes: tuple[str, ...] = ()
    """The same for a checkpoint with the 1203 classes of LVIS."""
    ignored: tuple[str, ...] = ()
    """Prefixes of tensors that detection does not need."""
