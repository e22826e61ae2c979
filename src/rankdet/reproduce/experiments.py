"""Experiments: runs of built-in recipes and changes of them, with their folders and command lines."""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from rankdet.data import make_long_tailed_shapes, make_shapes
from rankdet.recipes import Recipe, load_recipe
from rankdet.recipes.changes import FREE_FIELDS, differences, flow, overrides_between
from rankdet.runs.folder import Run
from rankdet.structures import InputError

from .nuclei import cut_nuclei

_LONGEST_SLUG = 120


@dataclass(frozen=True)
class MadeData:
    """A set of images that is generated on demand."""

    make: Callable[..., Path]
    """Function that makes the set in a folder, with ``test`` images to report on."""
    options: tuple[str, ...] = ()
    """Options of ``rankdet make-shapes`` for the same set."""


@dataclass(frozen=True)
class Scale:
    """Data and size of the networks that a table is made with."""

    name: str
    """Name: ``shapes``, ``bccd``, ``coco``, …"""
    learning_rates: tuple[float, ...]
    """Learning rates that every row chooses from; empty: the recipe's own."""
    seeds: tuple[int, ...]
    """Seeds of each row."""
    split: str
    """The split that is reported; nothing is chosen on it."""
    made: MadeData | None = None
    """The generator of its data; None: ``--data`` names them."""
    cut: Callable[[Path, Path], None] | None = None
    """Function that cuts a test split off the folder of ``--data`` into a folder; None: that has one, or needs none."""


SHAPES = Scale("shapes", learning_rates=(1.5e-3, 3e-3, 6e-3), seeds=(0, 1, 2), split="test", made=MadeData(make_shapes))
"""A small network from scratch on the procedural set: minutes per run on a CPU."""
LONG_TAILED_SHAPES = replace(
    SHAPES, name="long_tailed_shapes", made=MadeData(make_long_tailed_shapes, options=("--long-tailed",))
)
"""A small network from scratch on the long-tailed procedural set, in place of LVIS."""
BCCD = Scale("bccd", learning_rates=(5e-4, 1e-3, 2e-3), seeds=(0, 1, 2), split="test")
"""EfficientNet-Lite0 from ImageNet weights on a small folder in COCO format."""
NUCLEI = Scale("nuclei", learning_rates=(5e-4, 1e-3, 2e-3), seeds=(0, 1, 2), split="test", cut=cut_nuclei)
"""EfficientNet-Lite0 from ImageNet weights on the nuclei of DSB 2018, one class, up to 375 objects in an image."""
COCO = Scale("coco", learning_rates=(), seeds=(0,), split="val")
"""The paper's recipe with the paper's learning rate. Nothing is chosen here, so minival can be reported.

Rows on LVIS read its annotations from the same folder.
"""


def unchanged(recipe: Recipe) -> Recipe:
    """Return the recipe as it is."""
    return recipe


@dataclass(frozen=True)
class Experiment:
    """A built-in recipe and a change of its fields."""

    base: Callable[[], Recipe]
    change: Callable[[Recipe], Recipe] = unchanged

    def overrides(self) -> list[str]:
        """Return the change as ``field=value`` arguments of the command line; empty if nothing is changed."""
        base = self.base()
        return list(overrides_between(base.model_dump(mode="json"), self.change(base).model_dump(mode="json")))


def slug(overrides: Sequence[str]) -> str:
    """Return a part of a folder's name that distinguishes changes; empty if there are none.

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

    More than one process shares the work under ``torchrun``.
    """

    arguments: tuple[str, ...]
    processes: int = 1

    @property
    def argv(self) -> list[str]:
        """Return the program and its arguments, for this Python."""
        return [sys.executable, *self._launcher("torch.distributed.run"), "-m", "rankdet", *self.arguments]

    def __str__(self) -> str:
        """Return the command as typed in a shell."""
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

    Its folder is named by what is trained, not by a table, so that tables share runs.

    ``overrides`` are all differences from the built-in recipe, except the data folder.
    """

    name: str
    overrides: tuple[str, ...]
    data: Path
    run: Run
    processes: int = 1

    @cached_property
    def recipe(self) -> Recipe:
        """Return the recipe with the overrides."""
        return load_recipe(self.name, [*self.overrides, f"data.folder={flow(str(self.data.resolve()))}"])

    @property
    def label(self) -> str:
        """Return the name that a terminal shows."""
        return self.run.folder.name

    def training(self) -> Command:
        """Return the command that starts or resumes the training."""
        folder = str(self.run.folder)
        if self.run.recipe.exists():
            return Command(("train", "--resume", folder), self.processes)
        arguments = ("train", self.name, *self.overrides, "--data", str(self.data), "--out", folder)
        return Command(arguments, self.processes)

    def measuring(self, split: str, device: str) -> Command:
        """Return the command that measures the trained run on a split."""
        arguments = ("evaluate", str(self.run.folder), "--data", str(self.data), "--split", split)
        options = ("--out", str(self.measured(split).parent), "--ranking", "--no-thresholds", "--device", device)
        return Command((*arguments, *options), self.processes)

    def measured(self, split: str) -> Path:
        """Return the file of a split's numbers, which exists once they are measured."""
        return self.run.folder / split / "evaluation.json"

    @property
    def divergence(self) -> Path:
        """Return the file that marks a diverged training."""
        return self.run.folder / "diverged.txt"

    @property
    def is_settled(self) -> bool:
        """Return True if there is nothing left to train."""
        return self.run.evaluation.exists() or self.divergence.exists()

    def is_reported(self, split: str) -> bool:
        """Return True if there is nothing left to train or measure."""
        return self.divergence.exists() or self.measured(split).exists()

    def check_is_same(self) -> None:
        """Raise InputError if the folder holds the run of another recipe or of other data."""
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
    """Return the run of an experiment.

    ``changes`` and ``free`` are ``field=value`` arguments; those of ``free``, such as threads, have no effect on the
    result. ``lr`` None is the recipe's own. With any number of processes, steps of the optimizer get the images that
    the learning rate is for.
    """
    name = experiment.base().name
    identity = [*experiment.overrides(), *changes]
    recipe = load_recipe(name, identity)
    steps = recipe.optimizer.reference_batch // (recipe.data.batch_size * processes)
    if steps > 1:
        identity.append(f"runtime.accumulation={steps}")
    rate = recipe.optimizer.lr if lr is None else lr
    own = [] if rate == recipe.optimizer.lr else [f"optimizer.lr={flow(rate)}"]
    folder = out / "runs" / f"{name}{slug(identity)}-lr{rate:g}-seed{seed}"
    return Trial(name, (*identity, *own, f"seed={seed}", *free), data, Run(folder), processes)
