"""Draws the figures of docs/when-ranking.md from files of ``benchmarks/task_gradients.py``.

    python docs/gradient_figures.py {tasks,balance,adam} FILE.json … [--out FOLDER]

tasks: a row of panels for each data set, a column for each form; the norms of the gradients of all tasks.
balance: a row for each data set; λ of the R-CNN's boxes, their error before λ, and what they are worth with it.
adam: a row for each data set; how far Adam moves the R-CNN's regressor, and in units of which memory. Prints a table:
    what the first iteration has, and the medians of the second half of what was measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from figures import BLUE, GREEN, INK, ORANGE, PINK, SKY, YELLOW, describe, write
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from rankdet.report import markdown_table

OUT = Path(__file__).parent / "images" / "when_ranking"
Run = Mapping[str, Any]
COLORS = {"ranking": ORANGE, "classification": ORANGE, "sorting": PINK, "localization": BLUE, "mask": GREEN}
"""By task: one color for what teaches the classes, in either form."""
STYLES = {"rpn": "--", "rcnn": "-"}
LINES = ((ORANGE, "-"), (BLUE, "-"), (ORANGE, ":"), (BLUE, ":"), (GREEN, "--"), (PINK, "-."), (YELLOW, "-"), (SKY, "-"))
"""By form, in the order of the files."""


def values(run: Run, read: Callable[[Mapping[str, Any]], float]) -> tuple[list[int], list[float]]:
    """Iterations and what is read from the record of each."""
    return [record["iteration"] for record in run["records"]], [read(record) for record in run["records"]]


def distinct(runs: Sequence[Run], key: str) -> list[str]:
    return list(dict.fromkeys(run[key] for run in runs))


def grid(rows: int, columns: int, **options: Any) -> tuple[Figure, list[list[Axes]]]:
    """A figure of small panels."""
    figure = Figure(figsize=(8, 0.6 + 1.75 * rows), dpi=150, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).tolist()


def finish(figure: Figure, panels: Sequence[Sequence[Axes]], names: Sequence[str], lines: Sequence[Line2D]) -> None:
    """Name rows and axes, and put one legend below."""
    for row, name in zip(panels, names, strict=True):
        for column, axes in enumerate(row):
            describe(axes, "iteration" if row is panels[-1] else "", name if column == 0 else "")
            axes.yaxis.label.set(fontweight="bold")
    figure.legend(handles=lines, loc="outside lower center", ncols=4)


def draw_tasks(runs: Sequence[Run]) -> Figure:
    data, forms = distinct(runs, "data"), distinct(runs, "label")
    figure, panels = grid(len(data), len(forms), sharey="row", sharex="row")
    for axes, form in zip(panels[0], forms, strict=True):
        axes.set_title(f"∥∂L/∂P∥: {form}")
    seen = {}
    for run in runs:
        axes = panels[data.index(run["data"])][forms.index(run["label"])]
        for name in run["records"][0]["terms"]:
            head, _, task = name.partition("/")
            points = values(run, lambda record, name=name: record["terms"][name]["pyramid"])
            style = {"color": COLORS.get(task, INK), "linestyle": STYLES.get(head, "-")}
            axes.plot(*points, linewidth=1.5, **style)
            seen[name] = Line2D([], [], label=name, **style)
        axes.set_yscale("log")
    finish(figure, panels, data, list(seen.values()))
    return figure


def draw_by_form(
    runs: Sequence[Run], columns: Mapping[str, Callable[[Mapping[str, Any]], float]], scale: str = "log"
) -> Figure:
    """A panel for each data set and quantity, a line for each form; ``scale`` is that of the vertical axes."""
    data, forms = distinct(runs, "data"), distinct(runs, "label")
    style = dict(zip(forms, LINES, strict=False))
    figure, panels = grid(len(data), len(columns), sharex="row")
    for run in runs:
        color, line = style[run["label"]]
        for axes, read in zip(panels[data.index(run["data"])], columns.values(), strict=True):
            axes.plot(*values(run, read), color=color, linestyle=line, linewidth=1.5)
            axes.set_yscale(scale)
            if scale == "linear":
                axes.set_ylim(bottom=0)
    for axes, title in zip(panels[0], columns, strict=True):
        axes.set_title(title)
    lines = [Line2D([], [], label=form, color=color, linestyle=line) for form, (color, line) in style.items()]
    finish(figure, panels, data, lines)
    return figure


def draw_balance(runs: Sequence[Run]) -> Figure:
    def of_boxes(key: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda record: record["terms"]["rcnn/localization"][key]

    return draw_by_form(
        runs,
        {
            "λ of the boxes": of_boxes("balance"),
            "error before λ": of_boxes("error"),
            "value, the product": of_boxes("value"),
        },
        "linear",
    )


def draw_adam(runs: Sequence[Run]) -> Figure:
    def of_regressor(key: str) -> Callable[[Mapping[str, Any]], float]:
        return lambda record: record["adam"]["rcnn regressor"][key]

    return draw_by_form(
        runs,
        {
            "∥g∥ of all weights, unclipped": lambda record: record["gradient"],
            "g / √v, R-CNN regressor": of_regressor("scale"),
            "m / √v, R-CNN regressor": of_regressor("step"),
        },
    )


def summary(runs: Sequence[Run]) -> str:
    """A row for each run: what is first, and medians of the second half."""
    rows = []
    for run in runs:
        records = run["records"]

        def late(read: Callable[[Mapping[str, Any]], float], records: Sequence[Any] = records) -> float:
            return statistics.median(read(record) for record in records[len(records) // 2 :])

        def boxes(record: Mapping[str, Any]) -> float:
            return record["terms"]["rcnn/localization"]["pyramid"]

        row = [run["data"], run["label"], f"{records[0]['iteration']}–{records[-1]['iteration']}"]
        numbers = [records[0]["gradient"], late(lambda record: record["gradient"])]
        numbers += [1000 * boxes(records[0]), 1000 * late(boxes)]
        numbers += [late(lambda record, key=key: record["adam"]["rcnn regressor"][key]) for key in ("scale", "step")]
        numbers += [late(lambda record: record["adam"]["backbone"]["step"])]
        rows.append([*row, *(f"{number:.2g}" for number in numbers)])
    of_boxes = "1000 ∥∂L/∂P∥ of boxes"
    header = ["data", "form", "iterations", "∥g∥ first", "late", f"{of_boxes} first", "late"]
    return markdown_table([*header, "g / √v, R-CNN regressor", "m / √v, R-CNN regressor", "m / √v, backbone"], rows)


FIGURES = {"tasks": draw_tasks, "balance": draw_balance, "adam": draw_adam}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=FIGURES, help="which figure")
    parser.add_argument("files", nargs="+", type=Path, help="files of benchmarks/task_gradients.py")
    parser.add_argument("--out", type=Path, default=OUT, help="folder")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in options.files]
    path = write(FIGURES[options.name](runs), options.out / f"{options.name}.png")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    if options.name == "adam":
        print(summary(runs))


if __name__ == "__main__":
    main()
