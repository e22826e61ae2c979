"""Masks as short texts: outlines on a grid, as paths of SVG that count its steps.

Legend: h, w height and width of a mask in pixels, K points of an outline.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray

from rankdet.coco.segmentations import decode_rle


def outline_path(segmentation: Any, grid: float) -> str:
    """The outlines of a checked segmentation as a path of SVG in steps of a grid, empty where nothing is left of it.

    Parameters
    ----------
    segmentation
        Polygons or run lengths.
    grid
        Pixels of the image in a step: the more, the shorter is the text.

    Examples
    --------
    >>> outline_path([[2, 0, 6, 0, 6, 2, 2, 2]], grid=0.5)
    'M4 0l8 0 0 4-8 0z'
    """
    return "".join(_path(points, grid) for points in _outlines(segmentation, grid))


def _outlines(segmentation: Any, grid: float) -> Iterator[NDArray[np.float64]]:
    """Closed outlines (K, 2) of (x, y) in pixels of the image."""
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if len(polygon) >= 6:
                yield np.array(polygon, dtype=np.float64).reshape(-1, 2)
        return
    pixels = decode_rle(segmentation)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    if not len(rows):
        return
    top, left = int(rows[0]), int(columns[0])
    window = np.pad(pixels[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    # Values live in the middle of pixels, and the window begins one pixel early: half a pixel remains.
    for line in contour_generator(z=window).lines(0.5):
        yield np.asarray(line, dtype=np.float64)[:-1] + np.array([left - 0.5, top - 0.5])


def _path(points: NDArray[np.float64], grid: float) -> str:
    """A closed outline in relative steps on the grid; points on a straight line are left out."""
    cells = np.round(points / grid).astype(np.int64)
    cells = cells[(cells != _shifted(cells, 1)).any(axis=1)]
    before, behind = cells - _shifted(cells, 1), _shifted(cells, -1) - cells
    is_corner = before[:, 0] * behind[:, 1] != before[:, 1] * behind[:, 0]
    is_corner |= (before * behind).sum(axis=1) < 0
    cells = cells[is_corner]
    if len(cells) < 3:
        return ""
    left, top = cells[0].tolist()
    steps = " ".join(map(str, np.diff(cells, axis=0).ravel().tolist())).replace(" -", "-")
    return f"M{left} {top}l{steps}z"


def _shifted(cells: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """The points of a closed outline, each in the place ``step`` later."""
    return np.concatenate([cells[-step:], cells[:-step]])
