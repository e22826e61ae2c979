"""The harness: trains what a table lacks, and writes the table after every run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from rankdet.runs.folder import make_folder, write_json, write_text
from rankdet.runs.locking import take_lock
from rankdet.runs.processes import DIVERGED
from rankdet.runs.signals import StopRequest

from .experiments import Trial
from .processes import Launch, Process, describe_status, last_words, start_process
from .study import Settings, Study, Task, note_jobs
from .summary import markdown, summarize

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Ending:
    """The outcome of a call of the harness."""

    files: tuple[Path, Path]
    """The table as Markdown and as JSON."""
    signal: int | None
    failures: dict[str, str]
    """For each failed run what went wrong. Runs that diverged are results, not failures."""


@dataclass(frozen=True)
class _Job:
    task: Task
    process: Process
    bar: TaskID


class Harness:
    """All runs of a table; rows that are not selected show the runs that exist."""

    def __init__(
        self,
        table: str,
        studies: Sequence[Study],
        selected: Sequence[str],
        settings: Settings,
        console: Console,
        launch: Launch = start_process,
    ) -> None:
        self._table, self._studies, self._settings, self._console = table, studies, settings, console
        self._selected = [study for study in studies if study.name in selected]
        self._reference = next((study for study in studies if study.name == settings.equal_time), None)
        self._launch = launch
        self._running: dict[str, _Job] = {}
        self._failures: dict[str, str] = {}
        self._unsurprising: set[str] = set()  # runs whose lock may be taken without a word
        stem = settings.out / f"table_{table}-{settings.scale.name}"
        self._files = (stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.json"))
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def run(self) -> Ending:
        """Train and measure what is missing; runs that are complete are not repeated.

        Raises
        ------
        InputError
            When a run folder holds another run, or nothing can be written.
        """
        make_folder(self._settings.out)
        self._write()
        with StopRequest() as stop, self._progress:
            self._whole = self._progress.add_task(f"table {self._table}")
            try:
                while stop.signal is None and self._start():
                    self._wait(stop)
            finally:
                self._stop()
        self._write()
        return Ending(self._files, stop.signal, self._failures)

    def _tasks(self) -> list[Task]:
        """Return one task for each run that is neither running nor failed."""
        tasks: dict[str, Task] = {}
        for study in self._selected:
            for task in study.tasks(self._reference):
                label = task.trial.label
                if label not in self._running and label not in self._failures:
                    tasks.setdefault(label, task)
        return list(tasks.values())

    def _start(self) -> bool:
        """Start tasks up to the number of jobs; return False if nothing runs and nothing is left to do."""
        tasks = self._tasks()
        self._show_progress()
        for task in tasks:
            if len(self._running) >= self._settings.jobs:
                break
            self._start_task(task)
        return bool(self._running or tasks)

    def _start_task(self, task: Task) -> None:
        trial, folder = task.trial, task.trial.run.folder
        make_folder(folder)
        lock = take_lock(folder / ".lock")
        if lock is None:
            if trial.label not in self._unsurprising:
                self._say(f"{trial.label}: another process works on it; waiting for that")
                self._unsurprising.add(trial.label)
            return
        try:
            trial.check_is_same()
            # The process that held the lock before may have completed it.
            if task.is_done:
                return
            command = task.command
            if task.is_training:
                note_jobs(trial, self._settings.jobs)
            threads = self._settings.threads
            environment = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
            process = self._launch(command, folder / "output.txt", environment, lock)
        finally:
            os.close(lock)
        if task.is_training:
            goes_on = command.arguments[1] == "--resume"
            self._say(f"{trial.label}: {'going on' if goes_on else 'training'}")
        # Workers of a process that has just ended hold its lock for a moment; that is no other process.
        self._unsurprising.add(trial.label)
        bar = self._progress.add_task(f"  {trial.label}")
        self._running[trial.label] = _Job(task, process, bar)

    def _wait(self, stop: StopRequest) -> None:
        """Wait until a process has ended, other harnesses' runs should be checked again, or a signal came."""
        looks = 0
        while stop.signal is None:
            ended = [label for label, job in self._running.items() if job.process.poll() is not None]
            for label in ended:
                self._end(label)
            if ended:
                self._write()
                return
            time.sleep(POLL_SECONDS)
            looks += 1
            if looks % 5 == 0:
                for job in self._running.values():
                    self._progress.update(job.bar, completed=100 * _fraction(job.task.trial))
            if looks % 50 == 0 and len(self._running) < self._settings.jobs:
                return

    def _end(self, label: str) -> None:
        job = self._running.pop(label)
        self._progress.remove_task(job.bar)
        trial, status = job.task.trial, job.process.poll()
        output = trial.run.folder / "output.txt"
        if status == DIVERGED and job.task.is_training:
            write_text(trial.divergence, f"{last_words(output)}\n")
            self._say(f"{label}: diverged: {last_words(output)}")
        elif status != 0:
            self._failures[label] = f"{describe_status(status or 0)}: {last_words(output)}"
            self._say(f"{label}: failed, {self._failures[label]} (see {output})")
        elif not job.task.is_done:
            # It would be started again without end.
            self._failures[label] = f"it ended well, but left no evaluation (see {output})"
            self._say(f"{label}: {self._failures[label]}")
        else:
            done, num_runs = self._show_progress()
            self._say(f"{label}: {'trained' if job.task.is_training else 'measured'} ({done} of {num_runs} runs done)")

    def _stop(self) -> None:
        """Ask all running processes to stop, and wait until they have written their checkpoints."""
        for job in self._running.values():
            if job.process.poll() is None:
                job.process.terminate()
        while any(job.process.poll() is None for job in self._running.values()):
            time.sleep(POLL_SECONDS)

    def _write(self) -> None:
        summary = summarize(self._table, self._studies, self._reference, self._settings)
        write_json(self._files[1], summary)
        write_text(self._files[0], markdown(summary))

    def _show_progress(self) -> tuple[int, int]:
        """Show and return the number of finished runs, and the number of all runs known so far."""
        runs: dict[str, bool] = {}
        for study in self._selected:
            for label, is_done in study.expected(self._reference).items():
                runs[label] = is_done and runs.get(label, True)  # what one row only tunes with, another may report
        self._progress.update(self._whole, completed=sum(runs.values()), total=max(1, len(runs)))
        return sum(runs.values()), len(runs)

    def _say(self, message: str) -> None:
        self._progress.console.print(message, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _fraction(trial: Trial) -> float:
    """Return the finished fraction of a run, from the last whole line of its log."""
    try:
        with trial.run.log.open("rb") as file:
            file.seek(max(0, trial.run.log.stat().st_size - 8192))
            lines = file.read().splitlines()
        record = json.loads(lines[-1])
    except (OSError, ValueError, IndexError):
        return 0.0
    schedule = trial.recipe.schedule
    if schedule.iterations is not None:
        return float(record.get("iteration", 0) / schedule.iterations)
    return float(record.get("epoch", 0.0) / (schedule.epochs or 1.0))
