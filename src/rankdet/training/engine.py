"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rankdet.data import build_training_loader
from rankdet.inference.evaluation import Evaluation, evaluate_model, optimal_thresholds
from rankdet.runs.checkpoint import (
    TrainState,
    fitting,
    load_weights,
    random_state,
    restore_random_state,
    save_checkpoint,
    seed_random_numbers,
)
from rankdet.runs.folder import Run
from rankdet.runs.processes import ELSEWHERE
from rankdet.runs.signals import StopRequest, WaitEnded
from rankdet.structures import Batch, DivergenceError, InputError
from rankdet.training.best import Best, best_of_log, measured, name_best
from rankdet.training.health import Health
from rankdet.training.logging import Display, RunLog
from rankdet.training.parts import Callback
from rankdet.training.setup import Training
from rankdet.training.statistics import Clock, IntervalStatistics

LEAST_SCALE = 1e-4
"""A gradient scaler that is lower has halved its factor in thirty iterations, all of which it has left out."""
OK, STOP, FAILED = 0, 1, 2
"""What a process reports of an iteration; the worst of all processes counts for all."""


@dataclass
class Loop:
    """The loop over iterations: it reads batches, steps the optimizer, records, evaluates and saves.

    Only the main process writes into the folder of ``run``, and reports to ``display`` and to the callbacks.
    """

    training: Training
    run: Run
    display: Display
    stop: StopRequest

    def __post_init__(self) -> None:
        training = self.training
        self._recipe, self._world = training.recipe, training.world
        self.state = TrainState(world_size=self._world.size, data=training.fingerprint, parts=training.parts.names())
        self.best = Best(self._recipe.evaluation.metric)
        self.metrics: dict[int, dict[str, Any]] = {}
        """On the main process the numbers of the evaluations made here that were the best or the last, by iteration."""
        self._clock, self._statistics, self._num_skipped = Clock(self.state), IntervalStatistics(), 0
        self._model, self._health = training.model, Health()
        self._log: RunLog | None = None
        self._callback_error: Exception | SystemExit | None = None
        self._restored: Path | None = None
        """The checkpoint whose state the optimizer has not yet used: only a step shows whether it fits."""

    def go(self, saved: dict[str, Any] | None) -> int | None:
        """Train from the checkpoint ``saved``, or from the start; return the number of the signal that stops it."""
        if saved is not None:
            self._restore(saved)
        training, world, state = self.training, self._world, self.state
        if world.size > 1:
            # Every loss stays connected to every weight, also without objects, so no weight is ever unused.
            network = DistributedDataParallel(training.model.network)
            # Not in every step: `_evaluate` and `_save` share buffers. Set here because the argument of this meaning
            # was renamed in torch 2.13, and the attribute was not.
            network.broadcast_buffers = False
            if world.device.type == "cpu":
                # The order in which gradients of three processes and more are added up follows from their places in
                # buckets, which torch arranges anew after the first iteration of a process: a run that is resumed would
                # end with other bits. Arranged at once, the buckets stay.
                network.reducer._push_all_rebuilt_params()
                network.reducer._rebuild_buckets()
            self._model = replace(training.model, network=network)
        batches = self._batches()
        if saved is not None:
            # Building things above drew random numbers; from here on the run is where it was.
            with fitting(self.run.latest_checkpoint()):
                random_numbers = saved["random_states"][world.rank]
                if random_numbers is None:  # of another number of processes
                    seed_random_numbers(self._recipe.seed + 1_000_003 * (world.rank + 1) + state.iteration)
                else:
                    restore_random_state(random_numbers, world.device)
        with world.together():
            if world.is_main:
                tensorboard = self._recipe.runtime.tensorboard
                self._log = RunLog(self.run, state.iteration, tensorboard, state.is_evaluated)
                if saved is not None:
                    if self.state.best.get("metric") != self.best.metric:
                        self.best = best_of_log(self.run, self.best)
                    name_best(self.run, self.best)
        self.best = world.of_main(self.best)
        if world.is_main:
            going_on = "" if saved is None else f"going on at iteration {state.iteration}"
            for message in filter(None, (training.describe(), training.prepared.describe(), training.start, going_on)):
                self.display.say(message)
            self.display.count(state.iteration)
        with self.display.progress, closing(self._log) if self._log is not None else nullcontext():
            signal = self._iterate(batches)
        # Every process raises where one has an error of a callback.
        if world.highest(self._callback_error is not None):
            raise self._callback_error or InputError(ELSEWHERE)
        return signal

    def _iterate(self, batches: Iterator[Batch]) -> int | None:
        """Train; return the number of the signal that stopped it, or None."""
        training, state, runtime = self.training, self.state, self._recipe.runtime
        checkpoint_interval = runtime.checkpoint_interval or training.iterations_per_epoch
        training.model.network.train()
        is_saved = True
        while True:
            # The weights were saved before: whatever happens in the evaluation, the training is not lost. A run that
            # was stopped between the two evaluates first when it goes on.
            if self._is_evaluation_due():
                try:
                    self._evaluate()
                except WaitEnded:
                    return self.stop.signal
                if is_saved:
                    self._save()  # with the thresholds
            if self._place() >= training.num_iterations or self._is_waited_enough():
                return None
            if self._run_iteration(batches):
                self._save()
                # A process that got no signal stops as well.
                return self._world.highest(self.stop.signal or 0) or None
            is_last = self._place() == training.num_iterations
            if state.iteration % runtime.log_interval == 0 or is_last:
                self._record()
            is_regular = state.iteration % checkpoint_interval == 0
            is_saved = is_last or is_regular or self._is_evaluation_due()
            if is_saved:
                self._save()

    def _place(self) -> int:
        """The iteration of the schedule, which counts on where images per iteration have changed."""
        return self.state.iteration - self.state.shift

    def _is_evaluation_due(self) -> bool:
        settings, state = self._recipe.evaluation, self.state
        is_regular = settings.every is not None and state.iteration % settings.every == 0
        is_at_end = settings.at_end and self._place() == self.training.num_iterations
        return not state.is_evaluated and (is_regular or is_at_end)

    def _is_waited_enough(self) -> bool:
        """Whether as many evaluations as the recipe says were not better than the best; says so."""
        patience, best = self._recipe.evaluation.patience, self.best
        if patience is None or best.evaluations_since < patience:
            return False
        if self._world.is_main:
            self.display.say(
                f"stopped at iteration {self.state.iteration}: {best.evaluations_since} evaluations in a row are not "
                f"better than {best.describe()} (evaluation.patience={patience})"
            )
        return True

    def _run_iteration(self, batches: Iterator[Batch]) -> bool:
        """Run one step of the optimizer; return True, and run none, where a process was asked to stop."""
        training, runtime, state = self.training, self._recipe.runtime, self.state
        with self._clock.training():
            steps = self._read(batches)
            if steps is None:
                return True
            # Not before, so that the checkpoint of a run that was stopped has the learning rates of its last iteration.
            training.set_lr(self._place())
            training.optimizer.zero_grad(set_to_none=True)
            for number, batch in enumerate(steps, start=1):
                self._accumulate(batch, is_last_step=number == len(steps))
            # On the CPU a look is free, and the weights never see a loss that is not finite. On a GPU it is made later,
            # see IntervalStatistics.
            if self._world.device.type == "cpu" and self._world.highest(self._statistics.has_failed(len(steps))):
                self._fetch()
                raise InputError(ELSEWHERE)
            if runtime.clip_gradient_norm is not None:
                training.scaler.unscale_(training.optimizer)
                nn.utils.clip_grad_norm_(training.model.network.parameters(), runtime.clip_gradient_norm)
            # A scaler of another precision than float16 does nothing but this step.
            with nullcontext() if self._restored is None else fitting(self._restored):
                training.scaler.step(training.optimizer)
                training.scaler.update()
            self._restored = None
            state.iteration, state.is_evaluated = state.iteration + 1, False
            if training.average is not None:
                training.average.update(state.iteration)
            state.samples += training.num_images
        if self._world.is_main:
            self.display.count(state.iteration)
        return False

    def _read(self, batches: Iterator[Batch]) -> list[Batch] | None:
        """Return the batches of an iteration; None where any process was asked to stop."""
        error, steps, start = None, [], time.perf_counter()
        try:
            with self.stop.ending_waits():
                steps = [next(batches) for _ in range(self._recipe.runtime.accumulation)]
        except InputError as raised:
            error = raised
        except WaitEnded:
            pass
        self._clock.data_seconds += time.perf_counter() - start
        is_stopped = self.stop.signal is not None or self._callback_error is not None
        if is_stopped:
            error = None  # a signal to all processes of a job has also reached those that read images
        # All processes learn of a broken image before any of them waits for the gradients of another.
        status = self._world.highest(FAILED if error is not None else STOP if is_stopped else OK)
        if status == FAILED:
            raise self._world.shared(error)
        return None if status == STOP else steps

    def _fetch(self) -> Tensor:
        """Return the statistics of the interval on the host; raise on every process where a loss is not finite."""
        # On a GPU this is where the host waits for the work of the iterations.
        with self._world.together(), self._clock.training():
            return self._statistics.fetch()

    def _accumulate(self, batch: Batch, is_last_step: bool) -> None:
        for reason in batch.skipped:
            self._num_skipped += 1
            self.display.say(f"skipped {reason}")
        network = self._model.network
        # Gradients are exchanged once per iteration, in its last step.
        with network.no_sync() if isinstance(network, DistributedDataParallel) and not is_last_step else nullcontext():
            total, terms, stats = self.training.step(self._model, batch)
            self.training.scaler.scale(total / self._recipe.runtime.accumulation).backward()
        self._statistics.add(self.state.iteration + 1, terms, stats, [source.path for source in batch.sources])

    def _batches(self) -> Iterator[Batch]:
        training, recipe = self.training, self._recipe
        sampler = training.sampler(self.state.samples, self.state.stream)
        pin_memory = self._world.device.type == "cuda"
        return iter(build_training_loader(training.dataset, sampler, recipe.data.workers, pin_memory=pin_memory))

    def _record(self) -> None:
        """Write the statistics since the last record."""
        training, state = self.training, self.state
        rows = self._world.mean(self._fetch())
        skipped = sum(self._world.collect(self._num_skipped))
        seconds, data_seconds = self._clock.interval()
        num_iterations = max(1, len(rows) // self._recipe.runtime.accumulation)
        loss, *means = rows.mean(dim=0).tolist()
        self._statistics.clear()
        record = {
            "kind": "train",
            "iteration": state.iteration,
            "epoch": round(self._place() / training.iterations_per_epoch, 4),
            "lr": float(training.optimizer.param_groups[0]["lr"]),
            "loss": loss,
            "statistics": dict(zip(self._statistics.names[1:], means, strict=True)),
            "skipped_images": skipped,
            "timing": {
                "seconds": state.seconds,
                "processor_seconds": state.processor_seconds if self._world.device.type == "cpu" else None,
                "seconds_per_iteration": seconds / num_iterations,
                "data_seconds_per_iteration": data_seconds / num_iterations,
                "images_per_second": training.num_images * num_iterations / seconds,
            },
        }
        if training.scaler.is_enabled():
            record["loss_scale"] = self._loss_scale()
        if self._log is not None:
            self._log.write(record)
            self.display.show(record)
            for message in self._health.warnings(record["statistics"]):
                self.display.say(message)
            self._call(lambda callback: callback.on_log(record))

    def _loss_scale(self) -> float:
        """The factor of gradients in float16; raises DivergenceError where they are not finite by any factor."""
        scale = self.training.scaler.get_scale()
        if scale < LEAST_SCALE:
            raise DivergenceError(
                f"the gradients in float16 are not finite, however small they are made (loss scale {scale:g} at "
                f"iteration {self.state.iteration}); take runtime.precision=bfloat16 or float32"
            )
        return scale

    def _evaluate(self) -> None:
        training, world, recipe = self.training, self._world, self._recipe
        if training.test_dataset is None:
            return
        start = time.perf_counter()
        self._share_buffers()
        # Nothing that evaluation draws may change what training draws.
        before = random_state(world.device)
        # Processes must end an evaluation together, and one that is alone need not wait for its end.
        ending = self.stop.ending_waits() if world.size == 1 else nullcontext()
        with ending, nullcontext() if training.average is None else training.average.applied():
            evaluation = evaluate_model(
                training.model, training.test_dataset, world, recipe.evaluation.batch_size, recipe.data.workers
            )
        restore_random_state(before, world.device)
        with world.together():
            if evaluation is not None and self._log is not None:
                self._write_evaluation(evaluation, self._log, time.perf_counter() - start)
        # All processes end where the main process does, which alone measures.
        self.best = world.of_main(self.best)
        self.state.is_evaluated = True

    def _write_evaluation(self, evaluation: Evaluation, log: RunLog, seconds: float) -> None:
        self.state.thresholds = optimal_thresholds(evaluation.metrics) or None
        self.best = self.best.after(self.state.iteration, evaluation.metrics)
        best = {key: metrics for key, metrics in self.metrics.items() if key == self.best.iteration}
        self.metrics = best | {self.state.iteration: evaluation.metrics}
        evaluation.write(self.run.folder)
        record = {
            "kind": "evaluation",
            "iteration": self.state.iteration,
            "metrics": evaluation.metrics,
            "timing": {"seconds": self.state.seconds, "evaluation_seconds": seconds},
        }
        log.write(record)
        self.display.show_evaluation(record, is_best=self.is_best())
        if measured(evaluation.metrics, self.best.metric) is None:
            self.display.say_once(
                f"warning: {self.best.metric} is not measured on these data: no best checkpoint, and patience does not "
                "count"
            )
        self._call(lambda callback: callback.on_evaluation(record))

    def _save(self) -> None:
        """Write a checkpoint, but never with losses or weights that are not finite."""
        training, world = self.training, self._world
        self._fetch()
        # All processes go on from what is written, as they do in a resumed run.
        self._share_buffers()
        # A loss may remember what it saw, on each process something else.
        losses = {
            head: {name: value.cpu() for name, value in loss.state_dict().items()}
            for head, loss in training.losses.items()
        }
        own = {"statistics": self._statistics.state(), "skipped": self._num_skipped, "losses": losses}
        state = replace(
            self.state,
            best=vars(self.best),
            optimizer=training.optimizer.state_dict(),
            scaler=training.scaler.state_dict(),
            random_states=world.collect(random_state(world.device)),
            statistics=world.collect(own),
        )
        with world.together():
            if world.is_main:
                self._write_checkpoint(state)

    def _share_buffers(self) -> None:
        """Give all processes the buffers of the main one, and their averages."""
        training = self.training
        self._world.share(training.model.network.buffers())
        if training.average is not None:
            self._world.share(training.average.buffers())

    def is_best(self) -> bool:
        """Whether the evaluation of this iteration is the best one."""
        return self.best.value is not None and self.best.iteration == self.state.iteration

    def _write_checkpoint(self, state: TrainState) -> None:
        training = self.training
        weights = training.model.network.state_dict()
        if training.average is not None:
            # What is trained stands aside: a checkpoint is loaded by its average.
            state, weights = replace(state, weights=weights), training.average.state_dict()
        for name, value in weights.items():
            if not bool(value.isfinite().all()):
                raise DivergenceError(
                    f"weight {name} is not finite at iteration {state.iteration}; no checkpoint is written"
                )
        categories = [list(category) for category in training.model.categories]
        described = {"recipe": self._recipe.model_dump(mode="json"), "categories": categories, "detector": weights}
        save_checkpoint(self.run.checkpoint(state.iteration), vars(state) | described)
        if self.is_best():
            self.run.keep_as_best(state.iteration)
        self.run.delete_old_checkpoints(self._recipe.runtime.keep_checkpoints)

    def _restore(self, saved: dict[str, Any]) -> None:
        training, path = self.training, self.run.latest_checkpoint()
        load_weights(training.model.network, saved["weights"] or saved["detector"], path)
        if training.average is not None:
            with fitting(path):
                training.average.load_state_dict(saved["detector"])
        self.state = replace(TrainState.of_checkpoint(saved), data=self.state.data)
        with fitting(path):
            best = Best(**self.state.best) if self.state.best else self.best
        if best.metric == self.best.metric:  # values of another metric cannot be compared; see `best_of_log`
            self.best = best
        self._clock = Clock(self.state)
        with fitting(path):
            training.optimizer.load_state_dict(self.state.optimizer)
            training.scaler.load_state_dict(self.state.scaler)
            own = self.state.statistics[self._world.rank]
            if own["statistics"] is not None:
                self._statistics.restore(own["statistics"])
            self._num_skipped = own["skipped"]
            for head, loss in training.losses.items():
                loss.load_state_dict(own["losses"][head])
        self._restored = path

    def _call(self, report: Callable[[Callback], None]) -> None:
        """Report to the callbacks; an error stops the run after the iteration, as a signal does."""
        try:
            for callback in self.training.parts.callbacks:
                report(callback)
        except (Exception, SystemExit) as error:
            self._callback_error = self._callback_error or error
