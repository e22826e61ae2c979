"""The model of a recipe: all numbers of one experiment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field, ValidationError, model_validator
from typing_extensions import Self

from rankdet.ranges import Count, CountOrZero, NonNegative, Positive
from rankdet.recipes.changes import merged, nested
from rankdet.recipes.migration import migrated

from .config import Config, input_error, suggestion
from .data import Data
from .detectors import Detector
from .fit import check_fit, parts_of
from .losses import Loss
from .optimization import AnyOptimizer, AnySchedule
from .part import Choice, Unresolved, annotated

if TYPE_CHECKING:
    from rankdet.coco import Finding
    from rankdet.data.preparation import Prepared


OF_SIZES, OF_FREQUENCIES = ("APs", "APm", "APl"), ("APr", "APc", "APf")
"""Metrics of a part of the objects: by their area, and on LVIS by how frequent their class is."""


class Evaluation(Config):
    """How often and how a detector is evaluated."""

    every: Count | None = None
    """Iterations between evaluations during training; null: only at the end."""
    at_end: bool = True
    """Whether the trained detector is evaluated."""
    metric: Literal["AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "oLRP"] = "AP"
    """The number whose best evaluation names the checkpoint ``best.pt``; that of masks where the detector finds some.
    APr, APc and APf are those of LVIS."""
    patience: Count | None = None
    """Evaluations in a row without a better ``metric`` that end the training (set ``every``); null: it is not ended."""
    batch_size: Count = 4
    """Images per process and step."""

    @property
    def is_asked(self) -> bool:
        """Whether there is an evaluation, on the way or at the end."""
        return self.at_end or self.every is not None

    def checked(self, prepared: Prepared) -> Prepared:
        """Data with what keeps evaluations from having the number that they are compared by among the findings."""
        return replace(prepared, findings=[*prepared.findings, *self._findings(prepared)])

    def _findings(self, prepared: Prepared) -> Iterator[Finding]:
        from rankdet.coco import Finding
        from rankdet.metrics import evaluate

        is_sound = all(finding.severity != "error" for finding in prepared.findings)
        if self.patience is not None and self.every is None:
            counts = "evaluation.patience counts evaluations on the way"
            yield Finding("error", "", "", counts, remedy="set evaluation.every=ITERATIONS")
        elif self.patience is not None and prepared.validation is None and is_sound:
            yield Finding("error", "", "", "evaluation.patience needs images to evaluate on, and there are none")
        if prepared.validation is None:
            return
        truth, chosen = prepared.validation.ground_truth, f"evaluation.metric={self.metric}"
        if self.metric in OF_FREQUENCIES and truth.federation is None:
            remedy = "evaluation.metric=AP is measured on all data"
            yield Finding("error", str(truth), "", f"is not of LVIS, on which {chosen} is measured", remedy=remedy)
        elif self.metric in OF_FREQUENCIES + OF_SIZES and math.isnan(evaluate(truth, [])[self.metric]):
            remedy = "no evaluation will be the best, and patience does not count"
            yield Finding("warning", str(truth), "", f"has no object that {chosen} counts", remedy=remedy)


class Averaging(Config):
    """The moving average of the weights, which is evaluated, saved and used in their place."""

    decay: float = Field(default=0.9999, ge=0, lt=1)
    """Share of the average that an iteration keeps, after the warm-up."""
    warmup_iterations: CountOrZero = 2000
    """The share is multiplied by 1 − exp(−t / this) at iteration t."""


class Runtime(Config):
    """How the machine is used and what is written down; nothing here belongs to the method."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live; ``auto`` is a GPU where there is one."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Arithmetic of the network (autocast); losses compute in float32 or better in any case. float16 is for GPUs
    without bfloat16: its gradients are scaled, and a CPU computes in float32 instead."""
    channels_last: bool = False
    """Memory layout of images and convolutions."""
    threads: Count | None = None
    """Threads of torch on the CPU; null: torch decides."""
    accumulation: Count = 1
    """Steps whose gradients are averaged in one iteration (each step ranks over its own images)."""
    clip_gradient_norm: Positive | None = None
    """Largest norm of the gradient of all weights together; null: no clipping."""
    scale_lr: bool = True
    """Whether the learning rate is multiplied by images per iteration over ``optimizer.reference_batch``."""
    log_interval: Count = 50
    """Iterations between records of the log; statistics leave the device only then."""
    checkpoint_interval: Count | None = None
    """Iterations between checkpoints; null: once per epoch. There is one before each evaluation and at the end, too."""
    keep_checkpoints: Count = 2
    """Newest checkpoints that are kept."""
    tensorboard: bool = False
    """Whether a TensorBoard log is written as well (needs the package tensorboard)."""


class Recipe(Config):
    """One experiment: detector, losses, data, optimization, evaluation."""

    name: str = Field(default="recipe", pattern=r"^\w[\w.-]*$")
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
    head_weights: dict[str, NonNegative] = Field(default={})
    """Factor of all terms of a head; 1 where a head is not named."""
    data: Data
    """Images and their preparation."""
    optimizer: AnyOptimizer
    """Optimizer and learning rate."""
    schedule: AnySchedule
    """Length of the run and course of the learning rate."""
    ema: Averaging | None = None
    """A moving average of the weights; null: none. ``ema={}`` is one with its defaults."""
    evaluation: Evaluation = Evaluation()
    """Evaluation during and after training."""
    runtime: Runtime = Runtime()
    """Device, precision, accumulation, logging, checkpoints."""

    @model_validator(mode="after")
    def _losses_fit(self) -> Self:
        check_fit(self.detector, self.losses)
        unknown = set(self.head_weights) - set(self.losses)
        if unknown:
            raise ValueError(f"head_weights names unknown heads {sorted(unknown)}")
        return self

    def changed(self, changes: Mapping[str, Any] = MappingProxyType({}), **replaced: Any) -> Recipe:
        """Return the recipe with other fields, validated.

        Parameters
        ----------
        changes
            Dotted fields and their values. A mapping is merged field by field, a model such as
            ``CosineSchedule(epochs=12)`` replaces what was there.
        replaced
            Fields of the recipe itself that are replaced as a whole, mappings too.

        Raises
        ------
        InputError
            Naming every unknown field and every wrong value.

        Examples
        --------
        >>> from rankdet.recipes import load_recipe
        >>> recipe = load_recipe("faster_rcnn_shapes")
        >>> recipe.changed({"optimizer.lr": 0.1, "detector": {"rpn": {"sampler": None}}}).optimizer.lr
        0.1
        """
        fields = merged(self.model_dump(mode="json") | replaced, nested(changes))
        trust = not any(isinstance(part, Unresolved) for _, part in parts_of(self))
        return validated(fields, f"a change of recipe {self.name!r}", trust)


def validated(fields: Any, source: str, trust: bool = False) -> Recipe:
    """Return the recipe of plain fields, also of those of an older version.

    Parameters
    ----------
    fields
        Mappings, sequences and values; models may stand among them.
    source
        Where they come from, for messages.
    trust
        Whether parts of someone else, ``type: module:Name``, are imported. Otherwise they are kept by name, and raise
        InputError when they are built.

    Raises
    ------
    InputError
        With every mistake and its dotted path.
    """
    fields = migrated(fields)
    try:
        return Recipe.model_validate(fields, context={"trust": trust})
    except ValidationError as error:
        mistakes = [_mistake(fields, details, trust) for details in error.errors()]
        raise input_error(f"{source}: {'; '.join(mistakes)}") from error


def _mistake(fields: Any, details: Any, trust: bool) -> str:
    location = details["loc"]
    dotted = ".".join(map(str, location)) or "the recipe"
    if details["type"] == "extra_forbidden":
        return f"{dotted}: unknown field{suggestion(str(location[-1]), _known_fields(fields, location[:-1], trust))}"
    if details["type"] == "missing":
        return f"{dotted}: missing"
    message = details["msg"].removeprefix("Value error, ")
    # What does not fit together among the fields of a mapping says it all; the whole mapping would only hide it.
    is_whole = details["type"] == "value_error" and isinstance(details["input"], dict | BaseModel)
    got = "" if is_whole else f", got {details['input']!r}"
    return f"{dotted}: {message[:1].lower()}{message[1:]}{got}"[:300]


def _known_fields(fields: Any, location: tuple[int | str, ...], trust: bool) -> list[str]:
    """The fields of the model at a place of a recipe, for suggestions."""
    annotation: Any = Recipe
    for key in location:
        here = _model_or_container(annotation, fields, trust)
        if isinstance(here, type) and issubclass(here, BaseModel):
            field = here.model_fields[str(key)]
            annotation = annotated(field.annotation, field.metadata)
        else:
            annotation = get_args(here)[-1 if get_origin(here) is dict else 0]
        fields = fields[key]
    here = _model_or_container(annotation, fields, trust)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _model_or_container(annotation: Any, fields: Any, trust: bool) -> Any:
    """The model that an annotation means for plain fields; a tuple or dict as it is; None for anything else."""
    members = get_args(annotation)
    if get_origin(annotation) is Annotated:
        choices = [each for each in annotation.__metadata__ if isinstance(each, Choice)]
        return choices[0].model(fields, trust) if choices else _model_or_container(members[0], fields, trust)
    if get_origin(annotation) in (tuple, dict):
        return annotation
    found = [_model_or_container(member, fields, trust) for member in members]
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else next((each for each in found if each is not None), None)
