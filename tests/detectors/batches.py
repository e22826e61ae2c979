"""Batches of noise for the tests of detectors."""

from __future__ import annotations

import torch

from rankdet.structures import Batch, Images, Source, Target


def make_batch(targets: list[Target], sizes: list[tuple[int, int]]) -> Batch:
    """Images of noise in the smallest canvas of a multiple of 32."""
    height, width = (-(-max(size[axis] for size in sizes) // 32) * 32 for axis in (0, 1))
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(3)
    for image, (rows, columns) in zip(pixels, sizes, strict=True):
        image[:, :rows, :columns] = torch.randint(256, (3, rows, columns), generator=generator, dtype=torch.uint8)
    sources = tuple(Source(i, f"{i}.png", size) for i, size in enumerate(sizes))
    return Batch(Images(pixels, tuple(sizes)), tuple(targets), sources)
