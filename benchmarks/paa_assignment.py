"""PAA's assignment: mixtures of all objects at once against scikit-learn's, fitted object by object.

    python benchmarks/paa_assignment.py [--repeats 5] [--device cuda] [--markdown FILE]

A batch of 16 images of 800 × 1344 with 20 objects each, 67,200 anchors per image, 80 classes, and predictions of a
network that has learned something. Both sides share the candidates by overlap, their costs and the pooling; "mixtures"
is what follows: from pooled costs to positives. scikit-learn gets the same starting values. Times are medians, taken in
turns in one process. scikit-learn comes with the extra dev.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torchvision.ops import box_iou

from rankdet.heads import AnchorGenerator
from rankdet.label_assignment import PAAAssigner, PyramidAnchors
from rankdet.label_assignment.paa import TIED_DENSITY, cheap_ones
from rankdet.structures import Target

IMAGES, OBJECTS, CLASSES = 16, 20, 80
SIZE = (800, 1344)
STRIDES = (8, 16, 32, 64, 128)
SCALES = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))


def make_targets() -> list[Target]:
    """Objects of 16 to 400 pixels, small ones more often."""
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(IMAGES):
        sides = 16 * 25 ** torch.rand(OBJECTS, 2, generator=generator)
        corners = torch.rand(OBJECTS, 2, generator=generator) * (torch.tensor([SIZE[1], SIZE[0]]) - sides)
        labels = torch.randint(0, CLASSES, (OBJECTS,), generator=generator)
        targets.append(Target(torch.cat([corners, corners + sides], dim=1), labels))
    return targets


def predict(anchors: Tensor, targets: list[Target]) -> tuple[Tensor, Tensor]:
    """Logits and boxes that fit the better, the more an anchor overlaps an object."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(IMAGES, len(anchors), CLASSES, generator=generator) - 4.6
    boxes = anchors.repeat(IMAGES, 1, 1)
    sides = (anchors[:, 2:] - anchors[:, :2]).repeat(1, 2)
    for image, target in enumerate(targets):
        best, objects = box_iou(anchors, target.boxes).max(dim=1)
        share = best.clamp(max=0.9)[:, None]
        boxes[image] = (1 - share) * anchors + share * target.boxes[objects]
        boxes[image] += 0.05 * sides * torch.randn(len(anchors), 4, generator=generator)
        logits[image].scatter_add_(1, target.labels[objects][:, None], 8 * best[:, None])
    return logits, boxes


def cheap_ones_of_sklearn(costs: Tensor, is_given: Tensor, added_variance: float) -> Tensor:
    """The same as :func:`cheap_ones`, object by object on the host, as in published code."""
    chosen = torch.zeros(is_given.shape, dtype=torch.bool)
    for row, (own, given) in enumerate(zip(costs.cpu().double().numpy(), is_given.cpu().numpy(), strict=True)):
        values = own[given][:, None]
        if len(values) < 2:
            continue
        mixture = GaussianMixture(
            2,
            covariance_type="diag",
            reg_covar=added_variance,
            weights_init=[0.5, 0.5],
            means_init=[values[0], values[-1]],
            precisions_init=[[1.0], [1.0]],
        ).fit(values)
        first = np.flatnonzero(mixture.predict(values) == 0)
        if len(first):
            density = mixture.score_samples(values)[first]
            last = np.argmax(density >= density.max() - TIED_DENSITY)
            chosen[row, first[: last + 1]] = True
    return chosen.to(costs.device)


def seconds(functions: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    """Median seconds of each function; one warm-up, then all in turns."""
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            _wait(device)
            start = time.perf_counter()
            function()
            _wait(device)
            if turn:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    options = parser.parse_args()
    warnings.simplefilter(
        "ignore"
    )  # scikit-learn's first guess, which is overwritten, may find too few distinct values
    device = torch.device(options.device)
    generator = AnchorGenerator(STRIDES, SCALES, ratios=(1.0,))
    map_sizes = tuple((-(-SIZE[0] // stride), -(-SIZE[1] // stride)) for stride in STRIDES)
    boxes_of_anchors = generator.anchors(map_sizes, torch.device("cpu"))
    targets = make_targets()
    logits, boxes = (prediction.to(device) for prediction in predict(boxes_of_anchors, targets))
    anchors = PyramidAnchors(boxes_of_anchors.to(device), generator.num_per_level(map_sizes), [None] * IMAGES)
    targets = [target.to(device) for target in targets]
    assigner = PAAAssigner()
    arguments = anchors, targets, CLASSES, logits, boxes
    _, rows, costs = assigner.pooled(*arguments)
    is_given, added = rows >= 0, assigner.added_variance
    ours = cheap_ones(costs, is_given, added_variance=added)
    theirs = cheap_ones_of_sklearn(costs, is_given, added)
    took = seconds(
        {
            "candidates": lambda: assigner.pooled(*arguments),
            "ours": lambda: cheap_ones(costs, is_given, added_variance=added),
            "theirs": lambda: cheap_ones_of_sklearn(costs, is_given, added),
        },
        options.repeats,
        options.device,
    )
    shared = took["candidates"]
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {where}: {IMAGES} images, {len(rows)} objects with "
        f"{is_given.sum() / len(rows):.1f} pooled candidates each; {int(ours.sum())} positives, equal for "
        f"{int((ours == theirs).all(dim=1).sum())} of {len(rows)} objects"
    )
    lines = [
        "| | at once, ms | scikit-learn, ms | ratio |",
        "|---|---:|---:|---:|",
        f"| mixtures | {1e3 * took['ours']:.1f} | {1e3 * took['theirs']:.1f} | {took['theirs'] / took['ours']:.1f} |",
        f"| whole assignment | {1e3 * (shared + took['ours']):.0f} | {1e3 * (shared + took['theirs']):.0f} "
        f"| {(shared + took['theirs']) / (shared + took['ours']):.1f} |",
    ]
    print(*lines, sep="\n")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
