"""Gradients of each task of a training over time, and what clipping and Adam make of them.

    python benchmarks/task_gradients.py RECIPE [FIELD=VALUE …] --data FOLDER --out FILE.json [--every 10] [--label TEXT]

Trains as ``rankdet train`` does, with the same weights, batches and samples, but evaluates nothing. In the first
iteration, every K-th and the last it measures, for each term that is minimized (``rcnn/ranking``, ``rcnn/mask``, …):

* its value, its error before λ, and λ (1 where a term has none), with the weight of its head in the value,
* the norm of its gradient at the maps of the pyramid, ∥∂L/∂P∥, and at the last weights that all tasks share: those of
  the convolutions whose outputs these maps are. A coarser level that is made of a map counts in the gradient of that.

Of all terms together it measures the norm of the gradient of all weights, the factor by which it is clipped, and how
far Adam goes in the backbone, the pyramid, and the regressor, classifier and hidden layers of each head, as root mean
squares over their weights:

* ``step``: |m̂| / √v̂, the step in units of the learning rate. It is 1 where a gradient always has the same sign and
  size.
* ``scale``: RMS(g) / RMS(√v̂), the gradient in units of what Adam remembers of earlier ones. It is near 1 where
  gradients keep their size, and falls where they shrink faster than Adam forgets, be they noisy or not.

Both are null for optimizers without v.

Prints a table, and writes all into the file, from which ``docs/gradient_figures.py`` draws.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rankdet.recipes import Recipe
from rankdet.report import markdown_table
from rankdet.structures import Batch, LossOutput
from rankdet.training.setup import Training
from trainings import add_training, built, iterations, named_recipe, num_iterations, update

ERRORS = {
    "localization": ("localization_error", "balance"),
    "deltas": ("deltas_error", "deltas_balance"),
    "mask": ("mask_error", "mask_balance"),
}
"""Names of the statistics that are the error of a term before λ, and its λ."""


def group_of(name: str) -> str:
    """The group of a weight: a part of the network, and there the regressor, the classifier or what is before them.

    >>> [group_of(name) for name in ("rcnn.head.regressor.bias", "rpn.head.convolution.weight", "backbone.stem.weight")]
    ['rcnn regressor', 'rpn hidden', 'backbone']
    """
    part, *rest = name.split(".")
    if part in ("backbone", "fpn"):
        return part
    return f"{part} {next((layer for layer in ('regressor', 'classifier') if layer in rest), 'hidden')}"


@contextmanager
def collected(modules: Iterable[nn.Module]) -> Iterator[list[Any]]:
    """The outputs of modules, with their graphs, in the order of their calls."""
    outputs: list[Any] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output)) for module in modules
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def norm(tensors: Iterable[Tensor | None]) -> float:
    """The L2 norm of all entries of some tensors, where None is a tensor of zeros."""
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors if tensor is not None))


def measured_terms(
    head: str, output: LossOutput, weight: float, maps: Sequence[Tensor], shared: Sequence[Tensor]
) -> dict[str, dict[str, float]]:
    """Of each term of a head: value, error, λ, and norms of its gradient at maps and at shared weights."""
    found = {}
    for name, term in output.terms.items():
        error, balance = (output.stats.get(statistic) for statistic in ERRORS.get(name, ("", "")))
        gradients = torch.autograd.grad(weight * term, [*maps, *shared], retain_graph=True, allow_unused=True)
        found[f"{head}/{name}"] = {
            "value": weight * float(term.detach()),
            "error": float(term.detach() if error is None else error),
            "balance": 1.0 if balance is None else float(balance),
            "pyramid": norm(gradients[: len(maps)]),
            "shared": norm(gradients[len(maps) :]),
        }
    return found


def measured_steps(network: nn.Module, optimizer: Optimizer) -> dict[str, dict[str, float] | None]:
    """``step`` and ``scale`` of each group of weights after a step of Adam, see above; None without v.

    ``scale`` is 0 where there are no gradients any more.
    """
    betas = {id(weight): group.get("betas") for group in optimizer.param_groups for weight in group["params"]}
    groups: dict[str, list[Tensor]] = {}
    for name, weight in network.named_parameters():
        if weight.grad is not None or weight in optimizer.state:
            groups.setdefault(group_of(name), []).append(weight)
    found: dict[str, dict[str, float] | None] = {}
    for group, weights in groups.items():
        if "exp_avg_sq" not in optimizer.state.get(weights[0], {}):
            found[group] = None
            continue
        steps, remembered = [], []
        for weight in weights:
            state = optimizer.state[weight]
            first, second = (1 - beta ** float(state["step"]) for beta in betas[id(weight)])
            remembered.append((state["exp_avg_sq"] / second).sqrt())
            steps.append(state["exp_avg"] / first / (remembered[-1] + 1e-8))
        size = norm(remembered)
        found[group] = {
            "step": norm(steps) / math.sqrt(sum(step.numel() for step in steps)),
            "scale": norm(weight.grad for weight in weights) / size if size else 0.0,
        }
    return found


def measured_iteration(training: Training, batch: Batch) -> dict[str, Any]:
    """Run an iteration and measure it."""
    network, recipe = training.model.network, training.recipe
    convolutions = list(network.fpn.outputs)
    shared = [parameter for convolution in convolutions for parameter in convolution.parameters()]
    with collected(convolutions) as maps, collected(training.losses.values()) as outputs:
        total, _, _ = training.step(training.model, batch)
    terms = {}
    for head, output in zip(training.losses, outputs, strict=True):
        terms |= measured_terms(head, output, recipe.head_weights.get(head, 1.0), maps, shared)
    before = update(training, total)
    limit = recipe.runtime.clip_gradient_norm
    return {
        "loss": float(total.detach()),
        "lr": training.optimizer.param_groups[0]["lr"],
        "terms": terms,
        "gradient": before,
        "clipped_by": 1.0 if limit is None else min(1.0, limit / (before + 1e-6)),
        "adam": measured_steps(network, training.optimizer),
    }


def measured_training(recipe: Recipe, every: int, stop: int | None = None) -> list[dict[str, Any]]:
    """Train a recipe in this process, at most ``stop`` iterations; return what was measured, in their order."""
    training, records = built(recipe), []
    print(training.describe(), flush=True)
    for iteration, batch in iterations(training, stop):
        if iteration % every and iteration != num_iterations(training, stop) - 1:
            update(training, training.step(training.model, batch)[0])
        else:
            records.append({"iteration": iteration} | measured_iteration(training, batch))
            print(f"iteration {iteration}: loss {records[-1]['loss']:.4f}", flush=True)
    return records


def table(records: Sequence[dict[str, Any]]) -> str:
    """A row for each iteration: ∥∂L/∂P∥ of each term, λ of boxes, the whole gradient, and Adam's steps."""
    terms = list(records[0]["terms"])
    groups = [group for group in records[0]["adam"] if group == "backbone" or group.endswith("regressor")]
    boxes = [name for name in terms if name.endswith("/localization")]
    header = [
        "iteration",
        *(f"∥∂P∥ {name}" for name in terms),
        *(f"λ {name}" for name in boxes),
        "∥g∥",
        "clipped by",
        *(f"{what} {group}" for what in ("step", "scale") for group in groups),
    ]
    rows = []
    for record in records:
        row = [str(record["iteration"]), *(f"{record['terms'][name]['pyramid']:.3g}" for name in terms)]
        row += [f"{record['terms'][name]['balance']:.3g}" for name in boxes]
        row += [f"{record['gradient']:.3g}", f"{record['clipped_by']:.3g}"]
        for what in ("step", "scale"):
            for group in groups:
                measured = record["adam"][group]
                row.append("–" if measured is None else f"{measured[what]:.3g}")
        rows.append(row)
    return markdown_table(header, rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--every", type=int, default=10, help="iterations from one measurement to the next")
    parser.add_argument("--label", help="name of the form in figures; the recipe and its changes by default")
    options = parser.parse_intermixed_args(arguments)
    records = measured_training(named_recipe(options), options.every, options.stop)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    described = {
        "recipe": options.recipe,
        "changes": options.changes,
        "data": options.data.resolve().name,
        "label": options.label or " ".join([options.recipe, *options.changes]),
        "records": records,
    }
    options.out.write_text(json.dumps(described, indent=1))
    print(table(records))


if __name__ == "__main__":
    main()
