"""Optimizer and learning-rate schedule of a recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from .config import Config

if TYPE_CHECKING:
    import torch

Fraction = Annotated[float, Field(ge=0, le=1)]


class SGD(Config):
    """Stochastic gradient descent with momentum."""

    type: Literal["sgd"] = "sgd"
    lr: PositiveFloat
    """Learning rate at the reference batch."""
    reference_batch: PositiveInt = 16
    """Images per iteration, over all processes, that ``lr`` belongs to."""
    momentum: Fraction = 0.9
    """Share of the last step that is kept."""
    weight_decay: NonNegativeFloat = 1e-4
    """L2 penalty."""
    decay_norm_and_bias: bool = True
    """Whether weight decay also applies to normalization weights and biases."""

    def build(self, groups: Iterable[dict[str, object]], lr: float) -> torch.optim.Optimizer:
        """The optimizer over parameter groups that bring their own ``weight_decay``."""
        import torch

        return torch.optim.SGD(list(groups), lr=lr, momentum=self.momentum, fused=True)


class AdamW(Config):
    """Adam with decoupled weight decay."""

    type: Literal["adamw"] = "adamw"
    lr: PositiveFloat
    """Learning rate at the reference batch."""
    reference_batch: PositiveInt = 16
    """Images per iteration, over all processes, that ``lr`` belongs to."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the averages of gradient and squared gradient."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay."""
    decay_norm_and_bias: bool = True
    """Whether weight decay also applies to normalization weights and biases."""

    def build(self, groups: Iterable[dict[str, object]], lr: float) -> torch.optim.Optimizer:
        """The optimizer over parameter groups that bring their own ``weight_decay``."""
        import torch

        return torch.optim.AdamW(list(groups), lr=lr, betas=self.betas, fused=True)


Optimizer = Annotated[SGD | AdamW, Field(discriminator="type")]


def check_length(epochs: float | None, iterations: int | None) -> None:
    """Raise ValueError unless exactly one of the two lengths of a run is given."""
    if (epochs is None) == (iterations is None):
        raise ValueError("give exactly one of epochs and iterations (and set the other to null)")


def warmup(iteration: int, warmup_iterations: int, warmup_factor: float) -> float:
    """Factor of a linear warm-up: from ``warmup_factor`` at iteration 0 to 1 at ``warmup_iterations``.

    Examples
    --------
    >>> [warmup(iteration, 10, 0.1) for iteration in (0, 5, 10, 99)]
    [0.1, 0.55, 1.0, 1.0]
    """
    if iteration >= warmup_iterations:
        return 1.0
    return warmup_factor + (1 - warmup_factor) * iteration / warmup_iterations


class StepSchedule(Config):
    """Linear warm-up, then the learning rate times ``gamma`` at every milestone."""

    type: Literal["step"] = "step"
    epochs: PositiveFloat | None = None
    """Length of the run in passes over the training images, or null."""
    iterations: PositiveInt | None = None
    """Length of the run in iterations (steps of the optimizer), or null."""
    milestones: tuple[Fraction, ...]
    """When the learning rate falls, as fractions (0–1) of the whole run, neither epochs nor iterations."""
    gamma: PositiveFloat = 0.1
    """Factor at each milestone."""
    warmup_iterations: NonNegativeInt = 500
    """Length of the linear warm-up."""
    warmup_factor: Fraction = 0.001
    """Factor of the learning rate at iteration 0."""

    @model_validator(mode="after")
    def _has_one_length(self) -> StepSchedule:
        check_length(self.epochs, self.iterations)
        return self

    def factor(self, iteration: int, num_iterations: int) -> float:
        """Factor of the learning rate at ``iteration`` (from 0) of a run of ``num_iterations``.

        Examples
        --------
        >>> schedule = StepSchedule(iterations=100, milestones=(0.7, 0.9), warmup_iterations=10, warmup_factor=0.1)
        >>> [round(schedule.factor(iteration, 100), 3) for iteration in (0, 5, 69, 70, 90)]
        [0.1, 0.55, 1.0, 0.1, 0.01]
        """
        passed = sum(iteration >= round(milestone * num_iterations) for milestone in self.milestones)
        return float(warmup(iteration, self.warmup_iterations, self.warmup_factor) * self.gamma**passed)


class CosineSchedule(Config):
    """Linear warm-up times half a cosine from 1 to 0, which falls once per epoch where the length is in epochs."""

    type: Literal["cosine"] = "cosine"
    epochs: PositiveFloat | None = None
    """Length of the run in passes over the training images, or null."""
    iterations: PositiveInt | None = None
    """Length of the run in iterations (steps of the optimizer), or null."""
    warmup_iterations: NonNegativeInt = 500
    """Length of the linear warm-up."""
    warmup_factor: Fraction = 0.1
    """Factor of the learning rate at iteration 0."""

    @model_validator(mode="after")
    def _has_one_length(self) -> CosineSchedule:
        check_length(self.epochs, self.iterations)
        return self

    def factor(self, iteration: int, num_iterations: int) -> float:
        """Factor of the learning rate at ``iteration`` (from 0) of a run of ``num_iterations``.

        Examples
        --------
        >>> schedule = CosineSchedule(iterations=100, warmup_iterations=0)
        >>> [round(schedule.factor(iteration, 100), 3) for iteration in (0, 50, 100)]
        [1.0, 0.5, 0.0]
        >>> schedule = CosineSchedule(epochs=2, warmup_iterations=0)
        >>> [round(schedule.factor(iteration, 100), 3) for iteration in (0, 49, 50, 99)]
        [1.0, 1.0, 0.5, 0.5]
        """
        done = iteration / num_iterations
        if self.epochs is not None:
            done = math.floor(iteration * self.epochs / num_iterations) / self.epochs
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return warmup(iteration, self.warmup_iterations, self.warmup_factor) * cosine


Schedule = Annotated[StepSchedule | CosineSchedule, Field(discriminator="type")]
