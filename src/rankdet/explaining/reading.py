"""Files with logits and targets: npz, JSON or CSV."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rankdet.coco.parsing import read_json
from rankdet.explaining.explanation import Explanation, Loss, explain
from rankdet.structures import InputError

FIELDS = ("logits", "targets", "localization_errors", "names")
OF_CSV = {"logit": "logits", "target": "targets", "E": "localization_errors", "name": "names"}
"""Columns of a CSV file and the fields that they are; E of negatives is left empty."""


def explain_file(path: Path, loss: Loss = "rank_sort", delta: float | None = None) -> Explanation:
    """Explain the logits of a file.

    Parameters
    ----------
    path
        An ``.npz`` or ``.json`` file with ``logits`` and ``targets`` of one shape, and perhaps
        ``localization_errors`` of the positives and ``names`` of all; or a ``.csv`` file with the columns ``logit`` and
        ``target``, and perhaps ``E`` (empty for negatives) and ``name``.
    loss, delta
        See `rankdet.explain`, also for how targets are read.

    Raises
    ------
    InputError
        When the file is missing or broken, or says something else.
    """
    readers = {".npz": _read_arrays, ".json": _read_object, ".csv": _read_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: logits and targets are in a file of {', '.join(readers)}")
    fields = reader(path)
    for name in FIELDS[:2]:
        if name not in fields:
            raise InputError(f"{path} has no {name}; it needs {' and '.join(FIELDS[:2])}")
    names = fields.get("names")
    try:
        return explain(
            fields["logits"],
            fields["targets"],
            loss,
            delta=delta,
            localization_errors=fields.get("localization_errors") if loss == "alrp" else None,
            names=None if names is None else [str(name) for name in np.ravel(np.asarray(names, dtype=object))],
            title=path.name,
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _read_arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in FIELDS if name in found}
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} must be an object with {' and '.join(FIELDS[:2])}")
    return {name: found[name] for name in FIELDS if found.get(name) is not None}


def _read_rows(path: Path) -> dict[str, Any]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    found: dict[str, Any] = {}
    for column, field in OF_CSV.items():
        if not rows or column not in rows[0]:
            continue
        texts = [row[column] or "" for row in rows]
        if field == "names":
            found[field] = texts
            continue
        texts = [text for text in texts if text.strip()] if column == "E" else texts
        try:
            found[field] = [float(text) for text in texts]
        except ValueError as error:
            raise InputError(f"{path}: column {column}: {error}") from error
    return found
