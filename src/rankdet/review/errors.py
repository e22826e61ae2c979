"""What kinds of errors detections have, and what their scores mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rankdet.metrics import Measurement
from rankdet.metrics.errors import confusion, error_types
from rankdet.metrics.scores import ScoreBins, score_bins
from rankdet.report import Panel, Section, Series, Table, comparison_table
from rankdet.report.charts import Bar, bar_chart, line_chart, mirrored_histogram
from rankdet.report.tables import Value
from rankdet.review.reading import Subject

MOST_CONFUSED = 20
"""Classes up to which the matrix of confused classes is shown whole; of more, a list of pairs."""
MOST_PAIRS = 30
"""Pairs of such a list."""
TYPES = {
    "Cls": "another class",
    "Loc": "badly localized",
    "Both": "badly localized, another class",
    "Dupe": "second detection",
    "Bkg": "on the background",
    "Miss": "missed",
}
"""The error types of TIDE and their meanings."""

OF_TYPES = """\
The types of TIDE at IoU 0.50, over all scores: how much AP50 would gain if all errors of a type were gone. Gains do not
add up. A detection is on the background where it overlaps no object by an IoU of 0.1.
"""
OF_CONFUSION = """\
Rows are objects, columns what they were taken for at IoU 0.50, by detections from the best threshold of their class on.
The last column has objects that nothing was found for, and the last row detections without an object.
"""
OF_SCORES = """\
Detections of all classes by score: true positives above the axis, false positives below it, at IoU 0.50. A threshold
separates them well where the two hardly overlap.
"""
OF_RELIABILITY = """\
The share of true positives among detections of a score. On the dotted line a score is a probability; below it scores
promise too much. The scores of a ranking loss are an order alone, and need not lie on it. The calibration error is the
mean distance from that line over all detections.
"""


def error_sections(subjects: Sequence[Subject]) -> list[Section]:
    """Types of errors, and confused classes."""
    shown = [(subject.name, subject.measured) for subject in subjects if subject.measured is not None]
    if not shown:
        return []
    types = {name: error_types(measured.comparison) for name, measured in shown}
    longest = max(0.01, *(gain for found in types.values() for gain in found.gains.values()))
    figures = [
        bar_chart(
            name,
            [Bar(meaning, [found.gains[key]], f"+{found.gains[key]:.3f}") for key, meaning in TYPES.items()],
            longest=longest,
        )
        for name, found in types.items()
    ]
    columns: dict[str, dict[str, Value]] = {
        name: {
            **{f"{key} AP50": found.gains[key] for key in [*TYPES, "FP", "FN"]},
            **{f"{key} number": found.counts[key] for key in TYPES},
        }
        for name, found in types.items()
    }
    table = comparison_table(columns, list(next(iter(columns.values()))), "run")
    sections = [
        Section("Error types", OF_TYPES, figures=figures),
        Section("Numbers of the error types", table=table, is_part=True, is_folded=True),
    ]
    sections.append(Section("Confused classes", OF_CONFUSION))
    for name, measured in shown:
        sections.append(_confused(name, measured))
    return sections


def _confused(name: str, measured: Measurement) -> Section:
    """The matrix of few classes; of many the pairs that are confused most."""
    thresholds = [numbers["threshold"] for numbers in measured.metrics["per_class"].values()]
    counts = confusion(measured.comparison, measured.matches, thresholds)
    classes = measured.comparison.ground_truth.names
    if len(classes) <= MOST_CONFUSED:
        totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
        rows: list[list[Value]] = [
            [row_name, *row] for row_name, row in zip([*classes, "no object"], counts.tolist(), strict=True)
        ]
        shades = [[0.0, *row] for row in (counts / totals).tolist()]
        return Section(name, table=Table(["", *classes, "nothing"], rows), shades=shades, is_part=True)
    pairs = counts[:-1, :-1].copy()
    np.fill_diagonal(pairs, 0)
    most = np.argsort(-pairs, axis=None, kind="stable")[:MOST_PAIRS]
    places = [divmod(place, len(classes)) for place in most.tolist()]
    listed: list[list[Value]] = [
        [classes[row], classes[column], int(pairs[row, column]), int(counts[row].sum())]
        for row, column in places
        if pairs[row, column]
    ]
    return Section(name, table=Table(["object", "taken for", "number", "objects"], listed), is_part=True)


def score_sections(subjects: Sequence[Subject]) -> list[Section]:
    """Histograms of scores, and reliability diagrams."""
    shown = [(subject.name, subject.measured) for subject in subjects if subject.measured is not None]
    if not shown:
        return []
    names = [subject.name for subject in subjects]
    histograms, series, bins = [], {}, {}
    for name, measured in shown:
        scores = measured.comparison.results.scores[measured.matches.rows]
        fine = score_bins(scores, measured.matches.ious, 40)
        histograms.append(
            mirrored_histogram(name, fine.edges, fine.hits, fine.misses, ("true positives", "false positives"), "score")
        )
        bins[name] = score_bins(scores, measured.matches.ious)
        is_filled = ~np.isnan(bins[name].scores)
        series[name] = Series(bins[name].scores[is_filled].tolist(), bins[name].precision[is_filled].tolist())
    across = (min(found.edges[0] for found in bins.values()), max(found.edges[-1] for found in bins.values()))
    panel = Panel("Reliability", "mean score", "share of true positives", series)
    diagram = line_chart(panel, names, None, across, (0.0, 1.0), diagonal="a score that is a probability", dots=True)
    errors: list[list[Value]] = [[name, found.error] for name, found in bins.items()]
    return [
        Section("Scores", OF_SCORES, figures=histograms),
        Section("Reliability", OF_RELIABILITY, Table(["run", "calibration error"], errors), figures=[diagram]),
        *(
            Section(f"Scores of {name}, in bins", table=_bins_table(found), is_part=True, is_folded=True)
            for name, found in bins.items()
        ),
    ]


def _bins_table(bins: ScoreBins) -> Table:
    columns = ["from", "to", "true positives", "false positives", "mean score", "share of true positives", "mean IoU"]
    values = (bins.edges[:-1], bins.edges[1:], bins.hits, bins.misses, bins.scores, bins.precision, bins.ious)
    return Table(columns, [list(row) for row in zip(*(column.tolist() for column in values), strict=True)])
