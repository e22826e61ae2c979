"""Training from Python: a recipe, the caller's own parts, or both."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from rankdet import __version__
from rankdet.inference.model import Model, Origin
from rankdet.recipes import Recipe, dump, load_recipe
from rankdet.recipes.changes import PLACES_OF_DATA, differences
from rankdet.recipes.default import BOXES, said_of_default
from rankdet.recipes.loading import parsed_overrides
from rankdet.runs.checkpoint import (
    FOR_DETECTION,
    load_checkpoint,
    load_weights,
    newest_sound,
    random_state,
    restore_random_state,
)
from rankdet.runs.folder import Run, find_checkpoint, write_text
from rankdet.runs.processes import World, joined_world
from rankdet.runs.signals import StopRequest
from rankdet.structures import InputError
from rankdet.training.best import evaluations
from rankdet.training.engine import Loop
from rankdet.training.logging import Display
from rankdet.training.optimization import OwnOptimizer
from rankdet.training.parts import Callback, OwnDatasets, Parts
from rankdet.training.resuming import resumed
from rankdet.training.setup import Training, fingerprint

PATIENCE = 120.0
"""Seconds that the same command, started again, waits for the run folder: a training that stops needs some for its last
checkpoint, and a file system of several machines some to notice that one of them is gone (NFS: 90)."""

_OF_A_MACHINE = frozenset([*(f"data.{name}" for name in PLACES_OF_DATA), "data.workers", "runtime.threads"])
"""Fields that need not be the same for all processes of a training."""


@dataclass(frozen=True)
class TrainedRun:
    """A run that has ended.

    Parameters
    ----------
    folder
        The run folder: recipe.yaml, data.txt (what is used and left out), log.jsonl, checkpoints/, and of the last
        evaluation evaluation.json and detections.json.
    model
        The trained model, in evaluation mode: that of the best evaluation, as `rankdet.load` gives it of the folder.
    metrics
        The numbers of its evaluation, as of `rankdet.metrics.evaluate`; None where it was not evaluated, or the log has
        lost them.
    signal
        Number of the signal that stopped the training early, or None.
    """

    folder: Path
    model: Model
    metrics: dict[str, Any] | None
    signal: int | None


def train(
    recipe: Recipe | str | PathLike[str] | None = None,
    *,
    data: str | PathLike[str] | None = None,
    out: str | PathLike[str] | None = None,
    changes: Mapping[str, Any] | Sequence[str] = (),
    weights: str | PathLike[str] | None = None,
    resume: str | PathLike[str] | None = None,
    resume_if_exists: bool = False,
    network: nn.Module | None = None,
    losses: Mapping[str, nn.Module] | None = None,
    datasets: OwnDatasets | None = None,
    classes: Sequence[str] | None = None,
    optimizer: OwnOptimizer | None = None,
    callbacks: Sequence[Callback] = (),
    trust: bool = False,
    console: Console | None = None,
) -> TrainedRun:
    """Train a detector; under ``torchrun``, with all its processes.

    SIGINT (Ctrl-C, the interruption of a notebook), SIGTERM, SIGHUP and SIGUSR1 end the training after the iteration,
    or while it waits for images: it writes a checkpoint and returns. A second one ends it at once. Python allows this
    in the main thread alone.

    Parameters
    ----------
    recipe
        A name of ``rankdet list``, a YAML file, or a recipe. None: a small one for boxes, `rankdet.recipes.default`,
        which is said; with ``resume`` the run has its own.
    data
        The data folder.
    out
        The run folder; ``runs/NAME`` by default. It must not hold a run yet.
    changes
        Fields of the recipe and their values: ``{"schedule.iterations": 500}``, or ``["schedule.iterations=500"]``.
    weights
        A checkpoint, or a run folder (its best checkpoint), whose weights training starts from.
    resume
        A run folder to go on with, from its newest checkpoint. On a CPU the result is bit for bit that of an
        uninterrupted run. Give the parts again that it was started with. ``data`` is the folder to which its data have
        moved, and ``changes`` may ask for more iterations or epochs, other images per iteration, and for all that
        leaves the weights as they are; another number of processes goes on, too. What has changed is said.
    resume_if_exists
        Whether a run that ``out`` holds is resumed, as far as it has come, and begun where there is none: the same call
        can then be made again after any end, as ``torchrun --max-restarts`` and batch systems do. A training that has
        the folder is waited for, two minutes at most.
    network
        A network of your own in place of the detector of the recipe (``docs/adding-a-detector.md``).
    losses
        Losses of your own by the names of their heads, in place of those of the recipe.
    datasets
        Images to learn from, and images to evaluate on or None, in place of a data folder: data sets of this package,
        or with ``len`` and items ``(image, {"boxes": (G, 4), "labels": (G,)})``; see
        `rankdet.data.own.MapDataset`.
    classes
        Names of the classes of ``datasets`` by label, where they have no attribute ``classes``.
    optimizer
        An optimizer of your own, or a callable that makes one of parameter groups. Its learning rates are those that
        the schedule of the recipe multiplies.
    callbacks
        Objects to report to, with the methods of `rankdet.training.parts.Callback`.
    trust
        Whether the checkpoint of ``weights`` may import what its recipe names by import path, which runs its code.
    console
        Where the main process writes; None: the standard output.

    Returns
    -------
    TrainedRun
        Its folder, model, metrics, and the signal that stopped it.

    Raises
    ------
    InputError
        For bad input of all kinds, and for a loss that is not finite. No process is left waiting.
    """
    if data is not None and datasets is not None:
        raise InputError("give a data folder or datasets, not both")
    parts = Parts(network, losses or {}, datasets, classes, optimizer, callbacks)
    overrides = [changes] if isinstance(changes, str) else changes
    changed = dict(overrides) if isinstance(overrides, Mapping) else parsed_overrides(overrides)
    for field, path in (("data.folder", data), ("weights", weights)):
        if path is not None:
            changed[field] = str(Path(path).resolve())
    if resume is not None:
        if out is not None or weights is not None or resume_if_exists:
            raise InputError(
                "a resumed run keeps its folder and its weights: give neither out nor weights nor resume_if_exists"
            )
        if recipe is not None and not isinstance(recipe, Recipe):
            raise InputError("a resumed run has its own recipe; changes={...} takes fields that may change")
        run = Run(Path(resume))
        if recipe is None and not run.recipe.exists():
            raise InputError(f"{resume} is no run folder: it has no recipe.yaml")
        resolved = _resolved(recipe or run.recipe, changed)
        _check_data_are_there(resolved, datasets is not None)
    else:
        resolved = _resolved(BOXES if recipe is None else recipe, changed)
        if recipe is None and datasets is None and not any(getattr(resolved.data, place) for place in PLACES_OF_DATA):
            raise InputError("name a recipe (`rankdet list` shows them), data for a small one, or a run to resume")
        run = Run(Path(out or Path("runs") / resolved.name))
    console = console or Console()
    with (
        _caller_undisturbed(),
        joined_world(resolved.runtime.device) as world,
        StopRequest() as stop,
        _folder_for(run, world, console, PATIENCE if resume_if_exists else 0.0),
    ):
        if resolved.runtime.threads is not None:
            torch.set_num_threads(resolved.runtime.threads)
        if recipe is None and resume is None and world.is_main:
            said = said_of_default(None if datasets is not None else resolved.data)
            console.print(said, soft_wrap=True, highlight=False)
        is_new = resume is None and not resume_if_exists
        training, state = _prepared(resolved, run, world, parts, is_new=is_new, trust=trust)
        # One bar is enough; the others may still have something to report.
        own_console = console if world.is_main else Console(file=console.file, force_terminal=False)
        shift = 0 if state is None else state["shift"]
        loop = Loop(training, run, Display(own_console, resolved.name, training.num_iterations + shift), stop)
        signal = loop.go(state)
        trained = _trained_run(loop, run, signal)
        with world.together():
            for callback in callbacks if world.is_main else ():
                callback.on_end(trained)
        return trained


def _resolved(recipe: Recipe | str | PathLike[str], changes: Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe.changed(changes)
    return load_recipe(Path(recipe) if isinstance(recipe, PathLike) else recipe, changes)


def _prepared(
    recipe: Recipe, run: Run, world: World, parts: Parts, is_new: bool, trust: bool
) -> tuple[Training, dict[str, Any] | None]:
    """The training, the checkpoint that it goes on from, and a folder to write into."""
    # Every process has looked into the folder and at the data before anything is written.
    with world.together():
        if is_new:
            run.check_is_new()
        # A run that was stopped before its first checkpoint begins again.
        path, state, damaged = (None, None, {}) if is_new else newest_sound(run)
    with world.together():
        if (path and path.name) != world.of_main(path and path.name):
            raise InputError(f"processes see different checkpoints in {run.folder}: all need the same folder")
    with world.together():
        if path is not None and state is not None:
            parts.check_same(state["parts"], path)
            recipe = _with_bits_of(state, recipe)
        training = Training(recipe, world, is_new=state is None, parts=parts, trust=trust)
        if path is not None and state is not None:
            state, training.start = resumed(state, path, training)
            warnings = [
                f"warning: {error}; it is set aside, and the run goes on from {path.name}" for error in damaged.values()
            ]
            training.start = "\n".join(filter(None, [*warnings, training.start]))
    _check_same(training)
    with world.together():
        if world.is_main:
            run.delete_parts()
            for lost in damaged:
                run.set_aside(lost)
            if state is None:
                run.create()
            # A run that goes on with changed fields has them from here on.
            if state is None or not run.recipe.exists() or _resolved(run.recipe, {}) != training.recipe:
                write_text(run.recipe, dump(training.recipe))
                write_text(run.data, training.prepared.describe() + "\n")
    return training, state


def _check_same(training: Training) -> None:
    """Raise InputError where this process would train otherwise than the main one, as one of another machine may."""
    world, recipe = training.world, training.recipe.model_dump(mode="json")
    if world.size == 1:
        return
    own = {"rankdet": __version__, "torch": str(torch.__version__)} | training.fingerprint
    if training.test_dataset is not None:
        own |= {f"{name} to evaluate on": value for name, value in fingerprint(training.test_dataset).items()}
    main, main_recipe = world.of_main((own, recipe))
    with world.together():
        others = [(name, own.get(name), main.get(name)) for name in own | main if own.get(name) != main.get(name)]
        others += [row for row in differences(recipe, main_recipe) if row[0] not in _OF_A_MACHINE]
        if others:
            rows = "; ".join(f"{name} {value}, not {other}" for name, value, other in others)
            where = f"process {world.rank} on {socket.gethostname()}"
            raise InputError(f"{where} is to train otherwise than the main one: {rows}; all need the same")


def _with_bits_of(state: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """The recipe with the bits of images that its run has measured at its start, where the recipe names none."""
    bits = state["recipe"].get("data", {}).get("significant_bits")
    return recipe if recipe.data.significant_bits is not None else recipe.changed({"data.significant_bits": bits})


def _trained_run(loop: Loop, run: Run, signal: int | None) -> TrainedRun:
    """The run with the model as `rankdet.load` gives it of the folder: that of the best evaluation, if there is one."""
    training, world, state = loop.training, loop.training.world, loop.state
    network = training.model.network.eval()
    path, iteration, thresholds = None, state.iteration, state.thresholds
    with world.together():
        if world.is_main:  # the folder need not be on the machines of other processes
            path = find_checkpoint(run.folder)
            if path == run.best_checkpoint and not loop.is_best():
                try:
                    best = load_checkpoint(path, FOR_DETECTION)
                    load_weights(network, best["detector"], path)
                    iteration, thresholds = best["iteration"], best["thresholds"]
                except InputError as error:
                    path = run.latest_checkpoint()
                    loop.display.say(f"warning: {error}; the model is that of {path}")
    path, iteration, thresholds = world.of_main((path, iteration, thresholds))
    if iteration == state.iteration and training.average is not None:
        training.average.swap()
    if iteration != state.iteration:
        world.share(network.state_dict().values())
    model = replace(training.model, thresholds=thresholds, origin=Origin(training.recipe, path))
    return TrainedRun(run.folder, model, _metrics(loop, run, iteration) if world.is_main else None, signal)


def _metrics(loop: Loop, run: Run, iteration: int) -> dict[str, Any] | None:
    """The numbers of the evaluation of an iteration; None where the log has none of it."""
    if iteration in loop.metrics:
        return loop.metrics[iteration]
    found = (metrics for number, metrics in evaluations(run) if number == iteration)  # made before the run went on
    return next(found, None)


@contextmanager
def _folder_for(run: Run, world: World, console: Console, patience: float) -> Iterator[None]:
    """Have the run folder for these processes alone; the main one holds the lock."""
    with ExitStack() as stack:
        with world.together():
            if world.is_main:
                say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
                stack.enter_context(run.locked(patience, say))
        yield


def _check_data_are_there(recipe: Recipe, are_own: bool) -> None:
    """Raise InputError where the data of a run that is to go on are gone."""
    for field in () if are_own else PLACES_OF_DATA:
        path = getattr(recipe.data, field, None)
        if path is not None and not path.exists():
            option = "--data FOLDER (in Python data=)" if field == "folder" else f"data.{field}=PATH"
            raise InputError(f"{path}: there is no such place; where the data of the run have moved, name it: {option}")


@contextmanager
def _caller_undisturbed() -> Iterator[None]:
    """Random numbers and threads of the caller are as before at the end."""
    state, threads = random_state(torch.device("cpu")), torch.get_num_threads()
    try:
        yield
    finally:
        restore_random_state(state, torch.device("cpu"))
        torch.set_num_threads(threads)
