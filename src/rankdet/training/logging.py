"""What a run reports: records in log.jsonl, optional TensorBoard, a progress bar or plain lines."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rankdet.runs.folder import Run, read_log, without_nan, write_text
from rankdet.structures import InputError

_SHOWN = ("ranking", "sorting", "classification", "localization", "balance", "mask", "mask_balance", "semantic")


class RunLog:
    """Writes one JSON record per line; every record has an ``iteration``.

    Parameters
    ----------
    run
        The run folder.
    start
        Iteration of the checkpoint a run goes on from: later records, which the run will write again, are removed.
    is_evaluated
        Whether that checkpoint knows the evaluation of its iteration; otherwise the run evaluates again.
    tensorboard
        Whether to write a TensorBoard log too.

    Raises
    ------
    InputError
        When TensorBoard is asked for and not installed, or a file cannot be read or written.
    """

    def __init__(self, run: Run, start: int, tensorboard: bool, is_evaluated: bool = True) -> None:
        self._path = run.log
        if run.log.exists():
            kept = [
                record
                for record in read_log(run.log)
                if record["iteration"] < start
                or (record["iteration"] == start and (is_evaluated or record.get("kind") != "evaluation"))
            ]
            write_text(run.log, "".join(json.dumps(record) + "\n" for record in kept))
        try:
            self._file = run.log.open("a", encoding="utf-8")
            self._tensorboard = _open_tensorboard(run, start) if tensorboard else None
        except OSError as error:
            raise InputError(f"cannot write {error.filename or run.log}: {error.strerror}") from error

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; numbers that are not finite become null. Raises InputError where it cannot be written."""
        try:
            self._file.write(json.dumps(without_nan(dict(record)), allow_nan=False) + "\n")
            self._file.flush()
            if self._tensorboard is not None:
                for name, value in flat_numbers(record).items():
                    self._tensorboard.add_scalar(name, value, record["iteration"])
        except OSError as error:
            raise InputError(f"cannot write {self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the files."""
        # Every record was flushed: what is left to write is one that `write` has already complained about.
        with contextlib.suppress(OSError):
            self._file.close()
        if self._tensorboard is not None:
            with contextlib.suppress(OSError):
                self._tensorboard.close()


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
    """A progress bar on a terminal, a line per record elsewhere.

    Parameters
    ----------
    console
        Where to write.
    name
        What is trained.
    num_iterations
        Length of the run.
    """

    def __init__(self, console: Console, name: str, num_iterations: int) -> None:
        self._console, self._num_iterations = console, num_iterations
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=num_iterations, terms="")

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """Count one iteration."""
        self._progress.advance(self._task)

    def advance_to(self, iteration: int) -> None:
        """Count from ``iteration`` on, where a run is resumed."""
        self._progress.update(self._task, completed=iteration)

    def show(self, record: Mapping[str, Any]) -> None:
        """Show a record of the log."""
        terms = shown_terms(record)
        self._progress.update(self._task, terms=terms)
        if self._console.is_terminal:
            return
        left = (self._num_iterations - record["iteration"]) * record["timing"]["seconds_per_iteration"]
        self._console.print(
            f"{record['iteration']:>7}/{self._num_iterations}  lr {record['lr']:.2e}  {terms}  "
            f"{record['timing']['seconds_per_iteration']:.3f} s/it  left {_clock(left)}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )

    def show_evaluation(self, record: Mapping[str, Any]) -> None:
        """Show the main numbers of an evaluation."""
        metrics = record["metrics"]
        parts = {"": metrics, "masks: ": metrics["masks"]} if "masks" in metrics else {"": metrics}
        shown = ("AP", "AP50", "APr", "APc", "APf", "oLRP")  # COCO does not measure all of them
        numbers = [
            prefix + "  ".join(f"{name} {part[name]:.3f}" for name in shown if name in part)
            for prefix, part in parts.items()
        ]
        self.say(f"iteration {record['iteration']}: {'  '.join(numbers)}")

    def say(self, message: str) -> None:
        """Show a message between the records."""
        self._console.print(message, soft_wrap=True, highlight=False, markup=False)


def shown_terms(record: Mapping[str, Any]) -> str:
    """The loss and its separate terms on one line.

    Examples
    --------
    >>> shown_terms({"loss": 1.5, "statistics": {"rpn/ranking": 0.1, "rpn/positives": 3.0, "rpn/balance": 2.0}})
    'loss 1.500  rpn: ranking 0.100 balance 2.000'
    """
    heads: dict[str, list[str]] = {}
    for name, value in record["statistics"].items():
        head, _, term = name.partition("/")
        if term in _SHOWN:
            heads.setdefault(head, []).append(f"{term} {value:.3f}")
    parts = [f"loss {record['loss']:.3f}", *(f"{head}: {' '.join(terms)}" for head, terms in heads.items())]
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
