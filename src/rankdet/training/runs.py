"""The run folder: recipe.yaml, log.jsonl, checkpoints/, evaluation.json, detections.json."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def checkpoints(self) -> list[Path]:
        """All checkpoints, the oldest first."""
        return sorted(self.folder.glob("checkpoints/iteration_*.pt"))

    def latest_checkpoint(self) -> Path:
        """The newest checkpoint; raises InputError where there is none."""
        if not self.folder.is_dir():
            raise InputError(f"there is no run folder {self.folder}")
        paths = self.checkpoints()
        if not paths:
            raise InputError(f"{self.folder} holds no checkpoint")
        return paths[-1]

    def check_is_new(self) -> None:
        """Raise InputError where the folder already holds a run with a checkpoint."""
        if self.checkpoints():
            raise InputError(
                f"{self.folder} already holds a run; go on with --resume {self.folder}, or give another --out"
            )

    def create(self) -> None:
        """Make the folder; what a run without any checkpoint left in it is removed."""
        try:
            (self.folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot make run folder {self.folder}: {error.strerror}") from error
        self.log.unlink(missing_ok=True)

    def delete_parts(self) -> None:
        """Delete what a killed process left of a checkpoint that it was writing."""
        for path in self.folder.glob("checkpoints/.*.part"):
            path.unlink()

    def delete_old_checkpoints(self, keep: int) -> None:
        """Delete all but the newest ``keep`` checkpoints."""
        for path in self.checkpoints()[:-keep]:
            path.unlink()


def find_checkpoint(path: Path) -> Path:
    """``path`` itself, or the newest checkpoint where it is a run folder."""
    return Run(path).latest_checkpoint() if path.is_dir() else path


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: a reader finds the old file or the new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write standard JSON in one step; numbers that are not finite become null."""
    write_text(path, json.dumps(without_nan(value), allow_nan=False, indent=1) + "\n")


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


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The whole records of a log; a last line that was cut off by a kill is left out."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)
