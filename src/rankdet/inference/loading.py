"""Models from recipes and from checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rankdet.inference.model import Model, Origin
from rankdet.inference.operating_points import OperatingPoint
from rankdet.inference.score_maps import Calibration
from rankdet.losses import set_epoch_length
from rankdet.recipes import Recipe, validated
from rankdet.runs.checkpoint import FOR_DETECTION, check_shapes, fitting, load_checkpoint, load_weights, save_checkpoint
from rankdet.runs.folder import find_checkpoint
from rankdet.runs.processes import find_device
from rankdet.structures import InputError


def load(
    path: str | PathLike[str],
    device: str | torch.device = "auto",
    *,
    network: nn.Module | None = None,
    trust: bool = False,
    max_detections: int | None = None,
    calibrated: bool = False,
    operating_point: bool = True,
) -> Model:
    """The trained model of a checkpoint, or of the best one of a run folder (the newest, where none was evaluated).

    Parameters
    ----------
    path
        The checkpoint or the run folder.
    device
        Where to compute: ``"auto"`` is a GPU where there is one, or ``"cpu"``, ``"cuda"``.
    network
        For a checkpoint of a network that the caller built: such a network, which gets the weights.
    trust
        Whether the checkpoint may import what its recipe names by import path. Importing runs code, so trust only
        checkpoints whose origin you know.
    max_detections
        The most detections of an image, in place of the recipe's ``detector.testing.per_image``.
    calibrated
        Whether scores are calibrated as `rankdet.calibrate` has stored it, and thresholds with them.
    operating_point
        Whether the model detects at the operating point that `rankdet.sweep` has stored, if it has.

    Raises
    ------
    InputError
        When it cannot be read, is none, is incomplete, its weights are not those of its network, it needs a ``network``
        or ``trust``, or it is to be ``calibrated`` and holds no calibration.
    """
    found = find_checkpoint(Path(path))
    state = load_checkpoint(found, FOR_DETECTION)
    recipe = recipe_of(state, found, trust)
    if max_detections is not None and network is None:
        recipe = recipe.changed({"detector.testing.per_image": max_detections})
    if network is None:
        own = state.get("parts", {}).get("network")
        if own is not None:
            raise InputError(
                f"{found} holds the weights of {own}, which its caller built: pass such a network, "
                f"rankdet.load({str(path)!r}, network=...)"
            )
        # The checkpoint brings all weights; pretrained ones would only be fetched to be overwritten.
        build = partial(recipe.detector.build, len(state["categories"]), pretrained=False)
        if not trust:
            # A recipe may ask for a network that no memory holds. Without memory its weights are compared first; what a
            # trusted one imports need not know such tensors.
            with torch.device("meta"):
                check_shapes(build(), state["detector"], found)
        network = build()
    load_weights(network, state["detector"], found)
    model = build_model(recipe, network.eval(), state["categories"], find_device(device), Origin(recipe, found))
    calibration = None
    if calibrated:
        if state["calibration"] is None:
            raise InputError(f"{found} holds no calibration: rankdet calibrate {path} --data FOLDER finds one")
        with fitting(found):
            calibration = Calibration.of_state(state["calibration"], len(state["categories"]))
    point = None
    if operating_point and state["operating_point"] is not None:
        with fitting(found):
            point = OperatingPoint.of_state(state["operating_point"])
    return replace(model, thresholds=state["thresholds"], calibration=calibration, operating_point=point)


def checkpoint_to_write(model: Model, what: str) -> Path:
    """The checkpoint of a model; raises InputError, with ``what`` is to be stored, when there is none to write to."""
    path = None if model.origin is None else model.origin.path
    if path is None:
        raise InputError(f"the model has no checkpoint to store {what} in")
    if not path.exists():
        raise InputError(f"{path} is gone: {what} cannot be stored in it")
    # The file could be replaced in its folder all the same, but that is not what its owner said.
    if not os.access(path, os.W_OK):
        raise InputError(f"{path} is read-only: {what} cannot be stored in it")
    return path


def add_to_checkpoint(model: Model, entries: Mapping[str, Any], what: str) -> None:
    """Give the checkpoint of a model some entries in one step; ``what`` names them in messages.

    Raises InputError when the model has no checkpoint, or it cannot be written; it is untouched then.
    """
    path = checkpoint_to_write(model, what)
    save_checkpoint(path, load_checkpoint(path) | dict(entries))


def recipe_of(state: dict[str, Any], path: Path, trust: bool = False) -> Recipe:
    """The recipe in the checkpoint ``path``; raises InputError where it is none."""
    return validated(state["recipe"], f"recipe in {path}", trust)


def build_model(
    recipe: Recipe,
    network: nn.Module,
    categories: list[tuple[int, str]],
    device: torch.device,
    origin: Origin | None = None,
) -> Model:
    """The model of a network with the preparation of images, precision and memory layout that a recipe names."""
    testing = getattr(recipe.detector, "testing", None)
    return Model(
        network,
        categories,
        transforms=recipe.data.build_transforms(training=False),
        device=device,
        precision=recipe.runtime.precision,
        channels_last=recipe.runtime.channels_last,
        max_detections=getattr(testing, "per_image", 100),
        origin=origin or Origin(recipe),
    )


def build_losses(
    recipe: Recipe, device: torch.device, batches_per_epoch: int, own: Mapping[str, nn.Module] | None = None
) -> dict[str, nn.Module]:
    """The loss of each head on a device, for epochs of a known length; those of ``own`` replace the recipe's."""
    own = own or {}
    built = {head: config.build() for head, config in recipe.losses.items() if head not in own} | dict(own)
    losses = {head: loss.to(device) for head, loss in built.items()}
    set_epoch_length(losses.values(), batches_per_epoch)
    return losses
