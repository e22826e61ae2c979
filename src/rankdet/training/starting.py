"""Training that starts from the weights of a checkpoint: of another data set, another loss, another program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rankdet.recipes import Recipe, validated
from rankdet.structures import InputError

from .checkpoint import FOR_DETECTION, load_checkpoint
from .runs import find_checkpoint

MOST_NAMED = 12
"""Tensors that the text names; it counts the others."""


def starting_weights(
    recipe: Recipe, own: dict[str, Tensor], categories: list[tuple[int, str]], path: Path
) -> tuple[dict[str, Tensor], str]:
    """The weights that a detector starts from, and in words where they come from.

    What a checkpoint and the detector have in common is taken over. What the detector has beside it, or in another
    shape, keeps its random start, and so do layers with an entry for each class where the categories are others. Where
    the two recipes code boxes with other stds, the last layer of boxes is scaled, so that it gives the same boxes.

    Parameters
    ----------
    recipe
        Of the detector.
    own
        The weights that it has now.
    categories
        Of the data set, by label.
    path
        A checkpoint, or a run folder.

    Raises
    ------
    InputError
        When the checkpoint cannot be read, or has another backbone.
    """
    path = find_checkpoint(path)
    state = load_checkpoint(path, FOR_DETECTION)
    other = validated(state["recipe"], f"recipe in {path}")
    by_class = set()
    if [tuple(category) for category in state["categories"]] != categories:
        with torch.random.fork_rng(devices=[]):
            wider = recipe.detector.build(len(categories) + 1, pretrained=False).state_dict()
        by_class = {name for name, value in own.items() if wider[name].shape != value.shape}
    found = {
        name: value
        for name, value in state["detector"].items()
        if name in own and name not in by_class and _shape(value) == own[name].shape
    }
    fresh = [name for name in own if name not in found]
    strange = [name for name in fresh if name.startswith("backbone.")]
    if strange:
        raise InputError(
            f"weights {path} do not fit: {len(strange)} tensors of the backbone of recipe {recipe.name} are not in it "
            f"or have another shape, the first is {strange[0]}"
        )
    started = own | found | _rescaled(found, other, recipe)
    unused = [name for name in state["detector"] if name not in own]
    text = f"weights of {path}: {len(found)} tensors{_listed('start anew', fresh)}{_listed('not used', unused)}"
    return started, text


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"; {kind}: {', '.join(names[:MOST_NAMED])}{more}" if names else ""


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _rescaled(found: dict[str, Tensor], other: Recipe, recipe: Recipe) -> dict[str, Tensor]:
    """Regressors of the parts that code boxes with other stds, four rows for each box."""
    scaled = {}
    for part, config in recipe.detector:
        before = getattr(getattr(other.detector, part, None), "delta_stds", None)
        after = getattr(config, "delta_stds", None)
        if before is None or after is None or before == after:
            continue
        for name in (f"{part}.head.regressor.weight", f"{part}.head.regressor.bias"):
            if name in found:
                value = found[name]
                factors = value.new_tensor(before) / value.new_tensor(after)
                rows = factors.repeat(len(value) // 4).view(-1, *[1] * (value.ndim - 1))
                scaled[name] = value * rows
    return scaled
