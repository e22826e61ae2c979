"""Where an iteration of a two-stage detector goes, in the standard and in the RS form: seconds of the processor.

    python benchmarks/two_stage.py [--only PAIR …] [--repeats 3] [--images 1] [--size 800 1344] [--threads 1]

Images and networks are those of ``iterations.py``. An iteration is forward, losses and backward; both forms take turns
in one process. Then what the iteration does with RoIs is done again by itself, forward and backward, on the same maps
and boxes: RoIAlign of all levels, and the heads of boxes and masks. "rest" is what remains of the iteration. Seconds
are of the processor, so that other work on the machine matters little, and medians.

The ratios below the table say what could be gained at most without learning something else. "no RoIAlign" is the ratio
of the forms if RoIAlign took no time. In "floor" heads are as fast as the fastest product of matrices of this machine,
too: how many multiplications they need follows from the number of RoIs, whatever the order of work. In the last one
these are products in bfloat16, which is something else to learn from.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from iterations import PAIRS, Form, make_batch
from rankdet.heads import BoxHead, MaskHead, RoIPooling
from rankdet.structures import Batch

TWO_STAGE = tuple(name for name in PAIRS if "R-CNN" in name)
SHAPES = (1024, 12544, 1024), (1024, 1024, 12544), (2048, 2048, 2048)
"""Rows, terms and columns of the products whose best rate counts: those of a box head, and a square."""


@dataclass(frozen=True)
class Call:
    """A part of the network and what it was called with."""

    module: nn.Module
    arguments: tuple[Any, ...]

    def seconds(self, repeats: int) -> float:
        """Median of forward and backward, to the arguments and the weights."""
        taken = []
        for _ in range(repeats + 1):
            arguments = _leaves(self.arguments)
            start = time.process_time()
            outputs = self.module(*arguments)
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
            taken.append(time.process_time() - start)
        return statistics.median(taken[1:])  # the first one warms up

    def multiplications(self) -> int:
        """Those of the matrix products of a head, forward and backward: each is made three times."""
        counts = []

        def count(layer: nn.Module, arguments: tuple[Tensor], output: Tensor) -> None:
            weights = layer.weight.numel()
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                places = output if isinstance(layer, nn.Conv2d) else arguments[0]
                weights *= places.shape[2] * places.shape[3]
            counts.append(3 * weights * len(output))

        layers = [one for one in self.module.modules() if isinstance(one, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        with torch.no_grad():
            self.module(*self.arguments)
        for hook in hooks:
            hook.remove()
        return sum(counts)


def _leaves(arguments: Any) -> Any:
    if isinstance(arguments, list | tuple):
        return [_leaves(one) for one in arguments]
    return arguments.detach().requires_grad_(arguments.ndim == 4)  # maps; boxes and labels have no gradient


def calls(form: Form, batch: Batch) -> list[Call]:
    """The RoIPoolings and heads of an iteration."""
    found: list[Call] = []
    parts = [one for one in form.model.network.modules() if isinstance(one, RoIPooling | BoxHead | MaskHead)]
    hooks = [part.register_forward_pre_hook(lambda *call: found.append(Call(*call))) for part in parts]
    form.step(batch)
    for hook in hooks:
        hook.remove()
    return found


@dataclass(frozen=True)
class Parts:
    """Seconds of one form; ``products`` are those of the heads at the rates of the fastest product of matrices."""

    rois: int
    iteration: float
    pooling: float
    heads: float
    products: dict[torch.dtype, float]

    @property
    def rest(self) -> float:
        return self.iteration - self.pooling - self.heads


def fastest_product(dtype: torch.dtype) -> float:
    """Multiplications per second of the fastest product of matrices."""
    rates = []
    for rows, inner, columns in SHAPES:
        first, second = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
        for _ in range(3):
            start = time.process_time()
            first @ second
            rates.append(rows * inner * columns / (time.process_time() - start))
    return max(rates)


def measure(name: str, options: argparse.Namespace) -> tuple[Parts, Parts]:
    """The standard and the RS form."""
    forms = [Form(recipe(), torch.device("cpu")) for recipe in reversed(PAIRS[name])]
    batch = make_batch(options.images, tuple(options.size))
    found = [calls(form, batch) for form in forms]  # which warms up
    taken: list[list[float]] = [[], []]
    for _ in range(options.repeats):
        for form, seconds in zip(forms, taken, strict=True):
            start = time.process_time()
            form.step(batch)
            seconds.append(time.process_time() - start)
    rates = {dtype: fastest_product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    standard, ranking = (
        _parts(own, statistics.median(seconds), rates, options.repeats)
        for own, seconds in zip(found, taken, strict=True)
    )
    return standard, ranking


def _parts(found: Sequence[Call], iteration: float, rates: Mapping[torch.dtype, float], repeats: int) -> Parts:
    pooling = [call for call in found if isinstance(call.module, RoIPooling)]
    heads = [call for call in found if not isinstance(call.module, RoIPooling)]
    rois = sum(len(boxes) for call in pooling for boxes in call.arguments[1])
    number = sum(call.multiplications() for call in heads)
    seconds = [sum(call.seconds(repeats) for call in part) for part in (pooling, heads)]
    return Parts(rois, iteration, *seconds, {dtype: number / rate for dtype, rate in rates.items()})


RATIOS: dict[str, Callable[[Parts], float]] = {
    "RS / standard": lambda parts: parts.iteration,
    "no RoIAlign": lambda parts: parts.iteration - parts.pooling,
    "floor": lambda parts: parts.rest + parts.products[torch.float32],
    "floor, heads in bfloat16": lambda parts: parts.rest + parts.products[torch.bfloat16],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=TWO_STAGE, default=TWO_STAGE, metavar="PAIR")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    height, width = options.size
    print(f"torch {torch.__version__}, CPU, {options.threads} threads, {options.images} images of {height} × {width}")
    print("| detector | form | RoIs | iteration | RoIAlign | heads | rest |\n|---|---|---:|---:|---:|---:|---:|")
    ratios = []
    for name in options.only:
        both = measure(name, options)
        for form, parts in zip(("standard", "RS"), both, strict=True):
            cells = (f"{value:.2f}" for value in (parts.iteration, parts.pooling, parts.heads, parts.rest))
            print(f"| {name} | {form} | {parts.rois} | {' | '.join(cells)} |", flush=True)
        standard, ranking = both
        ratios.append([name, *(f"{seconds(ranking) / seconds(standard):.2f}" for seconds in RATIOS.values())])
    print(f"\n| detector | {' | '.join(RATIOS)} |\n|---|{'---:|' * len(RATIOS)}")
    print(*(f"| {' | '.join(row)} |" for row in ratios), sep="\n")


if __name__ == "__main__":
    main()
