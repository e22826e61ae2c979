"""The run folder: recipe.yaml, data.txt, log.jsonl, checkpoints/, evaluation.json, detections.json."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdet.runs.locking import locked
from rankdet.structures import InputError


@dataclass(frozen=True)
class Run:
    """Paths of one run.

    Parameters
    ----------
    folder
        The run folder.
    """

    folder: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe, which alone runs the experiment again."""
        return self.folder / "recipe.yaml"

    @property
    def data(self) -> Path:
        """What was used of the data, what was left out and why."""
        return self.folder / "data.txt"

    @property
    def log(self) -> Path:
        """One JSON record per line."""
        return self.folder / "log.jsonl"

    @property
    def evaluation(self) -> Path:
        """Numbers of the last evaluation."""
        return self.folder / "evaluation.json"

    @property
    def detections(self) -> Path:
        """COCO results of the last evaluation."""
        return self.folder / "detections.json"

    def checkpoint(self, iteration: int) -> Path:
        """Where the checkpoint of an iteration lies."""
        return self.folder / "checkpoints" / f"iteration_{iteration:08d}.pt"

    @property
    def best_checkpoint(self) -> Path:
        """A second name of the checkpoint with the best evaluation, which is kept when newer ones are."""
        return self.folder / "checkpoints" / "best.pt"

    def checkpoints(self, with_best: bool = False) -> list[Path]:
        """All checkpoints, the oldest first; the best one is the first where asked for, or where it is alone."""
        found = sorted(self.folder.glob("checkpoints/iteration_*.pt"))
        best = [self.best_checkpoint] if self.best_checkpoint.exists() and (with_best or not found) else []
        return best + found

    def latest_checkpoint(self) -> Path:
        """The newest checkpoint; raises InputError where there is none."""
        if not self.folder.is_dir():
            raise InputError(f"there is no run folder {self.folder}")
        paths = self.checkpoints()
        if not paths:
            raise InputError(f"{self.folder} holds no checkpoint")
        return paths[-1]

    @contextlib.contextmanager
    def locked(self, patience: float = 0.0, say: Callable[[str], object] = print) -> Iterator[None]:
        """Have the folder for this process alone; folders that are made for it go again where they stay empty.

        Raises InputError when another process still has it after ``patience`` seconds, which is told by ``say``, or it
        cannot be written into.
        """
        made = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
        make_folder(self.folder)
        try:
            what = f"{self.folder} is that of a training that goes on, by"
            with locked(self.folder / ".training", what, patience, say):
                yield
        finally:
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()

    def check_is_new(self) -> None:
        """Raise InputError where the folder already holds a run with a checkpoint."""
        if self.checkpoints():
            raise InputError(
                f"{self.folder} already holds a run; resume it (--resume, in Python resume=), let the same command go "
                "on with it (--resume-if-exists, resume_if_exists=True), or give another folder"
            )

    def keep_as_best(self, iteration: int) -> None:
        """Give the checkpoint of an iteration its second name, in one step.

        Both names are of one file, where the file system has links; it takes no more of the disk until the first name
        is deleted. A loss of power leaves the old one or the new one. Raises InputError when the name cannot be
        written.
        """
        try:
            with written_whole(self.best_checkpoint) as part:
                part.unlink(missing_ok=True)  # a link left by a killed process would be of an old checkpoint
                try:
                    os.link(self.checkpoint(iteration), part)
                except OSError:
                    shutil.copyfile(self.checkpoint(iteration), part)
                    make_last(part)
            make_last(self.best_checkpoint.parent)
        except OSError as error:
            raise InputError(f"cannot write {self.best_checkpoint}: {error.strerror}") from error

    def create(self) -> None:
        """Make the folder; what a run without any checkpoint left in it is removed."""
        make_folder(self.folder / "checkpoints")
        _delete(self.log)

    def set_aside(self, path: Path) -> None:
        """Rename a damaged checkpoint, so that it no longer counts as one."""
        try:
            path.replace(path.with_name(f"{path.name}.damaged"))
        except OSError as error:
            raise InputError(f"cannot rename {path}: {error.strerror}") from error

    def delete_parts(self) -> None:
        """Delete what a killed process left of a checkpoint that it was writing."""
        for path in self.folder.glob("checkpoints/.*.part"):
            _delete(path)

    def delete_old_checkpoints(self, keep: int) -> None:
        """Delete all but the newest ``keep`` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            _delete(path)


def find_checkpoint(path: Path) -> Path:
    """``path`` itself; of a run folder its best checkpoint, or the newest one where no evaluation has found a best."""
    if not path.is_dir():
        return path
    run = Run(path)
    return run.best_checkpoint if run.best_checkpoint.exists() else run.latest_checkpoint()


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, where it is missing; raises InputError where it cannot be written into."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make folder {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write into folder {folder}; give another --out")


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """A folder that can be written into; where nothing came into a new one, it is removed again.

    Raises
    ------
    InputError
        When it cannot be made or written into, now or while the context lasts.
    """
    is_new = not folder.exists()
    make_folder(folder)
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error}") from error
    finally:
        if is_new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot delete {path}: {error.strerror}") from error


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write, which takes its place at the end: a reader finds the old file or the new one.

    Where something is raised inside, what was at ``path`` before is untouched, and nothing is left. What processes of
    this machine left that were killed meanwhile, the next one deletes.
    """
    host = socket.gethostname()
    part = path.with_name(f".{path.name}.{host}.{os.getpid()}.part")
    for old in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(host)}.*.part"):
        if not _is_alive(old.suffixes[-2][1:]):
            with contextlib.suppress(OSError):
                old.unlink()
    try:
        yield part
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _is_alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except (PermissionError, ValueError):
        return True
    return True


def make_last(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk and outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a file in one step; raises InputError where it cannot be written."""
    try:
        with written_whole(path) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def write_json(path: Path, value: Any) -> None:
    """Write standard JSON in one step; numbers that are not finite become null."""
    write_text(path, json.dumps(without_nan(value), allow_nan=False, indent=1) + "\n")


def one_per_line(records: Iterable[dict[str, Any]]) -> str:
    """A list in standard JSON with a line for each record; indenting each value as well takes twice as long.

    Examples
    --------
    >>> print(one_per_line([{"score": 0.5}, {"score": float("nan")}]))
    [
    {"score": 0.5},
    {"score": null}
    ]
    """
    encode = json.JSONEncoder(allow_nan=False).encode
    return "[\n" + ",\n".join(encode(without_nan(record)) for record in records) + "\n]"


def without_nan(value: Any) -> Any:
    """The value with None in place of NaN and infinities, which JSON does not know.

    Examples
    --------
    >>> without_nan({"AP": float("nan"), "rows": [1.0]})
    {'AP': None, 'rows': [1.0]}
    """
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(value: Any) -> Any:
    """The value with NaN in place of None, as numbers were that `without_nan` wrote.

    Examples
    --------
    >>> with_nan({"AP": None, "rows": [1.0]})
    {'AP': nan, 'rows': [1.0]}
    """
    if isinstance(value, dict):
        return {key: with_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [with_nan(entry) for entry in value]
    return math.nan if value is None else value


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a log; a last line that was cut off by a kill is left out.

    Raises
    ------
    InputError
        When the log cannot be read, or another line is no record.
    """
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            return
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no JSON; remove it") from error
        if not isinstance(record, dict) or not isinstance(record.get("iteration"), int):
            raise InputError(f"{path}: line {number} is no record of a run; remove it")
        yield record
