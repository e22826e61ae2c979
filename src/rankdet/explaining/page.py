"""Explanations as sections of a page: errors, primary terms and gradients, as in figures A.4 and A.5 of the paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from rankdet.explaining.explanation import EXAMPLE, Explanation, Part, evenly
from rankdet.report import Section, Table, write_page
from rankdet.report.charts import Bar, Stem, bar_chart, stem_chart
from rankdet.report.tables import Value
from rankdet.structures import counted

TITLES = {"rank_sort": "Rank & Sort Loss", "average_precision": "AP Loss", "alrp": "aLRP Loss"}
MOST_ROWS = 1000
"""Positives in a table: of more, those of the highest and the lowest logits, evenly between them."""
MOST_POINTS = 300
"""Positives, and negatives, in a chart of gradients."""
MOST_NAMED = 12
"""Positives whose errors are drawn as bars."""

INTRODUCTION = """\
A ranking loss counts what stands above a positive, and has no derivative of its own. Each positive i has a current
error ℓ(i), and a target error ℓ*(i) that is left when all are ranked as they should be. Their difference is shared out
among the candidates that are at fault: L_ij = (ℓ(i) − ℓ*(i)) p(j|i), the primary terms. The gradient of a logit is what
it is at fault for, minus what it pays as a positive, over the number of positives. Below 0 a logit is pulled up, above
0 it is pushed down.

Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021, section 3, figures A.4 and
A.5.
"""
OF_EXAMPLE = """\
The paper prints two figures of its lowest positive otherwise: a ranking error of 0.42, cut from 3/7, and a sorting
error of 0.38, which is 0.45.
"""
OF_PART = {
    "ranking": "Ranking: the share of negatives among all above a positive, itself included. The target is 0.",
    "sorting": (
        "Sorting: the mean of 1 − quality over the positives above a positive, itself included. The target is the mean "
        "over those of at least its own quality."
    ),
    "precision": "1 − precision at each positive; where the loss interpolates, with the best precision at or below it.",
    "classification": (
        "The LRP error: negatives above a positive, and localization errors of positives above it, over its rank. The "
        "target is the error without a negative above it."
    ),
}
OF_TERMS = """\
Rows are positives, columns are candidates, both from the highest logit down. A cell says how much of the error of its
row is the fault of its column. Of more than 12 columns those without any fault are left out.
"""


def write_explanations(explanations: Sequence[Explanation], out: Path, notes: Sequence[str] = ()) -> None:
    """Write one HTML page about explanations, in one file that asks for nothing else.

    ``notes`` are lines on what is not explained. The folder of ``out`` must exist.
    """
    title = " and ".join(dict.fromkeys(found.title for found in explanations))
    several = len(explanations) > 1
    title = f"{explanations[0].title} and {len(explanations) - 1} more" if len(explanations) > 2 else title
    sections = [section for found in explanations for section in explanation_sections(found, several)]
    write_page(out, title, sections, "\n\n".join([INTRODUCTION, *notes]))


def explanation_sections(found: Explanation, is_titled: bool = True) -> list[Section]:
    """The sections of one explanation, under its title where several are on a page."""
    of_example = f"\n\n{OF_EXAMPLE}" if found.title == EXAMPLE and found.loss == "rank_sort" and not found.delta else ""
    bars = [error_bars(found, part) for part in found.parts]
    meanings = "\n\n".join(OF_PART[part.name] for part in found.parts)
    return [
        Section(found.title if is_titled else "Errors", summary(found) + of_example, table=positives_table(found)),
        Section("Current and target errors", meanings, figures=bars, is_part=True),
        Section("Primary terms", OF_TERMS, is_part=is_titled),
        *(_terms(found, part) for part in found.parts),
        Section("Gradients", _drawn(found), figures=list(_gradient_charts(found)), is_part=is_titled),
        Section(
            "Gradients of the candidates with primary terms",
            table=candidates_table(found),
            is_part=True,
            is_folded=True,
        ),
    ]


def summary(found: Explanation) -> str:
    """The values of a loss, and of how many candidates."""
    values = [f"{part.name} {part.value:.4f}" for part in found.parts]
    if found.localization is not None:
        values.append(f"localization {found.localization.value:.4f}, before its weight")
    ignored = int((found.targets < 0).sum())
    numbers = [counted(len(found.positives), "positive"), counted(len(found.negatives), "negative")]
    numbers += [f"{ignored} ignored"] if ignored else []
    return f"{TITLES[found.loss]}, δ = {found.delta:g}: {', '.join(values)}. It ranks {', '.join(numbers)}."


def positives_table(found: Explanation) -> Table:
    """A row for each positive, from the highest logit down: its errors and its gradient by each part."""
    columns = ["positive", "logit", "target"]
    values = [found.logits[found.positives], found.targets[found.positives]]
    if found.localization is not None:
        columns.append("E")
        values.append(found.localization.errors)
    for part in found.parts:
        columns += [f"{part.name} ℓ", f"{part.name} ℓ*", f"{part.name} ℓ − ℓ*", f"gradient of {part.name}"]
        values += [part.error, part.target_error, part.error - part.target_error, part.gradient[found.positives]]
    if len(found.parts) > 1:
        columns.append("gradient")
        values.append(found.gradient[found.positives])
    if found.localization is not None:
        columns.append("gradient by E")
        values.append(found.localization.gradient)
    rows: list[list[Value]] = [
        [found.positive_names[place], *(float(column[place]) for column in values)]
        for place in evenly(len(found.positives), MOST_ROWS).tolist()
    ]
    return Table(columns, rows)


def candidates_table(found: Explanation) -> Table:
    """A row for each candidate whose terms are shown: its role and its gradient by each part."""
    parts = found.parts if len(found.parts) > 1 else ()
    roles = dict.fromkeys(found.positives.tolist(), "positive")
    rows: list[list[Value]] = [
        [
            name,
            roles.get(place, "negative"),
            float(found.logits[place]),
            *(float(part.gradient[place]) for part in parts),
            float(found.gradient[place]),
        ]
        for name, place in zip(found.shown_names, found.shown.tolist(), strict=True)
    ]
    return Table(["candidate", "role", "logit", *(f"gradient of {part.name}" for part in parts), "gradient"], rows)


def terms_table(found: Explanation, part: Part) -> tuple[Table, list[list[float]]]:
    """The primary terms of the positives that are shown, with a column for all other candidates, times their `unit`.

    Shades are those of single terms.
    """
    rows = shown_rows(found)
    is_used = part.terms[rows].any(axis=0) | (len(found.shown) <= MOST_NAMED)
    used = np.flatnonzero(is_used)
    rest = part.rest[rows]
    others, scale = abs(rest) > 1e-9, unit(part)
    values = np.concatenate([part.terms[rows][:, used], rest[:, None]], axis=1) * scale
    values = values if others.any() else values[:, :-1]
    names = [found.shown_names[place] for place in used.tolist()] + (["all others"] if others.any() else [])
    total = (part.terms[rows].sum(axis=1) + rest) * scale
    table = [
        [found.positive_names[row], *line, float(whole)]
        for row, line, whole in zip(rows.tolist(), values.tolist(), total.tolist(), strict=True)
    ]
    single = part.terms[rows][:, used]
    most = float(single.max(initial=0.0)) or 1.0
    missing = [0.0] * (len(names) - len(used) + 1)
    shades = [[0.0, *(value / most for value in line), *missing] for line in single.tolist()]
    return Table(["positive i", *names, "ℓ − ℓ*"], table), shades


def unit(part: Part) -> float:
    """What makes the largest single term of a part legible with three decimals: 1, a thousand, or a million."""
    most = float(part.terms.max(initial=0.0))
    return next((factor for factor in (1.0, 1e3) if most * factor >= 0.01), 1e6) if most else 1.0


def shown_rows(found: Explanation) -> NDArray[np.int64]:
    """Which of the P positives are among the candidates that are shown."""
    return np.flatnonzero(np.isin(found.positives, found.shown))


def error_bars(found: Explanation, part: Part) -> Markup:
    """The errors of the positives as bars: the target error, and what is above it."""
    places = shown_rows(found)
    places = places[evenly(len(places), MOST_NAMED).numpy()]
    bars = []
    for place in places.tolist():
        error, target = float(part.error[place]), float(part.target_error[place])
        bars.append(Bar(found.positive_names[place], [target, max(0.0, error - target)], f"{error:.3f}"))
    longest = max(1e-3, float(part.error.max(initial=0.0)))
    return bar_chart(f"Errors: {part.name}", bars, ("target error ℓ*", "to be learned ℓ − ℓ*"), longest)


def _terms(found: Explanation, part: Part) -> Section:
    if not part.error.size:
        return Section(part.name, "There is no positive.", is_part=True)
    if not (part.terms.any() or part.rest.any()):
        return Section(part.name, "Nothing is at fault: all positives are ranked as they should be.", is_part=True)
    scale = unit(part)
    title = part.name if scale == 1 else f"{part.name}, times {scale:,.0f}"
    return Section(title, "", *terms_table(found, part), is_part=True)


def _drawn(found: Explanation) -> str:
    """What the charts leave out."""
    said = []
    negatives = found.negatives
    reached = negatives[found.gradient[negatives] != 0]
    if len(reached) > MOST_POINTS:
        said.append(
            f"Of {len(negatives)} negatives {len(reached)} have a gradient; {MOST_POINTS} of these are drawn, evenly "
            "from the highest logit to the lowest."
        )
    elif len(negatives) > len(found.shown):
        said.append(f"Of {len(negatives)} negatives {len(reached)} have a gradient, and these are drawn.")
    if len(found.positives) > MOST_POINTS:
        said.append(f"{MOST_POINTS} of {len(found.positives)} positives are drawn.")
    if len(found.positives) > MOST_ROWS:
        said.append(f"The table of positives has {MOST_ROWS} of {len(found.positives)}.")
    kept = len(shown_rows(found))
    others = len(found.shown) - kept
    if kept < len(found.positives) or others < len(reached):
        numbers = f"{counted(kept, 'positive')} and {counted(others, 'negative')}"
        said.append(f"Primary terms are shown of {numbers}; the column of all others has the sum of the rest.")
    return " ".join(said)


def _gradient_charts(found: Explanation) -> Iterator[Markup]:
    positives, negatives = drawn_places(found)
    names = dict(zip(found.positives.tolist(), found.positive_names, strict=True))
    names |= dict(zip(found.shown.tolist(), found.shown_names, strict=True))
    several = [(f"Gradient of {part.name}", part.gradient) for part in found.parts] if len(found.parts) > 1 else []
    for title, gradient in [*several, ("Gradient", found.gradient)]:
        groups = {
            kind: [
                Stem(float(found.logits[place]), float(gradient[place]), _said(kind, names.get(place), gradient[place]))
                for place in places.tolist()
            ]
            for kind, places in (("negatives", negatives), ("positives", positives))
        }
        yield stem_chart(title, groups, "logit s", "gradient ∂L / ∂s")


def _said(kind: str, name: str | None, gradient: float) -> str:
    return f"{kind.removesuffix('s')}{'' if name is None else ' ' + name}: {gradient:.4f}"


def drawn_places(found: Explanation) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives and negatives of the charts: of many negatives those with a gradient, evenly from the ranking."""
    negatives = found.negatives
    if len(negatives) > MOST_POINTS:
        negatives = negatives[found.gradient[negatives] != 0]
    positives = found.positives[evenly(len(found.positives), MOST_POINTS).numpy()]
    return positives, negatives[evenly(len(negatives), MOST_POINTS).numpy()]
