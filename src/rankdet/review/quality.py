"""How good the detections of each class are: curves, the parts of oLRP, and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from rankdet.coco.lvis import FREQUENCIES
from rankdet.metrics.average_precision import IOU_50, IOU_75
from rankdet.metrics.lrp import MATCH_IOU, LRPCurve, lrp_curve
from rankdet.metrics.matching import ClassMatches, by_class
from rankdet.report import Panel, Section, Series, Table, per_class_table
from rankdet.report.charts import Bar, Point, bar_chart, legend, line_chart, pair
from rankdet.report.tables import Value
from rankdet.review.reading import Subject

UNIT = (0.0, 1.0)
RECALLS = np.linspace(0, 1, 101).tolist()
MOST_BARS = 40
"""Classes of a bar chart."""
COMPARED = ("AP", "oLRP", "threshold")
"""Numbers of a class that runs are compared by."""
FREQUENCY = {"r": "rare", "c": "common", "f": "frequent", "": ""}

OF_CURVES = """\
Left: the best precision at each recall, at IoU 0.50. Right: the LRP error that a class has where detections below a
score are dropped. The mark is its least error, oLRP, at the threshold from which on detections are drawn by default.
"""
OF_FREQUENCIES = """\
Means over the classes with objects here. A class is rare with up to 10 training images, common with up to 100.
"""
OF_PARTS = """\
The error of a class at its best threshold, and what it is made of: the three parts add up to oLRP. Localization is the
distance of what is found, 1 − IoU in units of 0.5; a false positive and a missed object count 1 each.
"""


def curve_sections(subjects: Sequence[Subject], most: int) -> list[Section]:
    """Precision over recall and LRP over the threshold, of all classes together and of each."""
    shown = [subject for subject in subjects if subject.measured is not None]
    if not shown:
        return []
    names = [subject.name for subject in subjects]
    mean = {subject.name: Series(RECALLS, _mean_curve(subject, IOU_50)) for subject in shown}
    strict = {subject.name: Series(RECALLS, _mean_curve(subject, IOU_75)) for subject in shown}
    figures = [
        line_chart(Panel(f"All classes, IoU {iou}", "recall", "precision", of), names, None, UNIT, UNIT)
        for iou, of in (("0.50", mean), ("0.75", strict))
    ]
    sections = [Section("Curves", "Precision over recall, a mean over the classes.", figures=figures)]
    with_objects = _classes_with_objects(shown)
    classes = with_objects[:most]
    charts = [legend(names)] if len(names) > 1 else []
    found = {subject.name: _matches(subject) for subject in shown}
    for name in classes:
        charts.append(pair(_precision_chart(name, shown, names), _lrp_chart(name, shown, names, found)))
    is_cut = len(classes) < len(with_objects)
    rest = f"\n\nThe {len(classes)} classes with the most objects of {len(with_objects)}." if is_cut else ""
    sections.append(Section("Curves of each class", OF_CURVES + rest, figures=charts, is_part=True, layout="pairs"))
    return sections


def part_sections(subjects: Sequence[Subject]) -> list[Section]:
    """The oLRP of each class as a bar of its parts."""
    shown = [subject for subject in subjects if subject.measured is not None]
    charts, is_cut = [], False
    for subject in shown:
        bars = []
        for name, matches in sorted(_matches(subject).items(), key=lambda one: -one[1].ground_truths):
            if not matches.ground_truths:
                continue
            curve = lrp_curve(*matches)
            if not len(curve.errors):  # without a true positive all objects are missed at any threshold
                bars.append(Bar(name, [0.0, 0.0, 1.0], "1.000"))
                continue
            best = int(np.argmin(curve.errors))
            bars.append(Bar(name, _shares(curve, best, matches.ground_truths), f"{curve.errors[best]:.3f}"))
        is_cut |= len(bars) > MOST_BARS
        if bars:
            parts = ("localization", "false positives", "missed")
            charts.append(bar_chart(subject.name, bars[:MOST_BARS], parts, longest=1.0))
    rest = f"\n\nThe {MOST_BARS} classes with the most objects." if is_cut else ""
    return [Section("What oLRP is made of", OF_PARTS + rest, figures=charts)] if charts else []


def class_sections(subjects: Sequence[Subject]) -> list[Section]:
    """The table of all classes, with their frequency in LVIS; of several runs that of each on demand."""
    shown = [subject for subject in subjects if "per_class" in subject.shown]
    if not shown:
        return []
    frequencies = _frequencies(shown)
    groups = [_groups_section(shown, frequencies)] if frequencies else []
    if len(shown) == 1:
        table = _with_frequencies(per_class_table(shown[0].shown), frequencies)
        return [Section("Classes", table=table), *groups]
    names = dict.fromkeys(name for subject in shown for name in subject.shown["per_class"])
    columns = [f"{heading} {subject.name}" for heading in COMPARED for subject in shown]
    rows: list[list[Value]] = []
    for name in names:
        numbers = [subject.shown["per_class"].get(name, {}) for subject in shown]
        counts = [own.get("ground_truths") for own in numbers]
        rows.append([name, *counts, *(own.get(measure) for measure in COMPARED for own in numbers)])
    heads = [f"objects {subject.name}" for subject in shown]
    if all(len(set(row[1 : 1 + len(shown)])) == 1 for row in rows):  # of the same data
        heads, rows = ["objects"], [[*row[:2], *row[1 + len(shown) :]] for row in rows]
    return [
        Section("Classes", table=_with_frequencies(Table(["class", *heads, *columns], rows), frequencies)),
        *(
            Section(
                f"Classes of {subject.name}",
                table=_with_frequencies(per_class_table(subject.shown), frequencies),
                is_part=True,
                is_folded=True,
            )
            for subject in shown
        ),
        *groups,
    ]


def _groups_section(subjects: Sequence[Subject], frequencies: Mapping[str, str]) -> Section:
    """Means over the rare, the common and the frequent classes of LVIS that have objects."""
    rows: list[list[Value]] = []
    for subject in subjects:
        for key in FREQUENCIES:
            own = [
                numbers
                for name, numbers in subject.shown["per_class"].items()
                if frequencies.get(name) == key and numbers["ground_truths"]
            ]
            objects = sum(numbers["ground_truths"] for numbers in own)
            means = [float(np.nanmean([numbers[name] for numbers in own])) if own else None for name in ("AP", "oLRP")]
            rows.append([subject.name, FREQUENCY[key], len(own), objects, *means])
    columns = ["run", "frequency", "classes", "objects", "AP", "oLRP"]
    return Section("Classes by frequency", OF_FREQUENCIES, Table(columns, rows), is_part=True)


def _with_frequencies(table: Table, frequencies: Mapping[str, str]) -> Table:
    if not frequencies:
        return table
    rows: list[list[Value]] = [[row[0], FREQUENCY[frequencies.get(str(row[0]), "")], *row[1:]] for row in table.rows]
    return Table([table.columns[0], "frequency", *table.columns[1:]], rows)


def _frequencies(subjects: Sequence[Subject]) -> dict[str, str]:
    """The frequency of each class in LVIS; empty for COCO."""
    for subject in subjects:
        if subject.measured is not None and (federation := subject.measured.comparison.federation) is not None:
            truth = subject.measured.comparison.ground_truth
            return dict(zip(truth.names, federation.frequencies.tolist(), strict=True))
    return {}


def _mean_curve(subject: Subject, iou: int) -> list[float]:
    """Precision at each recall, a mean over the classes that have objects."""
    if subject.measured is None:
        return []
    curves = subject.measured.precision.curves[iou]
    known = curves[:, ~np.isnan(curves).any(axis=0)]
    return known.mean(axis=1).tolist() if known.shape[1] else [math.nan] * len(curves)


def _classes_with_objects(subjects: Sequence[Subject]) -> list[str]:
    """Those with the most objects first."""
    counts: dict[str, int] = {}
    for subject in subjects:
        for name, numbers in subject.shown["per_class"].items():
            counts[name] = max(counts.get(name, 0), numbers["ground_truths"])
    return sorted((name for name, count in counts.items() if count), key=lambda name: -counts[name])


def _precision_chart(name: str, subjects: Sequence[Subject], names: Sequence[str]) -> Markup:
    series = {}
    for subject in subjects:
        if subject.measured is not None and name in subject.shown["per_class"]:
            place = subject.measured.comparison.ground_truth.names.index(name)
            series[subject.name] = Series(RECALLS, subject.measured.precision.curves[IOU_50, :, place].tolist())
    panel = Panel(f"{name}: precision", "recall", "precision", series)
    return line_chart(panel, names, None, UNIT, UNIT, has_legend=False)


def _lrp_chart(
    name: str, subjects: Sequence[Subject], names: Sequence[str], found: Mapping[str, Mapping[str, ClassMatches]]
) -> Markup:
    series, marks = {}, {}
    for subject in subjects:
        matches = found[subject.name].get(name)
        if matches is None or not matches.ground_truths:
            continue
        curve = lrp_curve(*matches)
        x, y = curve.thresholds[::-1], curve.errors[::-1]
        series[subject.name] = Series(x.tolist(), y.tolist())
        if len(x):
            best = int(np.argmin(curve.errors))
            error, threshold = float(curve.errors[best]), float(curve.thresholds[best])
            marks[subject.name] = Point(threshold, error, f"oLRP {error:.3f} at {threshold:.3f}")
    scores = [x for own in series.values() for x in own.x]
    across = (min(0.0, *scores), max(1.0, *scores)) if scores else UNIT
    panel = Panel(f"{name}: LRP error", "score threshold", "LRP error", series)
    return line_chart(panel, names, marks, across, UNIT, has_legend=False)


def _matches(subject: Subject) -> dict[str, ClassMatches]:
    measured = subject.measured
    if measured is None:
        return {}
    return dict(
        zip(measured.comparison.ground_truth.names, by_class(measured.comparison, measured.matches), strict=True)
    )


def _shares(curve: LRPCurve, cut: int, objects: int) -> list[float]:
    """The parts of the LRP error at a cut-off: localization, false positives, misses."""
    hits, kept = int(curve.true_positives[cut]), int(curve.kept[cut])
    total = kept + objects - hits
    return [float(curve.distances[cut]) / (1 - MATCH_IOU) / total, (kept - hits) / total, (objects - hits) / total]
