"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from rankdet.report import Table

_MOST_CLASSES = 200
"""Classes whose numbers are printed one by one."""


def print_evaluation(console: Console, metrics: Mapping[str, Any]) -> None:
    """Print the measures of an evaluation, those of its classes, and the quality of a ranking."""
    from rankdet.report import Table

    _print_measures(console, metrics, "boxes" if "masks" in metrics else None)
    if "masks" in metrics:
        _print_measures(console, metrics["masks"], "masks")
    if "ranking" in metrics:
        names = ("spearman", "positives", "negatives")
        quality = metrics["ranking"]
        _print_table(console, Table(["head", *names], [[quality["head"], *(quality[name] for name in names)]]))


def _print_measures(console: Console, metrics: Mapping[str, Any], title: str | None) -> None:
    from rankdet.report import Table, per_class_table

    if title is not None:
        console.print(title)
    for kind in ("AP", "AR", "oLRP"):  # COCO and LVIS do not measure the same
        names = [name for name in metrics if name.startswith(kind)]
        _print_table(console, Table(list(names), [[metrics[name] for name in names]]))
    if len(metrics["per_class"]) <= _MOST_CLASSES:
        _print_table(console, per_class_table(metrics))
    else:
        console.print(f"{len(metrics['per_class'])} classes: their numbers are in evaluation.json")


def _print_table(console: Console, table: Table) -> None:
    from rankdet.report import format_value

    shown = RichTable()
    for place, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if place == 0 and len(table.rows) > 1 else "right")
    for row in table.rows:
        shown.add_row(*(format_value(value) for value in row))
    console.print(shown)
