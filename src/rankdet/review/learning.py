"""How runs were trained: curves of their losses and evaluations, seconds, and the fields in which recipes differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdet.recipes import RECIPES, load_recipe
from rankdet.recipes.changes import flow
from rankdet.report import Panel, Section, Series, Table, select_series
from rankdet.report.charts import Bar, bar_chart, legend, line_chart
from rankdet.report.tables import Value
from rankdet.review.reading import Subject

COUNTED = ("positives", "negatives", "background", "boxes_limited", "masks_saturated")
"""Statistics that are numbers of candidates."""
PARTS = ("waiting for images", "network and losses", "evaluations, spread over iterations")
"""Parts of the time of an iteration that a log tells apart."""
OF_TIME = """\
Means over the training, on the machine that it ran on. Decoding of images beside the training costs no time of its own
unless the training waits for it.
"""
MOST_HEADS = 3
"""Heads whose curves are shown at once; those of others are on demand."""

Record = Mapping[str, Any]


def learning_sections(subjects: Sequence[Subject]) -> list[Section]:
    """Learning curves, where there are logs."""
    trained = [subject for subject in subjects if subject.log]
    if not trained:
        return []
    names = [subject.name for subject in subjects]
    records = {subject.name: _records(subject, "train") for subject in trained}
    evaluations = {subject.name: _records(subject, "evaluation") for subject in trained}
    panels = [
        _panel(title, x, y, of, records if y in ("loss", "lr") else evaluations)
        for title, x, y, of in (
            ("AP of the evaluations", "iteration", "AP", "iterations"),
            ("AP at equal time", "seconds", "AP", "seconds of training"),
            ("oLRP of the evaluations", "iteration", "oLRP", "iterations"),
            ("Rank correlation of score and IoU", "iteration", "rank_correlation", "iterations"),
            ("Loss", "iteration", "loss", "iterations"),
            ("Learning rate", "iteration", "lr", "iterations"),
        )
    ]
    # One evaluation, at the end, is no curve.
    panels = [panel for panel in panels if any(len(series.x) > 1 for series in panel.series.values())]
    sections = [_drawn("Learning curves", panels, names)]
    statistics = dict.fromkeys(name for own in records.values() for record in own for name in record if "/" in name)
    heads = dict.fromkeys(name.partition("/")[0] for name in statistics)
    for place, head in enumerate(heads):
        own = [name for name in statistics if name.startswith(f"{head}/") and name.partition("/")[2] not in COUNTED]
        panels = [
            _panel(name.partition("/")[2].replace("_", " "), "iteration", name, "iterations", records) for name in own
        ]
        sections.append(_drawn(f"Head {head}", panels, names, is_part=True, is_folded=place >= MOST_HEADS))
    return sections


def time_sections(subjects: Sequence[Subject]) -> list[Section]:
    """Seconds of an iteration by part, where there are logs."""
    bars, rows = [], []
    for subject in subjects:
        records = [record["timing"] for record in subject.log if record.get("kind") == "train"]
        if not records:
            continue
        whole, data = (
            sum(record[key] for record in records) / len(records)
            for key in ("seconds_per_iteration", "data_seconds_per_iteration")
        )
        evaluations = [
            record["timing"]["evaluation_seconds"] for record in subject.log if record.get("kind") == "evaluation"
        ]
        iterations = subject.log[-1]["iteration"]
        testing = sum(evaluations) / iterations
        bars.append(Bar(subject.name, [data, whole - data, testing], f"{whole + testing:.3f} s"))
        seconds = [record["seconds"] for record in records][-1]
        rows.append([subject.name, iterations, seconds, whole, data, whole - data, testing, len(evaluations)])
    if not bars:
        return []
    columns = ["run", "iterations", "seconds of training", "seconds per iteration", *PARTS, "number of evaluations"]
    chart = bar_chart("Seconds per iteration", bars, PARTS)
    return [Section("Time", OF_TIME, Table(columns, rows), figures=[chart])]


def recipe_sections(subjects: Sequence[Subject]) -> list[Section]:
    """The fields in which the recipes of several runs differ, or one from the built-in recipe of its name."""
    recipes = {subject.name: subject.recipe for subject in subjects if subject.recipe is not None}
    text = "Fields in which the recipes differ."
    if len(recipes) == 1:
        (recipe,) = recipes.values()
        if recipe.name not in RECIPES:
            return []
        recipes = {f"built-in {recipe.name}": load_recipe(recipe.name), **recipes}
        text = "Fields in which the recipe differs from the built-in one of its name."
    if not recipes:
        return []
    fields = {name: _flat(recipe.model_dump(mode="json")) for name, recipe in recipes.items()}
    rows: list[list[Value]] = []
    for field in dict.fromkeys(field for own in fields.values() for field in own):
        values: list[Value] = [own.get(field) for own in fields.values()]
        if len(set(values)) > 1:
            rows.append([field, *values])
    if not rows:
        return [Section("Recipes", "The recipes are equal.")]
    return [Section("Recipes", text, Table(["field", *fields], rows))]


def _flat(fields: Any, name: str = "") -> dict[str, str]:
    """The values of a plain recipe by dotted fields, as YAML on one line."""
    if not isinstance(fields, dict) or not fields:
        return {name: flow(fields)}
    own = (_flat(value, f"{name}.{key}" if name else key) for key, value in fields.items())
    return {field: value for part in own for field, value in part.items()}


def _records(subject: Subject, kind: str) -> list[Record]:
    """The records of a kind with the statistics, metrics and seconds in one mapping."""
    return [
        {**record, **record.get("statistics", {}), **record.get("metrics", {}), **record.get("timing", {})}
        for record in subject.log
        if record.get("kind") == kind
    ]


def _panel(title: str, x: str, y: str, x_label: str, records: Mapping[str, Sequence[Record]]) -> Panel:
    series = {name: select_series(own, x, y) for name, own in records.items()}
    known = {name: Series(*points) for name, points in series.items() if len(points.x)}
    return Panel(title, x_label, "ρ" if y == "rank_correlation" else title if "/" in y else y, known)


def _drawn(
    title: str, panels: Sequence[Panel], names: Sequence[str], is_part: bool = False, is_folded: bool = False
) -> Section:
    """A section with those panels that have something to show, under one legend."""
    charts = [line_chart(panel, names, has_legend=False) for panel in panels if panel.series]
    if len(names) > 1 and charts:
        charts.insert(0, legend(names))
    return Section(title, figures=charts, is_part=is_part, is_folded=is_folded)
