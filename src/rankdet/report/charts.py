"""Charts as SVG inside a page: lines, bars and histograms that follow its light and dark style.

An image of matplotlib has one background and letters of one size. These are text, a few kilobytes each, and can be read
without color: lines differ in dashes and marks, bars in hatches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from rankdet.report.curves import SMOOTHED_FROM, Panel, Series, moving_average
from rankdet.report.tables import format_value

Floats = NDArray[np.float64]

STYLES = 7
"""Styles of lines and bars on a page (``s0`` … ``s6``); more series begin again."""
_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 12, 8, 40
_MOST_POINTS = 240
"""Points of a noisy line; of more, neighbors are averaged."""
_TOLERANCE = 0.2
"""Pixels that a drawn line may be away from its points."""
_MARKS = ("M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z", "M-4-4h8v8h-8z", "M0-5l5 9h-10z", "M0-5l5 5-5 5-5-5z")


class Point(NamedTuple):
    """A marked point of a line, and what is said of it."""

    x: float
    y: float
    text: str = ""


class Bar(NamedTuple):
    """A horizontal bar: its name, the lengths of its parts, and the number behind it."""

    name: str
    parts: Sequence[float]
    total: str


def line_chart(
    panel: Panel,
    names: Sequence[str] = (),
    marks: Mapping[str, Point] | None = None,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: str = "",
    dots: bool = False,
    has_legend: bool = True,
) -> Markup:
    """Return a figure with the lines of a panel.

    Parameters
    ----------
    panel
        What is drawn; a series of 60 points or more is faint, under its moving average, unless ranges are given.
    names
        These have the first styles, in their order, so that several charts agree.
    marks
        A point of some of the series.
    x_range, y_range
        What the axes show; None: what there is.
    diagonal
        What a line through equal values of x and y means; empty: there is no such line.
    dots
        Whether each point is marked.
    has_legend
        Whether to say which line is whose, where there are several.
    """
    styles = list(dict.fromkeys([*names, *panel.series]))
    is_noisy = x_range is None
    lines = {name: _finite(series, panel.is_logarithmic, is_noisy) for name, series in panel.series.items()}
    xs = np.concatenate([np.zeros(0), *(x for x, _ in lines.values())])
    ys = np.concatenate([np.zeros(0), *(y for _, y in lines.values())])
    across = _Axis.of(xs, x_range, _LEFT, _WIDTH - _RIGHT)
    up = _Axis.of(np.log10(ys) if panel.is_logarithmic else ys, y_range, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(across, up, panel.x_label, panel.y_label, panel.is_logarithmic)]
    if diagonal:
        low, high = max(across.low, up.low), min(across.high, up.high)
        line = _path([across.at(low), across.at(high)], [up.at(low), up.at(high)])
        parts.append(f'<path class="ideal" d="{line}"><title>{escape(diagonal)}</title></path>')
    for name, (x, y) in lines.items():
        style = f"s{styles.index(name) % STYLES}"
        heights = np.log10(y) if panel.is_logarithmic else y
        title = f"<title>{_text(name)}</title>"
        if len(x) >= SMOOTHED_FROM and is_noisy:
            parts.append(f'<path class="line faint {style}" d="{_line(across, up, x, heights)}"/>')
            heights = moving_average(heights, len(heights) // 20)
        parts.append(f'<path class="line {style}" d="{_line(across, up, x, heights)}">{title}</path>')
        if dots or len(x) == 1:
            for left, top in zip(x.tolist(), heights.tolist(), strict=True):
                said = f"<title>{_text(f'{name}: {top:.3f} at {left:.3f}')}</title>"
                parts.append(_mark(style, across.at(left), up.at(top), said))
    for name, point in (marks or {}).items():
        place = styles.index(name)
        left, top = across.at(point.x), up.at(point.y)
        parts.append(_mark(f"s{place % STYLES}", left, top, f"<title>{_text(f'{name}: {point.text}')}</title>"))
        if point.text and len(lines) == 1:
            is_right = left > (_LEFT + _WIDTH - _RIGHT) / 2
            end, step = ("end", -9) if is_right else ("start", 9)
            parts.append(_words("said", left + step, top - 7, point.text, end))
    shown = legend(list(lines), styles) if has_legend and len(lines) > 1 else ""
    said = f"{panel.title}: {panel.y_label} over {panel.x_label} of {', '.join(lines)}"
    return _figure(panel.title, _svg(parts, said), shown)


def legend(names: Sequence[str], styles: Sequence[str] = ()) -> Markup:
    """Return what line and mark each name has; ``styles`` are the names in the order of their styles, or ``names``."""
    items = []
    for name in names:
        style = f"s{list(styles or names).index(name) % STYLES}"
        items.append((f'<path class="line {style}" d="M0 7h34"/>{_mark(style, 17, 7)}', name))
    return _legend(items)


def _legend(items: Sequence[tuple[str, str]]) -> Markup:
    """A list of samples, each 34 pixels wide, with their names."""
    svg = '<svg viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">'
    rows = (f"<li>{svg}{sample}</svg>{_text(name)}</li>" for sample, name in items)
    return Markup(f'<ul class="legend">{"".join(rows)}</ul>')


def pair(first: Markup, second: Markup) -> Markup:
    """Return two figures that belong together."""
    return Markup(f'<div class="pair">{first}{second}</div>')


def bar_chart(title: str, bars: Sequence[Bar], parts: Sequence[str] = (), longest: float | None = None) -> Markup:
    """Return a figure with horizontal bars under their names, whose parts lie one behind the other.

    ``parts`` has the names of the parts; the length of a whole chart is ``longest``, or that of the longest bar.
    """
    longest = longest or max((sum(bar.parts) for bar in bars), default=0.0) or 1.0
    width, drawn = _WIDTH - 4, []
    for row, bar in enumerate(bars):
        y, x = 34 * row + 13, 2.0
        drawn += [_words("name", 2, y, bar.name), _words("value", width, y, bar.total, "end")]
        drawn.append(f'<rect class="rail" x="2" y="{y + 5}" width="{width - 2}" height="11"/>')
        for place, part in enumerate(bar.parts):
            length = max(0.0, part / longest * (width - 2))
            name = f"{parts[place]}: {format_value(part)}" if parts else ""
            drawn.append(_rectangle(place, x, y + 5, length, 11, name))
            x += length
    items = [(_rectangle(place, 0, 1, 34, 12), part) for place, part in enumerate(parts)]
    said = f"{title}: " + ", ".join(f"{bar.name} {bar.total}" for bar in bars)
    shown = _legend(items) if items else ""
    return _figure(title, _svg(drawn, said, 34 * len(bars)), shown)


def mirrored_histogram(
    title: str, edges: Floats, up: NDArray[np.int64], down: NDArray[np.int64], names: tuple[str, str], x_label: str
) -> Markup:
    """Return a figure with two histograms over the same B bins: one above the axis, one hatched below it.

    Heights are logarithmic, because there may be a thousand times as many of one. ``edges`` (B + 1,), ``up`` and
    ``down`` (B,) counts.
    """
    across = _Axis(float(edges[0]), float(edges[-1]), _LEFT, _WIDTH - _RIGHT)
    tallest = math.log10(1 + max(1, int(up.max(initial=0)), int(down.max(initial=0))))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    height = middle - _TOP
    parts = []
    for power in range(math.floor(tallest) + 1):
        length = math.log10(1 + 10**power) / tallest * height
        if length <= height:
            for y in (middle - length, middle + length):
                parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>')
                parts.append(_words("tick", _LEFT - 6, y + 4, str(10**power), "end"))
    for place, (low, high) in enumerate(pairwise(edges.tolist())):
        x, width = across.at(low), across.at(high) - across.at(low)
        for style, counts in enumerate((up, down)):
            count = int(counts[place])
            if count:
                length = math.log10(1 + count) / tallest * height
                y = middle - length if style == 0 else middle
                said = f"{count} {names[style]}, {x_label} {low:.2f} to {high:.2f}"
                parts.append(_rectangle(style, x + 0.5, y, max(0.5, width - 1), length, said))
    parts.append(f'<path class="axis" d="M{_LEFT} {middle:.1f}H{_WIDTH - _RIGHT}"/>')
    parts += _below(across, x_label)
    said = f"{title}: {int(up.sum())} {names[0]} above the axis, {int(down.sum())} {names[1]} below, by {x_label}"
    totals = (f"{names[0]}: {int(up.sum())}", f"{names[1]}: {int(down.sum())}")
    shown = _legend([(_rectangle(style, 0, 1, 34, 12), total) for style, total in enumerate(totals)])
    return _figure(title, _svg(parts, said), shown)


class Stem(NamedTuple):
    """A point of a stem chart, and what is said of it."""

    x: float
    y: float
    text: str = ""


def stem_chart(title: str, groups: Mapping[str, Sequence[Stem]], x_label: str, y_label: str) -> Markup:
    """Return a figure with points on stems that stand on, or hang from, the line y = 0; a style for each group."""
    stems = [stem for group in groups.values() for stem in group]
    across = _Axis.of(np.array([stem.x for stem in stems]), None, _LEFT, _WIDTH - _RIGHT)
    up = _Axis.of(np.array([0.0, *(stem.y for stem in stems)]), None, _HEIGHT - _BOTTOM, _TOP)
    parts = [*_frame(across, up, x_label, y_label, is_logarithmic=False)]
    zero = f"{up.at(0.0):.1f}"
    parts.append(f'<path class="axis" d="M{_LEFT} {zero}H{_WIDTH - _RIGHT}"/>')
    for place, (name, group) in enumerate(groups.items()):
        style = f"s{place % STYLES}"
        for stem in group:
            x, y = across.at(stem.x), up.at(stem.y)
            parts.append(f'<path class="stem {style}" d="M{x:.1f} {zero}V{y:.1f}"/>')
            parts.append(_mark(style, x, y, f"<title>{_text(stem.text or name)}</title>"))
    said = f"{title}: {y_label} over {x_label} of " + ", ".join(
        f"{len(group)} {name}" for name, group in groups.items()
    )
    return _figure(title, _svg(parts, said), legend(list(groups)))


class _Axis(NamedTuple):
    """A range of values and the pixels of its two ends."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Floats, wanted: tuple[float, float] | None, start: float, end: float) -> _Axis:
        """The axis of a range, or of values with a little room."""
        if wanted is not None:
            return cls(*wanted, start, end)
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
        if low == high:
            low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
        low = 0.0 if 0 < low < 0.4 * high else low
        room = 0.04 * (high - low)
        return cls(low if low == 0 else low - room, high + room, start, end)

    def at(self, value: float) -> float:
        """The pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, most: int) -> list[float]:
        """Round values inside of the range, at most so many and some."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def _finite(series: Series, is_logarithmic: bool, is_noisy: bool) -> tuple[Floats, Floats]:
    """Points with NaN where there is nothing to draw; of very many noisy ones neighbors are averaged."""
    x, y = np.asarray(series.x, dtype=np.float64), np.asarray(series.y, dtype=np.float64)
    y = np.where(np.isfinite(y) & ((y > 0) | (not is_logarithmic)), y, np.nan)
    if len(x) <= _MOST_POINTS or not is_noisy:
        return x, y
    place = np.arange(len(x)) * _MOST_POINTS // len(x)
    is_known = np.isfinite(y)
    counts = np.bincount(place, is_known)
    sums = np.bincount(place, np.where(is_known, y, 0.0))
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return np.bincount(place, x) / np.bincount(place), means


def _frame(across: _Axis, up: _Axis, x_label: str, y_label: str, is_logarithmic: bool) -> Iterator[str]:
    """Grid, ticks and names of the axes."""
    for value in up.ticks(5):
        y = up.at(value)
        shown = f"{10**value:.3g}" if is_logarithmic else f"{value:g}"
        yield f'<path class="grid" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
        yield _words("tick", _LEFT - 6, y + 4, shown, "end")
    yield f'<path class="axis" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'
    yield from _below(across, x_label)
    turned = f'transform="translate(11 {(_TOP + _HEIGHT - _BOTTOM) / 2}) rotate(-90)"'
    yield f'<text class="label" {turned} text-anchor="middle">{_text(y_label)}</text>'


def _below(across: _Axis, x_label: str) -> Iterator[str]:
    """Ticks and the name of the axis below a chart."""
    for value in across.ticks(6):
        yield _words("tick", across.at(value), _HEIGHT - _BOTTOM + 15, f"{value:g}", "middle")
    yield _words("label", (_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 6, x_label, "middle")


def _line(across: _Axis, up: _Axis, x: Floats, y: Floats) -> str:
    """A path through points; one that is not finite interrupts it."""
    xs = across.start + (x - across.low) / (across.high - across.low) * (across.end - across.start)
    ys = up.start + (y - up.low) / (up.high - up.low) * (up.end - up.start)
    gaps = np.flatnonzero(~np.isfinite(ys))
    pieces = np.split(np.stack([xs, ys], axis=1), np.unique(np.concatenate([gaps, gaps + 1])))
    return "".join(_path(*_simplified(piece).T.tolist()) for piece in pieces if len(piece) and np.isfinite(piece).all())


def _simplified(points: Floats) -> Floats:
    """The corners of a line (K, 2) without which it would move by more than `_TOLERANCE` pixels.

    Ramer, "An iterative procedure for the polygonal approximation of plane curves", 1972.
    """
    is_kept = np.zeros(len(points), dtype=bool)
    is_kept[[0, -1]] = True
    parts = [(0, len(points) - 1)]
    while parts:
        first, last = parts.pop()
        inner = points[first + 1 : last] - points[first]
        if not len(inner):
            continue
        chord = points[last] - points[first]
        length = math.hypot(*chord)
        distances = np.hypot(*inner.T) if length == 0 else abs(inner[:, 0] * chord[1] - inner[:, 1] * chord[0]) / length
        farthest = int(distances.argmax())
        if distances[farthest] > _TOLERANCE:
            place = first + 1 + farthest
            is_kept[place] = True
            parts += [(first, place), (place, last)]
    return points[is_kept]


def _path(xs: Sequence[float], ys: Sequence[float]) -> str:
    steps = (f"{x:.1f} {y:.1f}".replace(".0 ", " ").removesuffix(".0") for x, y in zip(xs, ys, strict=True))
    return "M" + "L".join(steps)


def _words(kind: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_text(text)}</text>'


def _rectangle(place: int, x: float, y: float, width: float, height: float, title: str = "") -> str:
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="bar s{place % STYLES}" {size}>{f"<title>{_text(title)}</title>" if title else ""}</rect>'


def _mark(style: str, x: float, y: float, title: str = "") -> str:
    shape = _MARKS[int(style[1:]) % len(_MARKS)]
    return f'<path class="mark {style}" transform="translate({x:.1f} {y:.1f})" d="{shape}">{title}</path>'


def _svg(parts: Sequence[str], said: str, height: int = _HEIGHT) -> str:
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_text(said)}">{"".join(parts)}</svg>'


def _figure(title: str, svg: str, below: str = "") -> Markup:
    return Markup(f'<figure class="chart"><figcaption>{_text(title)}</figcaption>{svg}{below}</figure>')


def _text(text: str) -> Markup:
    """A text that may hold anything, as HTML."""
    return escape(format_value(text))
