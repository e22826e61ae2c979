"""From segmentations of COCO to masks of placed images, or to outlines that are rasterized later.

Legend: G objects of an image, E edges of an object. Sizes are (height, width) in pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rankdet.coco.segmentations import decode_polygons, decode_rle
from rankdet.data.transforms import Placement
from rankdet.structures import Outlines


def rasterize(segmentation: Any, placement: Placement) -> Tensor:
    """The mask of one object, (height, width) bool in the placed image, from its checked segmentation.

    Polygons are placed first and rasterized afterwards, which is cheaper and sharper than resizing a mask.

    Examples
    --------
    >>> rasterize([[0, 0, 4, 0, 4, 2, 0, 2]], Placement((4, 4), (2, 2)))
    tensor([[ True,  True],
            [False, False]])
    """
    if isinstance(segmentation, list):
        # Polygons of fewer than three points enclose nothing.
        polygons = [_placed(polygon, placement).flatten().tolist() for polygon in segmentation if len(polygon) >= 6]
        return placement.flipped(_mask(decode_polygons(polygons, placement.after)))[0]
    return placement.masks(_mask(decode_rle({"size": list(placement.before), "counts": segmentation["counts"]})))[0]


def _mask(pixels: NDArray[np.uint8]) -> Tensor:
    """(1, h, w) bool."""
    return torch.from_numpy(pixels).to(torch.bool)[None]


def _placed(polygon: Sequence[float], placement: Placement) -> Tensor:
    return placement.unflipped(torch.tensor(polygon, dtype=torch.float64).view(-1, 2))


def outline(objects: Sequence[Sequence[Sequence[float]]], placement: Placement) -> Outlines:
    """The placed outlines of objects.

    ``objects`` has G lists of polygons x1, y1, x2, y2, …; those of fewer than three points enclose nothing.

    Examples
    --------
    >>> outline([[[0, 0, 4, 0, 4, 2]]], Placement((4, 4), (8, 4))).edges
    tensor([[[0., 0., 4., 0.],
             [4., 0., 4., 4.],
             [4., 4., 0., 0.]]])
    """
    edges = []
    for polygons in objects:
        closed = [torch.zeros(0, 4)]
        for polygon in polygons:
            if len(polygon) < 6:
                continue
            points = placement.points(torch.tensor(polygon, dtype=torch.float32).view(-1, 2))
            edge = torch.cat([points, points.roll(-1, dims=0)], dim=1)
            # Twice the signed area: all polygons turn the same way, so that no two cancel where they overlap.
            area = (edge[:, 0] * edge[:, 3] - edge[:, 2] * edge[:, 1]).sum()
            closed.append(edge if area >= 0 else edge[:, [2, 3, 0, 1]])
        edges.append(torch.cat(closed))
    return Outlines(pad_sequence(edges, batch_first=True) if edges else torch.zeros(0, 0, 4))
