"""Where the mask logits of detectors start: with what slope p (1 − p) of their sigmoids, on a batch of a data set.

    python benchmarks/mask_start.py RECIPE … --data FOLDER

Nothing is trained. Dice has no usable gradient where the slope is next to nothing; it is 0.25 at logits of 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from rankdet.recipes import Recipe, load_recipe
from rankdet.report import markdown_table
from rankdet.structures import InputError
from trainings import built, iterations


def mask_start(recipe: Recipe) -> tuple[float, float]:
    """The median size of the mask logits of the first batch, and their mean p (1 − p); cropped pixels do not count."""
    training = built(recipe)
    _, batch = next(iterations(training))
    with torch.no_grad():
        masks = [candidates.masks for candidates in training.model.forward(batch) if candidates.masks is not None]
    if not masks:
        raise InputError(f"recipe {recipe.name} has a detector without masks")
    logits = torch.cat([pairs.predicted[pairs.predicted > -torch.inf].float() for pairs in masks])
    scores = logits.sigmoid()
    return float(logits.abs().median()), float((scores * (1 - scores)).mean())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE", help="names of `rankdet list`, or YAML files")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    options = parser.parse_args(arguments)
    rows = []
    for name in options.recipes:
        size, slope = mask_start(load_recipe(name, {"data.folder": str(options.data.resolve()), "data.workers": 0}))
        rows.append([name, f"{size:.2f}", f"{slope:.3f}"])
    print(markdown_table(["recipe", "median of mask logits", "mean p (1 − p)"], rows))


if __name__ == "__main__":
    main()
