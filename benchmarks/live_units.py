"""How many hidden units of a box head stay alive in a training: those above zero for at least one RoI of the batch.

    python benchmarks/live_units.py RECIPE FIELD=VALUE … --data FOLDER --stop 100 --every 10

Trains a two-stage detector in this process. A unit that is at zero for every RoI has no gradient, and comes back only
by changes of the layers before it. Where all units of a layer are dead, the head's outputs are constants for good.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from rankdet.recipes import Recipe
from rankdet.report import markdown_table
from rankdet.structures import InputError
from trainings import add_training, built, iterations, named_recipe, update


@contextmanager
def hidden_layers(head: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The last outputs (K, channels) of both hidden layers of a box head, before their ReLUs, by name."""
    found: dict[str, Tensor] = {}
    names = {head.get_submodule(name): name for name in ("first", "second")}

    def keep(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        found[names[layer]] = output.detach()

    handles = [layer.register_forward_hook(keep) for layer in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def alive(outputs: Tensor) -> float:
    """The share of units that are above zero in at least one row."""
    return float((outputs > 0).any(0).float().mean())


def measured(recipe: Recipe, every: int, stop: int | None) -> list[list[str]]:
    """A row for each measured iteration; raises InputError where the detector has no single box head."""
    training = built(recipe)
    stage = getattr(training.model.network, "rcnn", None)
    if not isinstance(head := getattr(stage, "head", None), nn.Module):
        raise InputError(f"recipe {recipe.name} has a detector without a box head of two hidden layers")
    rows = []
    with hidden_layers(head) as outputs:
        for iteration, batch in iterations(training, stop):
            total, terms, _ = training.step(training.model, batch)
            norm = update(training, total)
            if iteration % every == 0:
                of_head = sum(float(value) for name, value in terms.items() if name.startswith("rcnn/"))
                shares = [f"{100 * alive(outputs[name]):.0f} %" for name in ("first", "second")]
                rows.append([str(iteration), *shares, f"{of_head:.2f}", f"{norm:.1f}"])
                print(f"iteration {iteration}: alive {', '.join(shares)}", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--every", type=int, default=10, help="iterations from one measurement to the next")
    options = parser.parse_intermixed_args(arguments)
    rows = measured(named_recipe(options), options.every, options.stop)
    print(markdown_table(["iteration", "first alive", "second alive", "R-CNN loss", "∥g∥"], rows))


if __name__ == "__main__":
    main()
