"""How far Adam moves each part of trained detectors at the end of their trainings, read from their checkpoints.

    python benchmarks/adam_steps.py RUN_FOLDER …

Prints the root mean square of |m̂| / √v̂, the step in units of the learning rate, over the weights of each part, as
``benchmarks/task_gradients.py`` measures it over time. Nothing is trained. The recipe tells what a run is.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rankdet.recipes import load_recipe
from rankdet.report import markdown_table
from rankdet.runs.checkpoint import FOR_TRAINING, load_checkpoint
from rankdet.runs.folder import Run
from rankdet.training.optimization import build_optimizer
from task_gradients import measured_steps


def last_steps(run: Run) -> dict[str, float]:
    """|m̂| / √v̂ of each group of weights in the newest checkpoint of a run; raises InputError when there is none."""
    state, recipe = load_checkpoint(run.latest_checkpoint(), FOR_TRAINING), load_recipe(run.recipe)
    network = recipe.detector.build(len(state["categories"]), pretrained=False)
    optimizer = build_optimizer(recipe.optimizer, network, recipe.optimizer.lr)
    optimizer.load_state_dict(state["optimizer"])
    steps = measured_steps(network, optimizer)
    return {group: found["step"] for group, found in steps.items() if found is not None}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of trainings with AdamW")
    options = parser.parse_args(arguments)
    found = {folder.name: last_steps(Run(folder)) for folder in options.runs}
    groups = list(dict.fromkeys(group for steps in found.values() for group in steps))
    rows = [
        [name, *(f"{steps[group]:.3f}" if group in steps else "–" for group in groups)] for name, steps in found.items()
    ]
    print(markdown_table(["run", *groups], rows))


if __name__ == "__main__":
    main()
