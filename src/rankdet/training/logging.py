"""What a run reports: records in log.jsonl, optional TensorBoard, a progress bar or plain lines."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rankdet.runs.folder import Run, read_log, without_nan, write_text
from rankdet.structures import InputError

_SHOWN = (
    "ranking",
    "sorting",
    "classification",
    "localization",
    "deltas",
    "balance",
    "mask",
    "mask_balance",
    "semantic",
)


class RunLog:
    """The log of a run: one JSON record with an ``iteration`` per line, and a TensorBoard log where asked for.

    A run that goes on from the checkpoint of iteration ``start`` writes later records again, so they are removed. So is
    the evaluation of that iteration, unless the checkpoint knows it (``is_evaluated``). Raises InputError when a file
    cannot be read or written, or TensorBoard is not installed.
    """

    def __init__(self, run: Run, start: int, tensorboard: bool, is_evaluated: bool = True) -> None:
        self._path = run.log
        if run.log.exists():
            # The evaluation of ``start`` goes as well where it is made again.
            kept = [
                record
                for record in read_log(run.log)
                if record["iteration"] < start + (is_evaluated or record.get("kind") != "evaluation")
            ]
            write_text(run.log, "".join(json.dumps(record) + "\n" for record in kept))
        try:
            self._file = run.log.open("a+", encoding="utf-8")
            self._tensorboard = _open_tensorboard(run, start) if tensorboard else None
        except OSError as error:
            raise InputError(f"cannot write {error.filename or run.log}: {error.strerror}") from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; numbers that are not finite become null. Raises InputError where it cannot be written."""
        try:
            self._keep()
            self._file.write(json.dumps(without_nan(dict(record)), allow_nan=False) + "\n")
            self._file.flush()
            if self._tensorboard is not None:
                for name, value in flat_numbers(record).items():
                    self._tensorboard.add_scalar(name, value, record["iteration"])
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from error

    def _keep(self) -> None:
        """Write the file again where somebody has deleted it: its content lives as long as it is open."""
        if os.fstat(self._file.fileno()).st_nlink:
            return
        self._file.seek(0)
        with self._file as deleted:
            write_text(self._path, deleted.read())
        self._file = self._path.open("a+", encoding="utf-8")

    def close(self) -> None:
        """Close the files."""
        with contextlib.suppress(OSError, InputError):
            self._keep()
        # Every record was flushed: what is left to write is one that `write` has already complained about.
        for file in filter(None, (self._file, self._tensorboard)):
            with contextlib.suppress(OSError):
                file.close()


def _open_tensorboard(run: Run, start: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError("runtime.tensorboard needs a package: pip install 'rankdet[tensorboard]'") from error
    return SummaryWriter(str(run.folder / "tensorboard"), purge_step=start + 1)


def flat_numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record and of the mappings in it, by slashed names.

    Examples
    --------
    >>> flat_numbers({"kind": "train", "lr": 0.1, "statistics": {"rpn/ranking": 0.5}})
    {'lr': 0.1, 'statistics/rpn/ranking': 0.5}
    """
    numbers: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            numbers |= {f"{name}/{inner}": number for inner, number in flat_numbers(value).items()}
        elif isinstance(value, int | float):
            numbers[name] = value
    return numbers


class Display:
    """A progress bar on a terminal, which shows while ``progress`` is entered; a line per record elsewhere."""

    def __init__(self, console: Console, name: str, num_iterations: int) -> None:
        self._console, self._num_iterations = console, num_iterations
        self._told: set[str] = set()
        self.progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self.progress.add_task(name, total=num_iterations, terms="")

    def count(self, iteration: int) -> None:
        """Show that so many iterations are done."""
        self.progress.update(self._task, completed=iteration)

    def show(self, record: Mapping[str, Any]) -> None:
        """Show a record of the log."""
        terms = shown_terms(record)
        self.progress.update(self._task, terms=terms)
        if not self._console.is_terminal:
            iteration, seconds = record["iteration"], record["timing"]["seconds_per_iteration"]
            left = timedelta(seconds=round((self._num_iterations - iteration) * seconds))
            counted = f"{iteration:>7}/{self._num_iterations}"
            self.say(f"{counted}  lr {record['lr']:.2e}  {terms}  {seconds:.3f} s/it  left {left}")

    def show_evaluation(self, record: Mapping[str, Any], is_best: bool) -> None:
        """Show the main numbers of an evaluation, and whether it is the best so far."""
        metrics = record["metrics"]
        text = f"iteration {record['iteration']}: {_main_numbers(metrics) or 'nothing is measured'}"
        text = f"{text}  masks: {_main_numbers(metrics['masks'])}" if "masks" in metrics else text
        self.say(f"{text}  (best)" if is_best else text)
        for line in metrics.get("findings", ()):
            self.say_once(line)  # they are the same in every evaluation of a run

    def say(self, message: str) -> None:
        """Show a message between the records."""
        self._console.print(message, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def say_once(self, message: str) -> None:
        """Show a message that was not shown before."""
        if message not in self._told:
            self._told.add(message)
            self.say(message)


def _main_numbers(metrics: Mapping[str, Any]) -> str:
    shown = ("AP", "AP50", "APr", "APc", "APf", "oLRP")  # COCO does not measure all of them
    return "  ".join(f"{name} {metrics[name]:.3f}" for name in shown if name in metrics)


def shown_terms(record: Mapping[str, Any]) -> str:
    """The loss and its separate terms on one line.

    Examples
    --------
    >>> shown_terms({"loss": 1.5, "statistics": {"rpn/ranking": 0.1, "rpn/positives": 3.0, "rpn/balance": 2.0}})
    'loss 1.500  rpn: ranking 0.100 balance 2.000'
    """
    heads: dict[str, str] = {}
    for name, value in record["statistics"].items():
        head, _, term = name.partition("/")
        if term in _SHOWN:
            heads[head] = f"{heads.get(head, f'{head}:')} {term} {value:.3f}"
    return "  ".join([f"loss {record['loss']:.3f}", *heads.values()])
