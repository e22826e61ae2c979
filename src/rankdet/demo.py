"""The command ``rankdet demo``: standard and RS Faster R-CNN on ``shapes``, at equal iterations and equal time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from rankdet.data import CocoDataset, Sample, SampleKey, build_training_loader, make_shapes
from rankdet.data.pixels import to_pixels
from rankdet.inference.loading import build_losses, load
from rankdet.inference.model import Model
from rankdet.inference.profiling import loss_seconds
from rankdet.inference.ranking_quality import ranking_quality
from rankdet.recipes import Recipe, load_recipe
from rankdet.report import (
    History,
    Illustration,
    Panel,
    Section,
    Series,
    Table,
    draw_curves,
    draw_detections,
    draw_equal_budgets,
    draw_grid,
    markdown_table,
    per_class_table,
    select_series,
    write_image,
    write_page,
)
from rankdet.runs.folder import Run, output_folder, read_log, write_json, write_text
from rankdet.structures import Batch, InputError
from rankdet.training.running import train

SHORTER_ITERATIONS = {"detector.pyramid_channels": 48, "runtime.channels_last": True}
"""Most of an iteration of the recipes are convolutions and products of the pyramid's 64 channels. With 48 the AP of
both forms is no lower."""
STANDARD, RANK_SORT, LONGER = "standard", "RS", "standard, equal time"
CPU = torch.device("cpu")

INTRODUCTION = """\
Two Faster R-CNNs have the same small network, learning rate and images. The standard form has samplers, cross-entropy
and smooth L1. The form of Rank & Sort Loss has no samplers, one loss that ranks and sorts, and GIoU balanced by its
value.

This is no ablation, because the two also differ in sampling and box loss. One seed, a small procedural data set and few
iterations prove nothing about real images. Iterations of the two take different times. The rows "standard" and "RS"
had equal iterations; "RS" and "standard, equal time" had equal seconds of training, with a schedule stretched to that
length.
"""

NOTES = """\
ρ is Spearman's rank correlation between IoU and score of the R-CNN's positives on validation images. Objects are among
the RoIs, as in training. "positives : negatives" counts the logits or candidates that the R-CNN's loss sees. Seconds
include only training, not evaluation. The share of the loss is its time, forward and backward, over the seconds of an
iteration. It is measured on the outputs of the trained detector, cut from the network.
"""


@dataclass(frozen=True)
class Entry:
    """A trained run and its measurements."""

    name: str
    run: Run
    iterations: int
    seconds: float
    metrics: Mapping[str, Any]
    quality: Mapping[str, Any]
    loss_share: float


def run_demo(
    out: Path, console: Console, iterations: int | None = None, num_train: int = 400, num_val: int = 100
) -> list[Path]:
    """Make the data, train, compare, and write tables, curves, images and a page.

    ``iterations`` take the place of those of the recipes. Returns the files worth looking at. Raises InputError when
    the folder ``out`` already holds a demo or cannot be written into.
    """
    if (out / "runs").exists():
        raise InputError(f"{out} already holds a demo; remove it or give another --out")
    with output_folder(out):
        data = make_shapes(out / "shapes", train=num_train, val=num_val, progress=console.is_terminal)
        standard = _train("faster_rcnn_shapes", STANDARD, data, out, console, iterations)
        rank_sort = _train("rs_faster_rcnn_shapes", RANK_SORT, data, out, console, iterations)
        stretched = max(1, round(standard.iterations * rank_sort.seconds / standard.seconds))
        longer = _train("faster_rcnn_shapes", LONGER, data, out, console, stretched)
        return _report(out, [standard, rank_sort, longer])


def _train(recipe_name: str, name: str, data: Path, out: Path, console: Console, iterations: int | None) -> Entry:
    length = iterations or load_recipe(recipe_name).schedule.iterations
    if length is None:
        raise ValueError(f"recipe {recipe_name} has no length in iterations")
    run = Run(out / "runs" / name.replace(", ", "_").replace(" ", "_"))
    changes = {**SHORTER_ITERATIONS, "schedule.iterations": length, "evaluation.every": max(1, length // 3)}
    trained = train(recipe_name, data=data, out=run.folder, changes=changes, console=console)
    if trained.signal is not None or trained.metrics is None:
        raise InputError(f"the demo was stopped; what there is of it is in {out}")
    recipe = load_recipe(run.recipe)
    seconds = [record["timing"]["seconds"] for record in read_log(run.log) if record["kind"] == "train"][-1]
    model = load(run.folder, CPU)
    training_set, validation_set = recipe.data.build_training_dataset(), recipe.data.build_test_dataset()
    losses = build_losses(recipe, CPU, recipe.data.build_sampler(training_set, recipe.seed).iterations_per_epoch)
    quality = ranking_quality(model, losses, _batches(recipe, validation_set))
    share = loss_seconds(model, losses, _batches(recipe, training_set, 8)) / (seconds / length)
    return Entry(name, run, length, seconds, trained.metrics, quality, share)


def _batches(recipe: Recipe, dataset: CocoDataset, most: int | None = None) -> Iterator[Batch]:
    """Return batches of the size of training, because the loss ranks over a batch: an epoch, or at most some."""
    sampler = recipe.data.build_sampler(dataset, recipe.seed)
    loader = build_training_loader(dataset, sampler, workers=0)
    return itertools.islice(loader, most or sampler.iterations_per_epoch)


def _report(out: Path, entries: Sequence[Entry]) -> list[Path]:
    table = _table(entries)
    paths = {
        "page": out / "index.html",
        "table": out / "table.md",
        "numbers": out / "table.json",
        "budgets": out / "equal_budgets.png",
        "curves": out / "curves.png",
        "images": out / "images.png",
    }
    text = markdown_table(table.columns, table.rows)
    write_text(paths["table"], f"# Standard and RS Faster R-CNN on shapes\n\n{text}\n\n{NOTES}")
    write_json(paths["numbers"], [_numbers(entry) for entry in entries])
    draw_equal_budgets(paths["budgets"], {entry.name: _history(entry, "AP") for entry in entries}, "AP")
    draw_curves(paths["curves"], _panels(entries), names=[entry.name for entry in entries])
    _draw_images(paths["images"], entries[:2])
    sections = [
        Section("Numbers", NOTES, table),
        Section(
            "AP at equal iterations and at equal time",
            illustrations=[Illustration(paths["budgets"], "AP on the validation images during training.")],
        ),
        Section("Losses", illustrations=[Illustration(paths["curves"], "Terms of the R-CNN head during training.")]),
        Section(
            "Images",
            "Each form shows as many detections as the image has objects, those of the highest scores. A score "
            "threshold would favor one form, because the scores of the two losses have different meanings.",
            illustrations=[Illustration(paths["images"], "Objects, detections of the standard form, of the RS form.")],
        ),
        *(Section(f"Classes: {entry.name}", table=per_class_table(entry.metrics)) for entry in entries),
    ]
    write_page(paths["page"], "Standard and RS Faster R-CNN on shapes", sections, INTRODUCTION)
    return list(paths.values())


def _table(entries: Sequence[Entry]) -> Table:
    measures = ("AP", "AP50", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")
    columns = ["run", "iterations", "seconds", "s/iteration", *measures, "ρ", "positives : negatives", "loss share"]
    rows: list[list[str | int | float | None]] = [
        [
            entry.name,
            entry.iterations,
            round(entry.seconds, 1),
            entry.seconds / entry.iterations,
            *(entry.metrics[measure] for measure in measures),
            entry.quality["spearman"],
            f"1 : {entry.quality['negatives'] / max(1.0, entry.quality['positives']):.1f}",
            f"{100 * entry.loss_share:.1f} %",
        ]
        for entry in entries
    ]
    return Table(columns, rows)


def _numbers(entry: Entry) -> dict[str, Any]:
    return {
        "run": entry.name,
        "folder": str(entry.run.folder),
        "iterations": entry.iterations,
        "seconds": entry.seconds,
        "seconds_per_iteration": entry.seconds / entry.iterations,
        "loss_share": entry.loss_share,
        **entry.quality,
        "metrics": entry.metrics,
    }


def _history(entry: Entry, metric: str) -> History:
    records = [record for record in read_log(entry.run.log) if record["kind"] == "evaluation"]
    return History(
        [record["iteration"] for record in records],
        [record["timing"]["seconds"] for record in records],
        [record["metrics"][metric] for record in records],
    )


def _panels(entries: Sequence[Entry]) -> list[Panel]:
    panels = []
    for term in ("ranking", "sorting", "classification", "localization_error", "localization", "balance"):
        series = {entry.name: _term(entry, f"rcnn/{term}") for entry in entries}
        shown = {name: points for name, points in series.items() if points.x}
        if shown:
            panels.append(Panel(f"R-CNN {term.replace('_', ' ')}", "iterations", term.replace("_", " "), shown))
    return panels


def _term(entry: Entry, term: str) -> Series:
    records = [record for record in read_log(entry.run.log) if record["kind"] == "train"]
    return select_series([record | record["statistics"] for record in records], "iteration", term)


def _draw_images(path: Path, entries: Sequence[Entry], rows: int = 5) -> None:
    models = [load(entry.run.folder, CPU) for entry in entries]
    dataset = load_recipe(entries[0].run.recipe).data.build_test_dataset()
    samples = (dataset[SampleKey(index, 0)] for index in range(len(dataset)))
    chosen = list(itertools.islice((sample for sample in samples if len(sample.target.boxes) > 1), rows))
    columns = [[draw_detections(sample.image, None, models[0].names, sample.target) for sample in chosen]]
    columns += [_drawn(model, chosen) for model in models]
    captions = ["objects", *(entry.name for entry in entries)]
    cells = [image for row in zip(*columns, strict=True) for image in row]
    write_image(path, draw_grid(cells, captions + [""] * (len(cells) - len(captions)), columns=len(columns)))


def _drawn(model: Model, samples: Sequence[Sample]) -> list[torch.Tensor]:
    """Return each image with as many detections as it has objects, so that thresholds favor no form."""
    files = [Path(sample.source.path) for sample in samples]
    return [
        draw_detections(to_pixels(file), found[: len(sample.target.boxes)].detection, model.names)
        for file, found, sample in zip(files, model.detect(files), samples, strict=True)
    ]
