"""Memory of the masks of SOLOv2, in pieces beside all at once, and of the whole detector: peaks of processes.

    python benchmarks/solov2_memory.py [--threads N] [--markdown FILE]

An image of 800 × 1333 pixels, whose masks are made at 200 × 336. "Detection" is what follows the network: 500 pairs of
cell and class score, compete, and the best 100 become detections. "Training" is from kernels and features of four
images to the Dice loss of 300 masks and back to the gradients. "At once" is the same arithmetic, written with whole
tensors as in published code; results are compared. Memory is the peak of resident memory of a process over what it held
before; for the whole detector, ResNet-101 with random weights in which all 3872 cells score, it is all of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rankdet.detectors import MaskDetectionSettings, SOLOv2
from rankdet.heads import mask_logits, matrix_nms
from rankdet.losses import dice_coefficient
from rankdet.recipes.library.solov2 import rs_solov2_r101_coco
from rankdet.recipes.schema.detectors import Tiny
from rankdet.structures import Images

SIZE, MAP = (800, 1333), (200, 336)
CHANNELS, CLASSES, CANDIDATES, MASKS = 256, 80, 500, (60, 90, 0, 150)
BUDGET = 2000
"""Megabytes that a whole detector may take."""


def smooth_features(images: int) -> Tensor:
    """(B, D, h, w): blobs, so that masks overlap in all degrees."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(images, CHANNELS, 7, 11, generator=generator)
    return interpolate(coarse, size=MAP, mode="bicubic").contiguous()


def detector_alone() -> SOLOv2:
    """With a small network: only its grids and settings are of use."""
    recipe = rs_solov2_r101_coco()
    grids = recipe.detector.grids.model_copy(update={"channels": 32, "convolutions": 1})
    parts = {"backbone": Tiny(channels=(8, 8, 8, 8)), "grids": grids, "pyramid_channels": 32}
    return recipe.detector.model_copy(update=parts).build(CLASSES, pretrained=False).eval()


def detection_inputs() -> tuple[SOLOv2, Tensor, Tensor, Tensor]:
    """A detector, and scores, kernels and features of an image."""
    detector = detector_alone()
    generator = torch.Generator().manual_seed(1)
    num_cells = detector.grid.assigner.num_cells
    peaks = torch.zeros(num_cells, CLASSES)
    places = torch.randperm(num_cells, generator=generator)[:CANDIDATES]
    labels = torch.randint(8, (CANDIDATES,), generator=generator)
    peaks[places, labels] = 0.2 + 0.8 * torch.rand(CANDIDATES, generator=generator)
    return detector, peaks, torch.randn(num_cells, CHANNELS, generator=generator) / 16, smooth_features(1)[0]


@torch.no_grad()
def detect_in_pieces(detector: SOLOv2, peaks: Tensor, kernels: Tensor, features: Tensor) -> Tensor:
    return detector._detect(peaks, kernels, features, SIZE).scores


@torch.no_grad()
def detect_at_once(detector: SOLOv2, peaks: Tensor, kernels: Tensor, features: Tensor) -> Tensor:
    settings = detector.detection
    cells, labels = torch.nonzero(peaks > settings.score_threshold, as_tuple=True)
    scores = peaks[cells, labels]
    probabilities = torch.einsum("kd,dhw->khw", kernels[cells], features).sigmoid()
    masks = probabilities > 0.5
    areas = masks.sum(dim=(1, 2)).float()
    kept = areas > detector.grid.cell_strides[cells]
    cells, labels, scores = cells[kept], labels[kept], scores[kept]
    probabilities, masks, areas = probabilities[kept], masks[kept], areas[kept]
    scores = scores * (probabilities * masks.float()).sum(dim=(1, 2)) / areas
    order = scores.argsort(descending=True)[: settings.num_candidates]
    labels, scores, probabilities = labels[order], scores[order], probabilities[order]
    flat = masks[order].flatten(1).float()
    common = flat @ flat.T
    iou = common / (areas[order][:, None] + areas[order] - common)
    scores = scores * matrix_nms(iou, labels, settings.sigma)
    order = scores.argsort(descending=True)[: settings.per_image]
    order = order[scores[order] >= settings.least_score]
    large = interpolate(probabilities[order][None], scale_factor=4, mode="bilinear")[0, :, : SIZE[0], : SIZE[1]]
    assert (large > 0.5).any()
    return scores[order]


def training_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Features, kernels and target masks of four images."""
    generator = torch.Generator().manual_seed(2)
    kernels = torch.randn(sum(MASKS), CHANNELS, generator=generator) / 16
    target = torch.rand(sum(MASKS), *MAP, generator=generator) < 0.3
    return smooth_features(len(MASKS)).requires_grad_(), kernels.requires_grad_(), target


def train_in_pieces(features: Tensor, kernels: Tensor, target: Tensor) -> Tensor:
    loss = 1 - dice_coefficient(mask_logits(features, kernels, MASKS), target, 2e-3).mean()
    loss.backward()
    assert kernels.grad is not None
    return torch.cat([loss.detach()[None], kernels.grad.flatten()])


def train_at_once(features: Tensor, kernels: Tensor, target: Tensor) -> Tensor:
    images = zip(kernels.split(MASKS), features, strict=True)
    scores = torch.cat([torch.einsum("kd,dhw->khw", own, image) for own, image in images]).sigmoid().flatten(1)
    inside = target.flatten(1).float()
    size = (scores * scores).sum(1) + 1e-3 + (inside * inside).sum(1) + 1e-3
    loss = 1 - (2 * (scores * inside).sum(1) / size).mean()
    loss.backward()
    assert kernels.grad is not None
    return torch.cat([loss.detach()[None], kernels.grad.flatten()])


def whole_inputs() -> tuple[SOLOv2, Images]:
    """The detector of the recipe, with all cells above the threshold, and an image."""
    torch.manual_seed(0)
    detector = rs_solov2_r101_coco().detector.build(CLASSES, pretrained=False).eval()
    detector.detection = MaskDetectionSettings(score_threshold=0.0, num_candidates=CANDIDATES, least_score=0.0)
    pixels = torch.zeros(1, 3, 800, 1344, dtype=torch.uint8)
    pixels[..., : SIZE[0], : SIZE[1]] = torch.randint(256, (1, 3, *SIZE), dtype=torch.uint8)
    return detector, Images(pixels, (SIZE,))


def detect_whole(detector: SOLOv2, images: Images) -> Tensor:
    return detector.detect(images)[0].scores


CASES: dict[str, tuple[Callable[..., tuple[object, ...]], Callable[..., Tensor]]] = {
    "detection in pieces": (detection_inputs, detect_in_pieces),
    "detection at once": (detection_inputs, detect_at_once),
    "training in pieces": (training_inputs, train_in_pieces),
    "training at once": (training_inputs, train_at_once),
    "whole detector": (whole_inputs, detect_whole),
}


def resident() -> float:
    """Megabytes that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(case: str) -> dict[str, object]:
    """Peak of memory in this process, in megabytes, over what it held before and in all, seconds, and the result."""
    make, run = CASES[case]
    inputs = make()
    before = resident()
    start = time.perf_counter()
    result = run(*inputs)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"extra": peak - before, "peak": peak, "seconds": seconds, "result": result.tolist()}


def in_process_of_its_own(case: str, threads: int) -> dict[str, object]:
    command = [sys.executable, __file__, "--case", case, "--threads", str(threads)]
    return dict(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=CASES, help="measure this one in this process, and print JSON")
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    lines = [
        "| | in pieces, MB | at once, MB | ratio | in pieces, s | at once, s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for what in ("detection", "training"):
        ours, theirs = (in_process_of_its_own(f"{what} {how}", options.threads) for how in ("in pieces", "at once"))
        torch.testing.assert_close(torch.tensor(ours["result"]), torch.tensor(theirs["result"]), rtol=1e-3, atol=1e-5)
        lines.append(
            f"| {what} | {ours['extra']:.0f} | {theirs['extra']:.0f} | {theirs['extra'] / ours['extra']:.1f} | "  # type: ignore[operator]
            f"{ours['seconds']:.1f} | {theirs['seconds']:.1f} |"
        )
    whole = in_process_of_its_own("whole detector", options.threads)
    verdict = "within" if float(whole["peak"]) < BUDGET else "OVER"  # type: ignore[arg-type]
    print(f"torch {torch.__version__}, CPU, {options.threads} threads")
    print(*lines, sep="\n")
    print(f"Whole detector: peak {whole['peak']:.0f} MB, {verdict} {BUDGET} MB; {whole['seconds']:.1f} s")
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
