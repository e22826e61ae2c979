"""What `torch.compile` of backbone and pyramid gains on a CPU, in detection and in training.

    python benchmarks/compiled.py [RECIPE] [--repeats 5] [--size 384 512] [--threads 1]

The network of a recipe with random weights, one image. Backbone and pyramid are most of every detector, and the part
that a compiler sees as a whole: what follows depends on the data. Eager and compiled run in turns in one process, in
seconds of the processor, compared by medians. Compiling is in seconds on the wall.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rankdet.inference.loading import build_model
from rankdet.recipes import load_recipe
from rankdet.report import markdown_table
from rankdet.structures import Images

Maps = Callable[[Images], list[Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="atss_r50_coco")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    recipe = load_recipe(options.recipe)
    categories = [(label + 1, str(label)) for label in range(80)]
    model = build_model(recipe, recipe.detector.build(80, pretrained=False), categories, torch.device("cpu"))
    network, size = model.network, tuple(options.size)
    pixels = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    layout = torch.channels_last if recipe.runtime.channels_last else torch.contiguous_format
    images = Images(pixels.contiguous(memory_format=layout), (size,))

    def maps(images: Images) -> list[Tensor]:
        return network.fpn(network.backbone(images))  # type: ignore[operator,union-attr]

    def detection(maps: Maps) -> list[Tensor]:
        with torch.no_grad():
            return maps(images)

    def iteration(maps: Maps) -> list[Tensor]:
        network.zero_grad(set_to_none=True)
        found = maps(images)
        torch.stack([features.square().mean() for features in found]).sum().backward()
        return [features.detach() for features in found]

    rows: list[list[str | int | float | None]] = []
    for name, run in (("detection", detection), ("iteration", iteration)):
        network.train(run is iteration)
        sides: list[Maps] = [maps, torch.compile(maps)]
        start = time.perf_counter()
        first, second = (run(side) for side in sides)
        compiling = time.perf_counter() - start
        difference = max(float((one - other).abs().max()) for one, other in zip(first, second, strict=True))
        taken: list[list[float]] = [[], []]
        for _ in range(options.repeats):
            for side, seconds in zip(sides, taken, strict=True):
                start = time.process_time()
                run(side)
                seconds.append(time.process_time() - start)
        eager, compiled = map(statistics.median, taken)
        rows.append([name, eager, compiled, f"{compiled / eager:.2f}", round(compiling), f"{difference:.0e}"])
    columns = ["backbone and pyramid", "eager s", "compiled s", "compiled / eager", "compiling, s", "maps differ"]
    print(markdown_table(columns, rows))


if __name__ == "__main__":
    main()
