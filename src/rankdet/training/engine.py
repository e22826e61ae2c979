"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rankdet.data import build_training_loader
from rankdet.inference.evaluation import Evaluation, evaluate_model, optimal_thresholds
from rankdet.recipes import Recipe, dump
from rankdet.runs.checkpoint import (
    FOR_TRAINING,
    fitting,
    load_checkpoint,
    load_weights,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from rankdet.runs.folder import Run, write_json, write_text
from rankdet.runs.processes import ELSEWHERE, joined_world
from rankdet.runs.signals import StopRequest
from rankdet.structures import Batch, DivergenceError, InputError
from rankdet.training.logging import Display, RunLog
from rankdet.training.setup import Training
from rankdet.training.statistics import IntervalStatistics
from rankdet.training.step import training_step

OK, STOP, FAILED = 0, 1, 2
"""What a process says of an iteration; the worst of all processes counts for all."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Parameters
    ----------
    run
        Its folder.
    signal
        Number of the signal that stopped it early, or None.
    evaluation
        The final evaluation, on the main process, where the recipe asks for one.
    """

    run: Run
    signal: int | None
    evaluation: dict[str, Any] | None


def train(recipe: Recipe, run: Run, console: Console, resume: bool = False) -> Outcome:
    """Train a recipe, or go on with a run.

    Parameters
    ----------
    recipe
        What to train; in a resumed run the one that the run wrote.
    run
        The run folder; made here, and must not hold a run yet unless ``resume``.
    console
        Where the main process writes.
    resume
        Go on from the newest checkpoint. On the CPU the result is bit for bit that of an uninterrupted run.

    Raises
    ------
    InputError
        For bad input of all kinds, and for a loss that is not finite. No process is left waiting.
    """
    if recipe.runtime.threads is not None:
        torch.set_num_threads(recipe.runtime.threads)
    with joined_world(recipe.runtime.device) as world, StopRequest() as stop:
        # Every process has looked into the folder and at the data before anything is written.
        with world.together():
            if not resume:
                run.check_is_new()
            # A run that was stopped before its first checkpoint begins again.
            state = load_checkpoint(run.latest_checkpoint(), FOR_TRAINING) if resume and run.checkpoints() else None
            training = Training(recipe, world, is_new=state is None)
            if state is not None:
                training.check_fits(state, run.latest_checkpoint())
        with world.together():
            if world.is_main:
                run.delete_parts()
                if state is None:
                    run.create()
                    write_text(run.recipe, dump(recipe))
        # One bar is enough; the others may still have something to say.
        own_console = console if world.is_main else Console(file=console.file, force_terminal=False)
        with Display(own_console, recipe.name, training.num_iterations) as display:
            return Loop(training, run, display, stop).run(state)


class Loop:
    """One run of the loop and all that changes in it."""

    def __init__(self, training: Training, run: Run, display: Display, stop: StopRequest) -> None:
        self._training, self._run, self._display, self._stop = training, run, display, stop
        self._recipe, self._world = training.recipe, training.world
        self._statistics = IntervalStatistics()
        self._seconds, self._data_seconds, self._num_skipped = 0.0, 0.0, 0
        self._logged_seconds, self._processor_seconds = 0.0, 0.0
        self._stepped = training.model
        self._thresholds: list[float] | None = None
        self._iteration, self._is_evaluated = 0, True
        self._log: RunLog | None = None

    def run(self, state: dict[str, Any] | None) -> Outcome:
        if state is not None:
            self._restore(state)
        training = self._training
        if self._world.size > 1:
            # Every loss stays connected to every weight, also without objects, so no weight is ever unused.
            stepped = DistributedDataParallel(training.model.network)
            # Not in every step: `_evaluate` and `_save` share buffers. Set here because the argument of this meaning
            # was renamed in torch 2.13, and the attribute was not.
            stepped.broadcast_buffers = False
            self._stepped = replace(training.model, network=stepped)
        batches = self._batches()
        if state is not None:
            # Building things above drew random numbers; from here on the run is where it was.
            with fitting(self._run.latest_checkpoint()):
                restore_random_state(state["random_states"][self._world.rank], self._world.device)
        with self._world.together():
            if self._world.is_main:
                tensorboard = self._recipe.runtime.tensorboard
                self._log = RunLog(self._run, self._iteration, tensorboard, self._is_evaluated)
        if self._world.is_main:
            self._display.say(training.describe())
            if training.start:
                self._display.say(training.start)
            if state is not None:
                self._display.say(f"going on at iteration {self._iteration}")
                self._display.advance_to(self._iteration)
        with closing(self._log) if self._log is not None else nullcontext():
            return self._iterate(batches)

    def _iterate(self, batches: Iterator[Batch]) -> Outcome:
        training, recipe, evaluation = self._training, self._recipe, None
        training.model.network.train()
        if not self._is_evaluated and self._is_evaluation_due():
            # Saved, but stopped before or in its evaluation.
            evaluation = self._evaluate()
            self._save()
        while self._iteration < training.num_iterations:
            status = self._run_iteration(batches)
            is_last = self._iteration == training.num_iterations
            if self._iteration % recipe.runtime.log_interval == 0 or is_last:
                self._record()
            is_saved = status == STOP or is_last or self._iteration % self._checkpoint_interval() == 0
            # First the weights: whatever happens in the evaluation, the training is not lost. Then its thresholds.
            if is_saved:
                self._save()
            # A run that is asked to stop evaluates when it goes on.
            if status != STOP and self._is_evaluation_due():
                evaluation = self._evaluate()
                if is_saved:
                    self._save()
            if status == STOP:
                # A process that was not told stops as well.
                return Outcome(self._run, self._world.highest(self._stop.signal or 0), None)
        return Outcome(self._run, None, None if evaluation is None else evaluation.metrics)

    def _is_evaluation_due(self) -> bool:
        settings, is_last = self._recipe.evaluation, self._iteration == self._training.num_iterations
        is_regular = settings.every is not None and self._iteration % settings.every == 0
        return is_regular or (is_last and settings.at_end)

    def _checkpoint_interval(self) -> int:
        return self._recipe.runtime.checkpoint_interval or self._training.iterations_per_epoch

    def _run_iteration(self, batches: Iterator[Batch]) -> int:
        """One step of the optimizer. Returns STOP where a process was asked to stop, otherwise OK."""
        training, runtime = self._training, self._recipe.runtime
        start, processor_start = time.perf_counter(), time.process_time()
        self._lr = training.set_lr(self._iteration)
        training.optimizer.zero_grad(set_to_none=True)
        steps, status = self._read(batches)
        for number, batch in enumerate(steps, start=1):
            self._accumulate(batch, is_last_step=number == len(steps))
        # On the CPU a look is free, and the weights never see a loss that is not finite. On a GPU it is made later,
        # see IntervalStatistics.
        if self._world.device.type == "cpu" and self._world.highest(self._statistics.has_failed(len(steps))):
            self._fetch()
            raise InputError(ELSEWHERE)
        if runtime.clip_gradient_norm is not None:
            nn.utils.clip_grad_norm_(training.model.network.parameters(), runtime.clip_gradient_norm)
        training.optimizer.step()
        self._iteration, self._is_evaluated = self._iteration + 1, False
        self._seconds += time.perf_counter() - start
        self._processor_seconds += time.process_time() - processor_start
        if self._world.is_main:
            self._display.advance()
        return status

    def _read(self, batches: Iterator[Batch]) -> tuple[list[Batch], int]:
        """The batches of an iteration, and STOP where any process was asked to stop, otherwise OK."""
        start, error, steps = time.perf_counter(), None, []
        try:
            steps = [next(batches) for _ in range(self._recipe.runtime.accumulation)]
        except InputError as raised:
            error = raised
        self._data_seconds += time.perf_counter() - start
        # All processes learn of a broken image before any of them waits for the gradients of another.
        status = self._world.highest(FAILED if error is not None else STOP if self._stop.signal is not None else OK)
        if status == FAILED:
            raise error or InputError(ELSEWHERE)
        return steps, status

    def _fetch(self) -> Tensor:
        """The statistics of the interval on the host; where a loss is not finite, every process raises InputError."""
        with self._world.together():
            start = time.perf_counter()
            try:
                return self._statistics.fetch()
            finally:
                # On a GPU this is where the host waits for the work of the iterations.
                self._seconds += time.perf_counter() - start

    def _accumulate(self, batch: Batch, is_last_step: bool) -> None:
        network = self._stepped.network
        # Gradients are exchanged once per iteration, in its last step.
        unshared = (
            network.no_sync() if isinstance(network, DistributedDataParallel) and not is_last_step else nullcontext()
        )
        with unshared:
            total, terms, stats = training_step(
                self._stepped.forward, self._training.losses, batch, self._recipe.head_weights
            )
            (total / self._recipe.runtime.accumulation).backward()
        self._statistics.add(self._iteration + 1, terms, stats, [source.path for source in batch.sources])

    def _batches(self) -> Iterator[Batch]:
        training, recipe, world = self._training, self._recipe, self._world
        sampler = training.sampler(start=self._iteration * recipe.runtime.accumulation)
        loader = build_training_loader(
            training.dataset, sampler, recipe.data.workers, pin_memory=world.device.type == "cuda"
        )
        for batch in loader:
            for path in batch.skipped:
                self._num_skipped += 1
                self._display.say(f"skipped {path}: it cannot be read")
            yield batch

    def _record(self) -> None:
        rows = self._world.mean(self._fetch())
        skipped = sum(self._world.gather(self._num_skipped))
        interval_seconds, self._logged_seconds = self._seconds - self._logged_seconds, self._seconds
        data_seconds, self._data_seconds = self._data_seconds, 0.0
        num_iterations = max(1, len(rows) // self._recipe.runtime.accumulation)
        means = rows.mean(dim=0).tolist()
        self._statistics.clear()
        if self._log is None:
            return
        names = self._statistics.names
        record = {
            "kind": "train",
            "iteration": self._iteration,
            "epoch": round(self._iteration / self._training.iterations_per_epoch, 4),
            "lr": self._lr,
            "loss": means[0],
            "statistics": dict(zip(names[1:], means[1:], strict=True)),
            "skipped_images": skipped,
            "timing": {
                "seconds": self._seconds,
                "processor_seconds": self._processor_seconds if self._world.device.type == "cpu" else None,
                "seconds_per_iteration": interval_seconds / num_iterations,
                "data_seconds_per_iteration": data_seconds / num_iterations,
                "images_per_second": self._training.num_images * num_iterations / interval_seconds,
            },
        }
        self._log.write(record)
        self._display.show(record)

    def _evaluate(self) -> Evaluation | None:
        training = self._training
        if training.test_dataset is None:
            return None
        start = time.perf_counter()
        self._world.share_buffers(training.model.network)
        # Nothing that evaluation draws may change what training draws.
        state = random_state(self._world.device)
        evaluation = evaluate_model(
            training.model,
            training.test_dataset,
            self._world,
            self._recipe.evaluation.batch_size,
            self._recipe.data.workers,
        )
        restore_random_state(state, self._world.device)
        with self._world.together():
            if evaluation is not None and self._log is not None:
                self._write_evaluation(evaluation, self._log, time.perf_counter() - start)
        self._is_evaluated = True
        return evaluation

    def _write_evaluation(self, evaluation: Evaluation, log: RunLog, seconds: float) -> None:
        metrics = evaluation.metrics
        self._thresholds = optimal_thresholds(metrics)
        write_json(self._run.evaluation, metrics)
        write_json(self._run.detections, evaluation.detections)
        log.write(
            {
                "kind": "evaluation",
                "iteration": self._iteration,
                "metrics": metrics,
                "timing": {"seconds": self._seconds, "evaluation_seconds": seconds},
            }
        )
        parts = {"": metrics, "masks: ": metrics["masks"]} if "masks" in metrics else {"": metrics}
        shown = ("AP", "AP50", "APr", "APc", "APf", "oLRP")  # COCO does not measure all of them
        numbers = [
            prefix + "  ".join(f"{name} {part[name]:.3f}" for name in shown if name in part)
            for prefix, part in parts.items()
        ]
        self._display.say(f"iteration {self._iteration}: {'  '.join(numbers)}")

    def _save(self) -> None:
        """Write a checkpoint, but never with losses or weights that are not finite."""
        self._fetch()
        # All processes go on from what is written, as they do in a resumed run.
        self._world.share_buffers(self._training.model.network)
        # A loss may remember what it saw, on each process something else.
        losses = {
            head: {name: value.cpu() for name, value in loss.state_dict().items()}
            for head, loss in self._training.losses.items()
        }
        own = {"statistics": self._statistics.state(), "skipped": self._num_skipped, "losses": losses}
        random_states = self._world.gather(random_state(self._world.device))
        statistics = self._world.gather(own)
        with self._world.together():
            if self._world.is_main:
                self._write_checkpoint(random_states, statistics)

    def _write_checkpoint(self, random_states: list[dict[str, Any]], statistics: list[dict[str, Any]]) -> None:
        training = self._training
        weights = training.model.network.state_dict()
        for name, value in weights.items():
            if not bool(value.isfinite().all()):
                raise DivergenceError(
                    f"weight {name} is not finite at iteration {self._iteration}; no checkpoint is written"
                )
        save_checkpoint(
            self._run.checkpoint(self._iteration),
            {
                "iteration": self._iteration,
                "is_evaluated": self._is_evaluated,
                "recipe": self._recipe.model_dump(mode="json"),
                "categories": [list(category) for category in training.dataset.categories],
                "thresholds": self._thresholds,
                "world_size": self._world.size,
                "seconds": self._seconds,
                "processor_seconds": self._processor_seconds,
                "detector": weights,
                "optimizer": training.optimizer.state_dict(),
                "random_states": random_states,
                "statistics": statistics,
            },
        )
        self._run.delete_old_checkpoints(self._recipe.runtime.keep_checkpoints)

    def _restore(self, state: dict[str, Any]) -> None:
        training, path = self._training, self._run.latest_checkpoint()
        load_weights(training.model.network, state["detector"], path)
        self._iteration, self._is_evaluated = state["iteration"], state["is_evaluated"]
        self._seconds = self._logged_seconds = state["seconds"]
        self._processor_seconds = state["processor_seconds"]
        self._thresholds = state["thresholds"]
        with fitting(path):
            training.optimizer.load_state_dict(state["optimizer"])
            own = state["statistics"][self._world.rank]
            self._statistics.restore(own["statistics"])
            self._num_skipped = own["skipped"]
            for head, loss in training.losses.items():
                loss.load_state_dict(own["losses"][head])
