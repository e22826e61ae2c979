"""One row of a table: choice of the learning rate, seeds, equal time. All its state is on disk."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankdet.recipes import load_recipe
from rankdet.runs.folder import make_folder, read_log, write_json
from rankdet.structures import InputError

from .experiments import Command, Experiment, Scale, Trial, make_trial

TUNING_SEED = 0
"""The learning rate is chosen with this seed whatever seeds are reported, so that more seeds never change it."""

PERCENT = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
"""What an evaluation measures as a fraction and a table shows in percent; of masks with ``mask_`` before the name."""

IMBALANCES = {"/negatives": "negatives_per_positive", "/background": "instance_negatives_per_positive"}
"""Statistics of a head that a table shows per positive, and what it calls them."""

FIRST_EPOCH = "AP_epoch_1"
"""The figure of tables that tell how a training begins."""


@dataclass(frozen=True)
class Settings:
    """What all rows of a table have in common.

    Parameters
    ----------
    scale
        Data and size.
    data, out
        Data folder, and the folder for runs and tables.
    seeds
        That are reported.
    learning_rates
        That every row may choose from; none: the recipe's own.
    iterations
        In place of those of the recipes, or None.
    equal_time
        The row whose seconds of training every other row gets as well, or None.
    device, threads, jobs, processes
        Where to compute; threads of one process; trainings at a time; processes of one training.
    """

    scale: Scale
    data: Path
    out: Path
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    iterations: int | None = None
    equal_time: str | None = None
    device: str = "auto"
    threads: int | None = None
    jobs: int = 1
    processes: int = 1

    @property
    def free_fields(self) -> list[str]:
        """Overrides that no result depends on."""
        fields = [] if self.device == "auto" else [f"runtime.device={self.device}"]
        return fields if self.threads is None else [*fields, f"runtime.threads={self.threads}"]


@dataclass(frozen=True)
class Task:
    """The next thing to do for a run."""

    trial: Trial
    is_training: bool
    command: Command
    split: str
    """What the run is reported on."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left of it to do."""
        return self.trial.is_settled if self.is_training else self.trial.is_reported(self.split)


class Study:
    """One row of a table at one scale.

    Parameters
    ----------
    name
        Of the row.
    experiment
        What it trains.
    settings
        Of the table, on the data of this row.
    is_of_masks
        Whether AP and oLRP of the row are those of masks.
    with_first_epoch
        Whether the row shows AP after the first epoch as well. It is that of a run of its own, which ends there: the
        learning rate of the whole run falls later.
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

    def trial(self, lr: float, seed: int, changes: list[str] | None = None) -> Trial:
        """The run of a learning rate and seed, with other ``changes`` than those of the settings where given."""
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
        """The runs that the learning rate is chosen from; none where there is no choice."""
        return {lr: self.trial(lr, TUNING_SEED) for lr in self.rates} if len(self.rates) > 1 else {}

    def validation(self) -> dict[float, float | None]:
        """AP in percent, of masks where there are, on the validation split; None where the training diverged.

        For each learning rate that is settled.
        """
        return {lr: _validation_ap(trial) for lr, trial in self.tuning().items() if trial.is_settled}

    def choice(self) -> float | None:
        """The learning rate with the highest AP on the validation split; None where it is open or all diverged."""
        if len(self.rates) == 1:
            return self.rates[0]
        found = self.validation()
        sound = {lr: ap for lr, ap in found.items() if ap is not None}
        return max(sound, key=lambda lr: sound[lr]) if len(found) == len(self.rates) and sound else None

    def result(self, trial: Trial) -> Result | None:
        """The numbers of one of its runs as the row shows them; None before it is measured."""
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
        """The runs of the chosen learning rate, one for each seed; none before it is chosen."""
        lr = self.choice()
        return [] if lr is None else [self.trial(lr, seed) for seed in self.settings.seeds]

    def runs(self, lr: float) -> list[Trial]:
        """All whose numbers the row shows with a learning rate, but for equal time."""
        return [*(self.trial(lr, seed) for seed in self.settings.seeds), *self._first_epochs(lr).values()]

    def _first_epochs(self, lr: float) -> dict[str, Trial]:
        """The runs of one epoch by the label of the whole one; none where the table does not ask for them."""
        if not self._with_first_epoch:
            return {}
        changes = ["schedule.epochs=1", "schedule.milestones=[]"]
        if self._recipe.schedule.iterations is not None:
            changes.append("schedule.iterations=null")
        return {self.trial(lr, seed).label: self.trial(lr, seed, changes) for seed in self.settings.seeds}

    def stretched(self, reference: Study) -> list[Trial]:
        """The runs that take the seconds of another row; none before their length is settled."""
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
        """Once both rows are trained, write down by how much this one is to be stretched. It is never changed again."""
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
        """What can be done now, the first thing first."""
        split = self.settings.scale.split
        waiting = [trial for trial in self.tuning().values() if not trial.is_settled]
        yield from (Task(trial, True, trial.training(), split) for trial in waiting)
        if waiting:
            return
        lr = self.choice()
        trials = [] if lr is None else self.runs(lr)
        if reference is not None:
            self.settle_budget(reference)
            trials = [*trials, *self.stretched(reference)]
        for trial in trials:
            if not trial.is_settled:
                yield Task(trial, True, trial.training(), split)
            elif not trial.is_reported(split):
                yield Task(trial, False, trial.measuring(split, self.settings.device), split)

    def expected(self, reference: Study | None) -> dict[str, bool]:
        """All runs, as far as they are known, and whether nothing is left to do for them."""
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
    """Mean seconds of training over the runs that did not diverge; None while one is open."""
    if not trials or not all(trial.is_settled for trial in trials):
        return None
    sound = [trial for trial in trials if not trial.divergence.exists()]
    return statistics.mean(_training_seconds(trial) for trial in sound) if sound else None


def _training_seconds(trial: Trial) -> float:
    """Seconds of training; of the processor, where several trainings on CPUs shared the machine and kept it waiting."""
    timing = _last_record(trial)["timing"]
    processor = timing.get("processor_seconds")
    return float(timing["seconds"] if processor is None or jobs_of(trial) == 1 else processor)


def _validation_ap(trial: Trial) -> float | None:
    if trial.divergence.exists():
        return None
    metrics = _read(trial.run.evaluation)
    return 100 * float(metrics.get("masks", metrics)["AP"] or 0.0)


def _last_record(trial: Trial) -> dict[str, Any]:
    return [record for record in read_log(trial.run.log) if record["kind"] == "train"][-1]


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
    """The numbers of one run.

    Parameters
    ----------
    figures
        Figure → value; AP and oLRP in percent.
    iterations
        Length of the run.
    seconds
        Of training, without evaluation; of the processor where several trainings on CPUs shared the machine.
    jobs
        Most trainings at a time while this one ran, as far as known.
    """

    figures: dict[str, float]
    iterations: int
    seconds: float
    jobs: int


def result_of(trial: Trial, split: str) -> Result | None:
    """The numbers of a run; None before it is measured."""
    path = trial.measured(split)
    if not path.exists():
        return None
    metrics, last = _read(path), _last_record(trial)
    masks = {f"mask_{name}": value for name, value in metrics.get("masks", {}).items() if name in PERCENT}
    shown = {name: metrics.get(name) for name in PERCENT} | masks
    figures = {name: 100 * value for name, value in shown.items() if value is not None}
    if metrics.get("ranking", {}).get("spearman") is not None:
        figures["spearman"] = metrics["ranking"]["spearman"]
    seconds = _training_seconds(trial)
    figures["seconds_per_iteration"] = seconds / last["iteration"]
    figures |= _imbalance(trial)
    return Result(figures, last["iteration"], seconds, jobs_of(trial))


def _imbalance(trial: Trial) -> dict[str, float]:
    """Negatives per positive of each head, of what its loss sees, over the first epoch: those of tasks (logits), and
    with ``instance_`` before the name those of instances (candidates)."""
    records = [record for record in read_log(trial.run.log) if record["kind"] == "train"]
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
    """How many trainings shared the machine while this one ran, at most; 1 where nobody wrote it down."""
    path = trial.run.folder / "jobs.json"
    return int(_read(path)["jobs"]) if path.exists() else 1


def note_jobs(trial: Trial, jobs: int) -> None:
    """Write down how many trainings share the machine from now on."""
    write_json(trial.run.folder / "jobs.json", {"jobs": max(jobs, jobs_of(trial))})
