"""One section of an annotation file, record by record: values in the forms that tools write, and what is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from operator import itemgetter
from typing import Any, Literal, cast

from rankdet.coco.findings import LARGEST_ID, Finding, Findings, Problem, are_numbers, record_name, shown
from rankdet.coco.streaming import Rows, parts_of

FLAGS = {"0": False, "1": True, "false": False, "true": True}
"""What texts mean where 0 or 1 is asked for."""


class Section:
    """One section of a file, record by record, and what is found in it.

    The record that is read at the moment is the one that is spoken of.
    """

    def __init__(self, file: str, kind: str, rows: Sequence[Any] | Rows) -> None:
        self.file, self.kind, self.rows = file, kind, rows
        self.place, self.row = 0, cast(Any, None)
        self._said: list[tuple[int, Finding]] = []
        self._all_said, self._left_out = Findings(), Findings()
        self._num_followed = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The records that are objects, in the order of the file."""
        return self.over(self.rows)

    def parts(self) -> Iterator[tuple[int, Sequence[Any]]]:
        """Parts of the records, each with the place of its first."""
        first = 0
        for rows in parts_of(self.rows):
            yield first, rows
            first += len(rows)

    def over(self, rows: Iterable[Any], first: int = 0) -> Iterator[dict[str, Any]]:
        """The records that are objects of a part that begins at a place."""
        for place, row in enumerate(rows, first):
            self.place, self.row = place, row
            if isinstance(row, dict):
                yield row
            else:
                self.leave_out(Problem("is not an object", shown(row)))

    def say(self, severity: Literal["error", "warning", "note"], what: str, detail: str = "") -> None:
        """Report something of the record."""
        finding = Finding(severity, self.file, record_name(self.kind, self.place, self.row), what, detail)
        if self._all_said.add(finding):
            self._said.append((self.place, finding))

    def leave_out(self, problem: Problem) -> None:
        """Report that the record is left out."""
        name = record_name(self.kind, self.place, self.row)
        self._left_out.add(Finding("warning", self.file, name, f"{problem.what}: left out", *problem[1:]))

    def follow(self) -> None:
        """Leave the record out with its image. All of these are one finding: what is wrong is told of the image."""
        self._num_followed += 1

    def findings(self) -> list[Finding]:
        """All that was found, in the order of the file. Where no record is left, what was wrong is an error."""
        left_out = self._left_out.rows()
        if len(self._left_out) + self._num_followed == len(self.rows):
            left_out = [one._replace(severity="error") for one in left_out]
        found = left_out + [one for _, one in sorted(self._said, key=itemgetter(0))] + self._all_said.others()
        if self._num_followed:
            problem = f"{self._num_followed} {self.kind}s are of images that are left out: left out with these"
            found.append(Finding("warning", self.file, "", problem))
        return found

    def whole(self, key: str) -> int | None:
        """The whole number under a key, which may be a text or a float there; None where it is none."""
        value = self.row.get(key) if isinstance(self.row, dict) else None
        found = whole(value)
        if found is not None and not isinstance(value, int):
            self.say("note", f"{key} is a {type(value).__name__}: read as a whole number", shown(value))
        return found

    def id(self, known: Mapping[int, Any]) -> int | None:
        """The id of an image or a category; None where the record cannot stay, which is reported."""
        id_ = self.whole("id")
        if id_ is None or not 0 <= id_ <= LARGEST_ID:
            self.leave_out(key_problem(self.row, "id", "is not an integer from 0 to 2**63 - 1"))
            return None
        if id_ not in known:
            return id_
        if known[id_] == self.row:
            self.say("note", "occurs twice with the same content: once is enough")
        else:
            self.say("error", "id occurs twice")
        return None

    def flag(self, key: str) -> bool | None:
        """Whether a flag is set; None where it is neither 0 nor 1, and the record is left out for it."""
        value = self.row.get(key) if isinstance(self.row, dict) else None
        if value is None:
            return False
        if isinstance(value, str) and value.strip().lower() in FLAGS:
            self.say("note", f"{key} is a str: read as 0 or 1", shown(value))
            return FLAGS[value.strip().lower()]
        if are_numbers([value]) or isinstance(value, bool):
            if value == 0:
                return False
            if value == 1:
                return True
        self.leave_out(Problem(f"{key} is neither 0 nor 1", shown(value)))
        return None


def key_problem(row: Any, key: str, what: str) -> Problem:
    """What is wrong with the value of a key, which may be missing."""
    return Problem(f"{key} {what}", shown(row[key])) if key in row else Problem(f"key {key!r} is missing")


def whole(value: Any) -> int | None:
    """The whole number that a value is, or that it has as a text or a float; None where it is none.

    Examples
    --------
    >>> [whole(value) for value in (12, 12.0, "12", "007", 1.5, "a", True, None)]
    [12, 12, 12, 7, None, None, None, None]
    """
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 19:
        return int(value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
