"""Tables of numbers, for a terminal, a Markdown file or a page."""

from __future__ import annotations

import math
import re
import unicodedata
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
    r"""Return a value as text: floats with ``digits`` decimals, a dash for None and NaN.

    Every table and drawing shows names of classes by it. A text stays as it is, and characters that a terminal would
    obey (line ends, escapes) become their codes.

    Examples
    --------
    >>> format_value(0.45678), format_value(12), format_value(float("nan")), format_value("RS")
    ('0.457', '12', '–', 'RS')
    >>> print(format_value("red\n[bold] $x$"))
    red\n[bold] $x$
    """
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return _NOTHING
    # Integral before Real: numpy's numbers are neither int nor float, but they are one of these.
    return f"{value:.{digits}f}" if isinstance(value, Real) and not isinstance(value, Integral) else _visible(value)


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


_OBEYED = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode whose characters a terminal or a file does something with, in place of showing them."""


def _visible(value: object) -> str:
    """The text of a value with codes for controls, line ends and halves of letters."""
    return "".join(repr(one)[1:-1] if unicodedata.category(one) in _OBEYED else one for one in str(value))


_MARKUP = re.compile(r"[\\|`<&$~\[\]]|\*(?!$)|(?<!\w)_|_(?!\w)")
"""What Markdown takes for its own in a cell; a star at the end opens nothing."""


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", _visible(text))
