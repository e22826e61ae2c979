"""What many small operations cost on a GPU: the two forms of the sorting error, and RS beside focal loss when replayed.

    python benchmarks/launches.py [--repeats 20] [--device cuda]

The first table is about `rankdet.losses.sorting`: milliseconds of its dense form and of the other for P positives, and
the memory that the dense form adds. The second is forward plus backward of RS and of torchvision's focal loss on
10⁶ logits: as called, and as the replay of a captured graph, which leaves the work and takes away the launches. On a
CPU the columns that need a GPU hold a dash.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from rankdet.losses import rank_sort_loss_of_labels, sorting

ROWS, CLASSES = 12_500, 80


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(function: Callable[[], object], device: str, repeats: int) -> float:
    """The median over ``repeats`` of calls that are waited for, after three that warm up."""
    taken = []
    for _ in range(repeats + 3):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken[3:])


def added_memory(function: Callable[[], object]) -> float:
    """MiB that a call adds at its peak."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure_sorting(num: int, device: str, repeats: int) -> str:
    logits = torch.randn(num, device=device, dtype=torch.float64).sort().values
    quality = torch.rand(num, device=device, dtype=torch.float64)
    dense, sparse = (
        milliseconds(lambda form=form: form(sorting.Window(logits, 0.5), quality), device, repeats)  # type: ignore[misc]
        for form in (sorting._dense, sorting._sparse)
    )
    memory = (
        f"{added_memory(lambda: sorting._dense(sorting.Window(logits, 0.5), quality)):.0f}" if device == "cuda" else "–"
    )
    return f"| {num} | {dense:.2f} | {sparse:.2f} | {sparse / dense:.1f} | {memory} |"


def replayed(step: Callable[[], None]) -> Callable[[], None]:
    """A captured graph of the step; three steps on a stream of their own come first, as capture asks for."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def measure_replay(num: int, device: str, repeats: int) -> str:
    logits = (torch.randn(ROWS, CLASSES, device=device) - 4).requires_grad_()
    labels = torch.full((ROWS,), CLASSES, device=device)
    labels[:num] = torch.arange(num, device=device) % CLASSES
    quality = torch.rand(num, device=device)

    def ranking() -> None:
        sum(rank_sort_loss_of_labels(logits, labels, quality)).backward()
        logits.grad = None

    def focal() -> None:
        targets = functional.one_hot(labels, CLASSES + 1)[:, :CLASSES].float()
        sigmoid_focal_loss(logits, targets, reduction="sum").backward()
        logits.grad = None

    called = [milliseconds(step, device, repeats) for step in (ranking, focal)]
    cells = [f"{called[0]:.2f}", f"{called[1]:.2f}", f"{called[0] / called[1]:.1f}"]
    if device == "cuda":
        alone = [milliseconds(replayed(step), device, repeats) for step in (ranking, focal)]
        cells += [f"{alone[0]:.2f}", f"{alone[1]:.2f}", f"{alone[0] / alone[1]:.1f}"]
    else:
        cells += ["–"] * 3
    return f"| {num} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    options = parser.parse_args()
    print("| positives | dense ms | sparse ms | sparse / dense | dense MiB |", "|---:|---:|---:|---:|---:|", sep="\n")
    for num in (192, 300, 512, 1024, 2048, 4096, 8192):
        print(measure_sorting(num, options.device, options.repeats), flush=True)
    print("\n| positives | RS ms | focal ms | ratio | RS replayed | focal replayed | ratio |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for num in (100, 1000):
        print(measure_replay(num, options.device, options.repeats), flush=True)


if __name__ == "__main__":
    main()
