"""Curves of training and evaluation: named series in panels, and runs at equal iterations and equal time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#444444")
_INK = "#222222"
SMOOTHED_FROM = 60  # points; shorter series are drawn as they are


class Series(NamedTuple):
    """Points of one curve, x ascending."""

    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: named series, and the names of the axes."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Series]
    is_logarithmic: bool = False


@dataclass(frozen=True)
class History:
    """A metric of one run over iterations and over seconds of training."""

    iterations: Sequence[float]
    seconds: Sequence[float]
    values: Sequence[float]


def select_series(records: Iterable[Mapping[str, Any]], x: str, y: str) -> Series:
    """Return the points of those records of a training log that have both keys.

    Examples
    --------
    >>> log = [{"iteration": 10, "terms/rpn/ranking": 0.9}, {"iteration": 10, "AP": 0.1}]
    >>> select_series(log, "iteration", "terms/rpn/ranking")
    Series(x=[10], y=[0.9])
    """
    points = [(record[x], record[y]) for record in records if x in record and y in record]
    return Series([point[0] for point in points], [point[1] for point in points])


def draw_curves(
    path: str | PathLike[str], panels: Sequence[Panel], columns: int = 3, names: Sequence[str] = ()
) -> None:
    """Draw panels into an image file; the suffix of ``path`` (.png, .svg, .pdf) determines the format.

    Series of 60 points or more are drawn faint, under their moving average. A name has one color in all panels;
    ``names`` take the first colors in their order, so that several figures can agree.

    Raises
    ------
    ValueError
        When there are no panels.
    """
    if not panels:
        raise ValueError("nothing to draw: no panels")
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.6 * columns, 3.3 * rows), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    colored = list(dict.fromkeys([*names, *(name for panel in panels for name in panel.series)]))
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        for name, (x, y) in panel.series.items():
            color = _COLORS[colored.index(name) % len(_COLORS)]
            xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
            if len(xs) >= SMOOTHED_FROM:
                axes.plot(xs, ys, color=color, linewidth=0.7, alpha=0.25)
                axes.plot(xs, moving_average(ys, len(ys) // 20), color=color, linewidth=1.7, label=name)
            else:
                axes.plot(xs, ys, color=color, linewidth=1.7, marker="o", markersize=3.5, label=name)
        if panel.is_logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(_plain))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(panel.title, fontsize=11, color=_INK, loc="left", fontweight="bold", parse_math=False)
        axes.set_xlabel(panel.x_label, fontsize=9, color=_INK, parse_math=False)
        axes.set_ylabel(panel.y_label, fontsize=9, color=_INK, parse_math=False)
        axes.tick_params(which="both", labelsize=8, colors=_INK)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if panel.series:
            for text in axes.legend(fontsize=8, frameon=False).get_texts():
                text.set_parse_math(False)  # a name is no formula
    figure.savefig(path)


def draw_equal_budgets(path: str | PathLike[str], runs: Mapping[str, History], metric: str) -> None:
    """Draw one metric of several runs twice, over iterations and over seconds of training.

    A method that needs fewer but slower iterations looks better on one of the two axes; both together are fair.
    """
    panels = [
        Panel("Equal iterations", "iterations", metric, {n: Series(r.iterations, r.values) for n, r in runs.items()}),
        Panel("Equal time", "seconds of training", metric, {n: Series(r.seconds, r.values) for n, r in runs.items()}),
    ]
    draw_curves(path, panels, columns=2)


def _plain(value: float, _place: int | None = None) -> str:
    return f"{value:g}"


def moving_average(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return means over a centered window that is cut at both ends; values that are not finite are left out."""
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    places = np.arange(len(values))
    low, high = np.maximum(places - window // 2, 0), np.minimum(places + window // 2 + 1, len(values))
    points = count[high] - count[low]
    return np.divide(total[high] - total[low], points, out=np.full(len(values), np.nan), where=points > 0)
