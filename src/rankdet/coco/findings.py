"""What is wrong or odd with a record, in words, and the limits that every file is held to."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

import numpy as np

from rankdet.structures import InputError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
NUM_EXAMPLES = 3
"""Records that a line names."""
MOST_KEPT = 10_000
"""Findings of a kind that are kept one by one: a file may have millions."""
LARGEST_ID = 2**63 - 1
"""The largest int64; evaluators take ids for unsigned, so they start at 0."""
LARGEST_SIDE = 1_000_000
"""Pixels; no image is as wide or high, and no coordinate of an object as large."""
NAMES_FOLDER = "data.train_images or data.validation_images names the folder of the images"


class Finding(NamedTuple):
    """One thing that is wrong or odd in a data set.

    severity
        An error stops a training or an evaluation. A warning says that something is left out or probably wrong, a note
        that another form was read as it is meant.
    file, record
        The file, and the record in it (``"annotation 7"``); empty for the whole file.
    problem
        What is wrong: the same words for all records that have it.
    detail
        What this record has there.
    remedy
        The field or command that helps.
    number
        How many records it is about; of more than one it names none.
    """

    severity: Severity
    file: str
    record: str
    problem: str
    detail: str = ""
    remedy: str = ""
    number: int = 1

    def __str__(self) -> str:
        """The finding in one line, without its severity.

        Examples
        --------
        >>> print(Finding("error", "a.json", "annotation 7", "area is not a number", "'x'"))
        a.json: annotation 7: area is not a number: 'x'
        """
        text = ": ".join(part for part in (self.file, self.record, self.problem, self.detail) if part)
        return f"{text}; {self.remedy}" if self.remedy else text


class Findings:
    """What is found in a data set; beyond `MOST_KEPT` of a kind the records are only counted.

    Examples
    --------
    >>> found = Findings()
    >>> for id_ in range(12_000):
    ...     _ = found.add(Finding("note", "a.json", f"annotation {id_}", "is odd"))
    >>> rows = found.rows()
    >>> len(rows), rows[-1].number, grouped(rows)[0][:45]
    (10001, 2000, 'note: a.json: each of 12000 records: is odd (')
    """

    def __init__(self) -> None:
        self._kept: list[Finding] = []
        self._numbers: Counter[Finding] = Counter()

    def __len__(self) -> int:
        """How many records the findings are about."""
        return sum(self._numbers.values())

    def add(self, finding: Finding) -> bool:
        """Take a finding; returns whether it is kept by itself."""
        kind = finding._replace(record="", detail="")
        self._numbers[kind] += 1
        is_kept = self._numbers[kind] <= MOST_KEPT
        if is_kept:
            self._kept.append(finding)
        return is_kept

    def rows(self) -> list[Finding]:
        """The findings in the order in which they came, and then one for all others of each kind."""
        return self._kept + self.others()

    def others(self) -> list[Finding]:
        """A finding for each kind that has more than are kept, about those that are not."""
        return [
            kind._replace(number=number - MOST_KEPT) for kind, number in self._numbers.items() if number > MOST_KEPT
        ]


class Problem(NamedTuple):
    """What is wrong with a record: the same words for all that have it, what this one has there, and what helps."""

    what: str
    detail: str = ""
    remedy: str = ""


def grouped(findings: Iterable[Finding]) -> list[str]:
    """Findings in few lines: one for all records of a file with the same problem, errors first.

    Examples
    --------
    >>> rows = [Finding("warning", "a.json", f"annotation {id_}", "has no area", f"[{id_}]") for id_ in range(5)]
    >>> for line in grouped([*rows, Finding("error", "b.json", "", "there is no such file")]):
    ...     print(line)
    error: b.json: there is no such file
    warning: a.json: each of 5 records: has no area (annotation 0: [0]; annotation 1: [1]; annotation 2: [2]; …)
    """
    rows = list(findings)
    return [f"{severity}: {line}" for severity in SEVERITIES for line in _lines(rows, severity)]


def _lines(findings: Iterable[Finding], severity: str) -> list[str]:
    """The findings of one severity in lines, in the order in which each problem is met first."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for one in findings:
        if one.severity == severity:
            groups.setdefault((one.file, one.problem, one.remedy), []).append(one)
    return [str(group[0]) if sum(one.number for one in group) == 1 else _line(group) for group in groups.values()]


def _line(group: Sequence[Finding]) -> str:
    """Several records of a file that have the same problem."""
    number = sum(one.number for one in group)
    examples = [": ".join(part for part in (one.record, one.detail) if part) for one in group[:NUM_EXAMPLES]]
    shown_rows = "; ".join([*filter(None, examples), *(["…"] if number > NUM_EXAMPLES else [])])
    problem = f"each of {number} records: {group[0].problem} ({shown_rows})"
    return str(group[0]._replace(record="", problem=problem, detail=""))


class FindingsError(InputError):
    """Errors among findings; the message has a line for each kind of them, ``findings`` all, warnings too."""

    findings: tuple[Finding, ...] = ()


def raise_errors(findings: Iterable[Finding]) -> None:
    """Raise FindingsError where there are errors among the findings, with a line for each kind of them."""
    rows = tuple(findings)
    errors = _lines(rows, "error")
    if errors:
        error = FindingsError("\n".join(errors))
        error.findings = rows
        raise error


def findings_of(error: InputError, file: str = "") -> list[Finding]:
    """The findings that an error is about; one for the whole ``file`` where the error has none.

    Examples
    --------
    >>> findings_of(InputError("a.json: there is no such file"), "a.json")[0][:4]
    ('error', 'a.json', '', 'there is no such file')
    """
    if isinstance(error, FindingsError):
        return list(error.findings)
    return [Finding("error", file, "", str(error).removeprefix(f"{file}: "))]


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


def missing_key(row: Any, keys: Iterable[str]) -> Problem | None:
    """What is wrong with a record that must be an object with these keys, or None."""
    if not isinstance(row, dict):
        return Problem("is not an object", shown(row))
    return next((Problem(f"key {key!r} is missing") for key in keys if key not in row), None)


def box_problem(box: Any, limit: float) -> Problem | None:
    """What is wrong with a box ``[x, y, width, height]`` whose coordinates lie within ±``limit`` pixels, or None."""
    if not isinstance(box, list | tuple | np.ndarray) or len(box) != 4 or not are_numbers(box):
        return Problem("bbox is not a list of four numbers [x, y, width, height]", shown(box))
    x, y, width, height = box
    if not (-limit <= x <= limit and -limit <= y <= limit and -limit <= width <= limit and -limit <= height <= limit):
        return Problem(f"box is not finite, or goes beyond {limit:.0f} pixels", shown(box))
    return Problem("box has a negative size", shown(box)) if width < 0 or height < 0 else None


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
