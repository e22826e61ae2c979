"""Images with objects for both programs: drawn ones of odd and different sizes, without objects, and genuine ones.

Legend: B images, G objects of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rankdet.data import CocoDataset, FixedSize, KeepRatio, SampleKey, Transforms, collate
from rankdet.structures import Batch, Images, Source, Target

NUM_CLASSES = 7
SCENES = ("one image", "different sizes", "one without objects", "none with objects", "genuine")
WITH_OBJECTS = ("one image", "different sizes", "genuine")
"""Scenes in which every image has objects."""
SMALL = KeepRatio(256, (192,))
BESIDE = [parent / "shared" / "data" / "coco_free" for parent in Path(__file__).resolve().parents]
GENUINE = next((folder for folder in BESIDE if folder.is_dir()), None)


def make_scene(name: str) -> Batch:
    """A batch of images with boxes and masks of ``NUM_CLASSES`` classes; the genuine one is skipped where absent."""
    match name:
        case "one image":
            return draw_batch([(187, 243)], [6], seed=1)
        case "different sizes":
            return draw_batch([(150, 219), (193, 161)], [5, 9], seed=2)
        case "one without objects":
            return draw_batch([(160, 192), (160, 192)], [4, 0], seed=3)
        case "none with objects":
            return draw_batch([(131, 160), (160, 97)], [0, 0], seed=4)
        case "crowded":
            return draw_batch([(176, 208)], [40], seed=5)
        case "genuine":
            return read_batch()
    raise ValueError(name)


def draw_batch(sizes: Sequence[tuple[int, int]], counts: Sequence[int], seed: int, divisor: int = 32) -> Batch:
    """Images of smooth noise with ellipses of random colors, each of which is an object."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (-(-max(size[axis] for size in sizes) // divisor) * divisor for axis in (0, 1))
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    targets = []
    for place, ((rows, columns), count) in enumerate(zip(sizes, counts, strict=True)):
        coarse = torch.rand(1, 3, 12, 12, generator=generator) * 255
        image = interpolate(coarse, size=(rows, columns), mode="bicubic", align_corners=False)[0]
        image += torch.randn(3, rows, columns, generator=generator) * 12
        boxes = _random_boxes(count, rows, columns, generator)
        masks = _ellipses(boxes, rows, columns)
        for mask in masks:
            image[:, mask] = torch.rand(3, 1, generator=generator) * 255
        pixels[place, :, :rows, :columns] = image.clamp(0, 255).to(torch.uint8)
        labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
        targets.append(Target(boxes, labels, masks))
    sources = tuple(Source(i, f"{i}.png", size) for i, size in enumerate(sizes))
    return Batch(Images(pixels, tuple(sizes)), tuple(targets), sources)


def _random_boxes(count: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """From a tenth to nearly all of the image; no two sides or centers coincide."""
    sides = torch.tensor([columns, rows]) * (0.1 + 0.8 * torch.rand(count, 2, generator=generator) ** 2)
    corner = torch.rand(count, 2, generator=generator) * (torch.tensor([columns, rows]) - sides)
    return torch.cat([corner, corner + sides], dim=1)


def _ellipses(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """(G, rows, columns) bool: the ellipse inside of each box."""
    y, x = torch.arange(rows)[:, None] + 0.5, torch.arange(columns) + 0.5
    left, top, right, bottom = boxes[..., None, None].unbind(1)
    horizontal = (x - (left + right) / 2) / (right - left)
    return horizontal.square() + ((y - (top + bottom) / 2) / (bottom - top)).square() <= 0.25


def read_batch(resize: KeepRatio | FixedSize = SMALL) -> Batch:
    """Two genuine images of COCO, one of them in portrait format."""
    if GENUINE is None:
        pytest.skip("needs photographs of COCO (data/coco_free), which are not part of this repository")
    annotations = GENUINE / "annotations" / "instances_val2017.json"
    dataset = CocoDataset(annotations, GENUINE / "images" / "val2017", Transforms(resize), with_masks=True)
    shapes = ((2, dataset.aspect_ratios < 1), (3, dataset.aspect_ratios > 1))
    samples = []
    for fewest, fits in shapes:
        candidates = (dataset[SampleKey(index, 0)] for index in np.flatnonzero(fits).tolist())
        samples.append(next(sample for sample in candidates if fewest <= len(sample.target.labels) <= 12))
    batch = collate(samples)
    targets = (replace(target, labels=target.labels % NUM_CLASSES) for target in batch.targets)
    return replace(batch, targets=tuple(targets))
