"""Iterations of RS detectors beside their standard forms: seconds of forward, losses and backward, as ratios.

    python benchmarks/iterations.py [--repeats 5] [--images 1] [--only PAIR …] [--size 800 1344] [--device cuda]
        [--threads N] [--markdown FILE]

Images of 800 × 1344 with 10 objects each, 80 classes, ResNet-50 with random weights; nothing is downloaded. The forms
of a detector run in turns in one process, on the same batch, and are compared by their medians. "same anchors" has the
three anchors per cell of the RS form in both, so that they differ in the loss alone; "as published" is the recipes
as they are: one-stage detectors have one anchor per cell and an auxiliary head in the standard form, R-CNNs have
samplers there, and none in the RS form. YOLACT's images have 550 × 550 pixels, whatever ``--size`` says. "loss" is
the share of an iteration that its own losses take, those of all heads, forward and backward to the outputs of the
network.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from rankdet.inference.loading import build_model
from rankdet.inference.profiling import loss_seconds
from rankdet.losses import set_epoch_length
from rankdet.recipes import Recipe
from rankdet.recipes.library.cascade_rcnn import cascade_rcnn_r50_coco, rs_cascade_rcnn_r50_coco
from rankdet.recipes.library.coco import faster_rcnn_r50_coco, rs_faster_rcnn_r50_coco
from rankdet.recipes.library.detr import detr_r50_coco, rs_detr_r50_coco
from rankdet.recipes.library.mask_rcnn import mask_rcnn_r50_coco, rs_mask_rcnn_r50_coco
from rankdet.recipes.library.one_stage import (
    THREE_ANCHORS,
    atss_r50_coco,
    focal_atss_r50_coco,
    focal_paa_r50_coco,
    paa_r50_coco,
    rs_atss_r50_coco,
    rs_paa_r50_coco,
)
from rankdet.recipes.library.solov2 import rs_solov2_light_r34_coco, solov2_light_r34_coco
from rankdet.recipes.library.yolact import rs_yolact_r50_coco, yolact_r50_coco
from rankdet.recipes.schema.data import FixedSize
from rankdet.structures import Batch, Images, Source, Target
from rankdet.training.step import training_step

OBJECTS, CLASSES = 10, 80


def make_batch(images: int, size: tuple[int, int]) -> Batch:
    """Random pixels; objects of 16 to 400 pixels, at most half of a side, small ones more often. Masks are ellipses."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([size[1], size[0]])
    rows, columns = torch.arange(size[0])[:, None] + 0.5, torch.arange(size[1]) + 0.5
    targets = []
    for _ in range(images):
        sides = (16 * 25 ** torch.rand(OBJECTS, 2, generator=generator)).minimum(sizes / 2)
        corners = torch.rand(OBJECTS, 2, generator=generator) * (sizes - sides)
        labels = torch.randint(0, CLASSES, (OBJECTS,), generator=generator)
        (x, y), (width, height) = ((pair[:, None, None] for pair in pairs.T) for pairs in (corners, sides))
        masks = ((2 * (columns - x) / width - 1) ** 2 + (2 * (rows - y) / height - 1) ** 2) < 1
        targets.append(Target(torch.cat([corners, corners + sides], dim=1), labels, masks))
    pixels = torch.randint(0, 256, (images, 3, *size), generator=generator, dtype=torch.uint8)
    sources = tuple(Source(index, f"{index}", size) for index in range(images))
    return Batch(Images(pixels, (size,) * images), tuple(targets), sources)


def with_three_anchors(recipe: Recipe) -> Recipe:
    """The recipe with the anchors of the ranking losses."""
    return recipe.changed({"detector.dense.anchor_scales": THREE_ANCHORS})


class Form:
    """A detector with its losses, ready to take a step."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        torch.manual_seed(0)
        self.recipe = recipe
        self.device = device
        categories = [(label + 1, str(label)) for label in range(CLASSES)]
        self.model = build_model(recipe, recipe.detector.build(CLASSES, pretrained=False), categories, device)
        self.losses = {head: loss.build().to(device) for head, loss in recipe.losses.items()}
        set_epoch_length(self.losses.values(), 7330)

    def step(self, batch: Batch) -> float:
        """Seconds of one iteration, without the optimizer."""
        self.model.network.zero_grad(set_to_none=True)
        _wait(self.device)
        start = time.perf_counter()
        total, _, _ = training_step(self.model.forward, self.losses, batch, self.recipe.head_weights)
        total.backward()
        _wait(self.device)
        return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


PAIRS: dict[str, tuple[Callable[[], Recipe], Callable[[], Recipe]]] = {
    "ATSS, same anchors": (rs_atss_r50_coco, lambda: with_three_anchors(focal_atss_r50_coco())),
    "ATSS, as published": (rs_atss_r50_coco, atss_r50_coco),
    "PAA, same anchors": (rs_paa_r50_coco, lambda: with_three_anchors(focal_paa_r50_coco())),
    "PAA, as published": (rs_paa_r50_coco, paa_r50_coco),
    "Faster R-CNN, as published": (rs_faster_rcnn_r50_coco, faster_rcnn_r50_coco),
    "Mask R-CNN, as published": (rs_mask_rcnn_r50_coco, mask_rcnn_r50_coco),
    "Cascade R-CNN, as published": (rs_cascade_rcnn_r50_coco, cascade_rcnn_r50_coco),
    "YOLACT, as published": (rs_yolact_r50_coco, yolact_r50_coco),
    "SOLOv2-light, as published": (rs_solov2_light_r34_coco, solov2_light_r34_coco),
    "RT-DETR, as published": (rs_detr_r50_coco, detr_r50_coco),
}


def measure(name: str, repeats: int, images: int, size: tuple[int, int], device: torch.device) -> str:
    ranking, standard = (Form(recipe(), device) for recipe in PAIRS[name])
    resize = ranking.recipe.data.resize
    batch = make_batch(images, (resize.height, resize.width) if isinstance(resize, FixedSize) else size).to(device)
    seconds: dict[Form, list[float]] = {ranking: [], standard: []}
    for repeat in range(repeats + 1):
        for form, taken in seconds.items():
            taken.append(form.step(batch))
        print(f"{name}: {repeat} of {repeats}", flush=True)
    medians = [statistics.median(taken[1:]) for taken in seconds.values()]  # the first iteration warms up
    shares = [
        loss_seconds(form.model, form.losses, [batch] * 3) / median
        for form, median in zip(seconds, medians, strict=True)
    ]
    ratio = medians[0] / medians[1]
    return (
        f"| {name} | {medians[1]:.3g} | {medians[0]:.3g} | {ratio:.2f} "
        f"| {100 * shares[1]:.1f} % | {100 * shares[0]:.1f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1344), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--only", nargs="*", choices=tuple(PAIRS), default=tuple(PAIRS), metavar="PAIR")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    lines = [
        "| detector | standard s | RS s | RS / standard | loss, standard | loss, RS |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in options.only:
        lines.append(measure(name, options.repeats, options.images, tuple(options.size), device))
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}", *lines, sep="\n")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
