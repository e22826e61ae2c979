"""Study of one row of a table: learning rate, seeds, equal time. All its state is on disk."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankdet.recipes import load_recipe
from rankdet.runs.folder import make_folder, read_log, write_json
from rankdet.structures import InputError

from .experiments import Command, Experiment, Scale, Trial, make_trial

TUNING_SEED = 0
"""Seed with which the learning rate is chosen, whatever seeds are reported, so that more seeds never change it."""

PERCENT = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
"""Measures that an evaluation gives as fractions and a table in percent; those of masks begin with ``mask_``."""

IMBALANCES = {"/negatives": "negatives_per_positive", "/background": "instance_negatives_per_positive"}
"""Statistics of a head that a table shows per positive, and their names in the table."""

FIRST_EPOCH = "AP_epoch_1"
"""Name of the figure for AP after the first epoch."""


@dataclass(frozen=True)
class Settings:
    """Settings that all rows of a table share."""

    scale: Scale
    data: Path
    """The folder that trainings read."""
    out: Path
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    """Learning rates that every row chooses from; empty: the recipe's own."""
    iterations: int | None = None
    equal_time: str | None = None
    """The row whose seconds of training every other row gets as well."""
    device: str = "auto"
    threads: int | None = None
    jobs: int = 1
    processes: int = 1
    given: Path | None = None
    """The folder of ``--data``, which ``data`` is or is cut from; None: ``data`` are generated."""

    @property
    def free_fields(self) -> list[str]:
        """Return the overrides that no result depends on."""
        fields = [] if self.device == "auto" else [f"runtime.device={self.device}"]
        return fields if self.threads is None else [*fields, f"runtime.threads={self.threads}"]


@dataclass(frozen=True)
class Task:
    """The next thing to do for a run."""

    trial: Trial
    is_training: bool
    split: str
    """The split that the run is reported on."""
    device: str

    @property
    def command(self) -> Command:
        """Return the command that does it, by what is on disk now."""
        return self.trial.training() if self.is_training else self.trial.measuring(self.split, self.device)

    @property
    def is_done(self) -> bool:
        """Return True if nothing is left to do for the run."""
        return self.trial.is_settled if self.is_training else self.trial.is_reported(self.split)


class Study:
    """One row of a table at one scale.

    With ``is_of_masks`` its AP and oLRP are those of masks. With ``with_first_epoch`` it also shows AP after the first
    epoch, from a separate run that ends there, because the learning rate of the whole run falls later.
    """

    def __init__(
        self,
        name: str,
        experiment: Experiment,
        settings: Settings,
        is_of_masks: bool = False,
        with_first_epoch: bool = False,
    ) -> None:
        self.name, self._experiment, self.settings = name, experiment, settings
        self._is_of_masks, self._with_first_epoch = is_of_masks, with_first_epoch
        self._trials: dict[tuple[float, int, tuple[str, ...]], Trial] = {}
        recipe = load_recipe(experiment.base().name, experiment.overrides())
        self._recipe = recipe
        self._changes: list[str] = []
        if settings.iterations is not None:
            self._changes = [f"schedule.iterations={settings.iterations}"]
            if recipe.schedule.epochs is not None:
                self._changes.append("schedule.epochs=null")
        self.rates = settings.learning_rates or (recipe.optimizer.lr,)

    @property
    def has_masks(self) -> bool:
        """Return True if the row has figures of masks besides those of boxes."""
        return not self._is_of_masks and bool(self._recipe.detector.has_masks)

    def trial(self, lr: float, seed: int, changes: list[str] | None = None) -> Trial:
        """Return the run of a learning rate and seed; ``changes`` replace those of the settings if given."""
        settings, own = self.settings, self._changes if changes is None else changes
        key = (lr, seed, tuple(own))
        if key not in self._trials:  # made once: the state of a table is looked at again after every run
            self._trials[key] = make_trial(
                self._experiment,
                own,
                lr=lr,
                seed=seed,
                data=settings.data,
                out=settings.out,
                free=settings.free_fields,
                processes=settings.processes,
            )
        return self._trials[key]

    def tuning(self) -> dict[float, Trial]:
        """Return the runs that the learning rate is chosen from; none if there is no choice."""
        return {lr: self.trial(lr, TUNING_SEED) for lr in self.rates} if len(self.rates) > 1 else {}

    def validation(self) -> dict[float, float | None]:
        """Return AP in percent on the validation split for each learning rate that is settled.

        It is that of masks if the row is of masks, and None if the training diverged.
        """
        return {lr: _validation_ap(trial) for lr, trial in self.tuning().items() if trial.is_settled}

    def choice(self) -> float | None:
        """Return the learning rate with the highest AP on the validation split; None if it is open or all diverged."""
        if len(self.rates) == 1:
            return self.rates[0]
        found = self.validation()
        sound = {lr: ap for lr, ap in found.items() if ap is not None}
        return max(sound, key=lambda lr: sound[lr]) if len(found) == len(self.rates) and sound else None

    def result(self, trial: Trial) -> Result | None:
        """Return the numbers of one of its runs as the row shows them; None before it is measured."""
        result = result_of(trial, self.settings.scale.split)
        lr = self.choice()
        first = None if lr is None else self._first_epochs(lr).get(trial.label)
        begun = None if first is None else result_of(first, self.settings.scale.split)
        if result is not None and begun is not None and "AP" in begun.figures:
            result = replace(result, figures=result.figures | {FIRST_EPOCH: begun.figures["AP"]})
        if result is None or not self._is_of_masks:
            return result
        masks = {name: result.figures.get(f"mask_{name}") for name in PERCENT}
        others = {name: value for name, value in result.figures.items() if name not in PERCENT}
        return replace(result, figures={name: value for name, value in masks.items() if value is not None} | others)

    def trials(self) -> list[Trial]:
        """Return the runs of the chosen learning rate, one for each seed; none before it is chosen."""
        lr = self.choice()
        return [] if lr is None else [self.trial(lr, seed) for seed in self.settings.seeds]

    def runs(self, lr: float) -> list[Trial]:
        """Return all runs whose numbers the row shows with a learning rate, except those of equal time."""
        return [*(self.trial(lr, seed) for seed in self.settings.seeds), *self._first_epochs(lr).values()]

    def _first_epochs(self, lr: float) -> dict[str, Trial]:
        """Return the runs of one epoch by the label of the whole run; none if the table does not show them."""
        if not self._with_first_epoch:
            return {}
        changes = ["schedule.epochs=1", "schedule.milestones=[]"]
        if self._recipe.schedule.iterations is not None:
            changes.append("schedule.iterations=null")
        return {self.trial(lr, seed).label: self.trial(lr, seed, changes) for seed in self.settings.seeds}

    def stretched(self, reference: Study) -> list[Trial]:
        """Return the runs that take the seconds of another row; none before their length is settled."""
        path, lr = self._budget(reference), self.choice()
        if reference.name == self.name or lr is None or path is None or not path.exists():
            return []
        factor = _read(path)["factor"]
        trial = self.trial(lr, TUNING_SEED)
        schedule = trial.recipe.schedule
        if schedule.iterations is not None:
            changes = [f"schedule.iterations={max(1, round(schedule.iterations * factor))}"]
            if self._recipe.schedule.epochs is not None:
                changes.append("schedule.epochs=null")
        else:
            changes = [f"schedule.epochs={round((schedule.epochs or 0.0) * factor, 3)}"]
        return [self.trial(lr, seed, changes) for seed in self.settings.seeds]

    def settle_budget(self, reference: Study) -> None:
        """Write the factor of this row's length once both rows are trained. It is never changed again."""
        path = self._budget(reference)
        own, other = _seconds(self.trials()), _seconds(reference.trials())
        if reference.name == self.name or path is None or path.exists() or own is None or other is None:
            return
        make_folder(path.parent)
        write_json(path, {"row": self.name, "takes the seconds of": reference.name, "factor": other / own})

    def _budget(self, reference: Study) -> Path | None:
        lr, other = self.choice(), reference.choice()
        if lr is None or other is None:
            return None
        labels = f"{self.trial(lr, TUNING_SEED).label} {reference.trial(other, TUNING_SEED).label}"
        digest = hashlib.sha256(labels.encode()).hexdigest()[:12]
        return self.settings.out / "budgets" / f"{digest}.json"

    def tasks(self, reference: Study | None) -> Iterator[Task]:
        """Return the tasks that can be done now, in their order."""
        split, lr = self.settings.scale.split, self.choice()
        trials = [trial for trial in self.tuning().values() if not trial.is_settled]
        if not trials:
            trials = [] if lr is None else self.runs(lr)
            if reference is not None:
                self.settle_budget(reference)
                trials += self.stretched(reference)
        for trial in trials:
            if not trial.is_settled or not trial.is_reported(split):
                yield Task(trial, not trial.is_settled, split, self.settings.device)

    def expected(self, reference: Study | None) -> dict[str, bool]:
        """Return all runs known so far, and for each True if nothing is left to do."""
        seeds, split = self.settings.seeds, self.settings.scale.split
        labels = {trial.label: trial.is_settled for trial in self.tuning().values()}
        lr = self.choice()
        trials = [] if lr is None else self.runs(lr)
        if not trials:
            labels |= {f"{self.name} seed {seed}": False for seed in seeds if seed != TUNING_SEED}
            labels |= {f"{self.name} first epoch seed {seed}": False for seed in seeds if self._with_first_epoch}
        if reference is not None and reference.name != self.name:
            stretched = self.stretched(reference)
            if not stretched:
                labels |= {f"{self.name} equal time seed {seed}": False for seed in seeds}
            trials += stretched
        return labels | {trial.label: trial.is_reported(split) for trial in trials}


def _seconds(trials: list[Trial]) -> float | None:
    """Return mean seconds of training over the runs that did not diverge; None while one is open."""
    if not trials or not all(trial.is_settled for trial in trials):
        return None
    sound = [trial for trial in trials if not trial.divergence.exists()]
    return statistics.mean(_training_seconds(trial) for trial in sound) if sound else None


def _training_seconds(trial: Trial) -> float:
    """Return seconds of training, or of the processor if several trainings on CPUs shared the machine."""
    timing = _records(trial)[-1]["timing"]
    processor = timing.get("processor_seconds")
    return float(timing["seconds"] if processor is None or jobs_of(trial) == 1 else processor)


def _validation_ap(trial: Trial) -> float | None:
    if trial.divergence.exists():
        return None
    metrics = _read(trial.run.evaluation)
    return 100 * float(metrics.get("masks", metrics)["AP"] or 0.0)


def _records(trial: Trial) -> list[dict[str, Any]]:
    return [record for record in read_log(trial.run.log) if record["kind"] == "train"]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read; remove it: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no mapping; remove it")
    return content


@dataclass(frozen=True)
class Result:
    """The numbers of one run."""

    figures: dict[str, float]
    """AP and oLRP in percent."""
    iterations: int
    seconds: float
    """Seconds as `_training_seconds` returns them."""
    jobs: int
    """Largest number of trainings at a time while this one ran, as far as known."""


def result_of(trial: Trial, split: str) -> Result | None:
    """Return the numbers of a run; None before it is measured."""
    path = trial.measured(split)
    if not path.exists():
        return None
    metrics, records = _read(path), _records(trial)
    masks = {f"mask_{name}": value for name, value in metrics.get("masks", {}).items() if name in PERCENT}
    shown = {name: metrics.get(name) for name in PERCENT} | masks
    figures = {name: 100 * value for name, value in shown.items() if value is not None}
    if metrics.get("ranking", {}).get("spearman") is not None:
        figures["spearman"] = metrics["ranking"]["spearman"]
    seconds = _training_seconds(trial)
    iterations = records[-1]["iteration"]
    figures["seconds_per_iteration"] = seconds / iterations
    return Result(figures | _imbalance(records), iterations, seconds, jobs_of(trial))


def _imbalance(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return negatives per positive that the loss of each head sees in the first epoch.

    They count tasks (logits) or, with ``instance_`` before the name, instances (candidates).
    """
    first = [record for record in records if record["epoch"] <= 1] or records[:1]
    counts: dict[str, float] = {}
    for name in first[0]["statistics"]:
        if name.endswith(("/positives", *IMBALANCES)):
            counts[name] = sum(record["statistics"].get(name, 0.0) for record in first)
    return {
        f"{figure}_{head}": counts[f"{head}{others}"] / counts[f"{head}/positives"]
        for head in (name.removesuffix("/positives") for name in counts if name.endswith("/positives"))
        for others, figure in IMBALANCES.items()
        if counts[f"{head}/positives"] > 0 and f"{head}{others}" in counts
    }


def jobs_of(trial: Trial) -> int:
    """Return the largest number of trainings that shared the machine while this one ran; 1 if it was not recorded."""
    path = trial.run.folder / "jobs.json"
    return int(_read(path)["jobs"]) if path.exists() else 1


def note_jobs(trial: Trial, jobs: int) -> None:
    """Record how many trainings share the machine from now on."""
    write_json(trial.run.folder / "jobs.json", {"jobs": max(jobs, jobs_of(trial))})
