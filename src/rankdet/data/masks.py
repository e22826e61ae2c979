"""COCO segmentations → masks.

Legend: G objects of a picture. Sizes are (height, width) in pixels.
"""

from typing import Any

import numpy as np
import torch
from hotcoco import mask as rle
from torch import Tensor


def rasterize(segmentation: Any, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """The mask of one object.

    Polygons are scaled first and rasterized afterwards, which is cheaper and sharper than resizing a mask.

    Parameters
    ----------
    segmentation
        Polygons, or an RLE with compressed or uncompressed counts; already checked.
    before
        Size of the picture that the segmentation belongs to.
    after
        Size that polygons are scaled to.

    Returns
    -------
    Tensor
        (height, width) bool: of ``after`` size from polygons, of ``before`` size from an RLE.

    Examples
    --------
    >>> rasterize([[0, 0, 4, 0, 4, 2, 0, 2]], (4, 4), (2, 2))
    tensor([[ True,  True],
            [False, False]])
    """
    if isinstance(segmentation, list):
        scale = np.array([after[1] / before[1], after[0] / before[0]])
        codes = [
            # Polygons of fewer than three points enclose nothing.
            rle.fr_poly((np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale).ravel().tolist(), *after)
            for polygon in segmentation
            if len(polygon) >= 6
        ]
        return torch.from_numpy(np.ascontiguousarray(rle.decode(rle.merge(codes)))).to(torch.bool)
    # A list of counts (uncompressed) and a string (compressed) are decoded alike.
    decoded = rle.decode({"size": list(before), "counts": segmentation["counts"]})
    return torch.from_numpy(np.ascontiguousarray(decoded)).to(torch.bool)
