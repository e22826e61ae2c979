"""Training that starts from the weights of a checkpoint: of another data set, another loss, another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rankdet.heads import BoxCoder
from rankdet.recipes import Recipe, validated
from rankdet.runs.checkpoint import FOR_DETECTION, load_checkpoint
from rankdet.runs.folder import find_checkpoint
from rankdet.structures import InputError

MOST_NAMED = 12
"""Tensors that the text names; it counts the others."""


def starting_weights(
    recipe: Recipe, detector: nn.Module, categories: Sequence[tuple[int, str]], path: Path
) -> tuple[dict[str, Tensor], str]:
    """The weights that a detector starts from, and in words where they come from.

    What a checkpoint and the detector have in common is taken over. What the detector has beside it, or in another
    shape, keeps its random start, and so do layers with an entry for each class where the categories are others. Where
    the two recipes code boxes with other stds, the last layer of boxes is scaled, so that it gives the same boxes.

    Parameters
    ----------
    recipe
        Of the detector.
    detector
        What the recipe builds for these categories.
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
    own = detector.state_dict()
    by_class = set()
    with torch.device("meta"):  # no memory, no random numbers
        before = other.detector.build(len(state["categories"]), pretrained=False)
        wider = recipe.detector.build(len(categories) + 1, pretrained=False).state_dict()
    if [tuple(category) for category in state["categories"]] != list(categories):
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
    started = own | found | _rescaled(found, before, detector)
    unused = [name for name in state["detector"] if name not in own]
    text = f"weights of {path}: {len(found)} tensors{_listed('start anew', fresh)}{_listed('not used', unused)}"
    return started, text


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"; {kind}: {', '.join(names[:MOST_NAMED])}{more}" if names else ""


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _rescaled(found: Mapping[str, Tensor], before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """Regressors of the parts that code boxes with other stds, four rows for each box."""
    parts = dict(before.named_modules())
    scaled = {}
    for part, module in after.named_modules():
        old, new = getattr(parts.get(part), "coder", None), getattr(module, "coder", None)
        if not isinstance(old, BoxCoder) or not isinstance(new, BoxCoder) or old == new:
            continue
        for name in (f"{part}.head.regressor.weight", f"{part}.head.regressor.bias"):
            name = name.removeprefix(".")  # of a detector that is its only stage
            if name in found:
                value = found[name]
                factors = value.new_tensor(old.stds) / value.new_tensor(new.stds)
                scaled[name] = value * factors.repeat(len(value) // 4).view(-1, *[1] * (value.ndim - 1))
    return scaled
