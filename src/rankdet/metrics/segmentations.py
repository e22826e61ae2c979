"""COCO segmentations of any form → checked run-length objects; masks of detections → run-length objects.

Legend: h, w height and width of an image in pixels, D detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from hotcoco import mask as rle

from rankdet.structures import MaskScores, MaskWindow

LARGEST_SIDE = 1_000_000
"""No image is as wide or high in pixels. Polygons that go beyond are refused: rasterizing walks along their edges."""


def to_rle(segmentation: Any, size: tuple[int | None, int | None]) -> dict[str, Any]:
    """Turn polygons or a run-length object into a run-length object that decodes.

    Parameters
    ----------
    segmentation
        Polygons ``[[x1, y1, x2, y2, …], …]``, of which those of fewer than three points are left out, or an object
        with ``size`` and ``counts``, compressed or not.
    size
        (h, w) of the image; None where it is not known, which only a run-length object can do without.

    Returns
    -------
    dict
        ``size`` and ``counts``.

    Raises
    ------
    ValueError
        When it is neither or broken; the message says why, and fits behind "segmentation ".

    Examples
    --------
    >>> to_rle([[0, 0, 2, 0, 2, 2, 0, 2]], (2, 2))["size"]
    [2, 2]
    """
    if isinstance(segmentation, Mapping):
        return _checked_rle(segmentation, size)
    if not isinstance(segmentation, list):
        raise ValueError("is neither a run-length object nor a list of polygons")
    height, width = size
    if height is None or width is None:
        raise ValueError("has polygons, for which its image needs height and width")
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2 or not {int, float}.issuperset(map(type, polygon)):
            raise ValueError("has a polygon that is not a list of numbers x1, y1, x2, y2, …")
        if not all(-LARGEST_SIDE <= value <= LARGEST_SIDE for value in polygon):  # false for NaN
            raise ValueError(f"has a polygon that is not finite, or goes beyond {LARGEST_SIDE} pixels")
    codes = [rle.fr_poly(polygon, height, width) for polygon in segmentation if len(polygon) >= 6]
    if not codes:
        raise ValueError("has no polygon of three points")
    return dict(rle.merge(codes))


def _checked_rle(segmentation: Mapping[str, Any], size: tuple[int | None, int | None]) -> dict[str, Any]:
    if not {"size", "counts"} <= segmentation.keys():
        raise ValueError("needs size and counts")
    own = segmentation["size"]
    if not isinstance(own, (list, tuple)) or len(own) != 2 or not all(type(side) is int and side >= 0 for side in own):
        raise ValueError("needs a size [height, width]")
    if None not in size and tuple(own) != size:
        raise ValueError(f"is a mask of size {list(own)} for an image of (height, width) {size}")
    counts = segmentation["counts"]
    checked = {"size": list(own), "counts": counts}
    try:
        rle.area(checked)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"has a broken RLE: {error}") from error
    total = sum(counts) if isinstance(counts, list) else _sum_of_runs(counts)
    if total != own[0] * own[1]:
        raise ValueError(f"has a broken RLE: its counts make {total} pixels, its size {own[0] * own[1]}")
    return checked


def _sum_of_runs(counts: str | bytes) -> int:
    """Pixels of a compressed RLE that decodes: 5 bits a letter, the sixth says that the number goes on."""
    text = counts.encode() if isinstance(counts, str) else counts
    if not text:
        return 0
    letters = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    goes_on = letters & 32 > 0
    goes_on[-1] = False
    ends = np.flatnonzero(~goes_on)
    starts = np.r_[0, ends[:-1] + 1]
    bits = 5 * (np.arange(len(letters)) - np.repeat(starts, ends - starts + 1))
    runs = np.add.reduceat((letters & 31) << bits, starts)
    runs -= np.where(letters[ends] & 16, 32 << bits[ends], 0)  # the highest bit is the sign
    # From the fourth on, a number is the difference to the one before the last.
    return int(runs[0] + runs[1::2].cumsum().sum() + runs[2::2].cumsum().sum())


def encode_masks(masks: MaskScores, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks of detections as run-length objects for JSON, straight from their windows.

    Parameters
    ----------
    masks
        Of D detections; on the CPU.
    size
        (h, w) of the image that their regions belong to.

    Returns
    -------
    list[dict]
        D times ``size`` and compressed ``counts``, a text. No mask of the size of the image is made.

    Examples
    --------
    >>> import torch
    >>> masks = MaskScores(torch.ones(1, 2, 2), torch.tensor([[2.0, 1.0, 4.0, 3.0]]))
    >>> encode_masks(masks, (4, 6))
    [{'size': [4, 6], 'counts': '92207'}]
    """
    return [_encoded(window, size) for window in masks.windows(size)]


def _encoded(window: MaskWindow, size: tuple[int, int]) -> dict[str, Any]:
    """The run-length object of one mask: pixels are counted column by column, beginning with those outside."""
    height, width = size
    columns = window.pixels.numpy().T
    # A row of nothing on both sides: every run begins and ends inside of its column.
    edges = np.diff(np.pad(columns, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    column, row = np.nonzero(edges)  # beginnings and ends of runs in turn, in the order of the pixels
    places = (window.left + column) * height + window.top + row
    # The end of a column is the beginning of the next: a run over both is one.
    is_seam = places[1::2][:-1] == places[2::2]
    is_kept = np.ones(len(places), dtype=bool)
    is_kept[1:-1] = ~np.repeat(is_seam, 2)
    counts = np.diff(places[is_kept], prepend=0, append=height * width).tolist()
    if len(counts) > 1 and counts[-1] == 0:
        counts.pop()  # the mask reaches the last pixel
    code = rle.fr_py_objects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}
