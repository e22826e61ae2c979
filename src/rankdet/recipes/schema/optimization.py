"""Optimizer and learning-rate schedule of a recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, model_validator
from typing_extensions import Self

from rankdet.ranges import Count, CountOrZero, Fraction, NonNegative, Positive

from .part import Choice, Part


class Optimizer(Part):
    """What every optimizer has. It is built from groups of parameters that bring their ``weight_decay``, and a rate."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    late: ClassVar[tuple[str, ...]] = ("params", "lr")
    type: str
    lr: Positive
    """Learning rate at the reference batch."""
    reference_batch: Count = 16
    """Images per iteration, over all processes, that ``lr`` belongs to."""
    weight_decay: NonNegative = 1e-4
    """L2 penalty, or decoupled decay where the optimizer has it."""
    decay_norm_and_bias: bool = True
    """Whether weight decay also applies to normalization weights and biases."""


class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    target: ClassVar[str] = "torch.optim:SGD"
    type: Literal["sgd"] = "sgd"
    momentum: Fraction = 0.9
    """Share of the last step that is kept."""

    def arguments(self, named: Mapping[str, Any]) -> dict[str, Any]:
        return {"momentum": self.momentum, "fused": True}


class AdamW(Optimizer):
    """Adam with decoupled weight decay."""

    target: ClassVar[str] = "torch.optim:AdamW"
    type: Literal["adamw"] = "adamw"
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the averages of gradient and squared gradient."""

    def arguments(self, named: Mapping[str, Any]) -> dict[str, Any]:
        return {"betas": self.betas, "fused": True}


AnyOptimizer = Annotated[Part, Choice((SGD, AdamW), Optimizer, ("params", "lr"))]


class Schedule(Part):
    """The length of a run, and a linear warm-up."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    type: str
    epochs: Positive | None = None
    """Length of the run in passes over the training images, or null."""
    iterations: Count | None = None
    """Length of the run in iterations (steps of the optimizer), or null."""
    warmup_iterations: CountOrZero = 500
    """Length of the linear warm-up."""
    warmup_factor: Fraction = 0.001
    """Factor of the learning rate at iteration 0."""

    @model_validator(mode="after")
    def _has_one_length(self) -> Self:
        if (self.epochs is None) == (self.iterations is None):
            raise ValueError("give exactly one of epochs and iterations (and set the other to null)")
        return self

    def length(self, iterations_per_epoch: int) -> int:
        """The iterations of the whole run."""
        return self.iterations or math.ceil((self.epochs or 0) * iterations_per_epoch)

    def factor(self, iteration: int, num_iterations: int) -> float:
        """Factor of the learning rate at ``iteration`` (from 0) of a run of ``num_iterations``.

        Examples
        --------
        >>> schedule = StepSchedule(iterations=100, milestones=(0.7, 0.9), warmup_iterations=10, warmup_factor=0.1)
        >>> [round(schedule.factor(iteration, 100), 3) for iteration in (0, 5, 69, 70, 90)]
        [0.1, 0.55, 1.0, 0.1, 0.01]
        >>> schedule = CosineSchedule(epochs=2, warmup_iterations=0)
        >>> [round(schedule.factor(iteration, 100), 3) for iteration in (0, 49, 50, 99)]
        [1.0, 1.0, 0.5, 0.5]
        """
        warmup = 1.0
        if iteration < self.warmup_iterations:
            warmup = self.warmup_factor + (1 - self.warmup_factor) * iteration / self.warmup_iterations
        return float(warmup * self.course(iteration, num_iterations))

    def course(self, iteration: int, num_iterations: int) -> float:
        """The factor without the warm-up; a schedule of someone else is called for it."""
        return float(self.build()(iteration, num_iterations))


class StepSchedule(Schedule):
    """Linear warm-up, then the learning rate times ``gamma`` at every milestone."""

    type: Literal["step"] = "step"
    milestones: tuple[Fraction, ...]
    """When the learning rate falls, as fractions (0–1) of the whole run, neither epochs nor iterations."""
    gamma: Positive = 0.1
    """Factor at each milestone."""

    def course(self, iteration: int, num_iterations: int) -> float:
        passed = sum(iteration >= round(milestone * num_iterations) for milestone in self.milestones)
        return float(self.gamma**passed)


class CosineSchedule(Schedule):
    """Linear warm-up times half a cosine from 1 to 0, which falls once per epoch where the length is in epochs."""

    type: Literal["cosine"] = "cosine"
    warmup_factor: Fraction = 0.1
    """Factor of the learning rate at iteration 0."""

    def course(self, iteration: int, num_iterations: int) -> float:
        done = iteration / num_iterations
        if self.epochs is not None:
            done = math.floor(iteration * self.epochs / num_iterations) / self.epochs
        return 0.5 * (1 + math.cos(math.pi * done))


AnySchedule = Annotated[Part, Choice((StepSchedule, CosineSchedule), Schedule)]
