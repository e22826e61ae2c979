"""RoIAlign of `rankdet.heads.RoIPooling` on a CPU beside that of torchvision: seconds of the processor, as ratios.

    python benchmarks/roi_align.py [--repeats 5] [--threads 1]

Both read the same boxes from the same maps, forward and backward, in turns in one process, and are compared by medians.
Conversions of the maps' layout and of the features into rows for the box head are in the time of both. Printed is also
the largest difference between their features, and between their gradients.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import roi_align

from rankdet.heads import RoIPooling, poolable
from rankdet.report import markdown_table


@dataclass(frozen=True)
class Case:
    """Maps of a pyramid, and how many boxes of which sides are read from them."""

    images: int
    size: tuple[int, int]
    channels: int
    boxes: int
    largest: float
    pooling: RoIPooling


CASES = {
    "800 × 1344, 1000 boxes": Case(1, (800, 1344), 256, 1000, 400, RoIPooling()),
    "800 × 1344, 512 boxes": Case(1, (800, 1344), 256, 512, 400, RoIPooling()),
    "800 × 1344, 128 masks": Case(1, (800, 1344), 256, 128, 400, RoIPooling(output_size=14)),
    "shapes, 8 × 128 boxes": Case(
        8, (128, 128), 64, 1024, 60, RoIPooling((4, 8, 16), finest_scale=16, sampling_ratio=1)
    ),
}


def make(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """Maps of noise, and boxes of sides from 12 pixels on, small ones more often."""
    generator = torch.Generator().manual_seed(0)
    height, width = case.size
    maps = [
        torch.randn(case.images, case.channels, height // stride, width // stride, generator=generator)
        for stride in case.pooling.strides
    ]
    sides = 12 * torch.exp(math.log(case.largest / 12) * torch.rand(case.boxes, 1, generator=generator))
    sides = sides * torch.exp(0.3 * torch.randn(case.boxes, 2, generator=generator))
    limits = torch.tensor([width, height])
    centers = torch.rand(case.boxes, 2, generator=generator) * limits
    boxes = torch.cat([(centers - sides / 2).clamp(min=0), (centers + sides / 2).minimum(limits)], dim=1)
    return [features.requires_grad_() for features in maps], list(boxes.chunk(case.images))


def theirs(pooling: RoIPooling, maps: list[Tensor], boxes: list[Tensor]) -> Tensor:
    """The features that torchvision reads from the levels of the pooling."""
    images = torch.cat([own.new_full((len(own), 1), image) for image, own in enumerate(boxes)])
    rois = torch.cat([images, torch.cat(boxes)], dim=1)
    levels = pooling.levels(rois[:, 1:])
    order = levels.argsort(stable=True)
    read = [
        roi_align(
            features,
            rois[levels == level],
            pooling.output_size,
            1 / stride,
            pooling.sampling_ratio,
            pooling.half_pixel_shift,
        )
        for level, (features, stride) in enumerate(zip(maps, pooling.strides, strict=True))
    ]
    return torch.cat(read).index_select(0, order.argsort())


def measure(case: Case, repeats: int) -> list[float]:
    """Milliseconds of both, forward and backward, the ratio of their sums, and two differences."""
    maps, boxes = make(case)
    sides: list[Callable[[], Tensor]] = [
        lambda: theirs(case.pooling, maps, boxes).flatten(1),
        lambda: case.pooling(poolable(maps), boxes).flatten(1),
    ]
    upstream = torch.randn(sides[0]().shape, generator=torch.Generator().manual_seed(1))
    taken: list[list[tuple[float, float]]] = [[], []]
    found: list[list[Tensor]] = [[], []]
    for _ in range(repeats + 1):  # the first turn warms up
        for number, side in enumerate(sides):
            start = time.process_time()
            features = side()
            middle = time.process_time()
            gradients = torch.autograd.grad(features, maps, upstream)
            taken[number].append((middle - start, time.process_time() - middle))
            found[number] = [features.detach(), *gradients]
    forward = [1000 * statistics.median(each[0] for each in side[1:]) for side in taken]
    backward = [1000 * statistics.median(each[1] for each in side[1:]) for side in taken]
    differences = [float((one - other).abs().max()) for one, other in zip(*found, strict=True)]
    ratio = (forward[1] + backward[1]) / (forward[0] + backward[0])
    return [forward[0], backward[0], forward[1], backward[1], ratio, differences[0], max(differences[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[list[str | int | float | None]] = []
    for name, case in CASES.items():
        *milliseconds, ratio, of_features, of_gradients = measure(case, options.repeats)
        rows.append([name, *map(round, milliseconds), f"{ratio:.2f}", f"{of_features:.0e}", f"{of_gradients:.0e}"])
    columns = ["maps and boxes", "torchvision, forward ms", "backward", "ours, forward ms", "backward", "ours / theirs"]
    print(markdown_table([*columns, "features differ", "gradients differ"], rows))


if __name__ == "__main__":
    main()
