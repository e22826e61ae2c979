"""Rank & Sort Loss against focal loss on the same logits: time of forward plus backward, exactness, memory.

    python benchmarks/rank_sort.py [--quick] [--device cuda] [--markdown FILE]

All times of a row are taken in turns in one process (ours, focal, ours, …) and compared by their medians, so that a
machine whose speed drifts cannot favour one of them. "kept" has no negative that could be pruned (all lie above the
lowest positive minus δ), "half" has half of them below it. Gradient errors are relative L2 distances to the float64
gradient of the equations as they stand (computed for float32 logits converted to float64).

Peak memory is what one forward and backward pass adds, with the gradient, in multiples of the logits' own size: on a
CPU the growth of the process' resident set as the kernel accounts it, measured in a fresh process; on a GPU what torch
allocated. Beside small logits the resident set also shows what has a fixed size: buffers of a chunk, pages of code.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from rankdet.losses import rank_sort_loss, rank_sort_loss_of_labels, soft_step

SIZES = ((1_070_000, 400, 1), (21_500_000, 600, 80), (320_000, 300, 80), (320_000, 3000, 80))
"""Logits, positives, classes: RPN of four pictures of 800 × 1344, ATSS of four, an R-CNN head, it with many objects."""
DELTA = 0.5


def make(num_logits: int, num_positives: int, num_classes: int, pruned: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(M, C) logits, (M,) labels and (P,) qualities; half of the negatives are below all positives where ``pruned``."""
    generator = torch.Generator().manual_seed(0)
    num_rows = num_logits // num_classes
    logits = torch.randn(num_rows, num_classes, generator=generator)
    labels = torch.full((num_rows,), num_classes)
    rows = torch.randperm(num_rows, generator=generator)[:num_positives].sort().values
    labels[rows] = torch.randint(num_classes, (num_positives,), generator=generator)
    quality = torch.rand(num_positives, generator=generator)
    mine = logits[rows, labels[rows]] = torch.randn(num_positives, generator=generator)
    lowest = mine.min() - DELTA
    if pruned:
        far = torch.rand(logits.shape, generator=generator) < 0.5
        logits = torch.where(far, logits - logits.max() + lowest - 1, logits.clamp(min=lowest + 1e-3))
    else:
        logits = logits.clamp(min=lowest + 1e-3)
    logits[rows, labels[rows]] = mine
    return logits, labels, quality


def dense_target(logits: Tensor, labels: Tensor, quality: Tensor) -> Tensor:
    """(M, C): the quality where a positive stands, else 0."""
    target = torch.zeros_like(logits)
    rows = (labels < logits.shape[1]).nonzero().squeeze(1)
    target[rows, labels[rows]] = quality
    return target


def true_gradient(logits: Tensor, target: Tensor, delta: float) -> Tensor:
    """The gradient of the equations in float64 over all pairs, sharing with the package nothing but the soft step."""
    flat, y = logits.double().flatten(), target.double().flatten()
    positives, negatives = y.nonzero().squeeze(1), (y == 0).nonzero().squeeze(1)
    s, y = flat[positives], y[positives]
    size = max(1, 2_000_000 // len(s))  # pairs at a time: 16 MB
    above = soft_step(s - s[:, None], delta)
    worse = above * (y < y[:, None])
    better = above - worse
    false = torch.zeros_like(s)
    for part in negatives.split(size):
        false += soft_step(flat[part] - s[:, None], delta).sum(dim=1)
    rank = above.sum(dim=1) + false
    sorting = above @ (1 - y) / above.sum(dim=1) - better @ (1 - y) / better.sum(dim=1)
    handed = torch.where(worse.sum(dim=1) > 0, sorting / worse.sum(dim=1).clamp(min=1e-300), 0)
    gradient = torch.zeros_like(flat)
    gradient[positives] = handed @ worse - torch.where(worse.sum(dim=1) > 0, sorting, 0) - false / rank
    for part in negatives.split(size):
        gradient[part] = (1 / rank) @ soft_step(flat[part] - s[:, None], delta)
    return (gradient / len(s)).view(logits.shape)


def make_losses(logits: Tensor, labels: Tensor, quality: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """The losses by name, each from logits to a scalar."""
    target = dense_target(logits, labels, quality)
    binary = (target > 0).float()

    def of_labels(leaf: Tensor) -> Tensor:
        ranking, sorting = rank_sort_loss_of_labels(leaf, labels, quality, DELTA)
        return ranking + sorting

    def of_targets(leaf: Tensor) -> Tensor:
        ranking, sorting = rank_sort_loss(leaf, target, DELTA)
        return ranking + sorting

    def focal(leaf: Tensor) -> Tensor:
        return sigmoid_focal_loss(leaf, binary, reduction="sum")

    return {"labels": of_labels, "targets": of_targets, "focal": focal}


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def backward_of(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    leaf = logits.detach().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def seconds(functions: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each function; one warm-up, then all in turns."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def measure(num_logits: int, num_positives: int, num_classes: int, pruned: bool, quick: bool, device: str) -> list[str]:
    logits, labels, quality = (x.to(device) for x in make(num_logits, num_positives, num_classes, pruned))
    losses = make_losses(logits, labels, quality)
    repeats = (5 if num_logits > 1e7 else 15) if quick else (11 if num_logits > 1e7 else 61)
    calls = {name: lambda loss=loss: backward_of(loss, logits) for name, loss in losses.items()}
    time_of = seconds(calls, repeats, device)
    error = "–"
    if not (quick and num_logits > 1e7):
        truth = true_gradient(logits, dense_target(logits, labels, quality), DELTA)
        error = f"{float((backward_of(losses['labels'], logits).double() - truth).norm() / truth.norm()):.1e}"
    if device == "cuda":
        memory = {name: allocated(call) / (logits.numel() * logits.element_size()) for name, call in calls.items()}
    else:
        memory = {name: peak_memory(name, num_logits, num_positives, num_classes, pruned) for name in losses}
    return [
        f"{num_logits:.3g}",
        f"{num_positives}",
        "half" if pruned else "kept",
        f"{1e3 * time_of['focal']:.2f}",
        f"{1e3 * time_of['labels']:.2f}",
        f"{time_of['labels'] / time_of['focal']:.2f}",
        f"{time_of['targets'] / time_of['focal']:.2f}",
        error,
        f"{memory['labels']:.2f}",
        f"{memory['focal']:.2f}",
    ]


def allocated(call: Callable[[], object]) -> int:
    """Bytes that a call allocates on the GPU at its peak."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before


def peak_memory(name: str, *case: int | bool) -> float:
    """Growth of the resident set in one pass, in multiples of the logits' size, measured in a process of its own."""
    arguments = [sys.executable, __file__, "--memory-of", name, *map(str, map(int, case))]
    return float(subprocess.run(arguments, check=True, capture_output=True, text=True).stdout)


def print_memory(name: str, num_logits: int, num_positives: int, num_classes: int, pruned: int) -> None:
    logits, labels, quality = make(num_logits, num_positives, num_classes, bool(pruned))
    losses = make_losses(logits, labels, quality)
    # A pass over few logits loads the code, which shall not count.
    few = slice(0, 4096 // num_classes)
    backward_of(
        make_losses(logits[few], labels[few], quality[: int((labels[few] < num_classes).sum())])[name], logits[few]
    )
    Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's record of the peak
    before = _status("VmRSS")
    backward_of(losses[name], logits)
    print((_status("VmHWM") - before) / (logits.numel() * logits.element_size()))


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"the kernel reports no {field}")


HEADER = [
    "logits",
    "positives",
    "negatives",
    "focal ms",
    "RS ms",
    "RS / focal",
    "RS dense targets / focal",
    "gradient error",
    "RS memory",
    "focal memory",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, no gradient error of the largest size")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    parser.add_argument("--memory-of", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print_memory(options.memory_of[0], *map(int, options.memory_of[1:]))
        return
    lines = [f"| {' | '.join(HEADER)} |", f"|{'---:|' * len(HEADER)}"]
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}", *lines, sep="\n", flush=True)
    for size in SIZES:
        for pruned in (False, True):
            lines.append(f"| {' | '.join(measure(*size, pruned, options.quick, options.device))} |")
            print(lines[-1], flush=True)
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
