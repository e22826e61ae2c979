"""The model of a recipe: all numbers of one experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from .config import Config
from .data import Data
from .detectors import Detector
from .losses import Loss, SigmoidCrossEntropy, SoftmaxCrossEntropy
from .optimization import Optimizer, Schedule


class Evaluation(Config):
    """How often and how a detector is evaluated."""

    every: PositiveInt | None = None
    """Iterations between evaluations during training; null: only at the end."""
    at_end: bool = True
    """Whether the trained detector is evaluated."""
    batch_size: PositiveInt = 4
    """Images per process and step."""


class Runtime(Config):
    """How the machine is used and what is written down; nothing here belongs to the method."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live; ``auto`` is a GPU where there is one."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the network (autocast); losses compute in float32 or better in any case."""
    channels_last: bool = False
    """Memory layout of images and convolutions."""
    threads: PositiveInt | None = None
    """Threads of torch on the CPU; null: torch decides."""
    accumulation: PositiveInt = 1
    """Steps whose gradients are averaged in one iteration (each step ranks over its own images)."""
    clip_gradient_norm: PositiveFloat | None = None
    """Largest norm of the gradient of all weights together; null: no clipping."""
    scale_lr: bool = True
    """Whether the learning rate is multiplied by images per iteration over ``optimizer.reference_batch``."""
    log_interval: PositiveInt = 50
    """Iterations between records of the log; statistics leave the device only then."""
    checkpoint_interval: PositiveInt | None = None
    """Iterations between checkpoints; null: once per epoch, and always at the end."""
    keep_checkpoints: PositiveInt = 2
    """Newest checkpoints that are kept."""
    tensorboard: bool = False
    """Whether a TensorBoard log is written as well (needs the package tensorboard)."""


class Recipe(Config):
    """One experiment: detector, losses, data, optimization, evaluation."""

    name: str = Field(pattern=r"^\w[\w.-]*$")
    """Name of the experiment: letters, digits and ``_.-``; the default run folder is ``runs/NAME``."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of weights, samplers and the order and flips of images."""
    detector: Detector
    """The network and its label assignment."""
    weights: Path | None = None
    """A checkpoint, or a run folder, whose weights training starts from in place of those of the backbone alone;
    ``--weights`` sets it."""
    losses: dict[str, Loss]
    """One loss for each head of the detector."""
    head_weights: dict[str, NonNegativeFloat] = Field(default={})
    """Factor of all terms of a head; 1 where a head is not named."""
    data: Data
    """Images and their preparation."""
    optimizer: Optimizer
    """Optimizer and learning rate."""
    schedule: Schedule
    """Length of the run and course of the learning rate."""
    evaluation: Evaluation = Evaluation()
    """Evaluation during and after training."""
    runtime: Runtime = Runtime()
    """Device, precision, accumulation, logging, checkpoints."""

    @model_validator(mode="after")
    def _heads_have_losses(self) -> Recipe:
        heads = self.detector.heads
        if set(self.losses) != set(heads):
            raise ValueError(f"losses must name the heads {sorted(heads)}, not {sorted(self.losses)}")
        unknown = set(self.head_weights) - set(heads)
        if unknown:
            raise ValueError(f"head_weights names unknown heads {sorted(unknown)}")
        for head, has_softmax in heads.items():
            if isinstance(self.losses[head], SoftmaxCrossEntropy) != has_softmax:
                raise ValueError(
                    f"losses.{head}.type = {self.losses[head].type} does not fit detector.{head}, "
                    f"which classifies by {'softmax' if has_softmax else 'sigmoid (softmax is false)'}"
                )
            if not self.detector.has_boxes:
                check_needs_no_boxes(f"losses.{head}", self.losses[head], self.detector.type)
            self._check_images(head)
            asked = [auxiliary.type for auxiliary in getattr(self.losses[head], "auxiliary", ())]
            handed = [name for owner, name in self.detector.auxiliary_heads.items() if owner == head]
            if asked != handed:
                raise ValueError(
                    f"losses.{head} learns the auxiliary heads {asked}, but those of detector.{head} are {handed}"
                )
        return self

    def _check_images(self, head: str) -> None:
        """Raise ValueError where a loss asks which image a candidate is of, and the detector does not say it."""
        loss = self.losses[head]
        if not isinstance(loss, SoftmaxCrossEntropy | SigmoidCrossEntropy) or self.detector.type == "yolact":
            return
        asked = {
            "hard_negatives": getattr(loss, "hard_negatives", None) is not None,
            "mask_loss.over_box_size": getattr(loss.mask_loss, "over_box_size", False),
        }
        for field, is_asked in asked.items():
            if is_asked:
                raise ValueError(f"losses.{head}.{field} is for the detector yolact, not for {self.detector.type}")


def check_needs_no_boxes(field: str, loss: Loss, detector: str) -> None:
    """Raise ValueError where a part of the loss in ``field`` looks at boxes, of which ``detector`` has none."""
    for part, of_boxes in (("label", ("iou", "mean")), ("weighting", ("iou", "centerness"))):
        found = getattr(getattr(loss, part, None), "type", None)
        if found in of_boxes:
            raise ValueError(
                f"{field}.{part}.type = {found} looks at boxes, but detector.type = {detector} has masks alone"
            )
