"""How runs were trained: curves of their losses and evaluations, seconds, and the fields in which recipes differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rankdet.report import Panel, Section, Series, select_series
from rankdet.report.charts import legend, line_chart
from rankdet.review.reading import Subject

COUNTED = ("positives", "negatives", "background", "boxes_limited", "masks_saturated")
"""Statistics that are numbers of candidates."""
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
    return Panel(title, x_label, title if "/" in y else y, known)


def _drawn(
    title: str, panels: Sequence[Panel], names: Sequence[str], is_part: bool = False, is_folded: bool = False
) -> Section:
    """A section with those panels that have something to show, under one legend."""
    charts = [line_chart(panel, names, has_legend=False) for panel in panels if panel.series]
    if len(names) > 1 and charts:
        charts.insert(0, legend(names))
    return Section(title, figures=charts, is_part=is_part, is_folded=is_folded)
