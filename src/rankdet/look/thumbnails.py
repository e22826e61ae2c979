"""Images and their objects in the form that a page embeds, small enough for a budget of bytes.

Legend: N images.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rankdet.data.images import decode, measured_bits
from rankdet.look.choosing import Candidate
from rankdet.look.copies import reduced
from rankdet.look.outlines import outline_path
from rankdet.look.reading import Split
from rankdet.look.suspicion import ERROR, KINDS, UNREADABLE, WARNING
from rankdet.structures import InputError

LONGEST, SHORTEST = 960, 64
"""Largest and smallest longer side of an embedded image in pixels."""
QUALITY, GOOD_QUALITY, WHOLE = 60, 90, 320
"""Quality of WebP, and that of images whose longer side is at most so many pixels: these are shown enlarged."""
GRID, FINEST = 1200, 0.5
"""Steps of outlines that the longer side of an image is divided into, about, and the smallest in pixels."""
COARSEST = 8
"""How many times coarser outlines may become before they are left out."""


@dataclass(frozen=True)
class Drawing:
    """The objects of one image as JSON can hold them.

    Each row is ``[label, x, y, width, height, kinds, outline]``: the class, the box in pixels, the kinds of suspicion
    as bits, and the outline as a path of SVG, empty where there is none. A step of the path is ``grid`` pixels.
    ``left_out`` counts objects without a row.
    """

    rows: list[list[Any]]
    grid: float = 1.0
    left_out: int = 0

    def length(self) -> int:
        """Bytes that it takes on the page, about."""
        return sum(26 + len(row[6]) for row in self.rows)


def drawings(
    splits: Sequence[Split], images: Sequence[Candidate], labels: Sequence[Sequence[int]], budget: int
) -> tuple[list[Drawing], bool]:
    """The objects of all images in at most ``budget`` bytes, and whether all of their outlines are there.

    Outlines of images with many objects become coarser until all fit. Where this does not suffice, these images have
    boxes alone, and of very many objects only some, suspicious ones first. ``labels`` has the class of each label of
    each split.
    """
    grid = 1.0
    found = [_drawing(splits[image.split], image, labels[image.split], grid) for image in images]
    lengths = [drawing.length() for drawing in found]
    share = budget / max(1, len(images))
    while sum(lengths) > budget and grid < COARSEST:
        grid *= 2
        for place in [place for place, length in enumerate(lengths) if length > share]:
            image = images[place]
            found[place] = _drawing(splits[image.split], image, labels[image.split], grid)
            lengths[place] = found[place].length()
    if sum(lengths) <= budget:
        return found, True
    for place, length in enumerate(lengths):
        if length > share:
            rows = sorted(([*row[:6], ""] for row in found[place].rows), key=lambda row: -bool(row[5]))
            found[place] = Drawing(rows[: int(share / 26)], left_out=max(0, len(rows) - int(share / 26)))
    return found, False


def _drawing(split: Split, image: Candidate, labels: Sequence[int], coarser: float) -> Drawing:
    truth = split.truth
    if truth is None:
        return Drawing([])
    height, width = truth.sizes[image.place].tolist()
    grid = coarser * max(FINEST, round(max(height, width) / GRID))
    rows: list[list[Any]] = []
    for row in image.objects:
        box = [_short(value) for value in truth.boxes[row].tolist()]
        bits = sum(1 << KINDS.index(kind) for kind in image.kinds.get(row, ()))
        segmentation = truth.segmentation(row) if truth.segmentations is not None else None
        outline = outline_path(segmentation, grid) if segmentation else ""
        rows.append([labels[int(truth.labels[row])], *box, bits, outline])
    return Drawing(rows, grid)


def _short(value: float) -> float | int:
    rounded = round(value, 2 if abs(value) < 2 else 1)
    return int(rounded) if rounded == int(rounded) else rounded


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """An embedded image.

    Parameters
    ----------
    source
        A data URL; empty where the image cannot be read.
    size
        (height, width) in pixels that boxes are drawn in: that of the upright file, or, without one, the annotated.
    gray
        What it is compared with others by, see `reduced`.
    """

    source: str
    size: tuple[int, int]
    gray: NDArray[np.float32] | None


def thumbnails(splits: Sequence[Split], images: Sequence[Candidate], budget: int) -> Iterator[Thumbnail]:
    """Embed each image in turn so that all of them together take about ``budget`` bytes and never more.

    Notes in their ``reasons`` which images cannot be read.
    """
    left, density = budget, 0.0
    for number, image in enumerate(images):
        pixels, size = _pixels(splits[image.split], image)
        if pixels is None:
            yield Thumbnail("", size, None)
            continue
        source, density = _encoded(pixels, left // (len(images) - number), density)
        left -= len(source)
        yield Thumbnail(source, size, reduced(pixels))


def _pixels(split: Split, image: Candidate) -> tuple[Image.Image | None, tuple[int, int]]:
    """The image, turned as in training, or None; and the size that its boxes are drawn in.

    Notes in its ``reasons`` why it cannot be read.
    """
    path = split.path(image.place)
    annotated = None if split.truth is None else split.truth.size(image.place)
    try:
        pixels = viewed(path, annotated)
    except InputError as error:
        image.reasons[UNREADABLE] = str(error).removeprefix(f"{path}: ")
        for kind in (ERROR, WARNING):  # which say the same
            image.reasons.pop(kind, None)
        return None, annotated or (3, 4)
    return pixels, (pixels.height, pixels.width)


def viewed(path: Path, annotated: tuple[int, int] | None) -> Image.Image:
    """The image of a file, turned as in training, with the brightness that a viewer sees however dark it is.

    Raises InputError where it cannot be read, or has not the ``annotated`` (height, width).
    """
    used = measured_bits([path])
    pixels = decode(path, annotated, bits=used[0] if used else 16)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _encoded(pixels: Image.Image, budget: int, density: float) -> tuple[str, float]:
    """A data URL of at most ``budget`` characters, where that is possible at all, and its characters per pixel.

    ``density`` is that of the image before, from which the size is guessed, or 0.
    """

    def fitting(density: float) -> int:
        """The longer side that takes nine tenths of the budget."""
        scale = math.sqrt(0.9 * budget / (density * pixels.width * pixels.height)) if density else 1.0
        return max(SHORTEST, min(LONGEST, round(max(pixels.size) * min(1.0, scale))))

    if max(pixels.size) <= WHOLE:
        source = data_url(pixels, WHOLE, GOOD_QUALITY)
        if len(source) <= budget:
            return source, density
    side = fitting(density)
    source = data_url(pixels, side)
    own = _density(source, pixels, side)
    if fitting(own) > 1.15 * side:
        side = fitting(own)
        source = data_url(pixels, side)
    while len(source) > budget and side > SHORTEST:
        side = max(SHORTEST, min(int(0.9 * side), fitting(_density(source, pixels, side))))
        source = data_url(pixels, side)
    return source, own


def _density(source: str, pixels: Image.Image, side: int) -> float:
    """Characters per pixel of an image whose longer side was reduced to ``side``."""
    scale = min(1.0, side / max(pixels.size))
    return len(source) / (scale**2 * pixels.width * pixels.height)


def data_url(pixels: Image.Image, side: int, quality: int = QUALITY) -> str:
    """An image as WebP, its longer side at most so many pixels."""
    scale = side / max(pixels.size)
    if scale < 1:
        size = max(1, round(pixels.width * scale)), max(1, round(pixels.height * scale))
        pixels = pixels.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)
    buffer = io.BytesIO()
    pixels.save(buffer, "WEBP", quality=quality, method=2)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
