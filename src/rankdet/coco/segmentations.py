"""Segmentations of COCO: polygons and run lengths (RLE), checked, decoded and encoded.

Legend: h, w height and width of an image in pixels, D detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hotcoco import mask as rle
from numpy.typing import NDArray

from rankdet.coco.findings import LARGEST_SIDE, Problem, is_integer, shown
from rankdet.structures import MaskScores, MaskWindow

NUMBERS = frozenset((int, float))
INTEGERS = frozenset((int,))
NUM_LETTERS = 2**16
"""Letters of compressed run lengths that are read at a time."""
LONG_TEXT = 2**26
"""Letters up to which sums of their values fit in 32 bits."""
LETTERS = bytes(
    (letter - 48 & 31) - (2 * (letter - 48 & 16) if not letter - 48 & 32 else 0) & 255 for letter in range(256)
)
"""The value of each letter of compressed run lengths, with its sign if it is the last of a number."""
THIN = 2.0
"""Pixels; a polygon of this width and height has a pixel for sure."""


def meant_segmentation(given: Any) -> tuple[Any, str]:
    """A segmentation in COCO's form, None where there is none, and which other form it was read from.

    Examples
    --------
    >>> meant_segmentation([0, 0, 4, 0, 4, 4])
    ([[0, 0, 4, 0, 4, 4]], 'one flat list: read as a polygon')
    >>> meant_segmentation([[]])
    (None, '')
    """
    if isinstance(given, list):
        first = given[0] if given else None
        if type(first) is list and len(first) > 2 and type(first[0]) in NUMBERS:
            return given, ""  # by far the most
        if not any(one != [] for one in given):
            return None, ""
        if NUMBERS.issuperset(map(type, given)):
            return [given], "one flat list: read as a polygon"
        if _is_points(given):
            return [flat(given)], "a list of points: read as a polygon"
        if all(map(_is_points, given)):
            return [flat(points) for points in given], "lists of points: read as polygons"
        if len(given) == 1 and isinstance(first, Mapping):
            meant, _ = meant_segmentation(first)
            return meant, "an RLE in a list: read as an RLE"
        return given, ""
    if isinstance(given, Mapping) and "counts" in given:
        return _meant_rle(given)
    if isinstance(given, Mapping) and _is_points(given.get("exterior")) and not given.get("interiors"):
        return [flat(given["exterior"])], "the exterior of a polygon: read as a polygon"
    return (given, "") if isinstance(given, np.ndarray) or given else (None, "")


def _is_points(value: Any) -> bool:
    """Whether a value is a list of at least three points (x, y)."""
    return (
        isinstance(value, list)
        and len(value) >= 3
        and all(isinstance(point, list) and len(point) == 2 and NUMBERS.issuperset(map(type, point)) for point in value)
    )


def flat(points: Sequence[Sequence[float]]) -> list[float]:
    """Points (x, y) as COCO writes a polygon: x1, y1, x2, y2, …"""
    return [value for point in points for value in point]


def _meant_rle(given: Mapping[str, Any]) -> tuple[Any, str]:
    size, counts = given.get("size"), given["counts"]
    if size is None and given.get("order", "F") == "F":
        size = given.get("shape")
    is_plain = isinstance(size, list | tuple) and INTEGERS.issuperset(map(type, size))
    if is_plain and (not isinstance(counts, list) or INTEGERS.issuperset(map(type, counts))):
        return (given, "") if "size" in given else ({"size": size, "counts": counts}, "an RLE with a shape: its size")
    return {"size": _whole(size), "counts": _whole(counts)}, "an RLE with floats: read as whole numbers"


def _whole(values: Any) -> Any:
    """Floats of a list that are whole numbers, as integers; other values as they are."""
    if not isinstance(values, list | tuple):
        return values
    return [int(one) if isinstance(one, float) and one.is_integer() else one for one in values]


def outline_box(segmentation: Any) -> list[float] | None:
    """``[x, y, width, height]`` around a sound segmentation; None where it encloses nothing.

    Examples
    --------
    >>> outline_box([[1, 2, 5, 2, 5, 8]])
    [1, 2, 4, 6]
    """
    if isinstance(segmentation, Mapping):
        found = rle.to_bbox(compressed(segmentation)).tolist()
        return [float(value) for value in found] if found[2] and found[3] else None
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if not polygons:
        return None
    points = polygons[0] if len(polygons) == 1 else [value for polygon in polygons for value in polygon]
    xs, ys = points[::2], points[1::2]
    left, top = min(xs), min(ys)
    return [left, top, max(xs) - left, max(ys) - top]


def compressed(segmentation: Mapping[str, Any]) -> dict[str, Any]:
    """A run-length object whose counts are a text.

    Examples
    --------
    >>> compressed({"size": [2, 2], "counts": [0, 2, 2]})
    {'size': [2, 2], 'counts': '022'}
    """
    size, counts = list(segmentation["size"]), segmentation["counts"]
    is_list = isinstance(counts, list)
    return dict(plain(rle.fr_py_objects({"size": size, "counts": counts}, *size) if is_list else segmentation))


def segmentation_problem(segmentation: Any, size: tuple[int, int] | None, needs_size: bool = True) -> Problem | None:
    """What is wrong with the form of a segmentation, or None.

    A segmentation has polygons ``[[x1, y1, x2, y2, …], …]``, or is an object with ``size`` and ``counts``, compressed
    or not. Only run lengths can do without ``size``, (h, w) of the image, unless ``needs_size`` is False.

    Examples
    --------
    >>> segmentation_problem([[0, 0, 4, 0]], (8, 8))
    Problem(what='no polygon of the segmentation has three points', detail='', remedy='')
    >>> segmentation_problem({"size": [2, 2], "counts": [1, 2]}, (2, 2))
    Problem(what='the counts of the RLE do not make the pixels of its size', detail='3, not 4', remedy='')
    """
    if isinstance(segmentation, list):
        if size is None and needs_size:
            return Problem("the segmentation has polygons, for which its image needs height and width")
        return _polygons_problem(segmentation)
    if not isinstance(segmentation, Mapping) or not {"size", "counts"} <= segmentation.keys():
        return Problem("the segmentation is neither a list of polygons nor an RLE with size and counts")
    own, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(own, list | tuple) or len(own) != 2 or not all(is_integer(side) and side >= 0 for side in own):
        return Problem("the size of the RLE is not [height, width]", shown(own))
    if size is not None and tuple(own) != size:
        return Problem("the size of the RLE is not that of the image", f"{shown(own)}, not {list(size)}")
    if isinstance(counts, str | bytes):
        try:
            rle.area({"size": list(own), "counts": counts})
        except (ValueError, OverflowError) as error:
            return Problem("the RLE of the segmentation is broken", str(error))
        total = _sum_of_runs(counts)
    elif isinstance(counts, list) and all(is_integer(count) and count >= 0 for count in counts):
        total = sum(counts)
    else:
        return Problem("the counts of the RLE are neither a string nor a list of integers")
    pixels = own[0] * own[1]
    if total == pixels:
        return None
    return Problem("the counts of the RLE do not make the pixels of its size", f"{shown(total)}, not {pixels}")


def _polygons_problem(polygons: list[Any]) -> Problem | None:
    is_line = True
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2 or not NUMBERS.issuperset(map(type, polygon)):
            return Problem("a polygon of the segmentation is not a list of numbers x1, y1, x2, y2, …")
        # Rasterizing walks along the edges, however long they are.
        if polygon and not _are_near(polygon):
            return Problem(f"a polygon of the segmentation is not finite, or goes beyond {LARGEST_SIDE} pixels")
        is_line = is_line and len(polygon) < 6
    return Problem("no polygon of the segmentation has three points") if is_line else None


def _are_near(values: Sequence[float]) -> bool:
    """Whether all numbers lie within ±`LARGEST_SIDE`, without a step of Python for each."""
    if not (min(values) >= -LARGEST_SIDE and max(values) <= LARGEST_SIDE):
        return False
    try:
        total = sum(values)
    except OverflowError:  # of an integer of any length beside NaN, next to which min and max mean nothing
        return False
    return total == total and abs(total) <= LARGEST_SIDE * len(values)


def plain(segmentation: Any) -> Any:
    """A sound segmentation as JSON can hold it: counts that are bytes become a text."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        return {"size": list(segmentation["size"]), "counts": counts.decode() if isinstance(counts, bytes) else counts}
    return segmentation


def is_empty(segmentation: Any, size: tuple[int, int] | None, outline: Sequence[float] | None) -> bool:
    """Whether a sound segmentation has no pixel in an image of ``size`` (h, w).

    Polygons are rasterized only where their ``outline`` (x, y, width, height) is thin or leaves the image, or they may
    enclose nothing.
    """
    if isinstance(segmentation, Mapping):
        return not rle.area(dict(segmentation))
    if outline is None or size is None:
        return False
    left, top, width, height = outline
    leaves = left < 0 or top < 0 or left + width > size[1] or top + height > size[0]
    is_thin = min(width, height) < THIN or not any(_turns(one) for one in segmentation if len(one) >= 6)
    return (leaves or is_thin) and not rle.area(_merged(segmentation, size))


def _turns(polygon: Sequence[float]) -> bool:
    """Whether the first three corners of a polygon do not lie in a line; then it encloses something."""
    x1, y1, x2, y2, x3, y3 = polygon[:6]
    return (x2 - x1) * (y3 - y1) != (x3 - x1) * (y2 - y1)


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


def mask_areas(segmentations: list[dict[str, Any]]) -> NDArray[np.int64]:
    """The numbers of pixels of run-length objects."""
    if all(height * width < 2**32 for height, width in (one["size"] for one in segmentations)):
        return np.asarray(rle.area(segmentations), dtype=np.int64).reshape(-1)
    return np.array([mask_area(one) for one in segmentations], dtype=np.int64)  # the others have 32 bits


def mask_area(segmentation: Mapping[str, Any]) -> int:
    """The number of pixels of a run-length object."""
    return int(rle.area(dict(segmentation)))


def decode_polygons(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w) 0 or 1: what any of the checked polygons encloses; those of fewer than three points enclose nothing."""
    return np.ascontiguousarray(rle.decode(_merged(polygons, size)))


def decode_rle(segmentation: Mapping[str, Any]) -> NDArray[np.uint8]:
    """(h, w) 0 or 1: the pixels of a checked run-length object, whose counts may be compressed or not."""
    return np.ascontiguousarray(rle.decode(dict(segmentation)))


def _merged(polygons: Sequence[Sequence[float]], size: tuple[int, int]) -> dict[str, Any]:
    masks = [rle.fr_poly(polygon, *size) for polygon in polygons if len(polygon) >= 6]
    return masks[0] if len(masks) == 1 else rle.merge(masks)


def _sum_of_runs(counts: str | bytes) -> int:
    """Pixels of a compressed RLE that decodes."""
    return int(sums_of_runs([counts.encode() if isinstance(counts, str) else counts])[0])


def sums_of_runs(counts: Sequence[bytes]) -> NDArray[np.int64]:
    """Pixels of each of many compressed RLEs that decode, thousands at once.

    Examples
    --------
    >>> sums_of_runs([b"021O", b"", b"4"]).tolist()
    [4, 0, 4]
    """
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    parts = np.split(np.arange(len(counts)), np.flatnonzero(np.diff(np.cumsum(lengths) // NUM_LETTERS)) + 1)
    sums = np.zeros(len(counts), dtype=np.int64)
    for part in parts:
        rows = part[lengths[part] > 0]
        if len(rows):
            sums[rows] = _sums(b"".join([counts[row] for row in rows.tolist()]), lengths[rows])
    return sums


def _sums(text: bytes, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of RLEs one after the other, by their letters: 5 bits each, and a sixth where the number goes on."""
    starts, lasts = np.cumsum(lengths) - lengths, np.cumsum(lengths) - 1
    is_end = np.frombuffer(text, dtype=np.uint8) - np.uint8(48) & 32 == 0
    is_end[lasts] = True
    values = np.frombuffer(bytearray(text.translate(LETTERS)), dtype=np.int8)
    values[lasts] = _signed(values[lasts] & 31)
    # From the fourth on, a number is the difference to the one before the last: it is in that run and all alternate
    # ones after it. How many these are follows from the numbers that end from a letter on.
    whole = np.int64 if len(text) > LONG_TEXT else np.int32
    before = np.zeros(len(text), dtype=whole)
    np.cumsum(is_end[:-1], out=before[1:])
    runs = np.repeat(before[lasts] + 2, lengths)
    runs -= before
    runs >>= 1
    of_first = starts
    while len(of_first):  # the first number is in its own run alone
        runs[of_first] = 1
        of_first = of_first[~is_end[of_first]] + 1
    runs *= values
    sums: NDArray[np.int64] = np.add.reduceat(runs, starts, dtype=np.int64)
    # Few numbers have more than one letter: their further letters mean 32 times as much each.
    further = np.flatnonzero(~is_end) + 1
    places, earlier = np.ones_like(further), further - 2
    while (goes_on := ~is_end[earlier]).any():
        places += goes_on
        earlier = np.where(goes_on, earlier - 1, earlier)
    given = runs[further].astype(np.int64)
    added = np.append(0, np.cumsum((given << 5 * places) - given))
    from_first = np.searchsorted(further, np.append(starts, len(text)))
    return sums + np.diff(added[from_first])


def _signed(values: NDArray[Any]) -> NDArray[Any]:
    """Numbers of five bits, whose highest is the sign."""
    return values - ((values & 16) << 1)


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
