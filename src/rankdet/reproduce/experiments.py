"""From a built-in recipe and a change to runs on disk: their fields, folders and command lines."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rankdet.data import make_long_tailed_shapes, make_shapes
from rankdet.recipes import Recipe, load_recipe, validated
from rankdet.runs.folder import Run
from rankdet.structures import InputError
from rankdet.training.setup import FREE_FIELDS, differences

_LONGEST_SLUG = 120


@dataclass(frozen=True)
class MadeData:
    """A set of images that is made where it is needed."""

    make: Callable[..., Path]
    """Makes it in a folder, with ``test`` images to report on."""
    options: tuple[str, ...] = ()
    """Of ``rankdet make-shapes``, for the same set."""


@dataclass(frozen=True)
class Scale:
    """Data and size of the networks that a table is made with."""

    name: str
    """``shapes``, ``bccd``, ``coco``, …"""
    learning_rates: tuple[float, ...]
    """What every row may choose from; empty: the recipe's own."""
    seeds: tuple[int, ...]
    """Seeds of each row."""
    split: str
    """What is reported; nothing is chosen on it."""
    made: MadeData | None = None
    """How its data are made; None: they are given by ``--data``."""


SHAPES = Scale("shapes", learning_rates=(1.5e-3, 3e-3, 6e-3), seeds=(0, 1, 2), split="test", made=MadeData(make_shapes))
"""A small network from scratch on the procedural set: minutes per run on a CPU."""
LONG_TAILED_SHAPES = replace(
    SHAPES, name="long_tailed_shapes", made=MadeData(make_long_tailed_shapes, options=("--long-tailed",))
)
"""The same on its long-tailed form, in place of LVIS."""
BCCD = Scale("bccd", learning_rates=(5e-4, 1e-3, 2e-3), seeds=(0, 1, 2), split="test")
"""EfficientNet-Lite0 from ImageNet weights on a small folder in COCO format."""
NUCLEI = Scale("nuclei", learning_rates=(), seeds=(0, 1, 2), split="val")
"""EfficientNet-Lite0 from ImageNet weights on the nuclei of DSB 2018, one class, up to 375 objects in an image. They
have no test split, so nothing is chosen here: all rows have the learning rate of their recipes."""
COCO = Scale("coco", learning_rates=(), seeds=(0,), split="val")
"""The paper's recipe with the paper's learning rate: nothing is chosen here, so minival can be reported. Rows on LVIS
take its annotations from the same folder."""


def unchanged(recipe: Recipe) -> Recipe:
    """The recipe as it is."""
    return recipe


@dataclass(frozen=True)
class Experiment:
    """A built-in recipe and what is changed in it.

    Parameters
    ----------
    base
        A function of ``rankdet.recipes.RECIPES``.
    change
        Changes fields; the name stays.
    """

    base: Callable[[], Recipe]
    change: Callable[[Recipe], Recipe] = unchanged

    def overrides(self) -> list[str]:
        """The change as ``field=value``, the way the command line takes it; empty where nothing is changed."""
        base = self.base()
        changed = validated(self.change(base).model_dump(mode="json"), f"a change of recipe {base.name!r}")
        return list(overrides_between(base.model_dump(mode="json"), changed.model_dump(mode="json")))


def overrides_between(base: Any, changed: Any, field: str = "") -> Iterator[str]:
    """What must be given to ``load_recipe`` to get from one recipe to another, both as plain values.

    Raises
    ------
    ValueError
        When a key of ``base`` is gone: overrides add and replace, but never remove.

    Examples
    --------
    >>> base = {"delta": 0.5, "box_loss": {"type": "l1", "weight": 1.0}}
    >>> list(overrides_between(base, {"delta": 1.0, "box_loss": {"type": "giou", "weight": 1.0}}))
    ['delta=1.0', 'box_loss={type: giou, weight: 1.0}']
    """
    both = isinstance(base, dict) and isinstance(changed, dict)
    if both and base.get("type") == changed.get("type"):
        gone = sorted(set(base) - set(changed))
        if gone:
            raise ValueError(f"{field or 'the recipe'}: an override cannot remove {', '.join(gone)}")
        for name, value in changed.items():
            inner = f"{field}.{name}" if field else name
            if name in base:
                yield from overrides_between(base[name], value, inner)
            else:
                yield f"{inner}={_flow(value)}"
    elif base != changed:
        yield f"{field}={_flow(changed)}"


def _flow(value: Any) -> str:
    """A plain value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=sys.maxsize)
    return str(text).removesuffix("\n").removesuffix("\n...")


def slug(overrides: Sequence[str]) -> str:
    """A part of a folder's name that tells changes apart; empty where there are none.

    Examples
    --------
    >>> slug([]), slug(["losses.rpn.delta=0.25"])
    ('', '+rpn.delta-0.25+f6d3c4df')
    """
    if not overrides:
        return ""
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:8]
    short = (override.removeprefix("losses.").removeprefix("detector.") for override in overrides)
    words = "+".join(re.sub(r"[^\w.]+", "-", text).strip("-") for text in short)
    return f"+{words[:_LONGEST_SLUG]}+{digest}"


@dataclass(frozen=True)
class Command:
    """A command line of rankdet.

    Parameters
    ----------
    arguments
        What follows ``rankdet``.
    processes
        How many processes share the work, under ``torchrun`` where it is more than one.
    """

    arguments: tuple[str, ...]
    processes: int = 1

    @property
    def argv(self) -> list[str]:
        """The program and its arguments, for this Python."""
        return [sys.executable, *self._launcher("torch.distributed.run"), "-m", "rankdet", *self.arguments]

    def __str__(self) -> str:
        """As one types it."""
        if self.processes == 1:
            return shlex.join(["rankdet", *self.arguments])
        return shlex.join(["torchrun", *self._launcher("")[2:], "-m", "rankdet", *self.arguments])

    def _launcher(self, module: str) -> list[str]:
        if self.processes == 1:
            return []
        return ["-m", module, "--standalone", "--nproc-per-node", str(self.processes)]


@dataclass(frozen=True)
class Trial:
    """One run of one recipe with one learning rate and seed.

    Its folder is named by what is trained, never by a table, so that tables share runs.

    Parameters
    ----------
    name
        Of the built-in recipe.
    overrides
        All that differs from it but where the data are.
    data
        The data folder.
    run
        Where it lies.
    processes
        That train together.
    """

    name: str
    overrides: tuple[str, ...]
    data: Path
    run: Run
    processes: int = 1

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe itself."""
        return load_recipe(self.name, [*self.overrides, f"data.folder={_flow(str(self.data.resolve()))}"])

    @property
    def label(self) -> str:
        """What to call it on a terminal."""
        return self.run.folder.name

    def training(self) -> Command:
        """Trains it, or goes on with it."""
        folder = str(self.run.folder)
        if self.run.recipe.exists():
            return Command(("train", "--resume", folder), self.processes)
        arguments = ("train", self.name, *self.overrides, "--data", str(self.data), "--out", folder)
        return Command(arguments, self.processes)

    def measuring(self, split: str, device: str) -> Command:
        """Measures it on a split once it is trained."""
        arguments = ("evaluate", str(self.run.folder), "--data", str(self.data), "--split", split)
        options = ("--out", str(self.measured(split).parent), "--ranking", "--no-thresholds", "--device", device)
        return Command((*arguments, *options), self.processes)

    def measured(self, split: str) -> Path:
        """Where the numbers of a split are, once they are measured."""
        return self.run.folder / split / "evaluation.json"

    @property
    def divergence(self) -> Path:
        """Where it stands that the training diverged."""
        return self.run.folder / "diverged.txt"

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to train."""
        return self.run.evaluation.exists() or self.divergence.exists()

    def is_reported(self, split: str) -> bool:
        """Whether there is nothing left to do."""
        return self.divergence.exists() or self.measured(split).exists()

    def check_is_same(self) -> None:
        """Raise InputError where the folder holds the run of another recipe or of other data."""
        if not self.run.recipe.exists():
            return
        found = load_recipe(self.run.recipe)
        for field, value, other in differences(found.model_dump(mode="json"), self.recipe.model_dump(mode="json")):
            is_free = field in FREE_FIELDS and field != "data.folder"
            if not is_free and not field.startswith("evaluation."):
                raise InputError(
                    f"{self.run.folder} was trained with {field}={value}, not {other}; remove it, or give another --out"
                )


def make_trial(
    experiment: Experiment,
    changes: Sequence[str],
    *,
    lr: float | None,
    seed: int,
    data: Path,
    out: Path,
    free: Sequence[str] = (),
    processes: int = 1,
) -> Trial:
    """The run of an experiment.

    Parameters
    ----------
    experiment
        What to train.
    changes
        ``field=value`` beyond those of the experiment, such as another length.
    lr
        Learning rate at the reference batch; None: the recipe's own.
    seed
        Its seed.
    data, out
        Data folder, and the folder of all runs.
    free
        ``field=value`` that do not matter for the result, such as threads.
    processes
        That train together; steps of the optimizer get as many images as the learning rate belongs to.
    """
    name = experiment.base().name
    identity = [*experiment.overrides(), *changes]
    recipe = load_recipe(name, identity)
    steps = recipe.optimizer.reference_batch // (recipe.data.batch_size * processes)
    if steps > 1:
        identity.append(f"runtime.accumulation={steps}")
    rate = recipe.optimizer.lr if lr is None else lr
    own = [] if rate == recipe.optimizer.lr else [f"optimizer.lr={_flow(rate)}"]
    folder = out / "runs" / f"{name}{slug(identity)}-lr{rate:g}-seed{seed}"
    return Trial(name, (*identity, *own, f"seed={seed}", *free), data, Run(folder), processes)
