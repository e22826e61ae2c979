"""From a recipe to everything that training needs: data, detector, losses, optimizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from rankdet.data import CocoDataset, GroupedBatchSampler
from rankdet.inference.loading import build_losses, build_model
from rankdet.inference.model import Model
from rankdet.recipes import Recipe
from rankdet.runs.checkpoint import seed_random_numbers
from rankdet.runs.processes import World
from rankdet.structures import Batch, InputError, counted
from rankdet.training.averaging import WeightAverage
from rankdet.training.optimization import build_optimizer, scaled_lr
from rankdet.training.parts import Parts
from rankdet.training.starting import starting_weights
from rankdet.training.step import training_step


class Training:
    """Everything that a training needs, built: model, data, losses, optimizer.

    A run that is resumed (``is_new`` is false) brings its own weights. ``parts`` are the caller's, and the recipe fills
    the rest. With ``trust`` the checkpoint that training starts from may import what its recipe names by import path.
    Raises InputError when data or weights are missing or broken, or a part does not fit.
    """

    def __init__(
        self, recipe: Recipe, world: World, is_new: bool = True, parts: Parts | None = None, trust: bool = False
    ) -> None:
        self.world, self.parts = world, parts or Parts()
        own = self.parts.network
        with_masks = recipe.detector.has_masks if own is None else bool(getattr(own, "has_masks", False))
        self.prepared = self.parts.prepare(recipe, with_masks)
        self.dataset, self.test_dataset = self.prepared.datasets()
        self.recipe = recipe = self._with_bits(recipe, is_new)
        seed_random_numbers(recipe.seed)
        self.start = ""
        categories = self.dataset.categories
        network = own or recipe.detector.build(len(categories), pretrained=recipe.weights is None)
        if recipe.weights is not None and is_new:
            weights, self.start = starting_weights(recipe, network, categories, recipe.weights, trust)
            network.load_state_dict(weights)
        self.model = build_model(recipe, network, categories, world.device)
        self.num_images = recipe.data.batch_size * world.size * recipe.runtime.accumulation
        self.num_samples = self.sampler().num_samples
        self.iterations_per_epoch = math.ceil(self.num_samples / self.num_images)
        own_losses, batches_per_epoch = self.parts.losses, self.iterations_per_epoch * recipe.runtime.accumulation
        if own is None and not set(own_losses) <= set(recipe.losses):
            unknown = sorted(set(own_losses) - set(recipe.losses))
            raise InputError(f"losses names the heads {unknown}, but those of the recipe are {list(recipe.losses)}")
        self.losses = build_losses(recipe, world.device, batches_per_epoch, own_losses)
        for head, loss in self.losses.items():
            if any(parameter.requires_grad for parameter in loss.parameters()):
                kind = type(loss).__name__
                raise InputError(f"the loss of head {head!r} ({kind}) has parameters; only the network's are learned")
        self.lr = scaled_lr(recipe.optimizer, self.num_images, recipe.runtime.scale_lr)
        self.optimizer = build_optimizer(recipe.optimizer, self.model.network, self.lr, self.parts.optimizer)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=recipe.runtime.precision == "float16")
        ema = recipe.ema
        self.average = None if ema is None else WeightAverage(network, ema.decay, ema.warmup_iterations)
        self._base_lrs = [group["lr"] for group in self.optimizer.param_groups]
        self.num_iterations = recipe.schedule.length(self.iterations_per_epoch)
        # Each process draws its own samples of anchors and RoIs.
        seed_random_numbers(recipe.seed + 1_000_003 * (world.rank + 1))

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint keeps to see whether a run goes on with the same data, wherever they lie."""
        return fingerprint(self.dataset) | {"samples": self.num_samples}

    def _with_bits(self, recipe: Recipe, is_new: bool) -> Recipe:
        """The recipe with the bits that were measured of images of 16 bits, as those to evaluate on have them, too."""
        if self.parts.datasets is not None:
            return recipe
        bits = recipe.data.significant_bits or 16
        if is_new and self.dataset.transforms.significant_bits != bits:
            bits = self.dataset.transforms.significant_bits
            recipe = recipe.changed({"data.significant_bits": bits})
        self.dataset = _scaled(self.dataset, bits)  # a run that goes on has what it began with
        self.test_dataset = self.test_dataset and _scaled(self.test_dataset, bits)
        return recipe

    def sampler(self, samples: int = 0, stream: Sequence[Sequence[int]] = ()) -> GroupedBatchSampler:
        """The batches of this process after ``samples`` images of all processes, of which ``stream`` had other batches.

        ``stream`` is that of `rankdet.runs.checkpoint.TrainState`.
        """
        recipe, world = self.recipe, self.world
        before = [(images, steps) for images, steps in stream]
        start = (samples - sum(images * steps for images, steps in before)) // (recipe.data.batch_size * world.size)
        return recipe.data.build_sampler(self.dataset, recipe.seed, world.rank, world.size, start, before)

    def set_lr(self, iteration: int) -> None:
        """Set the learning rates of an iteration."""
        factor = self.recipe.schedule.factor(iteration, self.num_iterations)
        for group, lr in zip(self.optimizer.param_groups, self._base_lrs, strict=True):
            group["lr"] = lr * factor

    def step(self, model: Model, batch: Batch) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The sum that is minimized, the terms and the statistics of a batch; see `training_step`."""
        total, terms, stats = training_step(model.forward, self.losses, batch, self.recipe.head_weights)
        unused = set(self.parts.losses) - {name.partition("/")[0] for name in terms}
        if unused:
            raise InputError(f"losses names the heads {sorted(unused)}, which the network does not have")
        return total, terms, stats

    def describe(self) -> str:
        """The effective batch and learning rate in words."""
        recipe, reference = self.recipe, self.recipe.optimizer
        if self.parts.optimizer is None:
            scaled = "scaled from" if self.lr != reference.lr else "as at"
            rate = f"{self.lr:g} ({scaled} {reference.lr:g} at {reference.reference_batch} images)"
        else:
            rate = f"{self._base_lrs[0]:g} (of the given optimizer)"
        parts = (
            f" ({recipe.data.batch_size} per process × {self.world.size} × accumulation {recipe.runtime.accumulation})"
        )
        length = f"{counted(self.num_iterations, 'iteration')} of {counted(self.num_images, 'image')}"
        length += parts if self.num_images != recipe.data.batch_size else ""
        if self.num_samples != len(self.dataset):
            length += f", {counted(len(self.dataset), 'image')} ({self.num_samples} with repeated ones)"
        if self.num_iterations <= recipe.schedule.warmup_iterations:
            length += (
                f", all of them in the warm-up of {recipe.schedule.warmup_iterations} (a longer schedule leaves it)"
            )
        arithmetic = f"{self.world.device}, {recipe.runtime.precision}"
        if recipe.runtime.precision == "float16" and self.world.device.type == "cpu":
            arithmetic = f"{self.world.device}, float32 (float16 is for GPUs)"
        average = f", averaged weights (decay {recipe.ema.decay:g})" if recipe.ema is not None else ""
        return f"{recipe.name}: {length}, learning rate {rate}, {arithmetic}{average}"


def fingerprint(dataset: CocoDataset) -> dict[str, Any]:
    """Numbers by which the images and objects of a data set are told from others."""
    truth = dataset.ground_truth
    digest = hashlib.blake2b(digest_size=16)
    for values in (truth.image_ids, truth.sizes, truth.images, truth.labels, truth.boxes, truth.is_crowd):
        digest.update(values.tobytes())
    return {"images": len(dataset), "objects": dataset.num_objects, "digest": digest.hexdigest()}


def _scaled(dataset: CocoDataset, bits: int) -> CocoDataset:
    return dataset.with_transforms(replace(dataset.transforms, significant_bits=bits))
