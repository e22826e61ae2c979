"""Trainings that benchmarks look into: those of ``rankdet train`` in this process, iteration by iteration."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from rankdet.data import build_training_loader
from rankdet.recipes import Recipe, load_recipe
from rankdet.runs.processes import World, find_device
from rankdet.structures import Batch
from rankdet.training.setup import Training


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a training."""
    parser.add_argument("recipe", help="a name of `rankdet list`, or a YAML file")
    parser.add_argument("changes", nargs="*", metavar="FIELD=VALUE", help="fields of the recipe")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--stop", type=int, help="iterations to train; the schedule is that of the whole training")


def named_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that these arguments name, without an evaluation, so that the data need no images for it."""
    own = {"data.folder": str(options.data.resolve()), "evaluation.at_end": False, "evaluation.every": None}
    return load_recipe(options.recipe, options.changes).changed(own)


def built(recipe: Recipe) -> Training:
    """A training of one process, ready for its first iteration."""
    if recipe.runtime.threads is not None:
        torch.set_num_threads(recipe.runtime.threads)
    training = Training(recipe, World.alone(find_device(recipe.runtime.device)))
    training.model.network.train()
    return training


def num_iterations(training: Training, stop: int | None = None) -> int:
    """The iterations of a training, at most ``stop``."""
    return min(training.num_iterations, stop or training.num_iterations)


def iterations(training: Training, stop: int | None = None) -> Iterator[tuple[int, Batch]]:
    """Each iteration, at most ``stop``, with its batch; the learning rate is set, and there are no gradients."""
    batches = build_training_loader(training.dataset, training.sampler(), training.recipe.data.workers)
    for iteration, batch in zip(range(num_iterations(training, stop)), batches, strict=False):
        training.set_lr(iteration)
        training.optimizer.zero_grad(set_to_none=True)
        yield iteration, batch


def update(training: Training, total: Tensor) -> float:
    """Change the weights as a training does; return the norm of their whole gradient before it is clipped."""
    total.backward()
    weights = [weight for weight in training.model.network.parameters() if weight.grad is not None]
    limit = training.recipe.runtime.clip_gradient_norm
    before = float(nn.utils.clip_grad_norm_(weights, math.inf if limit is None else limit))
    training.optimizer.step()
    return before
