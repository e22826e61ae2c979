"""Training that starts from the weights of a checkpoint: of another data set, another loss, another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rankdet.heads import BoxCoder
from rankdet.inference.loading import recipe_of
from rankdet.recipes import Recipe
from rankdet.runs.checkpoint import FOR_DETECTION, check_finite, load_checkpoint
from rankdet.runs.folder import find_checkpoint
from rankdet.structures import InputError

MOST_NAMED = 12
"""Tensors that the text names; it counts the others."""


def starting_weights(
    recipe: Recipe, network: nn.Module, categories: Sequence[tuple[int, str]], path: Path, trust: bool = False
) -> tuple[dict[str, Tensor], str]:
    """The weights that a network starts from, and in words where they come from.

    Tensors that the checkpoint and the network have in common are taken over. Others keep their random start, and so
    do layers with an entry for each class where the categories differ. Where the two recipes code boxes with other
    stds, the last layer of boxes is scaled, so that it gives the same boxes.

    The network is that of ``recipe`` or of the caller, and ``path`` is a checkpoint or a run folder. With ``trust`` the
    checkpoint may import what its recipe names by import path. Raises InputError when the checkpoint cannot be read, or
    has another backbone.
    """
    path = find_checkpoint(path)
    state = load_checkpoint(path, FOR_DETECTION)
    check_finite(state["detector"], path)
    own = network.state_dict()
    by_class = set()
    if state["categories"] != list(categories):
        # A layer has an entry for each class where its shape changes with their number. The device "meta" takes neither
        # memory nor random numbers.
        with torch.device("meta"):
            wider = recipe.detector.build(len(categories) + 1, pretrained=False).state_dict()
        by_class = {name for name, value in own.items() if name in wider and wider[name].shape != value.shape}
    found = {
        name: value
        for name, value in state["detector"].items()
        if isinstance(value, Tensor) and name in own and name not in by_class and value.shape == own[name].shape
    }
    fresh = [name for name in own if name not in found]
    unused = [name for name in state["detector"] if name not in own]
    strange = [name for name in fresh if name.startswith("backbone.")]
    if strange:
        raise InputError(
            f"weights {path} do not fit: {len(strange)} tensors of the backbone of recipe {recipe.name} are not in it "
            f"or have another shape, the first is {strange[0]}"
        )
    if "network" not in state["parts"]:
        with torch.device("meta"):  # to see how it codes boxes
            before = recipe_of(state, path, trust).detector.build(len(state["categories"]), pretrained=False)
        found |= _rescaled(found, before, network)
    text = f"weights of {path}: {len(found)} tensors{_listed('start anew', fresh)}{_listed('not used', unused)}"
    return own | found, text


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"; {kind}: {', '.join(names[:MOST_NAMED])}{more}" if names else ""


def _rescaled(found: Mapping[str, Tensor], before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """The regressors of the parts that code boxes with other stds, four rows for each box, in those of ``after``."""
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
