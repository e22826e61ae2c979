"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rankdet.data import build_training_loader
from rankdet.inference.evaluation import Evaluation, evaluate_model, optimal_thresholds
from rankdet.inference.model import Model
from rankdet.runs.checkpoint import (
    TrainState,
    fitting,
    load_weights,
    random_state,
    restore_random_state,
    save_checkpoint,
)
from rankdet.runs.folder import Run, write_json
from rankdet.runs.processes import ELSEWHERE
from rankdet.runs.signals import StopRequest
from rankdet.structures import Batch, DivergenceError, InputError
from rankdet.training.callbacks import Callback
from rankdet.training.clock import Clock
from rankdet.training.logging import Display, RunLog
from rankdet.training.setup import Training
from rankdet.training.statistics import IntervalStatistics

OK, STOP, FAILED = 0, 1, 2
"""What a process reports of an iteration; the worst of all processes counts for all."""


class Loop:
    """One run of the loop and all that changes in it.

    Parameters
    ----------
    training
        What is trained, and on what.
    run
        Its folder.
    display
        Where the main process reports.
    stop
        Whether the process was asked to stop.
    callbacks
        Objects of the caller that the main process reports to.
    """

    def __init__(
        self,
        training: Training,
        run: Run,
        display: Display,
        stop: StopRequest,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self._training, self._run, self._display, self._stop = training, run, display, stop
        self._recipe, self._world, self._callbacks = training.recipe, training.world, callbacks
        self._state = TrainState(world_size=training.world.size, parts=training.parts.names())
        self._clock, self._statistics, self._num_skipped = Clock(), IntervalStatistics(), 0
        self._stepped: Model = training.model
        self._lr = training.lr
        self._log: RunLog | None = None
        self._metrics: dict[str, Any] | None = None
        self._callback_error: Exception | None = None

    @property
    def thresholds(self) -> list[float] | None:
        """The LRP-optimal thresholds of the last evaluation."""
        return self._state.thresholds

    def run(self, saved: dict[str, Any] | None) -> tuple[int | None, dict[str, Any] | None]:
        """Train to the end, or until a signal.

        Parameters
        ----------
        saved
            The checkpoint to go on from; None: from the start.

        Returns
        -------
        tuple
            Number of the signal that stopped it, or None; and on the main process the numbers of the last evaluation
            made here, or None.
        """
        if saved is not None:
            self._restore(saved)
        training, world = self._training, self._world
        if world.size > 1:
            # Every loss stays connected to every weight, also without objects, so no weight is ever unused.
            stepped = DistributedDataParallel(training.model.network)
            # Not in every step: `_evaluate` and `_save` share buffers. Set here because the argument of this meaning
            # was renamed in torch 2.13, and the attribute was not.
            stepped.broadcast_buffers = False
            self._stepped = replace(training.model, network=stepped)
        batches = self._batches()
        if saved is not None:
            # Building things above drew random numbers; from here on the run is where it was.
            with fitting(self._run.latest_checkpoint()):
                restore_random_state(saved["random_states"][world.rank], world.device)
        with world.together():
            if world.is_main:
                tensorboard = self._recipe.runtime.tensorboard
                self._log = RunLog(self._run, self._state.iteration, tensorboard, self._state.is_evaluated)
        if world.is_main:
            self._display.say(training.describe())
            if training.start:
                self._display.say(training.start)
            if saved is not None:
                self._display.say(f"going on at iteration {self._state.iteration}")
                self._display.advance_to(self._state.iteration)
        with closing(self._log) if self._log is not None else nullcontext():
            signal = self._iterate(batches)
        self._raise_error_of_callback()
        return signal, self._metrics

    def _iterate(self, batches: Iterator[Batch]) -> int | None:
        """Number of the signal that stopped it, or None."""
        training, recipe, state = self._training, self._recipe, self._state
        training.model.network.train()
        if not state.is_evaluated and self._is_evaluation_due():
            # Saved, but stopped before or in its evaluation.
            self._evaluate()
            self._save()
        while state.iteration < training.num_iterations:
            status = self._run_iteration(batches)
            is_last = state.iteration == training.num_iterations
            if state.iteration % recipe.runtime.log_interval == 0 or is_last:
                self._record()
            is_saved = status == STOP or is_last or state.iteration % self._checkpoint_interval() == 0
            # First the weights: whatever happens in the evaluation, the training is not lost. Then its thresholds.
            if is_saved:
                self._save()
            # A run that is asked to stop evaluates when it goes on.
            if status != STOP and self._is_evaluation_due():
                self._evaluate()
                if is_saved:
                    self._save()
            if status == STOP:
                # A process that got no signal stops as well.
                return self._world.highest(self._stop.signal or 0) or None
        return None

    def _is_evaluation_due(self) -> bool:
        settings, iteration = self._recipe.evaluation, self._state.iteration
        is_regular = settings.every is not None and iteration % settings.every == 0
        return is_regular or (iteration == self._training.num_iterations and settings.at_end)

    def _checkpoint_interval(self) -> int:
        return self._recipe.runtime.checkpoint_interval or self._training.iterations_per_epoch

    def _run_iteration(self, batches: Iterator[Batch]) -> int:
        """One step of the optimizer. Returns STOP where a process was asked to stop, otherwise OK."""
        training, runtime, state = self._training, self._recipe.runtime, self._state
        with self._clock.working():
            self._lr = training.set_lr(state.iteration)
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
            state.iteration, state.is_evaluated = state.iteration + 1, False
        if self._world.is_main:
            self._display.advance()
        return status

    def _read(self, batches: Iterator[Batch]) -> tuple[list[Batch], int]:
        """The batches of an iteration, and STOP where any process was asked to stop, otherwise OK."""
        error, steps = None, []
        with self._clock.waiting_for_data():
            try:
                steps = [next(batches) for _ in range(self._recipe.runtime.accumulation)]
            except InputError as raised:
                error = raised
        is_stopped = self._stop.signal is not None or self._callback_error is not None
        # All processes learn of a broken image before any of them waits for the gradients of another.
        status = self._world.highest(FAILED if error is not None else STOP if is_stopped else OK)
        if status == FAILED:
            raise error or InputError(ELSEWHERE)
        return steps, status

    def _fetch(self) -> Tensor:
        """The statistics of the interval on the host; where a loss is not finite, every process raises InputError."""
        # On a GPU this is where the host waits for the work of the iterations.
        with self._world.together(), self._clock.waiting_for_device():
            return self._statistics.fetch()

    def _accumulate(self, batch: Batch, is_last_step: bool) -> None:
        network = self._stepped.network
        # Gradients are exchanged once per iteration, in its last step.
        unshared = (
            network.no_sync() if isinstance(network, DistributedDataParallel) and not is_last_step else nullcontext()
        )
        with unshared:
            total, terms, stats = self._training.step(self._stepped, batch)
            (total / self._recipe.runtime.accumulation).backward()
        self._statistics.add(self._state.iteration + 1, terms, stats, [source.path for source in batch.sources])

    def _batches(self) -> Iterator[Batch]:
        training, recipe, world = self._training, self._recipe, self._world
        sampler = training.sampler(start=self._state.iteration * recipe.runtime.accumulation)
        loader = build_training_loader(
            training.dataset, sampler, recipe.data.workers, pin_memory=world.device.type == "cuda"
        )
        for batch in loader:
            for path in batch.skipped:
                self._num_skipped += 1
                self._display.say(f"skipped {path}: it cannot be read")
            yield batch

    def _record(self) -> None:
        """Write the statistics since the last record."""
        rows = self._world.mean(self._fetch())
        skipped = sum(self._world.gather(self._num_skipped))
        interval_seconds, data_seconds = self._clock.interval()
        num_iterations = max(1, len(rows) // self._recipe.runtime.accumulation)
        means = rows.mean(dim=0).tolist()
        self._statistics.clear()
        if self._log is None:
            return
        names = self._statistics.names
        record = {
            "kind": "train",
            "iteration": self._state.iteration,
            "epoch": round(self._state.iteration / self._training.iterations_per_epoch, 4),
            "lr": self._lr,
            "loss": means[0],
            "statistics": dict(zip(names[1:], means[1:], strict=True)),
            "skipped_images": skipped,
            "timing": {
                "seconds": self._clock.seconds,
                "processor_seconds": self._clock.processor_seconds if self._world.device.type == "cpu" else None,
                "seconds_per_iteration": interval_seconds / num_iterations,
                "data_seconds_per_iteration": data_seconds / num_iterations,
                "images_per_second": self._training.num_images * num_iterations / interval_seconds,
            },
        }
        self._log.write(record)
        self._display.show(record)
        self._call(lambda callback: callback.on_log(record))

    def _evaluate(self) -> None:
        training = self._training
        if training.test_dataset is None:
            return
        start = time.perf_counter()
        self._world.share_buffers(training.model.network)
        # Nothing that evaluation draws may change what training draws.
        before = random_state(self._world.device)
        evaluation = evaluate_model(
            training.model,
            training.test_dataset,
            self._world,
            self._recipe.evaluation.batch_size,
            self._recipe.data.workers,
        )
        restore_random_state(before, self._world.device)
        with self._world.together():
            if evaluation is not None and self._log is not None:
                self._write_evaluation(evaluation, self._log, time.perf_counter() - start)
        self._state.is_evaluated = True

    def _write_evaluation(self, evaluation: Evaluation, log: RunLog, seconds: float) -> None:
        metrics = evaluation.metrics
        self._metrics, self._state.thresholds = metrics, optimal_thresholds(metrics)
        write_json(self._run.evaluation, metrics)
        write_json(self._run.detections, evaluation.detections)
        record = {
            "kind": "evaluation",
            "iteration": self._state.iteration,
            "metrics": metrics,
            "timing": {"seconds": self._clock.seconds, "evaluation_seconds": seconds},
        }
        log.write(record)
        self._display.show_evaluation(record)
        self._call(lambda callback: callback.on_evaluation(record))

    def _save(self) -> None:
        """Write a checkpoint, but never with losses or weights that are not finite."""
        training, world = self._training, self._world
        self._fetch()
        # All processes go on from what is written, as they do in a resumed run.
        world.share_buffers(training.model.network)
        # A loss may remember what it saw, on each process something else.
        losses = {
            head: {name: value.cpu() for name, value in loss.state_dict().items()}
            for head, loss in training.losses.items()
        }
        own = {"statistics": self._statistics.state(), "skipped": self._num_skipped, "losses": losses}
        state = replace(
            self._state,
            seconds=self._clock.seconds,
            processor_seconds=self._clock.processor_seconds,
            optimizer=training.optimizer.state_dict(),
            random_states=world.gather(random_state(world.device)),
            statistics=world.gather(own),
        )
        with world.together():
            if world.is_main:
                self._write_checkpoint(state)

    def _write_checkpoint(self, state: TrainState) -> None:
        weights = self._training.model.network.state_dict()
        for name, value in weights.items():
            if not bool(value.isfinite().all()):
                raise DivergenceError(
                    f"weight {name} is not finite at iteration {state.iteration}; no checkpoint is written"
                )
        categories = [list(category) for category in self._training.model.categories]
        described = {"recipe": self._recipe.model_dump(mode="json"), "categories": categories, "detector": weights}
        save_checkpoint(self._run.checkpoint(state.iteration), vars(state) | described)
        self._run.delete_old_checkpoints(self._recipe.runtime.keep_checkpoints)

    def _restore(self, saved: dict[str, Any]) -> None:
        training, path = self._training, self._run.latest_checkpoint()
        load_weights(training.model.network, saved["detector"], path)
        self._state = TrainState.of_checkpoint(saved)
        self._clock = Clock(self._state.seconds, self._state.processor_seconds)
        with fitting(path):
            training.optimizer.load_state_dict(self._state.optimizer)
            own = self._state.statistics[self._world.rank]
            self._statistics.restore(own["statistics"])
            self._num_skipped = own["skipped"]
            for head, loss in training.losses.items():
                loss.load_state_dict(own["losses"][head])

    def _call(self, report: Callable[[Callback], None]) -> None:
        """Report to the callbacks; an error stops the run after the next iteration, as a signal does."""
        try:
            for callback in self._callbacks:
                report(callback)
        except Exception as error:
            self._callback_error = self._callback_error or error

    def _raise_error_of_callback(self) -> None:
        """Every process raises where one has an error of a callback."""
        if self._world.highest(self._callback_error is not None):
            raise self._callback_error or InputError(ELSEWHERE)
