"""Summary of a table's runs, as plain values and as Markdown."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rankdet.report import markdown_table

from .experiments import COCO, LONG_TAILED_SHAPES, Trial
from .paper import Table, TableRow, all_tables
from .study import Settings, Study

STANDARD = ("AP", "AP50", "AP75", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
RANKING_AND_TIME = ("spearman", "seconds_per_iteration")
"""These and the standard ones are in every table, after those that the paper prints."""
MASKS = ("mask_AP", "mask_AP50", "mask_AP75", "mask_oLRP")
FREQUENCIES = ("APr", "APc", "APf")
"""Figures of sets whose classes are rare, common or frequent."""
HEADINGS = {"spearman": "ρ", "seconds_per_iteration": "s/iteration"}

NOTES = """\
AP and oLRP are in percent. Mean ± standard deviation over seeds. ρ is Spearman's rank correlation of score and IoU over
the positives of the last head. Seconds are of training alone.
"""


def summarize(table: str, studies: Sequence[Study], reference: Study | None, settings: Settings) -> dict[str, Any]:
    """Return everything that a table shows, from the files on disk.

    The values are plain ones for JSON. ``rows`` has one entry for each row, with its progress in ``status``.
    """
    paper = all_tables()[table]
    by_name = {study.name: study for study in studies}
    return {
        "table": table,
        "title": paper.title,
        "setup": paper.setup,
        "note": paper.note,
        "command": _command(table, settings),
        "scale": settings.scale.name,
        "data": str(settings.data),
        "split": settings.scale.split,
        "learning_rates": list(settings.learning_rates),
        "seeds": list(settings.seeds),
        "equal_time": settings.equal_time,
        "figures": [*paper.figures, *(name for name in _standard(studies, settings) if name not in paper.figures)],
        "settings": list(paper.settings),
        # Without a recipe here a row of our own has nothing to show; one of the paper has its figures.
        "rows": [
            _row(paper, row, by_name.get(row.name), reference, settings)
            for row in paper.rows
            if paper.setup is not None or row.name in by_name
        ],
    }


def _standard(studies: Sequence[Study], settings: Settings) -> tuple[str, ...]:
    """Figures of a table after those that the paper prints: those of masks where a row has them, and of frequencies."""
    masks = MASKS if any(study.has_masks for study in studies) else ()
    frequencies = FREQUENCIES if settings.scale is LONG_TAILED_SHAPES else ()
    return (*masks, *STANDARD, *frequencies, *RANKING_AND_TIME)


def _command(table: str, settings: Settings) -> str:
    parts = ["rankdet", "reproduce", table, "--scale", "full" if settings.scale is COCO else "small"]
    if settings.given is not None:
        parts += ["--data", str(settings.given)]
    parts += ["--seeds", ",".join(map(str, settings.seeds))]
    if settings.learning_rates:
        parts += ["--lrs", ",".join(f"{lr:g}" for lr in settings.learning_rates)]
    for option in ("iterations", "equal_time", "threads", "jobs"):
        value = getattr(settings, option)
        if value is not None and (option, value) != ("jobs", 1):
            parts += [f"--{option.replace('_', '-')}", str(value)]
    return shlex.join(parts)


def _row(
    paper: Table, row: TableRow, study: Study | None, reference: Study | None, settings: Settings
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "name": row.name,
        "settings": list(row.settings),
        "reference": row.reference,
        "paper": paper.printed(row),
    }
    if study is None:
        status = "another method, quoted" if row.reference else f"not run: no recipe on {settings.scale.name}"
        return summary | {"status": status, "validation": {}, "learning_rate": None, "measured": []}
    trials = study.trials()
    # A row on LVIS may stand in a table on COCO.
    place = "" if study.settings.scale is settings.scale else f"on {study.settings.scale.name}, "
    measured = [_measured(f"{place}equal iterations", study, trials)]
    if reference is not None and reference.name != study.name:
        measured.append(_measured(f"{place}seconds of {reference.name}", study, study.stretched(reference)))
    validation = {f"{lr:g}": ap for lr, ap in study.validation().items()}
    return summary | {
        "status": _status(study, trials, measured[0], settings),
        "validation": validation,
        "learning_rate": study.choice(),
        "measured": [entry for entry in measured if entry["seeds"]],
    }


def _status(study: Study, trials: Sequence[Trial], measured: Mapping[str, Any], settings: Settings) -> str:
    begun = [trial for trial in [*study.tuning().values(), *trials] if trial.run.recipe.exists()]
    found = study.validation()
    if not begun:
        return "not run"
    if len(found) == len(study.rates) > 1 and not trials:
        return "diverged at every learning rate"
    if not trials:
        return f"not run: {len(found)} of {len(study.rates)} learning rates tried"
    done = len(measured["seeds"])
    diverged = sum(trial.divergence.exists() for trial in trials)
    text = "complete" if done + diverged == len(trials) else f"{done + diverged} of {len(trials)} seeds"
    return f"{text}, {diverged} of them diverged" if diverged else text


def _measured(budget: str, study: Study, trials: Sequence[Trial]) -> dict[str, Any]:
    found = [(trial, study.result(trial)) for trial in trials]
    seeds = [
        {
            "run": trial.label,
            "iterations": result.iterations,
            "seconds": result.seconds,
            "jobs": result.jobs,
            "figures": result.figures,
        }
        for trial, result in found
        if result is not None
    ]
    results = [result for _, result in found if result is not None]
    names = list(dict.fromkeys(name for result in results for name in result.figures))
    columns = {name: [result.figures[name] for result in results if name in result.figures] for name in names}
    return {
        "budget": budget,
        "iterations": results[0].iterations if results else None,
        "seconds": statistics.mean(result.seconds for result in results) if results else None,
        "jobs": max((result.jobs for result in results), default=None),
        "diverged": sum(trial.divergence.exists() for trial in trials),
        "mean": {name: statistics.mean(values) for name, values in columns.items()},
        "spread": {name: statistics.stdev(values) if len(values) > 1 else None for name, values in columns.items()},
        "seeds": seeds,
    }


def markdown(summary: Mapping[str, Any]) -> str:
    """Return a summary as Markdown text."""
    figures = summary["figures"]
    columns = ["row", *summary["settings"], "", *(HEADINGS.get(name, name) for name in figures)]
    columns += ["iterations", "seconds", "lr", "seeds"]
    rows = [line for row in summary["rows"] for line in _lines(row, figures, summary["setup"] is not None)]
    parts = [
        f"# Table {summary['table']}: {summary['title']}",
        _about(summary),
        f"Here: `{summary['command']}`, on {summary['scale']}, split `{summary['split']}`.",
        markdown_table(columns, rows),
        NOTES + _shared_note(summary),
    ]
    tuning = _tuning(summary)
    if tuning:
        parts += [
            f"Learning rate, chosen by AP (of masks where there are) on the validation split with seed 0:\n\n{tuning}"
        ]
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def _about(summary: Mapping[str, Any]) -> str:
    paper = [] if summary["setup"] is None else [f"Paper: {summary['setup']}."]
    return " ".join([*paper, summary["note"] or ""]).rstrip()


def _lines(row: Mapping[str, Any], figures: Sequence[str], is_of_paper: bool) -> list[list[str]]:
    label = [row["name"], *(_setting(value) for value in row["settings"])]
    printed = [_printed(name, row["paper"].get(name)) for name in figures]
    note = "" if row["measured"] else f" ({row['status']})"
    lines = []
    if is_of_paper:
        lines.append([*label, f"paper{note}", *printed, "", "", "", ""])
    elif not row["measured"]:
        lines.append([*label, row["status"], *printed, "", "", "", ""])
    for entry in row["measured"]:
        shared = "*" if entry["jobs"] > 1 else ""
        values = [
            _mean_and_spread(name, entry["mean"].get(name), entry["spread"].get(name))
            + (shared if name == "seconds_per_iteration" else "")
            for name in figures
        ]
        source = f"here, {entry['budget']}" + ("" if row["status"] == "complete" else f" ({row['status']})")
        ends = [str(entry["iterations"]), f"{entry['seconds']:.1f}{shared}", f"{row['learning_rate']:g}"]
        first = [row["name"], *[""] * len(row["settings"])] if lines else label
        lines.append([*first, source, *values, *ends, str(len(entry["seeds"]))])
    return lines


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _digits(name: str) -> int:
    return 3 if name in ("spearman", "seconds_per_iteration") else 1


def _printed(name: str, value: int | float | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) or _digits(name) == 3 else f"{value:.1f}"


def _mean_and_spread(name: str, mean: float | None, spread: float | None) -> str:
    if mean is None:
        return "–"
    digits = _digits(name)
    return f"{mean:.{digits}f}" if spread is None else f"{mean:.{digits}f} ± {spread:.{digits}f}"


def _shared_note(summary: Mapping[str, Any]) -> str:
    jobs = max((entry["jobs"] for row in summary["rows"] for entry in row["measured"]), default=1)
    if jobs == 1:
        return ""
    shared = f"up to {jobs} trainings shared the machine"
    return f"\n\\* {shared}: on CPUs these are seconds of the processor, on GPUs they are no speeds.\n"


def _tuning(summary: Mapping[str, Any]) -> str:
    rates = [f"{lr:g}" for lr in summary["learning_rates"]]
    rows = []
    for row in summary["rows"]:
        if not row["validation"]:
            continue
        cells = [_validation(row["validation"], rate) for rate in rates]
        chosen = "open" if row["learning_rate"] is None else f"{row['learning_rate']:g}"
        ordered = sorted(summary["learning_rates"])
        is_edge = len(ordered) > 2 and row["learning_rate"] in (ordered[0], ordered[-1])
        rows.append([row["name"], *cells, f"{chosen} (end of the list)" if is_edge else chosen])
    return markdown_table(["row", *(f"lr {rate}" for rate in rates), "chosen"], rows) if rows else ""


def _validation(found: Mapping[str, float | None], rate: str) -> str:
    if rate not in found:
        return "–"
    value = found[rate]
    return "diverged" if value is None else f"{value:.1f}"
