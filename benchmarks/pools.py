"""Many pools in one call beside one pool of the same logits and beside as many calls: forward plus backward.

    python benchmarks/pools.py [--layers 6] [--images 16] [--queries 300] [--classes 80] [--objects 112] [--rounds 20]
        [--implementation auto] [--device cuda]

The logits are those of a decoder: layers, images, queries and classes. Of each layer as many queries are matched as
there are objects. "pools" ranks each layer by itself in one call, "calls" ranks one layer after another, and "one pool"
ranks all layers together. "images" and "classes" are one call whose pools are the images, or the classes, of each
layer. All are timed in turns in one process, and compared by the medians of the ratios within a turn.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rankdet.losses import Pools, alrp_loss_at, ap_loss_at, rank_sort_loss_at

Index = tuple[Tensor, ...]
Loss = Callable[[Tensor, Index, Tensor, Pools | None], Tensor]


def losses(by: str) -> dict[str, Loss]:
    """Each maps logits, places of the positives, their qualities and pools to a scalar."""
    return {
        "RS": lambda logits, index, quality, pools: sum(
            value.sum()
            for value in rank_sort_loss_at(logits, index, quality, pools=pools, implementation=by)  # type: ignore[arg-type]
        ),
        "AP": lambda logits, index, _, pools: ap_loss_at(
            logits,
            index,
            pools=pools,
            implementation=by,  # type: ignore[arg-type]
        ).sum(),
        "aLRP": lambda logits, index, quality, pools: sum(
            value.sum()
            for value in alrp_loss_at(logits, index, 1 - quality, pools=pools, implementation=by)  # type: ignore[arg-type]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {
        "layers": 6,
        "images": 16,
        "queries": 300,
        "classes": 80,
        "objects": 112,
        "rounds": 20,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--implementation", default="auto")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device = torch.device(given.device)
    shape = given.layers, given.images, given.queries, given.classes
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(shape, generator=generator) - 2).to(device).requires_grad_()
    places = [
        torch.randperm(given.images * given.queries, generator=generator)[: given.objects] for _ in range(given.layers)
    ]
    rows = torch.cat(places)
    layer = torch.arange(given.layers).repeat_interleave(given.objects)
    label = torch.randint(0, given.classes, (len(rows),), generator=generator)
    index = tuple(part.to(device) for part in (layer, rows // given.queries, rows % given.queries, label))
    quality = torch.rand(len(rows), generator=generator).to(device)
    layers, images, classes = given.layers, given.images, given.classes
    pools = {
        "pools": Pools(torch.arange(layers)[:, None, None, None], layers),
        "one pool": None,
        "images": Pools(torch.arange(layers * images).view(layers, images, 1, 1), layers * images),
        "classes": Pools(torch.arange(layers)[:, None, None, None] * classes + torch.arange(classes), layers * classes),
    }

    def calls(loss: Loss) -> Tensor:
        total = logits.new_zeros(())
        for number, each in enumerate(logits):
            here = slice(number * given.objects, (number + 1) * given.objects)
            total = total + loss(each, tuple(part[here] for part in index[1:]), quality[here], None)
        return total

    def seconds(function: Callable[[], Tensor]) -> float:
        logits.grad = None
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        function().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    print(f"{' × '.join(map(str, shape))} logits, {given.objects} positives per layer, {device.type}, "
          f"{torch.get_num_threads()} threads, implementation {given.implementation}")  # fmt: skip
    print(f"{'':6}{'pools, ms':>10}{'/ one pool':>12}{'calls / pools':>15}{'images / one':>14}{'classes / one':>15}")
    for name, loss in losses(given.implementation).items():
        functions: dict[str, Callable[[], Tensor]] = {
            kind: lambda loss=loss, each=each: loss(logits, index, quality, each)  # type: ignore[misc]
            for kind, each in pools.items()
        }
        functions["calls"] = lambda loss=loss: calls(loss)  # type: ignore[misc]
        for function in functions.values():
            seconds(function)
        taken = [{kind: seconds(function) for kind, function in functions.items()} for _ in range(given.rounds)]

        def ratio(first: str, second: str, taken: list[dict[str, float]] = taken) -> float:
            return statistics.median(each[first] / each[second] for each in taken)

        milliseconds = 1000 * statistics.median(each["pools"] for each in taken)
        print(f"{name:6}{milliseconds:10.1f}{ratio('pools', 'one pool'):12.2f}{ratio('calls', 'pools'):15.2f}"
              f"{ratio('images', 'one pool'):14.2f}{ratio('classes', 'one pool'):15.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
