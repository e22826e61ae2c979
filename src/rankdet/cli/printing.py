"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_MOST_CLASSES = 200
"""Classes whose numbers are printed one by one."""


def print_evaluation(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print the measures of an evaluation, those of its classes, and the quality of a ranking."""
    if "per_class" in metrics:  # images without objects have only findings
        _print_measures(console, metrics, "boxes" if "masks" in metrics else None)
    if "masks" in metrics:
        _print_measures(console, metrics["masks"], "masks")
    found = [*metrics.get("findings", ()), *metrics.get("masks", {}).get("findings", ())]
    for line in dict.fromkeys(found):  # boxes and masks are measured by the same objects
        console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)
    if "ranking" in metrics:
        _print_row(console, metrics["ranking"])


def _print_measures(console: Console, metrics: Mapping[str, Any], title: str | None) -> None:
    from rankdet.report import per_class_table

    if title is not None:
        console.print(title)
    for kind in ("AP", "AR", "oLRP"):  # COCO and LVIS do not measure the same
        names = [name for name in metrics if name.startswith(kind)]
        print_table(console, names, [[metrics[name] for name in names]])
    if len(metrics["per_class"]) <= _MOST_CLASSES:
        table = per_class_table(metrics)
        print_table(console, table.columns, table.rows)
    else:
        console.print(f"{len(metrics['per_class'])} classes: their numbers are in evaluation.json")
    if "calibration" in metrics:
        _print_row(console, metrics["calibration"])


def _print_row(console: Console, values: Mapping[str, Any]) -> None:
    print_table(console, list(values), [list(values.values())])


def print_table(console: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; its texts are data, in which the console looks for no markup and no names of smileys."""
    from rankdet.report import format_value

    shown = Table()
    for place, column in enumerate(columns):
        shown.add_column(Text(column), justify="left" if place == 0 and len(rows) > 1 else "right")
    for row in rows:
        shown.add_row(*(Text(format_value(value)) for value in row))
    console.print(shown)
