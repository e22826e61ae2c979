"""Anchors of a small pyramid and objects that are hard to assign."""

from __future__ import annotations

import torch

from rankdet.heads import AnchorGenerator
from rankdet.label_assignment import PyramidAnchors
from rankdet.structures import Target

NUM_CLASSES = 4
CANVAS = (64, 96)
STRIDES = (4, 8, 16, 32, 64)  # 384, 96, 24, 6 and 2 cells
SCALES = {"one anchor": (8.0,), "three anchors": (4.0, 4.0 * 2 ** (1 / 3), 4.0 * 2 ** (2 / 3))}
KINDS = ("few", "crowded", "tiny", "outside", "none", "twice the same", "in the padding")


def make_anchors(scales: str, image_sizes: list[tuple[int, int]]) -> PyramidAnchors:
    """Anchors of the canvas, for images of these sizes."""
    generator = AnchorGenerator(STRIDES, scales=SCALES[scales], ratios=(1.0,))
    map_sizes = tuple((-(-CANVAS[0] // stride), -(-CANVAS[1] // stride)) for stride in STRIDES)
    device = torch.device("cpu")
    valid = [generator.valid(map_sizes, size, device) for size in image_sizes]
    return PyramidAnchors(generator.anchors(map_sizes, device), generator.num_per_level(map_sizes), valid)


def make_target(kind: str, seed: int) -> Target:
    """Objects with corners at quarters of pixels: distances of centers are exact, so that ties are ties."""
    generator = torch.Generator().manual_seed(seed)
    # Crowded: more objects than the coarse levels have anchors.
    counts = {"few": 3, "crowded": 40, "tiny": 6, "outside": 5, "none": 0, "twice the same": 4, "in the padding": 4}
    count = counts[kind]
    height, width = CANVAS
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([width - 24.0, height - 24.0])
    sides = torch.rand(count, 2, generator=generator) * (2 if kind == "tiny" else 36) + (0.25 if kind == "tiny" else 4)
    if kind == "outside":
        corners[::2] += 150
        corners[1] -= 70
    if kind == "in the padding":
        corners += torch.tensor([40.0, 20.0])
    boxes = (torch.cat([corners, corners + sides], dim=1) * 4).round() / 4
    labels = torch.randint(0, NUM_CLASSES, (count,), generator=generator)
    if kind == "twice the same":
        boxes[1], boxes[3] = boxes[0], boxes[2]
    return Target(boxes, labels)
