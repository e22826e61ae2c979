"""From a recipe to everything that training needs: data, detector, losses, optimizer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankdet.coco import category_difference
from rankdet.data import CocoDataset, GroupedBatchSampler
from rankdet.inference.loading import build_model
from rankdet.recipes import Recipe, validated
from rankdet.runs.checkpoint import seed_random_numbers
from rankdet.runs.processes import World
from rankdet.structures import InputError
from rankdet.training.optimization import build_optimizer, scaled_lr, set_lr
from rankdet.training.starting import starting_weights

FREE_FIELDS = frozenset(
    ["data.folder", "data.workers"]
    + [
        f"runtime.{name}"
        for name in ("device", "threads", "log_interval", "checkpoint_interval", "keep_checkpoints", "tensorboard")
    ]
)
"""What may change before a run is resumed, beside ``evaluation``: its weights stay the same."""


def differences(first: Any, second: Any, field: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted fields in which two recipes differ, as plain values.

    Examples
    --------
    >>> list(differences({"seed": 0, "optimizer": {"lr": 0.1}}, {"seed": 0, "optimizer": {"lr": 0.2}}))
    [('optimizer.lr', 0.1, 0.2)]
    """
    if isinstance(first, dict) and isinstance(second, dict):
        for name in first | second:
            yield from differences(first.get(name), second.get(name), f"{field}.{name}" if field else name)
    elif first != second:
        yield field, first, second


class Training:
    """Everything that a recipe describes, built: data, detector, losses, optimizer.

    Parameters
    ----------
    recipe
        What to build.
    world
        The processes and this one's device.
    is_new
        Whether training begins; a run that is resumed brings its own weights.

    Raises
    ------
    InputError
        When data or weights are missing or broken.
    """

    def __init__(self, recipe: Recipe, world: World, is_new: bool = True) -> None:
        self.recipe, self.world = recipe, world
        self.dataset = recipe.data.build_training_dataset(recipe.detector.has_masks)
        self.test_dataset = self._test_dataset()
        seed_random_numbers(recipe.seed)
        self.start = ""
        detector = recipe.detector.build(len(self.dataset.categories), pretrained=recipe.weights is None)
        if recipe.weights is not None and is_new:
            weights, self.start = starting_weights(recipe, detector, self.dataset.categories, recipe.weights)
            detector.load_state_dict(weights)
        self.model = build_model(recipe, detector, self.dataset.categories, world.device)
        self.num_images = recipe.data.batch_size * world.size * recipe.runtime.accumulation
        self.num_samples = self.sampler().num_samples
        self.iterations_per_epoch = math.ceil(self.num_samples / self.num_images)
        steps = self.iterations_per_epoch * recipe.runtime.accumulation
        self.losses = {head: config.build(steps).to(world.device) for head, config in recipe.losses.items()}
        self.lr = scaled_lr(recipe.optimizer, self.num_images, recipe.runtime.scale_lr)
        self.optimizer = build_optimizer(recipe, self.model.network, self.num_images)
        schedule = recipe.schedule
        self.num_iterations = (
            schedule.iterations
            if schedule.iterations is not None
            else math.ceil(schedule.epochs * self.iterations_per_epoch)  # type: ignore[operator]
        )
        # Each process draws its own samples of anchors and RoIs.
        seed_random_numbers(recipe.seed + 1_000_003 * (world.rank + 1))

    def sampler(self, start: int = 0) -> GroupedBatchSampler:
        """The batches of this process from the step ``start`` on."""
        recipe, world = self.recipe, self.world
        return recipe.data.build_sampler(self.dataset, recipe.seed, world.rank, world.size, start)

    def _test_dataset(self) -> CocoDataset | None:
        if not self.recipe.evaluation.at_end and self.recipe.evaluation.every is None:
            return None
        dataset = self.recipe.data.build_test_dataset(measure_masks=self.recipe.detector.has_masks)
        if dataset.categories != self.dataset.categories:
            raise InputError(
                f"{dataset.ground_truth} has other categories than {self.dataset.ground_truth}: "
                f"{category_difference(dataset.categories, self.dataset.categories)}"
            )
        return dataset

    def check_fits(self, state: dict[str, Any], path: Path) -> None:
        """Raise InputError unless the checkpoint ``path`` belongs to this recipe, these data and processes."""
        if state["world_size"] != self.world.size:
            raise InputError(
                f"the run was started with {state['world_size']} processes; resume it with as many, "
                f"not {self.world.size}"
            )
        before = validated(state["recipe"], f"recipe in {path}").model_dump(mode="json")
        for field, value, other in differences(self.recipe.model_dump(mode="json"), before):
            if field not in FREE_FIELDS and not field.startswith("evaluation."):
                raise InputError(
                    f"checkpoint {path} does not fit: the recipe of the run says {field}={value}, and it was trained "
                    f"with {other}; change it back, or start a new run"
                )
        categories = [tuple(category) for category in state["categories"]]
        if categories != self.dataset.categories:
            raise InputError(
                f"{self.dataset.ground_truth} has other categories than checkpoint {path}: "
                f"{category_difference(self.dataset.categories, categories)}"
            )

    def set_lr(self, iteration: int) -> float:
        """Set and return the learning rate of an iteration."""
        lr = self.lr * self.recipe.schedule.factor(iteration, self.num_iterations)
        set_lr(self.optimizer, lr)
        return lr

    def describe(self) -> str:
        """The effective batch and learning rate in words."""
        recipe, reference = self.recipe, self.recipe.optimizer
        parts = f"{recipe.data.batch_size} per process × {self.world.size} × accumulation {recipe.runtime.accumulation}"
        scaled = "scaled from" if self.lr != reference.lr else "as at"
        repeated = "" if self.num_samples == len(self.dataset) else f" ({self.num_samples} with repeated ones)"
        return (
            f"{recipe.name}: {self.num_iterations} iterations of {self.num_images} images ({parts}), "
            f"{len(self.dataset)} images{repeated}, learning rate {self.lr:g} "
            f"({scaled} {reference.lr:g} at {reference.reference_batch} images), "
            f"{self.world.device}, {recipe.runtime.precision}"
        )
