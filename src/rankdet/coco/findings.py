"""What is wrong or odd with a record, in words, and the limits that every file is held to."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from rankdet.structures import InputError

LARGEST_ID = 2**63 - 1
"""The largest int64; evaluators take ids for unsigned, so they start at 0."""
LARGEST_SIDE = 1_000_000
"""Pixels; no image is as wide or high, and no coordinate of an object as large."""


class Finding(NamedTuple):
    """One thing that is wrong or odd in a data set.

    severity
        An error stops a training or an evaluation, a warning does not.
    file, record, message
        The file, the record in it (``"annotation 7"``), and what is wrong with it.
    """

    severity: Literal["error", "warning"]
    file: str
    record: str
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.file, self.record, self.message) if part)


def raise_errors(findings: Iterable[Finding], hint: str = "") -> None:
    """Raise InputError that names the first error among the findings and counts the others.

    ``hint`` names, in words, where to see all errors.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        # One bad category is a problem of all its annotations: these are records to look at, not mistakes to count.
        records = "1 more record" if len(errors) == 2 else f"{len(errors) - 1} more records"
        more = f" (and {records} with problems{hint and '; '}{hint})" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}")


def record_name(kind: str, place: int, row: Any) -> str:
    """The name of a record in messages: its id, or its place where it has none.

    Examples
    --------
    >>> record_name("image", 0, {"id": 7}), record_name("image", 0, {})
    ('image 7', 'image number 1')
    """
    return f"{kind} {shown(row['id'])}" if isinstance(row, dict) and "id" in row else f"{kind} number {place + 1}"


def shown(value: Any) -> str:
    """A value as messages show it: its beginning, which is where a mistake can be seen."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}…"


def missing_key(row: Any, keys: Iterable[str]) -> str | None:
    """What is wrong with a record that must be an object with these keys, or None."""
    if not isinstance(row, dict):
        return f"{shown(row)} is not an object"
    return next((f"key {key!r} is missing" for key in keys if key not in row), None)


def id_problem(value: Any, taken: Container[int]) -> str | None:
    """What is wrong with the id of a record, or None."""
    if not is_integer(value) or not 0 <= value <= LARGEST_ID:
        return f"id {shown(value)} is not an integer from 0 to 2**63 - 1"
    return f"id {value} occurs twice" if value in taken else None


def box_problem(box: Any, limit: float) -> str | None:
    """What is wrong with a box ``[x, y, width, height]`` whose coordinates lie within ±``limit`` pixels, or None."""
    if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4 or not are_numbers(box):
        return f"bbox {shown(box)} is not a list of four numbers [x, y, width, height]"
    if not are_within(box, limit):
        return f"box {shown(box)} is not finite, or goes beyond {limit:.0f} pixels"
    return f"box {box} has a negative size" if box[2] < 0 or box[3] < 0 else None


def is_integer(value: Any) -> bool:
    """Whether a value is an integer; True and False are not, though Python counts them among its integers."""
    return type(value) is int


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether all values are numbers, of NumPy or of Python; True and False are none."""
    # Types are compared before anything is asked for its ancestors, so that a million boxes are quick.
    kinds = set(map(type, values))
    return kinds <= {int, float} or all(kind is not bool and issubclass(kind, Real) for kind in kinds)


def is_finite(value: float) -> bool:
    """Whether a number fits into a float64; NaN, infinities and very long integers do not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def are_within(values: Iterable[float], limit: float) -> bool:
    """Whether all numbers lie within ±``limit``; NaN does not, and integers may have any length."""
    return all(-limit <= value <= limit for value in values)


def is_encodable(text: str) -> bool:
    """Whether a text is valid Unicode: JSON lets halves of letters through."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
