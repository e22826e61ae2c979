"""Explanations as one image: errors, primary terms and gradients, as in figures A.4 and A.5 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure

from rankdet.explaining.explanation import Explanation, Part, evenly
from rankdet.explaining.page import MOST_NAMED, drawn_places, shown_rows, summary, terms_table, unit

BLUE, ORANGE, INK = "#0072b2", "#d55e00", "#222222"
"""Of Okabe and Ito, as in `rankdet.report.curves`."""
_WIDTH, _HEIGHT = 11.0, 9.5
_MOST_NUMBERS = 12
"""Rows and columns of a matrix up to which its cells have their numbers written in them."""


def draw_explanations(path: str | PathLike[str], explanations: Sequence[Explanation]) -> None:
    """Draw explanations one below the other; the suffix of ``path`` (.png, .svg, .pdf) determines the format."""
    figure = Figure(figsize=(_WIDTH, _HEIGHT * len(explanations)), dpi=140, layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subfigures(len(explanations), 1, squeeze=False)[:, 0]
    for row, found in zip(rows, explanations, strict=True):
        _draw(row, found)
    figure.savefig(path)


def _draw(figure: SubFigure, found: Explanation) -> None:
    title = f"{found.title}\n{summary(found)}"
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left", parse_math=False)
    count = len(found.parts)
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 1.25, 1.1))
    for place, part in enumerate(found.parts):
        columns = place if count > 1 else slice(None)
        _draw_errors(figure.add_subplot(grid[0, columns]), found, part)
        _draw_terms(figure.add_subplot(grid[1, columns]), found, part)
    _draw_gradient(figure.add_subplot(grid[2, :]), found)


def _draw_errors(axes: Axes, found: Explanation, part: Part) -> None:
    """The errors of the positives, the target error below the rest."""
    places = shown_rows(found)
    places = places[evenly(len(places), MOST_NAMED).numpy()]
    error, target = part.error[places], part.target_error[places]
    rows = np.arange(len(places))
    axes.barh(rows, target, color=BLUE, height=0.6, label="target ℓ*")
    axes.barh(
        rows, error - target, left=target, color="white", edgecolor=ORANGE, hatch="////", height=0.6, label="ℓ − ℓ*"
    )
    for row, value in enumerate(error.tolist()):
        axes.text(value, row, f" {value:.3f}", va="center", fontsize=8, color=INK)
    axes.set_yticks(rows, [found.positive_names[place] for place in places.tolist()], parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(1e-3, float(error.max(initial=0.0))))
    axes.set_ylabel("positive i", fontsize=9, color=INK)
    _finish(axes, f"Errors: {part.name}")
    axes.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2)


def _draw_terms(axes: Axes, found: Explanation, part: Part) -> None:
    """The matrix of primary terms."""
    table, shades = terms_table(found, part)
    values = np.array([row[1:-1] for row in table.rows], dtype=np.float64)
    few, scale = max(values.shape) <= _MOST_NUMBERS, unit(part)  # of more, names would be too small to read
    _finish(axes, f"Primary terms: {part.name}" + ("" if scale == 1 or not few else f", times {scale:,.0f}"))
    if not values.any():
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing is at fault", ha="center", transform=axes.transAxes, color=INK)
        return
    others = not few and table.columns[-2] == "all others"
    axes.imshow([row[1 : -2 if others else -1] for row in shades], cmap="Blues", vmin=0, vmax=1.8, aspect="auto")
    if few:
        for row, column in np.ndindex(*values.shape):
            if values[row, column]:
                axes.text(column, row, f"{values[row, column]:.3f}", ha="center", va="center", fontsize=8, color=INK)
    turned = 90 if max(map(len, table.columns[1:-1])) > 4 else 0
    axes.set_xticks(*_ticks(table.columns[1:-1], few), rotation=turned, fontsize=8, parse_math=False)
    axes.set_yticks(*_ticks([str(row[0]) for row in table.rows], few), fontsize=8, parse_math=False)
    axes.grid(visible=False)
    axes.set_xlabel(f"candidate j{'' if few else ', highest logit first'}", fontsize=9, color=INK)
    axes.set_ylabel("positive i", fontsize=9, color=INK)


def _ticks(names: list[str], are_shown: bool) -> tuple[list[int], list[str]]:
    return (list(range(len(names))), names) if are_shown else ([], [])


def _draw_gradient(axes: Axes, found: Explanation) -> None:
    """The gradient of positives and negatives over their logits."""
    positives, negatives = drawn_places(found)
    gradient = found.gradient
    for places, color, marker, name in ((negatives, BLUE, "o", "negatives"), (positives, ORANGE, "s", "positives")):
        axes.vlines(found.logits[places], 0, gradient[places], color=color, linewidth=0.8, alpha=0.6)
        axes.plot(found.logits[places], gradient[places], marker, color=color, markersize=5, label=name)
    axes.axhline(0, color=INK, linewidth=0.8)
    all_ = len(found.negatives)
    _finish(axes, "Gradient" if len(negatives) == all_ else f"Gradient; {len(negatives)} of {all_} negatives are drawn")
    axes.set_xlabel("logit s", fontsize=9, color=INK)
    axes.set_ylabel("gradient ∂L / ∂s", fontsize=9, color=INK)
    axes.legend(fontsize=8, frameon=False)


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10.5, color=INK, loc="left", fontweight="bold")
    axes.tick_params(labelsize=8, colors=INK)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
