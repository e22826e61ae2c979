"""What batches gain in each part of a Faster R-CNN that detects, on the processor's clock.

    python benchmarks/batch_parts.py [RECIPE] [--size 448 448] [--batch-size 8] [--repeats 3] [--threads 1]
        [--classes 3]

A recipe's network with random weights sees noise, one image at a time and in batches, in turns. Printed are the medians
of milliseconds per image: of the whole detection, of the backbone, the pyramid, the heads of the RPN, RoIAlign and the
box head, and of what is left. That is anchors, box coding, and suppression among proposals and among detections.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import Any

import torch
from torch import nn

from rankdet.detectors import FasterRCNN
from rankdet.inference.loading import build_model
from rankdet.inference.model import Model
from rankdet.recipes import load_recipe
from rankdet.report import markdown_table
from rankdet.runs.memory import keep_freed_memory
from rankdet.structures import Batch, Images, Source, Target

WHOLE, REST = "detection", "anchors, box coding, suppression"


def measured_parts(network: FasterRCNN) -> dict[str, nn.Module]:
    """The parts that are measured, by name."""
    return {
        "backbone": network.backbone,
        "pyramid": network.fpn,
        "RPN": network.rpn.head,
        "RoIAlign": network.rcnn.pooling,
        "box head": network.rcnn.head,
    }


def measured(model: Model, batch: Batch) -> dict[str, float]:
    """Milliseconds per image of each part."""
    parts = measured_parts(model.network)  # type: ignore[arg-type]
    taken, started = dict.fromkeys(parts, 0.0), dict.fromkeys(parts, 0.0)

    def begin(name: str, *_: Any) -> None:
        started[name] = time.process_time()

    def end(name: str, *_: Any) -> None:
        taken[name] += time.process_time() - started[name]

    hooks = [part.register_forward_pre_hook(partial(begin, name)) for name, part in parts.items()]
    hooks += [part.register_forward_hook(partial(end, name)) for name, part in parts.items()]
    start = time.process_time()
    with model.evaluating():
        model.detect_batch(batch)
    whole = time.process_time() - start
    for hook in hooks:
        hook.remove()
    found = {WHOLE: whole, **taken, REST: whole - sum(taken.values())}
    return {name: 1000 * seconds / len(batch.sources) for name, seconds in found.items()}


def noise(images: int, size: tuple[int, int]) -> Batch:
    """Images without objects."""
    nothing = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    pixels = torch.randint(0, 256, (images, 3, *size), dtype=torch.uint8)
    sources = tuple(Source(image, "", size) for image in range(images))
    return Batch(Images(pixels, (size,) * images), (nothing,) * images, sources)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="faster_rcnn_lite0_bccd")
    parser.add_argument("--size", type=int, nargs=2, default=(448, 448), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--classes", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()  # as the command does
    recipe = load_recipe(options.recipe)
    network = recipe.detector.build(options.classes, pretrained=False)
    categories = [(label + 1, str(label)) for label in range(options.classes)]
    model = build_model(recipe, network, categories, torch.device("cpu"))
    sizes = (1, options.batch_size)
    batches = [noise(images, tuple(options.size)) for images in sizes]
    turns: list[list[dict[str, float]]] = [[], []]
    for _ in range(options.repeats + 1):  # the first one warms up
        for batch, found in zip(batches, turns, strict=True):
            found.append(measured(model, batch))
    alone, together = ({name: statistics.median(one[name] for one in own[1:]) for name in own[0]} for own in turns)
    rows: list[list[str | int | float | None]] = [
        [name, f"{alone[name]:.1f}", f"{together[name]:.1f}", f"{alone[name] / together[name]:.2f}"] for name in alone
    ]
    print(markdown_table(["part", "one by one, ms", f"in batches of {sizes[1]}, ms", "images/s, ratio"], rows))


if __name__ == "__main__":
    main()
