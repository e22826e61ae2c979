"""CARAFE beside bilinear interpolation and beside the plain form of its equation: time and memory, as ratios.

    python benchmarks/carafe.py [--forms sums CARAFE] [--quick] [--channels-last] [--device cuda] [--markdown F]

One image of 800 × 1344, 256 channels: "P3 → P2" enlarges a map of 100 × 168 cells, and so on. "sums" is
``rankdet.backbones.carafe.reassemble``, "unfold" the same equation written with ``torch.nn.functional.unfold`` and
25 · C numbers per new cell; both are given the weights. "CARAFE" is the whole module, with the convolutions that
predict the weights. All are compared with ``interpolate(mode="bilinear")`` on the same map.

**time**: forward, and backward for all gradients, in turns in one process, medians; on a CPU the time of the processor
on one thread, which other work on the machine disturbs least.

**memory**: what one forward and one backward pass add at their peak to the map and to the gradient of the enlarged map,
with the enlarged map itself and all gradients, in multiples of the enlarged map. On a CPU the growth of the resident
set, as the kernel accounts it (VmHWM), in a fresh process for each number; on a GPU what torch allocated. Beside small
maps the resident set also shows what has a fixed size: pages of code, workspaces of convolutions.

With ``--quick`` the largest map is left out, where the plain form takes 5 GB.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rankdet.backbones.carafe import CARAFE, reassemble, reassemble_reference

CHANNELS = 256
LEVELS = {"P5 → P4": (25, 42), "P4 → P3": (50, 84), "P3 → P2": (100, 168)}
BASE = "bilinear"
FORMS = (BASE, "sums", "unfold", "CARAFE")


class Inputs(NamedTuple):
    """A map, the weights of each new cell, and the gradient of the enlarged map."""

    features: Tensor
    weights: Tensor
    upstream: Tensor


def make(height: int, width: int, device: str, channels_last: bool) -> Inputs:
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    features = torch.randn(1, CHANNELS, height, width, device=device).contiguous(memory_format=layout)
    upstream = torch.randn(1, CHANNELS, 2 * height, 2 * width, device=device).contiguous(memory_format=layout)
    weights = torch.randn(1, 2 * height, 2 * width, 25, device=device).softmax(dim=-1)
    return Inputs(features.requires_grad_(), weights.requires_grad_(), upstream)


def make_form(name: str, inputs: Inputs) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """What enlarges the map, and what it has gradients for."""
    features, weights, _ = inputs
    if name == "CARAFE":
        module = CARAFE(CHANNELS).to(features.device)
        if not features.is_contiguous():
            module = module.to(memory_format=torch.channels_last)
        return lambda: module(features), [features, *module.parameters()]
    if name == BASE:
        return lambda: interpolate(features, scale_factor=2, mode="bilinear"), [features]
    form = {"sums": reassemble, "unfold": reassemble_reference}[name]
    return lambda: form(features, weights), [features, weights]


def seconds(inputs: Inputs, names: Sequence[str], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds of forward and of backward of each form; one turn warms up."""
    forms = {name: make_form(name, inputs) for name in names}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(repeats + 1):
        for name, (enlarge, sources) in forms.items():
            start = _now(inputs)
            enlarged = enlarge()
            middle = _now(inputs)
            torch.autograd.grad(enlarged, sources, inputs.upstream)
            taken[name].append((middle - start, _now(inputs) - middle))
            del enlarged
    return {name: (_median(times, 0), _median(times, 1)) for name, times in taken.items()}


def _median(times: list[tuple[float, float]], part: int) -> float:
    return statistics.median(pair[part] for pair in times[1:])


def _now(inputs: Inputs) -> float:
    if inputs.features.is_cuda:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak_memory(name: str, size: tuple[int, int], options: argparse.Namespace) -> float:
    """In multiples of the enlarged map; on a CPU in a process of its own."""
    if options.device == "cuda":
        inputs = make(*size, options.device, options.channels_last)
        enlarge, sources = make_form(name, inputs)
        torch.autograd.grad(enlarge(), sources, inputs.upstream)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        enlarged = enlarge()
        gradients = torch.autograd.grad(enlarged, sources, inputs.upstream)
        del enlarged, gradients
        return (torch.cuda.max_memory_allocated() - before) / (4 * inputs.upstream.numel())
    layout = ["--channels-last"] if options.channels_last else []
    arguments = [sys.executable, __file__, "--memory-of", name, *map(str, size), *layout]
    # Freed blocks go back to the kernel, else those left from making the inputs would hide a part of the peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout)


def print_memory(name: str, height: int, width: int, channels_last: bool) -> None:
    """The other end of :func:`peak_memory`."""
    small = make(8, 8, "cpu", channels_last)
    enlarge, sources = make_form(name, small)
    torch.autograd.grad(enlarge(), sources, small.upstream)  # loads the code, which shall not count
    inputs = make(height, width, "cpu", channels_last)
    enlarge, sources = make_form(name, inputs)
    Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's record of the peak
    before = _status("VmRSS")
    enlarged = enlarge()
    gradients = torch.autograd.grad(enlarged, sources, inputs.upstream)
    print((_status("VmHWM") - before) / (4 * inputs.upstream.numel()))
    del enlarged, gradients


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel reports no {field}")


def rows(options: argparse.Namespace) -> list[str]:
    """The lines of the table."""
    lines = [
        "| map | form | forward ms | backward ms | time / bilinear | memory | memory / bilinear |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    names = (BASE, *(name for name in FORMS[1:] if name in options.forms))
    levels = list(LEVELS.items())
    for level, size in levels[:-1] if options.quick else levels:
        taken = seconds(make(*size, options.device, options.channels_last), names, options.repeats)
        memory = {name: peak_memory(name, size, options) for name in names}
        for name in names:
            forward, backward = taken[name]
            lines.append(
                f"| {level} | {name} | {1e3 * forward:.1f} | {1e3 * backward:.1f} "
                f"| {sum(taken[name]) / sum(taken[BASE]):.1f} "
                f"| {memory[name]:.2f} | {memory[name] / memory[BASE]:.2f} |"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forms", nargs="*", choices=FORMS, default=FORMS, help="beside bilinear interpolation")
    parser.add_argument("--quick", action="store_true", help="without the largest map")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--channels-last", action="store_true", help="memory format of the maps")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    parser.add_argument("--memory-of", nargs=3, metavar=("FORM", "HEIGHT", "WIDTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        name, height, width = options.memory_of
        print_memory(name, int(height), int(width), options.channels_last)
        return
    lines = rows(options)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, one thread"
    print(f"torch {torch.__version__}, {where}", *lines, sep="\n")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
