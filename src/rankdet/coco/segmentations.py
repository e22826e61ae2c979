"""Segmentations of COCO: polygons and run lengths (RLE), checked, decoded and encoded.

Legend: h, w height and width of an image in pixels, D detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hotcoco import mask as rle
from numpy.typing import NDArray

from rankdet.coco.findings import LARGEST_SIDE, are_within, is_integer, shown
from rankdet.structures import MaskScores, MaskWindow

NUMBERS = frozenset((int, float))


def segmentation_problem(segmentation: Any, size: tuple[int, int] | None) -> str | None:
    """What is wrong with the form of a segmentation, or None.

    A segmentation has polygons ``[[x1, y1, x2, y2, …], …]``, or is an object with ``size`` and ``counts``, compressed
    or not. Only run lengths can do without ``size``, (h, w) of the image.

    Examples
    --------
    >>> segmentation_problem([[0, 0, 4, 0]], (8, 8))
    'no polygon of the segmentation has three points'
    >>> segmentation_problem({"size": [2, 2], "counts": [1, 2]}, (2, 2))
    'the counts of the RLE make 3 pixels, its size 4'
    """
    if isinstance(segmentation, list):
        return _polygons_problem(segmentation, size)
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        return "the segmentation is neither a list of polygons nor an RLE with size and counts"
    own, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(own, list | tuple) or len(own) != 2 or not all(is_integer(side) and side >= 0 for side in own):
        return f"the size {shown(own)} of the RLE is not [height, width]"
    if size is not None and tuple(own) != size:
        return f"the size {shown(own)} of the RLE is not that of the image, {list(size)}"
    if isinstance(counts, str | bytes):
        try:
            rle.area({"size": list(own), "counts": counts})
        except (ValueError, OverflowError) as error:
            return f"the RLE of the segmentation is broken: {error}"
        total = _sum_of_runs(counts)
    elif isinstance(counts, list) and all(is_integer(count) and count >= 0 for count in counts):
        total = sum(counts)
    else:
        return "the counts of the RLE are neither a string nor a list of integers"
    pixels = own[0] * own[1]
    return None if total == pixels else f"the counts of the RLE make {shown(total)} pixels, its size {pixels}"


def _polygons_problem(polygons: list[Any], size: tuple[int, int] | None) -> str | None:
    if size is None:
        return "the segmentation has polygons, for which its image needs height and width"
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2 or not NUMBERS.issuperset(map(type, polygon)):
            return "a polygon of the segmentation is not a list of numbers x1, y1, x2, y2, …"
        # Rasterizing walks along the edges, however long they are.
        if not are_within(polygon, LARGEST_SIDE):
            return f"a polygon of the segmentation is not finite, or goes beyond {LARGEST_SIDE} pixels"
    return "no polygon of the segmentation has three points" if all(len(one) < 6 for one in polygons) else None


def plain(segmentation: Any) -> Any:
    """A sound segmentation as JSON can hold it: counts that are bytes become a text."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        return {"size": list(segmentation["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}
    return segmentation


def is_empty(segmentation: Any) -> bool:
    """Whether a checked segmentation is an RLE without a pixel; polygons count as masks, however thin."""
    return isinstance(segmentation, Mapping) and not rle.area(dict(segmentation))


def to_rle(segmentation: Any, size: tuple[int, int] | None) -> dict[str, Any]:
    """The run-length object of a checked segmentation, as `segmentation_problem` takes it.

    Polygons of fewer than three points enclose nothing and are left out. Counts that are a list stay one: evaluators
    and decoders take both forms.

    Examples
    --------
    >>> to_rle([[0, 0, 2, 0, 2, 2, 0, 2]], (2, 2))["size"]
    [2, 2]
    """
    if isinstance(segmentation, Mapping):
        return {"size": list(segmentation["size"]), "counts": segmentation["counts"]}
    if size is None:
        raise ValueError("polygons become a mask in an image of known size alone")
    return dict(_merged(segmentation, size))


def merged(outlines: Sequence[Any], size: tuple[int, int]) -> dict[str, Any]:
    """The run-length object of what any of several polygons x1, y1, x2, y2, … and run-length objects covers.

    Examples
    --------
    >>> merged([[0, 0, 1, 0, 1, 2, 0, 2], {"size": [2, 2], "counts": [3, 1]}], (2, 2))
    {'size': [2, 2], 'counts': '021O'}
    """
    masks = [to_rle([outline] if isinstance(outline, list) else outline, size) for outline in outlines]
    return plain(rle.merge(masks))


def mask_area(segmentation: Mapping[str, Any]) -> int:
    """The number of pixels of a run-length object."""
    return int(rle.area(dict(segmentation)))


def decode_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w) 0 or 1: what any of the checked polygons encloses; those of fewer than three points enclose nothing."""
    return np.ascontiguousarray(rle.decode(_merged(polygons, size)))


def decode_rle(segmentation: Mapping[str, Any]) -> NDArray[np.uint8]:
    """(h, w) 0 or 1: the pixels of a checked run-length object, whose counts may be compressed or not."""
    return np.ascontiguousarray(rle.decode(dict(segmentation)))


def rle_box(segmentation: Mapping[str, Any]) -> list[float]:
    """The box ``[x, y, width, height]`` around the pixels of a checked run-length object, in pixels."""
    return [float(value) for value in rle.to_bbox(dict(segmentation))]


def _merged(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> dict[str, Any]:
    return rle.merge([rle.fr_poly(polygon, *size) for polygon in polygons if len(polygon) >= 6])


def _sum_of_runs(counts: str | bytes) -> int:
    """Pixels of a compressed RLE that decodes: 5 bits a letter, and a sixth where the number goes on."""
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


def encode_bitmap(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """The run-length object of one (h, w) mask, for JSON.

    Examples
    --------
    >>> encode_bitmap(np.eye(2, dtype=bool))
    {'size': [2, 2], 'counts': '0120'}
    """
    return plain(rle.encode(np.asfortranarray(mask)))


def encode_masks(masks: MaskScores, size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks of detections as run-length objects for JSON, straight from their windows.

    No mask of ``size`` (h, w), the size of the image, is made. Counts are compressed, as a text.

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
