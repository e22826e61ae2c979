"""Detectors of other frameworks by their own losses and by Rank & Sort Loss, through the adapters of ``rankdet``.

    python benchmarks/adapters.py FRAMEWORK [--only DETECTOR …] [--data FOLDER] [--out FOLDER]
    python benchmarks/adapters.py FRAMEWORK --time

FRAMEWORK is a module of ``benchmarks/frameworks``, which says what its detectors are, and what of them is pretrained.
Their forms:

* ``theirs``: the framework's own losses.
* ``rs``: ``use_rank_sort(model, boxes="theirs")``; the classification alone is replaced.
* ``rs-balanced``: ``use_rank_sort(model, boxes="balanced")``; L1 and GIoU each get its value.

Without ``--data`` they learn ``shapes``, which is made in the output folder. A data folder with a split ``test`` is
used as the recipes on BCCD do. Images, their order and augmentation, schedule and AdamW are those of these recipes, and
the same in all forms. Gradients are clipped as the framework's own training does. Each form chooses from the same
learning rates by AP on the validation split with the first seed. The other seeds are then trained with it. The tables
are of the test split, on which nothing is chosen.

AP and oLRP are those of the best 100 detections of an image at any score. ρ is Spearman's rank correlation of score and
IoU over detections that match an object at IoU 0.5, of all classes together. "Default" is AP50 of the detections above
the framework's default threshold, and "calibrated" the same after the adapter's ``calibrate`` on the validation split.
Seconds are those of the processor for loss, gradient and step.

Each run is a file in the output folder, and what is there is not done again. The command can be killed and repeated,
and several may share the work by ``--forms`` and ``--only``; ``--table`` prints what is there.

``--time`` compares iterations of large models of 80 classes with random weights, on random images. The forms take turns
on one batch with equal weights, and are compared by the medians of the processor's seconds for loss and gradient.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from detectors import make_batch
from frameworks.interface import Detector, Family
from rankdet.coco import Results
from rankdet.data import CocoDataset, build_test_loader, build_training_loader, make_shapes
from rankdet.metrics import evaluate, spearman_correlation
from rankdet.metrics.evaluator import compare
from rankdet.metrics.matching import match_classes
from rankdet.recipes import Recipe, load_recipe
from rankdet.report import markdown_table
from rankdet.reproduce.plan import NUM_TEST
from rankdet.training.optimization import build_optimizer

FRAMEWORKS = sorted(
    file.stem for file in Path(__file__).parent.glob("frameworks/[a-z]*.py") if file.stem != "interface"
)
FORMS: dict[str, Literal["theirs", "balanced"] | None] = {"theirs": None, "rs": "theirs", "rs-balanced": "balanced"}
"""Forms of a detector, and the boxes of their Rank & Sort Loss; None: the framework's own losses."""
MAX_DETECTIONS = 100
Figures = dict[str, float]


@dataclass(frozen=True)
class Study:
    """A detector, the images that it learns, and where its runs are."""

    framework: str
    detector: str
    family: Family
    recipe: Recipe
    out: Path
    pretrained: bool = True

    @property
    def name(self) -> str:
        """Distinguishes the study among others in a folder."""
        backbone = "" if self.pretrained else "-scratch"
        data = "bccd" if self.recipe.name.endswith("_bccd") else "shapes"
        return f"{self.framework}-{self.detector}-{data}{backbone}-{self.recipe.schedule.iterations}"

    def file(self, form: str, lr: float, seed: int) -> Path:
        """The file of a run."""
        return self.out / f"{self.name}-{form}-lr{lr:g}-seed{seed}.json"

    def result(self, form: str, lr: float, seed: int) -> dict[str, Any] | None:
        """What a run has found; None before it is finished."""
        file = self.file(form, lr, seed)
        return json.loads(file.read_text()) if file.exists() else None

    def choice(self, form: str, rates: Sequence[float], seed: int) -> float | None:
        """The learning rate with the best AP on the validation split; None before all are tried."""
        found = [self.result(form, lr, seed) for lr in rates]
        tried = [each["val"]["AP"] for each in found if each is not None]
        return None if len(tried) < len(rates) else rates[int(np.argmax(tried))]


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe whose images, schedule and optimizer are used."""
    if options.data is None:
        folder = make_shapes(options.out / "shapes", test=NUM_TEST)
        name = "faster_rcnn_shapes"
    else:
        folder, name = options.data, "faster_rcnn_lite0_bccd"
    recipe = load_recipe(name, {"data.folder": str(folder.resolve()), "data.workers": 0})
    iterations = options.iterations or recipe.schedule.iterations
    return recipe.changed({"schedule.iterations": iterations})


def train(study: Study, detector: Detector, dataset: CocoDataset, lr: float, seed: int, label: str) -> Figures:
    """Train a detector; return its seconds per iteration, and the last loss, which is NaN where it broke down."""
    recipe, network = study.recipe, detector.network.train()
    optimizer = build_optimizer(recipe.optimizer, network, lr)
    iterations: int = recipe.schedule.iterations
    batches = build_training_loader(dataset, recipe.data.build_sampler(dataset, seed), recipe.data.workers)
    seconds, value = 0.0, math.nan
    for iteration, batch in zip(range(iterations), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = lr * recipe.schedule.factor(iteration, iterations)
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = detector.loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            print(f"{label}: the loss of iteration {iteration} is {value}", flush=True)
            return {"seconds": seconds / max(1, iteration), "loss": math.nan}
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), study.family.clip)
        optimizer.step()
        seconds += time.process_time() - start
        if (iteration + 1) % 20 == 0:
            done = f"iteration {iteration + 1} of {iterations}"
            print(f"{label}: {done}, loss {value:.3f}, {seconds / (iteration + 1):.2f} s", flush=True)
    return {"seconds": seconds / iterations, "loss": value}


@torch.no_grad()
def detections(detector: Detector, dataset: CocoDataset, batch_size: int) -> Results:
    """What a detector finds in all images of a data set, in pixels of the files."""
    detector.network.eval()
    found = []
    for batch in build_test_loader(dataset, batch_size, workers=0):
        for source, size, detection in zip(
            batch.sources, batch.images.sizes, detector.detect(batch.images), strict=True
        ):
            found.append(Results.of_image(source, detection.scaled(size, source.size), dataset.category_ids))
    return Results.joined(found)


def above(results: Results, threshold: float) -> Results:
    """The detections whose scores are above a threshold."""
    return results.select(np.flatnonzero(results.scores > threshold))


def figures(dataset: CocoDataset, results: Results, threshold: float) -> Figures:
    """AP, AP50, oLRP and ρ of detections, and AP50 of those above a threshold."""
    truth = dataset.ground_truth
    metrics = evaluate(truth, results, max_detections=MAX_DETECTIONS)
    matches = match_classes(compare(truth, results, "bbox", MAX_DETECTIONS))
    scores, ious = (np.concatenate(each) for each in zip(*((one.scores, one.ious) for one in matches), strict=True))
    is_hit = ~np.isnan(ious)
    return {
        "AP": metrics["AP"],
        "AP50": metrics["AP50"],
        "oLRP": metrics["oLRP"],
        "rho": spearman_correlation(scores[is_hit], ious[is_hit]),
        "AP50_default": evaluate(truth, above(results, threshold), max_detections=MAX_DETECTIONS)["AP50"],
    }


def run(study: Study, form: str, lr: float, seed: int) -> None:
    """Train and measure a form, unless its file is there."""
    file, recipe = study.file(form, lr, seed), study.recipe
    if file.exists():
        return
    label = f"{study.name} {form} lr {lr:g} seed {seed}"
    datasets = {split: recipe.data.build_test_dataset(split) for split in ("val", "test")}
    dataset = recipe.data.build_training_dataset()
    height, width = dataset.prepared_size(0)
    torch.manual_seed(seed)
    detector = study.family.small(len(dataset.categories), (height, width), study.pretrained)
    boxes = FORMS[form]
    if boxes is not None:
        detector.use_rank_sort(boxes)
    torch.manual_seed(seed)  # whatever the form has drawn before
    record: dict[str, Any] = train(study, detector, dataset, lr, seed, label)
    batch_size = recipe.evaluation.batch_size
    for split, images in datasets.items():
        record[split] = figures(images, detections(detector, images, batch_size), detector.threshold)
    if boxes is not None and record["val"]["AP50"] > 0:
        detector.calibrate(build_test_loader(datasets["val"], batch_size, workers=0))
        for split, images in datasets.items():
            found = above(detections(detector, images, batch_size), detector.threshold)
            calibrated = evaluate(images.ground_truth, found, max_detections=MAX_DETECTIONS)["AP50"]
            record[split]["AP50_calibrated"] = calibrated
    record |= {"form": form, "lr": lr, "seed": seed, "threshold": detector.threshold}
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(file)
    print(f"{label}: AP {record['val']['AP']:.3f} on val, {record['test']['AP']:.3f} on test", flush=True)


def tables(study: Study, forms: Sequence[str], rates: Sequence[float], seeds: Sequence[int]) -> str:
    """AP of each learning rate on the validation split, what the chosen one gives on the test split, and thresholds."""
    tried, measured, kept = [], [], []
    for form in forms:
        lr = study.choice(form, rates, seeds[0])
        percents = [percent([study.result(form, each, seeds[0])], "val", "AP") for each in rates]
        tried.append([form, *percents, "–" if lr is None else f"{lr:g}"])
        found = [] if lr is None else [study.result(form, lr, seed) for seed in seeds]
        runs = [each for each in found if each is not None]
        percents = [percent(runs, "test", name) for name in ("AP", "AP50", "oLRP")]
        rho, seconds = [each["test"]["rho"] for each in runs], [each["seconds"] for each in runs]
        measured.append([form, str(len(runs)), *percents, spread(rho, 3), spread(seconds, 2)])
        names = ("AP50", "AP50_default", "AP50_calibrated")
        kept.append([form, *(percent(runs, split, name) for split in ("val", "test") for name in names)])
    cuts = ("val: AP50", "default", "calibrated", "test: AP50", "default", "calibrated")
    return "\n\n".join(
        [
            f"**{study.name}**: AP on the validation split with seed {seeds[0]}",
            markdown_table(["form", *(f"lr {lr:g}" for lr in rates), "chosen"], tried),
            "The test split, mean ± standard deviation over seeds",
            markdown_table(["form", "seeds", "AP", "AP50", "oLRP", "ρ", "s/iteration"], measured),
            "AP50 of all detections, of those above the default threshold, and of those after calibration",
            markdown_table(["form", *cuts], kept),
        ]
    )


def percent(runs: Sequence[Mapping[str, Any] | None], split: str, name: str) -> str:
    """Mean ± standard deviation of a figure in percent, over the runs that are there."""
    return spread([100 * each[split].get(name, math.nan) for each in runs if each is not None], 1)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation; a dash where there is nothing or a value is not known."""
    if not values or any(math.isnan(value) for value in values):
        return "–"
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def turns(family: Family, forms: Sequence[str], images: int, size: tuple[int, int], repeats: int) -> Iterator[Figures]:
    """Seconds of the processor of an iteration of each form, for each turn."""
    batch = make_batch(images, size)
    torch.manual_seed(0)
    first = family.large(size)
    detectors = {form: deepcopy(first) for form in forms}
    for form, detector in detectors.items():
        if (boxes := FORMS[form]) is not None:
            detector.use_rank_sort(boxes)
        detector.network.train()
    for turn in range(repeats + 1):
        seconds = {}
        for form, detector in detectors.items():
            torch.manual_seed(turn)
            gc.collect()
            start = time.process_time()
            detector.loss(batch).backward()
            seconds[form] = time.process_time() - start
            detector.network.zero_grad(set_to_none=True)
        if turn:  # the first one warms up
            yield seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("framework", choices=FRAMEWORKS)
    parser.add_argument("--only", nargs="+", metavar="DETECTOR", help="detectors of the framework; default: all")
    parser.add_argument("--forms", nargs="+", choices=tuple(FORMS), default=tuple(FORMS))
    parser.add_argument("--data", type=Path, help="a data folder with the splits train, val and test; default: shapes")
    parser.add_argument("--out", type=Path, default=Path("runs/adapters"))
    parser.add_argument("--iterations", type=int, help="default: those of the recipe")
    parser.add_argument("--lrs", type=float, nargs="+", help="learning rates to choose from; default: the detector's")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0, 1, 2], help="the learning rate is chosen with the first"
    )
    parser.add_argument("--scratch", action="store_true", help="backbones with random weights")
    parser.add_argument("--table", action="store_true", help="train nothing, print what is there")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--time", action="store_true", help="compare seconds of iterations of large models")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1056), metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    families: dict[str, Family] = importlib.import_module(f"frameworks.{options.framework}").FAMILIES
    chosen = options.only or list(families)
    if unknown := set(chosen) - set(families):
        parser.error(f"{options.framework} has {', '.join(families)}, not {', '.join(sorted(unknown))}")
    if options.time:
        print(times({name: families[name] for name in chosen}, options))
        return
    recipe = recipe_of(options)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        study = Study(options.framework, name, families[name], recipe, options.out, not options.scratch)
        rates = options.lrs or study.family.rates
        forms = [form for form in options.forms if form in study.family.forms]
        for form in () if options.table else forms:
            for lr in rates:
                run(study, form, lr, options.seeds[0])
            best = study.choice(form, rates, options.seeds[0])
            assert best is not None
            for seed in options.seeds[1:]:
                run(study, form, best, seed)
        print(tables(study, forms, rates, options.seeds), flush=True)


def times(families: Mapping[str, Family], options: argparse.Namespace) -> str:
    """A row for each detector: seconds of its own losses, and those of the other forms as ratios."""
    others = [form for form in options.forms if form != "theirs"]
    rows: list[list[str | float | None]] = []
    for name, family in families.items():
        forms = ["theirs", *(form for form in others if form in family.forms)]
        taken = list(turns(family, forms, options.images, tuple(options.size), options.repeats))
        middle = {form: statistics.median(each[form] for each in taken) for form in forms}
        rows.append(
            [name, middle["theirs"], *(middle[form] / middle["theirs"] if form in forms else None for form in others)]
        )
        print(f"{name}: {', '.join(f'{form} {value:.2f} s' for form, value in middle.items())}", flush=True)
    return markdown_table(["detector", "theirs, s", *(f"{form} / theirs" for form in others)], rows, digits=2)


if __name__ == "__main__":
    main()
