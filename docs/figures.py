"""Draws the figures of docs/losses.md.

    python docs/figures.py [NAME …] [--out FOLDER]

All cards draw one worked problem, 12 positives and 60 negatives of four images, so that gradients of different losses
can be compared point by point.

Legend: P positives, N negatives, M = P + N candidates.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from rankdet.losses import (
    alrp_loss,
    ap_loss,
    bucketed_rank_sort_loss,
    focal_loss,
    quality_focal_loss,
    rank_sort_loss,
    soft_step,
    varifocal_loss,
)

OUT = Path(__file__).parent / "images" / "losses"
BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
"""Okabe and Ito's colors, as in rankdet.report.curves: everyone can distinguish them, and marks differ, too."""
INK = "#222222"
GRADIENT = "gradient ∂L / ∂s  (per logit)"
LOGIT = "logit s"


class Problem(NamedTuple):
    """(M,) float64 logits, (M,) targets (0, or the quality of a positive), (M,) which of four images each is from."""

    logits: Tensor
    targets: Tensor
    images: Tensor

    @property
    def positives(self) -> Tensor:
        return self.targets > 0

    def part(self, chosen: Tensor) -> Problem:
        return Problem(*(values[chosen] for values in self))


def worked_problem() -> Problem:
    """The seed is chosen: with most, precision rises with the logit by itself, and interpolation would not show."""
    generator = torch.Generator().manual_seed(480)
    positives = 0.4 + 1.3 * torch.randn(12, generator=generator, dtype=torch.float64)
    negatives = -1.3 + 1.3 * torch.randn(60, generator=generator, dtype=torch.float64)
    quality = (0.35 + 0.6 * torch.rand(12, generator=generator)).double()
    images = torch.cat([torch.arange(12) % 4, torch.arange(60) % 4])
    return Problem(torch.cat([positives, negatives]), torch.cat([quality, torch.zeros(60).double()]), images)


def gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    """(M,) gradient of a loss of the logits."""
    (found,) = torch.autograd.grad(loss(logits := logits.clone().requires_grad_()), logits)
    return found


def draw_rank_sort(figure: Figure) -> None:
    problem = worked_problem()
    left, right = panels(figure)
    for axes, part, title in ((left, 0, "Ranking part"), (right, 1, "Sorting part")):
        found = gradient(lambda logits, part=part: rank_sort_loss(logits, problem.targets)[part], problem.logits)
        stems(axes, problem.logits, found, problem.positives, positives=None)
        points = axes.scatter(
            problem.logits[problem.positives],
            found[problem.positives],
            c=problem.targets[problem.positives],
            cmap="viridis",
            vmin=0.3,
            vmax=1,
            s=42,
            edgecolors=INK,
            linewidths=0.8,
            zorder=4,
            label="positive, colored by quality",
        )
        axes.set_title(title)
        describe(axes, LOGIT, GRADIENT)
    left.legend(loc="upper left")
    for height, text in (
        (0.97, "above 0, pushed down:\nit is above a better one"),
        (0.12, "below 0, pulled up:\na worse one is above it"),
    ):
        right.text(0.02, height, text, transform=right.transAxes, va="top", fontsize=8.5, color=INK)
    bar = figure.colorbar(points, ax=right, pad=0.02)
    bar.set_label("quality y: IoU of the box", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)


def draw_average_precision(figure: Figure) -> None:
    problem = worked_problem()
    left, right = panels(figure)
    interpolated = gradient(lambda logits: ap_loss(logits, problem.targets), problem.logits)
    plain = gradient(lambda logits: ap_loss(logits, problem.targets, interpolate=False), problem.logits)
    stems(left, problem.logits, interpolated, problem.positives)
    left.scatter(
        problem.logits, plain, s=26, facecolors="none", edgecolors=INK, linewidths=0.8, label="not interpolated"
    )
    left.set_title("Gradient")
    describe(left, LOGIT, GRADIENT)
    left.legend(loc="upper left")
    logits, order = problem.logits[problem.positives].sort()
    for found, style, label in (
        (plain, {"marker": "o", "color": INK, "markerfacecolor": "white", "linestyle": ":"}, "precision(i)"),
        (interpolated, {"marker": "s", "color": ORANGE, "drawstyle": "steps-post"}, "m(i), interpolated"),
    ):
        right.plot(logits, 1 + 12 * found[problem.positives][order], markersize=5, linewidth=1.5, label=label, **style)
    right.set_title("Precision at each positive")
    right.set_ylim(0.0, 1.04)
    describe(right, "logit of positive i", "precision")
    right.legend(loc="lower right")


def draw_alrp(figure: Figure) -> None:
    problem = worked_problem()
    left, right = panels(figure)
    errors = 1.2 * (1 - problem.targets[problem.positives])
    plain = gradient(lambda logits: alrp_loss(logits, problem.targets, 0 * errors).classification, problem.logits)
    found = gradient(lambda logits: alrp_loss(logits, problem.targets, errors).classification, problem.logits)
    stems(left, problem.logits, found, problem.positives)
    left.scatter(problem.logits, plain, s=26, facecolors="none", edgecolors=INK, linewidths=0.8, label="all E = 0")
    left.set_title("Classification, toward the logits")
    describe(left, LOGIT, GRADIENT)
    left.legend(loc="upper left")
    shares = gradient(lambda values: alrp_loss(problem.logits, problem.targets, values).localization, errors)
    logits, order = problem.logits[problem.positives].sort()
    right.plot(logits, shares[order], marker="o", markersize=5, linewidth=1.5, color=ORANGE)
    right.set_title("Localization, toward the errors E")
    right.set_ylim(bottom=0)
    describe(right, "logit of positive i", "gradient ∂L / ∂E(i)")


def draw_bucketed(figure: Figure) -> None:
    problem = worked_problem()
    left, right = panels(figure)
    highest = problem.logits[problem.positives].argsort(descending=True)
    few = torch.cat([highest[[0, 5, 10]], (~problem.positives).nonzero().squeeze(1)])
    for axes, part, title in ((left, problem, "12 positives"), (right, problem.part(few), "3 of them: wider buckets")):
        exact = gradient(lambda logits, part=part: rank_sort_loss(logits, part.targets).ranking, part.logits)
        bucketed = gradient(
            lambda logits, part=part: bucketed_rank_sort_loss(logits, part.targets).ranking, part.logits
        )
        for place, logit in enumerate(part.logits[part.positives]):
            label = "logit of a positive: bound of a bucket" if place == 0 else None
            axes.axvline(float(logit), color=ORANGE, linewidth=0.9, linestyle="--", alpha=0.8, label=label)
        negatives = ~part.positives
        order = part.logits[negatives].argsort()
        logits = part.logits[negatives][order]
        axes.plot(logits, exact[negatives][order], ".-", color=BLUE, markersize=6, linewidth=1, label="exact")
        axes.plot(logits, bucketed[negatives][order], "x", color=INK, markersize=4.5, label="bucketed")
        axes.set_title(title)
        describe(axes, "logit s of a negative", GRADIENT)
    left.legend(loc="upper left")


def draw_cross_entropy(figure: Figure) -> None:
    def positive(logits: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-logits)

    draw_of_scores(figure, {"positive": positive}, torch.nn.functional.softplus)


def draw_focal(figure: Figure) -> None:
    draw_of_scores(figure, {"positive": of_rows(focal_loss, 0)}, of_rows(focal_loss, 1))


def draw_quality_focal(figure: Figure) -> None:
    draw_of_qualities(figure, quality_focal_loss, "y")


def draw_varifocal(figure: Figure) -> None:
    draw_of_qualities(figure, varifocal_loss, "q")


def draw_of_qualities(figure: Figure, loss: Callable[[Tensor, Tensor, Tensor], Tensor], symbol: str) -> None:
    def positive(quality: float) -> Callable[[Tensor], Tensor]:
        return of_rows(lambda row, label: loss(row, label, row.new_full((1,), quality)), 0)

    curves = {f"positive, {symbol} = {quality}": positive(quality) for quality in (1.0, 0.75, 0.5)}
    negative = of_rows(lambda row, label: loss(row, label, row.new_zeros(0)), 1)
    draw_of_scores(figure, curves, negative)


def of_rows(loss: Callable[[Tensor, Tensor], Tensor], label: int) -> Callable[[Tensor], Tensor]:
    """(n,) values of a loss that sums, for n logits of one class, each by itself."""
    labels = torch.tensor([label])
    return lambda logits: torch.stack([loss(logit.reshape(1, 1), labels) for logit in logits])


def draw_of_scores(
    figure: Figure, positives: dict[str, Callable[[Tensor], Tensor]], negative: Callable[[Tensor], Tensor]
) -> None:
    """Losses of one logit alone: value and derivative, for a positive and for a negative."""
    left, right = panels(figure)
    logits = torch.linspace(-5, 5, 101, dtype=torch.float64)
    styles = zip((ORANGE, YELLOW, PINK, BLUE), ("-", "--", "-.", "-"), strict=True)
    curves = [(name, curve, next(styles)) for name, curve in positives.items()]
    for name, curve, (color, line) in [*curves, ("negative", negative, (BLUE, ":"))]:
        slope = gradient(lambda values, curve=curve: curve(values).sum(), logits)
        left.plot(logits, curve(logits), color=color, linestyle=line, linewidth=1.8, label=name)
        right.plot(logits, slope, color=color, linestyle=line, linewidth=1.8, label=name)
    left.set_title("Loss of one logit")
    right.set_title("Gradient")
    describe(left, LOGIT, "loss, not normalized")
    describe(right, LOGIT, "gradient, not normalized")
    left.legend(loc="upper center")


def draw_shift(figure: Figure) -> None:
    problem = worked_problem()
    left, right = panels(figure, share_y=True)
    shifts = torch.linspace(-4, 4, 65, dtype=torch.float64)
    labels = torch.where(problem.positives, 0, 1)

    def cross_entropy(logits: Tensor) -> Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, problem.positives.double())

    losses: dict[str, tuple[Callable[[Tensor], Tensor], str, str]] = {
        "RS: ranking": (lambda logits: rank_sort_loss(logits, problem.targets).ranking, ORANGE, "-"),
        "RS: sorting": (lambda logits: rank_sort_loss(logits, problem.targets).sorting, PINK, (0, (1, 1))),
        "AP": (lambda logits: ap_loss(logits, problem.targets), GREEN, "--"),
        "focal": (lambda logits: focal_loss(logits[:, None], labels), BLUE, "-."),
        "cross-entropy": (cross_entropy, INK, ":"),
    }
    for axes, moved, title in (
        (left, problem.positives.double(), "Positives alone are shifted"),
        (right, torch.ones_like(problem.logits), "All logits are shifted"),
    ):
        for name, (loss, color, line) in losses.items():
            values = torch.stack([loss(problem.logits + shift * moved) for shift in shifts])
            axes.plot(shifts, values / loss(problem.logits), color=color, linestyle=line, linewidth=1.8, label=name)
        axes.axvline(0, color=INK, linewidth=0.6)
        axes.set_ylim(0, 3)
        axes.set_title(title)
        describe(axes, "shift in logits", "loss / loss without shift")
    left.legend(loc="upper right")
    right.text(4, 0.95, "ranking losses: 1", ha="right", va="top", fontsize=8.5, color=INK)


def draw_pools(figure: Figure) -> None:
    problem = worked_problem()
    left, right = panels(figure, share_y=True)
    styles = tuple(zip((BLUE, ORANGE, GREEN, PINK), "os^D", strict=True))
    whole = gradient(lambda logits: rank_sort_loss(logits, problem.targets).ranking, problem.logits)
    order = problem.logits.argsort()
    order = order[~problem.positives[order]]
    left.plot(problem.logits[order], whole[order], color=INK, linewidth=0.9)
    for axes, title in ((left, "One pool of four images"), (right, "Four pools of one image, averaged")):
        for image, (color, marker) in enumerate(styles):
            own = problem.images == image
            pool = problem if axes is left else problem.part(own)
            found = gradient(lambda logits, pool=pool: rank_sort_loss(logits, pool.targets).ranking, pool.logits)
            found = found[own] if axes is left else found / 4
            part = problem.part(own)
            order = part.logits.argsort()
            order = order[~part.positives[order]]
            label = f"image {image + 1}"
            line = "none" if axes is left else "-"
            options = {"color": color, "marker": marker, "markersize": 4.5, "linewidth": 0.9, "linestyle": line}
            axes.plot(part.logits[order], found[order], label=label, **options)
        axes.set_title(title)
        describe(axes, "logit s of a negative", GRADIENT)
    left.legend(loc="upper left")


def draw_cells(figure: Figure) -> None:
    positives, delta = torch.tensor([-0.6, 0.1, 1.5]).double(), 0.5
    negatives = torch.tensor(
        [-1.9, -1.55, -1.3, -1.0, -0.82, -0.7, -0.55, -0.32, -0.2, 0.05, 0.2, 0.36, 0.75, 1.12, 1.3, 2.2]
    ).double()
    edges = torch.cat([positives - delta, positives + delta]).sort().values
    above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (1.25, 1)})
    axis = torch.linspace(-2.3, 2.7, 501).double()
    steps = soft_step(axis - positives[:, None], delta)
    false_positives = soft_step(negatives - positives[:, None], delta).sum(1)
    rank = soft_step(positives - positives[:, None], delta).sum(1) + false_positives
    for place, (color, line) in enumerate(((GREEN, "-"), (ORANGE, "--"), (PINK, "-."))):
        label = f"H(s − p{'₁₂₃'[place]}):  sum over negatives  N_FP({place + 1}) = {false_positives[place]:.2f}"
        above.plot(axis, steps[place], color=color, linestyle=line, linewidth=1.9, label=label)
        above.plot(positives[place], 0.5, "o", color=color, markersize=6)
    function = (1 / rank / 3) @ steps
    below.plot(axis, function, color=INK, linewidth=1.3, label="F(s) = Σ wᵢ H(s − pᵢ)")
    ends = soft_step(edges - positives[:, None], delta)
    below.plot(edges, (1 / rank / 3) @ ends, "|", color=INK, markersize=9)
    of_negatives = (1 / rank / 3) @ soft_step(negatives - positives[:, None], delta)
    below.plot(negatives, of_negatives, "o", color=BLUE, markersize=5, label="gradient of a negative")
    bounds = [-2.3, *edges.tolist(), 2.7]
    counts = torch.bincount(torch.searchsorted(edges, negatives, right=True), minlength=len(bounds) - 1)
    for axes in (above, below):
        for cell, (start, stop) in enumerate(pairwise(bounds)):
            axes.axvspan(start, stop, color="#e8eef4" if cell % 2 else "#ffffff", zorder=0, linewidth=0)
    for cell, (start, stop) in enumerate(pairwise(bounds)):
        text = f"cell {cell}\nn = {counts[cell]}" if stop - start > 0.35 else f"{cell}\n{counts[cell]}"
        above.text((start + stop) / 2, -0.13, text, ha="center", va="top", fontsize=8.5, color=INK)
    above.plot(negatives, torch.full_like(negatives, -0.07), "|", color=BLUE, markersize=9, markeredgewidth=1.5)
    above.set_ylim(-0.42, 1.72)
    above.set_yticks([0, 0.5, 1])
    above.legend(loc="upper left", fontsize=8.5)
    above.set_title("First pass: how many negatives are in each cell, and the sum of their logits")
    below.set_title("Second pass: one slope and one offset per cell")
    below.legend(loc="upper left", fontsize=8.5)
    below.set_xlim(bounds[0], bounds[-1])
    describe(above, "", "soft step")
    describe(below, LOGIT, "gradient of a negative")
    for axes in (above, below):
        axes.grid(visible=False)


class Drawing(NamedTuple):
    """How to draw a figure, and its height in inches; all are 8 wide."""

    draw: Callable[[Figure], None]
    height: float = 3.3


FIGURES = {
    "rank_sort": Drawing(draw_rank_sort),
    "average_precision": Drawing(draw_average_precision),
    "alrp": Drawing(draw_alrp),
    "bucketed": Drawing(draw_bucketed),
    "cross_entropy": Drawing(draw_cross_entropy, 2.7),
    "focal": Drawing(draw_focal, 2.7),
    "quality_focal": Drawing(draw_quality_focal, 2.7),
    "varifocal": Drawing(draw_varifocal, 2.7),
    "shift": Drawing(draw_shift),
    "pools": Drawing(draw_pools),
    "cells": Drawing(draw_cells, 4.6),
}


def panels(figure: Figure, share_y: bool = False) -> tuple[Axes, Axes]:
    left, right = figure.subplots(1, 2, sharey=share_y)
    return left, right


def stems(axes: Axes, logits: Tensor, found: Tensor, is_positive: Tensor, positives: str | None = "positive") -> None:
    """A line from 0 to the gradient of each logit, and a mark at its end; positives without one where None."""
    for chosen, color, marker, label in (
        (~is_positive, BLUE, "o", "negative"),
        (is_positive, ORANGE, "s", positives),
    ):
        lines = [[(x, 0), (x, y)] for x, y in zip(logits[chosen].tolist(), found[chosen].tolist(), strict=True)]
        axes.add_collection(LineCollection(lines, colors=color, linewidths=1.1, alpha=0.7))
        if label is not None:
            axes.plot(logits[chosen], found[chosen], marker, color=color, markersize=3.5, label=label)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.margins(y=0.12)


def describe(axes: Axes, x: str, y: str) -> None:
    axes.title.set(fontsize=10.5, color=INK, fontweight="bold")
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(name: str, folder: Path) -> Path:
    """Draw one figure."""
    drawing = FIGURES[name]
    figure = Figure(figsize=(8, drawing.height), dpi=150, layout="constrained")
    drawing.draw(figure)
    return write(figure, folder / f"{name}.png")


def write(figure: Figure, path: Path) -> Path:
    """Write a figure; 64 colors are enough, and keep the file small."""
    canvas = FigureCanvasAgg(figure)
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    for legend in filter(None, legends):
        legend.set_frame_on(False)
        for text in legend.get_texts():
            text.set(fontsize=8.5, color=INK)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    image.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Draw the figures of docs/losses.md.")
    parser.add_argument("names", nargs="*", choices=[*FIGURES, []], help="which; all without any")
    parser.add_argument("--out", type=Path, default=OUT, help="folder")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or FIGURES:
        path = draw(name, options.out)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
