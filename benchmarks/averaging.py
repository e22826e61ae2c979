"""Averaged weights and the best checkpoint beside an iteration: seconds, and shares of the iteration.

    python benchmarks/averaging.py [--recipes NAME …] [--repeats 5] [--images 2] [--size 800 1344] [--device cuda]
        [--threads N]

An iteration is forward, losses, backward and the step of the optimizer, with random weights, on images with 10 objects
each; nothing is downloaded. "average" is what averaging adds to each iteration. "best" is what a better evaluation adds
once: the second name of the checkpoint that is written anyway. It is given as a share of one iteration, too, though
evaluations are some hundred or thousand iterations apart. Both take turns in one process and are compared by medians,
on a CPU by seconds of the processor, which other work on the machine leaves alone. "checkpoint" is the size of its file
without and with averages.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from iterations import Form, make_batch
from rankdet.recipes import load_recipe
from rankdet.runs.checkpoint import save_checkpoint
from rankdet.runs.folder import Run
from rankdet.runs.processes import find_device
from rankdet.training.averaging import WeightAverage
from rankdet.training.optimization import build_optimizer

RECIPES = ("rs_faster_rcnn_lite0", "rs_faster_rcnn_r50_coco", "rs_detr_r50_coco")


def seconds(task: Callable[[], object], device: torch.device) -> float:
    """The time of a task: of the processor on a CPU, and on a GPU until it is done."""
    if device.type == "cpu":
        start = time.process_time()
        task()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    task()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(name: str, options: argparse.Namespace, device: torch.device) -> str:
    """A line of the table."""
    recipe = load_recipe(name)
    form, batch = Form(recipe, device), make_batch(options.images, tuple(options.size)).to(device)
    network = form.model.network
    optimizer = build_optimizer(recipe.optimizer, network, 1e-6)
    average = WeightAverage(network, 0.9999, 2000)

    def iterate() -> None:
        form.step(batch)
        optimizer.step()

    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder))
        run.create()
        state = {"detector": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(run.checkpoint(1), state)
        plain = run.checkpoint(1).stat().st_size
        save_checkpoint(run.checkpoint(2), state | {"weights": average.state_dict()})
        averaged = run.checkpoint(2).stat().st_size
        tasks = {"iteration": iterate, "average": lambda: average.update(10_000), "best": lambda: run.keep_as_best(2)}
        taken: dict[str, list[float]] = {task: [] for task in tasks}
        for turn in range(options.repeats + 1):
            for task, values in taken.items():
                value = seconds(tasks[task], device)
                values += [value] if turn else []  # the first turn warms up
    medians = {task: statistics.median(values) for task, values in taken.items()}
    cells = [name, f"{1000 * medians['iteration']:.0f}"]
    for task in ("average", "best"):
        cells += [f"{1000 * medians[task]:.1f}", f"{100 * medians[task] / medians['iteration']:.2f} %"]
    return f"| {' | '.join([*cells, f'{plain / 1e6:.0f} → {averaged / 1e6:.0f}'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, metavar="NAME")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = find_device(options.device)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {place}, {options.images} images of {options.size[0]} × {options.size[1]} pixels"
    )
    print("| recipe | iteration, ms | average, ms | | best, ms | | checkpoint, MB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in options.recipes:
        print(measure(name, options, device), flush=True)


if __name__ == "__main__":
    main()
