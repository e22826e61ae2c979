"""Every loss beside focal loss, a sort, a copy and the published algorithms: time, memory, exactness, growth.

    python benchmarks/losses.py [--only time numba first memory error growth] [--logits N] [--quick] [--device cuda]
        [--markdown FILE]

**time**: forward plus backward of all losses on the same logits, in turns in one process (each once, in an order drawn
anew; each once again, …) and compared by medians, so that a machine whose speed drifts cannot favor one of them. In
"kept" no negative can be pruned (all lie above the lowest positive minus δ), in "half" and "most" 50 % and 90 % of them
can. "loop" looks at one positive at a time, as published (``benchmarks/published.py``); "bucketed" is
``rankdet.losses.bucketed``.

**numba**: the passes compiled by numba (``pip install rankdet[cpu]``) beside those of torch and focal loss, in turns as
above; left out on a GPU. Where numba is installed, the other sections measure what it compiles.

**first**: seconds of the first call of a process, by torch, by numba that compiles, and by numba that finds on the disk
what it compiled before, and what each compiled function takes of them; left out on a GPU.

**memory**: what one forward and backward pass adds at its peak, with the gradient, in multiples of the logits. On a CPU
the growth of the resident set, as the kernel accounts it, in a fresh process for each number; on a GPU what torch
allocated. Beside small logits the resident set also shows what has a fixed size: buffers of a chunk, pages of code.

**error**: relative L2 distance of float32 gradients to the float64 gradient of the equations on the same logits
(``benchmarks/oracle.py``): over positives, over negatives and, in aLRP, over localization errors, each relative to its
own norm, and the largest of these. Bucketed RS is an approximation of RS; bucketed AP is measured by its own equations.

**growth**: least-squares exponents of time over logits and over positives, where nothing is pruned, and the exponent
between the two largest sizes ("last").

All losses that have a form for labels are given labels and the number of positives, so that none waits for a GPU; the
others get dense targets, made beforehand. A dash marks an algorithm that is left out, because it would take minutes or
more memory than there is.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

import oracle
import published
from rankdet.losses import (
    Implementation,
    alrp_loss_of_labels,
    ap_loss_of_labels,
    bucketed_ap_loss,
    bucketed_rank_sort_loss,
    focal_loss,
    quality_focal_loss,
    rank_sort_loss_of_labels,
)


class Size(NamedTuple):
    """Numbers of logits (of all classes), positives and classes."""

    logits: int
    positives: int
    classes: int

    def __str__(self) -> str:
        return f"{self.logits:.3g} logits, {self.positives} positives"

    @property
    def pairs(self) -> int:
        return self.logits * self.positives


RCNN, CROWDED, RPN, ATSS = (
    Size(320_000, 300, 80),
    Size(320_000, 3000, 80),
    Size(1_070_000, 400, 1),
    Size(21_500_000, 600, 80),
)
"""Four images of 800 × 1344: an R-CNN head of 4000 RoIs, one with many objects, an RPN, ATSS."""
TIME_SIZES = (
    Size(10_000, 1, 1),
    Size(10_000, 100, 1),
    Size(100_000, 100, 1),
    RCNN,
    CROWDED,
    Size(1_070_000, 1, 1),
    RPN,
    Size(1_000_000, 3000, 80),
    Size(1_100_000, 100_000, 1),
    ATSS,
    Size(21_500_000, 100_000, 80),
)
NUMBA_SIZES = (
    Size(10_000, 100, 1),
    Size(20_000, 100, 1),
    RCNN,
    CROWDED,
    Size(1_000_000, 3000, 80),
    RPN,
    Size(20_000_000, 300, 80),
)
MEMORY_SIZES = (RCNN, CROWDED, RPN, Size(1_000_000, 3000, 80), ATSS)
PRUNED = {"kept": 0.0, "half": 0.5, "most": 0.9}
DELTAS = (0.0, 0.5, 1.0, 2.0)
DISTRIBUTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "random": lambda logits: logits,
    "ties": lambda logits: (logits * 8).round() / 8,
    "equal": lambda logits: torch.full_like(logits, 0.3),
    "offset 1e4": lambda logits: logits + 1e4,
}
ERROR_CASES = (
    *((RPN, name) for name in DISTRIBUTIONS),
    (Size(1_000_000, 3000, 80), "random"),
    (Size(1_000_000, 20_000, 20), "random"),
    (Size(1_070_000, 1, 1), "random"),
    *((ATSS, name) for name in DISTRIBUTIONS),
    (Size(21_500_000, 1, 80), "random"),
)
GROWTH_LOGITS = [Size(logits, 400, 1) for logits in (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 21_500_000)]
GROWTH_POSITIVES = [Size(1_000_000 + number, number, 1) for number in (10, 100, 1000, 10_000, 100_000)]

LARGE = 5_000_000
"""Logits from which sizes are left out with ``--quick``."""
LOOP_PAIRS, QUICK_LOOP_PAIRS = 2 * 10**10, 5 * 10**7
"""Pairs of logit and positive up to which a loop is timed (a minute, a third of a second)."""
BUCKETED_POSITIVES = 10_000
"""Positives up to which bucketed losses, which hold a P × P matrix of float64, are run."""

FOCAL = "focal"
EXACT = ("RS", "AP", "aLRP")
LOSSES = (*EXACT, "our focal", "QFL", "bucketed RS", "bucketed AP", "loop RS", "loop AP", "loop aLRP")
PEERS = {"bucketed RS": "RS", "bucketed AP": "AP", "loop RS": "RS", "loop AP": "AP", "loop aLRP": "aLRP"}


class Inputs(NamedTuple):
    """One call: (M, C) logits, (M,) labels, of P positives the rows, qualities and localization errors, each (P,)."""

    logits: Tensor
    labels: Tensor
    rows: Tensor
    quality: Tensor
    errors: Tensor

    @property
    def own(self) -> Tensor:
        """(P,) indices of the positives into the flat logits."""
        return self.rows * self.logits.shape[1] + self.labels[self.rows]

    def targets(self) -> Tensor:
        """(M, C): the quality at each positive, else 0."""
        targets = torch.zeros_like(self.logits)
        targets.view(-1)[self.own] = self.quality
        return targets


def make(size: Size, below: float, device: str = "cpu") -> Inputs:
    """Random inputs; the share ``below`` of the negatives, and no other, lies below all positives by more than 1.

    The others are normally distributed above the lowest positive minus 1/2, as are the positives.
    """
    generator = torch.Generator().manual_seed(0)
    num_rows = size.logits // size.classes
    labels = torch.full((num_rows,), size.classes)
    rows = torch.randperm(num_rows, generator=generator)[: size.positives].sort().values
    labels[rows] = torch.randint(size.classes, (len(rows),), generator=generator)
    mine = torch.randn(len(rows), generator=generator)
    lowest = float(mine.min())
    # Normal values above a threshold, by their quantiles.
    start = torch.special.ndtr(torch.tensor(lowest - 0.49, dtype=torch.float64)).float()
    logits = torch.rand(num_rows, size.classes, generator=generator)
    logits = torch.special.ndtri(logits.mul_(1 - start).add_(start).clamp_(max=1 - 2**-23)).clamp_(min=lowest - 0.49)
    if below > 0:
        is_below = torch.rand(logits.shape, generator=generator) < below
        far = torch.rand(logits.shape, generator=generator).mul_(-4).add_(lowest - 1.01)
        logits = torch.where(is_below, far, logits)
    logits[rows, labels[rows]] = mine
    quality = torch.rand(len(rows), generator=generator) * 0.99 + 0.01
    errors = torch.rand(len(rows), generator=generator)
    return Inputs(*(value.to(device) for value in (logits, labels, rows, quality, errors)))


Loss = Callable[[Tensor, Inputs, float], Tensor]
"""Maps logits that require a gradient, the inputs beside them, and δ to a scalar."""


def make_losses(inputs: Inputs, implementation: Implementation = "auto") -> dict[str, Loss]:
    """Every loss by name, exact ones by an implementation. Dense targets are made here, once."""
    targets = inputs.targets()
    binary = (targets > 0).float()

    def rank_sort(logits: Tensor, of: Inputs, delta: float) -> Tensor:
        ranking, sorting = rank_sort_loss_of_labels(logits, of.labels, of.quality, delta, implementation=implementation)
        return ranking + sorting

    def average_precision(logits: Tensor, of: Inputs, delta: float) -> Tensor:
        return ap_loss_of_labels(logits, of.labels, len(of.rows), delta, implementation=implementation)

    def alrp(logits: Tensor, of: Inputs, delta: float) -> Tensor:
        classification, localization = alrp_loss_of_labels(
            logits, of.labels, of.errors, delta, implementation=implementation
        )
        return classification + localization

    def bucketed_rank_sort(logits: Tensor, of: Inputs, delta: float) -> Tensor:
        ranking, sorting = bucketed_rank_sort_loss(logits, targets, delta)
        return ranking + sorting

    return {
        FOCAL: lambda logits, of, _: sigmoid_focal_loss(logits, binary, reduction="sum"),
        "RS": rank_sort,
        "AP": average_precision,
        "aLRP": alrp,
        "our focal": lambda logits, of, _: focal_loss(logits, of.labels, rows=of.rows),
        "QFL": lambda logits, of, _: quality_focal_loss(logits, of.labels, of.quality, rows=of.rows),
        "bucketed RS": bucketed_rank_sort,
        "bucketed AP": lambda logits, of, delta: bucketed_ap_loss(logits, targets, delta),
        "loop RS": lambda logits, of, delta: published.loop_rank_sort_loss(logits, targets, delta),
        "loop AP": lambda logits, of, delta: published.loop_ap_loss(logits, targets, delta),
        "loop aLRP": lambda logits, of, delta: published.loop_alrp_loss(logits, targets, of.errors, delta),
    }


def delta_of(name: str) -> float:
    """δ of each loss as published."""
    return 0.5 if name.endswith("RS") else 1.0


def is_left_out(name: str, size: Size, loop_pairs: int) -> bool:
    if name.startswith("loop"):
        return size.pairs > loop_pairs
    return name.startswith("bucketed") and size.positives > BUCKETED_POSITIVES


def one_pass(loss: Loss, inputs: Inputs, delta: float) -> tuple[Tensor, Tensor]:
    """Forward and backward: gradients of the logits and of the localization errors (zeros where there are none)."""
    logits = inputs.logits.detach().requires_grad_()
    errors = inputs.errors.detach().requires_grad_()
    loss(logits, inputs._replace(errors=errors), delta).backward()
    assert logits.grad is not None
    return logits.grad, torch.zeros_like(errors) if errors.grad is None else errors.grad


def make_calls(inputs: Inputs, names: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """Calls by name, with a sort and a copy of the logits."""
    losses = make_losses(inputs)
    flat = inputs.logits.view(-1)
    copy = torch.empty_like(flat)
    calls: dict[str, Callable[[], object]] = {"sort": lambda: flat.sort(), "copy": lambda: copy.copy_(flat)}
    for name in names:
        calls[name] = functools.partial(one_pass, losses[name], inputs, delta_of(name))
    return calls


def seconds(call: Callable[[], object], device: str) -> float:
    """The seconds of one call; on a GPU from the begin of the work on the device to its end."""
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def medians(calls: Mapping[str, Callable[[], object]], budget: float, device: str) -> dict[str, float]:
    """Median seconds of each call: a warm-up, then all in turns for about ``budget`` seconds (3 to 101 turns).

    Published algorithms take part in the first turns only, and where one takes ten seconds the warm-up is all.
    """
    warm_up = {}
    for name, call in calls.items():
        progress(name)
        warm_up[name] = seconds(call, device)
    # Once more: the first call of a process pays for loading code.
    of_a_turn = sum(min(warm_up[name], seconds(calls[name], device)) for name in calls if name not in PEERS)
    turns = min(max(int(budget / of_a_turn), 3), 101)
    turns_of = dict.fromkeys(calls, turns)
    for name in calls.keys() & PEERS.keys():
        turns_of[name] = 0 if warm_up[name] > 10 else min(turns, max(1, int(budget / 3 / warm_up[name])))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    draw = random.Random(0)
    for turn in range(turns):
        # In another order each time: what frees much memory makes the next one fetch its own anew from the kernel.
        for name, call in draw.sample(list(calls.items()), len(calls)):
            if turn < turns_of[name]:
                progress(f"{name}, turn {turn + 1} of {turns_of[name]}")
                taken[name].append(seconds(call, device))
    return {name: statistics.median(values or [warm_up[name]]) for name, values in taken.items()}


def progress(text: str) -> None:
    """One line at a terminal, overwritten by the next."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


class Report:
    """Prints tables row by row, and keeps all lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.header: tuple[str, ...] = ()

    def text(self, *lines: str) -> None:
        progress("")
        print(*lines, sep="\n", flush=True)
        self.lines += lines

    def table(self, title: str, *header: str) -> None:
        self.header = header
        self.text("", title, "", f"| {' | '.join(header)} |", f"|{'|'.join('-' * (len(h) + 1) + ':' for h in header)}|")

    def row(self, *cells: str) -> None:
        self.text(f"| {' | '.join(c.rjust(len(h)) for c, h in zip(cells, self.header, strict=True))} |")


def number(value: float | None) -> str:
    """Three significant digits, or a dash."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


class Options(NamedTuple):
    """The options of the command line."""

    device: str
    quick: bool
    scale: float
    threads: int
    logits: Sequence[float] = ()

    def scaled(self, sizes: tuple[Size, ...] | list[Size]) -> Iterator[Size]:
        for size in sizes:
            if size.logits in (self.logits or (size.logits,)) and not (self.quick and size.logits > LARGE):
                rows = max(4, round(size.logits * self.scale) // size.classes)
                yield Size(rows * size.classes, min(size.positives, 3 * rows // 4), size.classes)

    @property
    def loop_pairs(self) -> int:
        return QUICK_LOOP_PAIRS if self.quick else LOOP_PAIRS

    def budget(self, size: Size) -> float:
        """Seconds for the losses of this package at one size."""
        return (1.0 if self.quick else 15.0 if size.logits > LARGE else 6.0) * min(self.scale, 1.0)


def report_time(report: Report, options: Options) -> None:
    report.table(
        "**Time of forward plus backward.** Milliseconds of torchvision's focal loss, a float32 sort and a copy of the "
        "logits; then ratios to focal loss.",
        *("logits", "positives", "pruned", "focal ms", "sort ms", "copy ms", *LOSSES),
    )
    beside = []
    for size in options.scaled(TIME_SIZES):
        for pruned, below in PRUNED.items():
            names = tuple(name for name in (FOCAL, *LOSSES) if not is_left_out(name, size, options.loop_pairs))
            taken = medians(make_calls(make(size, below, options.device), names), options.budget(size), options.device)
            first = (f"{size.logits:.3g}", f"{size.positives}", pruned)
            milliseconds = (number(1e3 * taken[name]) for name in (FOCAL, "sort", "copy"))
            report.row(*first, *milliseconds, *(number(ratio(taken, name, FOCAL)) for name in LOSSES))
            beside.append(
                (
                    *first,
                    *(number(ratio(taken, name, base)) for base in ("sort", "copy") for name in EXACT),
                    *(number(ratio(taken, peer, name)) for peer, name in PEERS.items()),
                )
            )
    report.table(
        "**The same beside a sort, a copy and the published algorithms:** how many times their time we take, and how "
        "many times ours they take.",
        *("logits", "positives", "pruned", *(f"{name} / {base}" for base in ("sort", "copy") for name in EXACT)),
        *(f"{peer} / {name}" for peer, name in PEERS.items()),
    )
    for row in beside:
        report.row(*row)


def report_numba(report: Report, options: Options) -> None:
    if options.device == "cuda":
        return
    report.table(
        "**numba beside torch.** Milliseconds of torchvision's focal loss; then ratios to it.",
        *("logits", "positives", "pruned", "focal ms"),
        *(f"{name}, {by}" for name in EXACT for by in ("numba", "torch")),
    )
    for size in options.scaled(NUMBA_SIZES):
        for pruned in ("kept", "half"):
            inputs = make(size, PRUNED[pruned])
            calls: dict[str, Callable[[], object]] = {}
            for by in ("numba", "torch"):
                losses = make_losses(inputs, by)
                calls[FOCAL] = functools.partial(one_pass, losses[FOCAL], inputs, delta_of(FOCAL))
                for name in EXACT:
                    calls[f"{name}, {by}"] = functools.partial(one_pass, losses[name], inputs, delta_of(name))
            taken = medians(calls, options.budget(size), "cpu")
            report.row(
                *(f"{size.logits:.3g}", f"{size.positives}", pruned, number(1e3 * taken[FOCAL])),
                *(number(ratio(taken, f"{name}, {by}", FOCAL)) for name in EXACT for by in ("numba", "torch")),
            )


FIRST = """
import time, torch
from rankdet.losses import rank_sort_loss
logits, targets = torch.zeros(1000, requires_grad=True), torch.zeros(1000)
targets[:10] = 0.5
begin = time.perf_counter()
sum(rank_sort_loss(logits, targets, implementation={by!r})).backward()
print(time.perf_counter() - begin)
"""
COMPILED = """
import collections, time
from numba.core import event
inside, own = [], collections.Counter()
class Listener(event.Listener):
    def on_start(self, event):
        inside.append([event.data["dispatcher"].py_func, time.process_time(), 0.0])
    def on_end(self, event):
        function, begin, others = inside.pop()
        seconds = time.process_time() - begin
        own[function.__name__ if function.__module__.startswith("rankdet") else "of_NumPy"] += seconds - others
        if inside:
            inside[-1][2] += seconds
event.register("numba:compile", Listener())
{call}
print(*(f"{{name}}={{seconds}}" for name, seconds in own.most_common()))
"""


def report_first(report: Report, options: Options) -> None:
    if options.device == "cuda":
        return
    with tempfile.TemporaryDirectory() as cache:
        found = []
        for by in ("torch", "numba", "numba"):
            command = [sys.executable, "-c", FIRST.format(by=by)]
            environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            found.append(number(float(done.stdout)))
    report.table("**The first call** of a process: seconds.", "torch", "numba, compiling", "numba, compiled before")
    report.row(*found)
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-c", COMPILED.format(call=FIRST.format(by="numba"))]
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    report.table("**What is compiled** then: seconds of the processor by function, without what it calls.", "", "s")
    for line in done.stdout.splitlines()[-1].split(" "):
        name, _, seconds = line.rpartition("=")
        report.row(name, number(float(seconds)))


def ratio(taken: Mapping[str, float], name: str, base: str) -> float | None:
    return taken[name] / taken[base] if name in taken and base in taken else None


def report_memory(report: Report, options: Options) -> None:
    names = (FOCAL, "sort", *LOSSES)
    report.table("**Peak memory** in multiples of the logits.", "logits", "positives", "pruned", *names)
    for size in options.scaled([RPN] if options.quick else MEMORY_SIZES):
        for pruned in ("kept", "half"):
            # A loop needs at the last positive what it needs at the first, so a minute of it would show no more.
            cells = []
            for name in names:
                progress(f"memory of {name}, {size}, {pruned}")
                left_out = is_left_out(name, size, options.loop_pairs // 10)
                cells.append(None if left_out else peak_memory(name, size, PRUNED[pruned], options))
            report.row(f"{size.logits:.3g}", f"{size.positives}", pruned, *map(number, cells))


def peak_memory(name: str, size: Size, below: float, options: Options) -> float:
    """What a pass adds at its peak, in multiples of the size of the logits; on a CPU in a process of its own."""
    if options.device == "cuda":
        inputs = make(size, below, options.device)
        call = make_calls(inputs, (name,) if name != "sort" else ())[name]
        call()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / (inputs.logits.numel() * 4)
    arguments = [sys.executable, __file__, "--memory-of", name, *map(str, (*size, below, options.threads))]
    # Freed blocks go back to the kernel, else those left from making the inputs would hide a part of the peak.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout)


def print_memory(name: str, size: Size, below: float) -> None:
    """The other end of :func:`peak_memory`."""
    names = (name,) if name != "sort" else ()
    make_calls(make(Size(4000, 20, size.classes), below), names)[name]()  # loads the code, which is not to be counted
    inputs = make(size, below)
    call = make_calls(inputs, names)[name]
    Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's record of the peak
    before = _status("VmRSS")
    call()
    print((_status("VmHWM") - before) / (inputs.logits.numel() * 4))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel reports no {field}")


def report_error(report: Report, options: Options) -> None:
    names = (*EXACT, *PEERS)
    report.table(
        "**Gradient error** of float32 logits against float64.", *("logits", "positives", "values", "δ"), *names
    )
    worst: dict[str, tuple[float, str]] = {}
    cases = [(size, distribution) for case, distribution in ERROR_CASES for size in options.scaled([case])]
    for size, distribution in cases:
        inputs = make(size, 0.5, options.device)
        inputs = inputs._replace(logits=DISTRIBUTIONS[distribution](inputs.logits))
        losses = make_losses(inputs)
        is_negative = torch.ones(size.logits, dtype=torch.bool, device=options.device)
        is_negative[inputs.own] = False
        flat = inputs.logits.view(-1)
        pool = oracle.Pool(flat[inputs.own], flat[is_negative], inputs.quality, inputs.errors, oracle.Sorted)
        for delta in DELTAS:
            progress(f"truth of {size}, {distribution}, δ = {delta:g}")
            truths = pool.true_gradients(delta)
            cells = []
            for name in names:
                progress(f"{name} of {size}, {distribution}, δ = {delta:g}")
                if is_left_out(name, size, min(options.loop_pairs, 10**9)):
                    cells.append("–")
                    continue
                gradient, of_errors = one_pass(losses[name], inputs, delta)
                gradient = gradient.view(-1)
                truth = truths["AP not interpolated" if name == "bucketed AP" else PEERS.get(name, name)]
                found = oracle.Gradient(gradient[inputs.own], gradient[is_negative], of_errors)
                error = gradient_error(found, truth)
                cells.append(f"{error:.1e}")
                # NaN is worse than all.
                if name not in worst or not error <= worst[name][0]:
                    worst[name] = error, f"{size}, {distribution}, δ = {delta:g}"
            report.row(f"{size.logits:.3g}", f"{size.positives}", distribution, f"{delta:g}", *cells)
        del pool, truths, losses, inputs
    report.text("", *(f"* worst of {name}: {error:.1e} ({where})" for name, (error, where) in worst.items()))


def gradient_error(found: oracle.Gradient, truth: oracle.Gradient) -> float:
    """The largest of the parts' relative L2 distances (absolute where the truth is 0)."""
    errors = []
    for part, true_part in zip(found, truth, strict=True):
        distance, norm = float((part.double() - true_part).norm()), float(true_part.norm())
        errors.append(distance / norm if norm > 0 else distance)
    return max(errors, key=lambda error: math.inf if math.isnan(error) else error)


def report_growth(report: Report, options: Options) -> None:
    for title, key, sizes in (
        ("**Growth in logits** at 400 positives", "logits", list(options.scaled(GROWTH_LOGITS))),
        ("**Growth in positives** at a million negatives", "positives", list(options.scaled(GROWTH_POSITIVES))),
    ):
        columns: list[dict[str, float]] = []
        for size in sizes:
            names = tuple(
                name for name in (FOCAL, *EXACT, *PEERS) if not is_left_out(name, size, options.loop_pairs // 10)
            )
            calls = make_calls(make(size, 0.0, options.device), names)
            columns.append(medians(calls, options.budget(size) / 2, options.device))
        numbers = [getattr(size, key) for size in sizes]
        report.table(f"{title}: milliseconds.", key, *(f"{n:.3g}" for n in numbers), "exponent", "last")
        for name in (FOCAL, "sort", *EXACT, *PEERS):
            points = [(n, taken[name]) for n, taken in zip(numbers, columns, strict=True) if name in taken]
            times = [number(1e3 * taken[name]) if name in taken else "–" for taken in columns]
            report.row(name, *times, number(exponent(points)), number(exponent(points[-2:])))


def exponent(points: list[tuple[int, float]]) -> float | None:
    """Least-squares slope of log time over log size."""
    points = list(dict(points).items())
    if len(points) < 2:
        return None
    return statistics.linear_regression([math.log(n) for n, _ in points], [math.log(t) for _, t in points]).slope


SECTIONS = {
    "time": report_time,
    "numba": report_numba,
    "first": report_first,
    "memory": report_memory,
    "error": report_error,
    "growth": report_growth,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections alone")
    parser.add_argument("--quick", action="store_true", help="few repetitions, no large sizes, no long loops")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch on the CPU")
    parser.add_argument("--scale", type=float, default=1.0, help="times all numbers of logits: 0.001 to try it")
    parser.add_argument("--logits", nargs="+", type=float, default=(), help="sizes of as many logits alone")
    parser.add_argument("--markdown", type=Path, help="write the tables there, too")
    parser.add_argument("--memory-of", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        name, logits, positives, classes, below, threads = options.memory_of
        torch.set_num_threads(int(threads))
        print_memory(name, Size(int(logits), int(positives), int(classes)), float(below))
        return
    torch.set_num_threads(options.threads)
    report = Report()
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} threads"
    report.text(f"torch {torch.__version__}, {where}")
    for section in options.only:
        given = Options(options.device, options.quick, options.scale, options.threads, options.logits)
        SECTIONS[section](report, given)
        if options.markdown:
            options.markdown.write_text("\n".join(report.lines) + "\n")


if __name__ == "__main__":
    main()
