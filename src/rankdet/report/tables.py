"""Tables of numbers, for a terminal, a Markdown file or a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

Value = str | int | float | None

_NOTHING = "–"


class Table(NamedTuple):
    """Column headings, and rows with a value for each column."""

    columns: list[str]
    rows: list[list[Value]]


def format_value(value: Value, digits: int = 3) -> str:
    """Return a value as text: floats with ``digits`` decimals, a dash for None and NaN.

    Examples
    --------
    >>> format_value(0.45678), format_value(12), format_value(float("nan")), format_value("RS")
    ('0.457', '12', '–', 'RS')
    """
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return _NOTHING
    # Integral before Real: numpy's numbers are neither int nor float, but they are one of these.
    return f"{value:.{digits}f}" if isinstance(value, Real) and not isinstance(value, Integral) else str(value)


def is_number(value: Value) -> bool:
    """Return True for numbers and missing numbers, which a table aligns to the right."""
    return value is None or isinstance(value, Real)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[Value]], digits: int = 3) -> str:
    """Return a table in Markdown that is legible as plain text: columns aligned, numbers to the right.

    Raises
    ------
    ValueError
        When a row and the columns have different lengths.

    Examples
    --------
    >>> print(markdown_table(["loss", "AP"], [["standard", 0.4123], ["RS", 0.4567]]))
    | loss     |    AP |
    |----------|------:|
    | standard | 0.412 |
    | RS       | 0.457 |
    """
    for i, row in enumerate(rows):
        if len(row) != len(columns):
            raise ValueError(f"row {i} has {len(row)} values for {len(columns)} columns")
    texts = [[_escaped(format_value(value, digits)) for value in row] for row in rows]
    heads = [_escaped(column) for column in columns]
    widths = [max(3, len(head), *(len(row[i]) for row in texts)) for i, head in enumerate(heads)]
    is_right = [bool(rows) and all(is_number(row[i]) for row in rows) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, is_right, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 1) + (":" if right else "-") for width, right in zip(widths, is_right, strict=True))
    return "\n".join([line(heads), f"|{rule}|", *map(line, texts)])


def comparison_table(
    results: Mapping[str, Mapping[str, Any]], measures: Sequence[str] | Mapping[str, str], heading: str = ""
) -> Table:
    """Return a table with a row for each run and a column for each measure; missing values are None.

    ``results`` has the value of each measure for each run, ``measures`` may map measures to headings, and ``heading``
    is that of the column with the runs' names.

    Examples
    --------
    >>> comparison_table({"RS": {"AP": 0.5}}, {"AP": "AP (val)", "oLRP": "oLRP"}, "loss")
    Table(columns=['loss', 'AP (val)', 'oLRP'], rows=[['RS', 0.5, None]])
    """
    shown = measures if isinstance(measures, Mapping) else {measure: measure for measure in measures}
    rows: list[list[Value]] = [[name, *(result.get(measure) for measure in shown)] for name, result in results.items()]
    return Table([heading, *shown.values()], rows)


def per_class_table(result: Mapping[str, Any]) -> Table:
    """Return a table with a row for each class of a result of ``rankdet.metrics.evaluate``."""
    shown = {
        "ground_truths": "objects",
        "AP": "AP",
        "oLRP": "oLRP",
        "oLRP_Loc": "Loc",
        "oLRP_FP": "FP",
        "oLRP_FN": "FN",
        "threshold": "threshold",
    }
    return comparison_table(result["per_class"], shown, "class")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
