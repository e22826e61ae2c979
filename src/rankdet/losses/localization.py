"""Localization of matched pairs: quality and loss per positive, never reduced.

Legend: P positives. Boxes are (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MIN_AREA = 1e-6
"""Floor of union and enclosing area in square pixels, so that boxes without area divide by no zero."""


class Overlap(NamedTuple):
    """IoU in [0, 1] and GIoU in (−1, 1] of P pairs of boxes, each (P,)."""

    iou: Tensor
    giou: Tensor


def box_overlap(predicted: Tensor, target: Tensor) -> Overlap:
    r"""IoU and generalized IoU of aligned pairs of boxes, in float32 or better.

    .. math:: IoU = \frac{|A \cap B|}{|A \cup B|}, \qquad GIoU = IoU - \frac{|C| - |A \cup B|}{|C|}

    with C the smallest box around both (Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019).

    Parameters
    ----------
    predicted, target
        (P, 4) boxes; gradients flow to both.

    Examples
    --------
    Two boxes of one size side by side, and a box with itself:

    >>> predicted = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
    >>> target = torch.tensor([[2.0, 0, 4, 2], [0, 0, 2, 2]])
    >>> box_overlap(predicted, target)
    Overlap(iou=tensor([0., 1.]), giou=tensor([0., 1.]))
    """
    dtype = torch.promote_types(torch.promote_types(predicted.dtype, target.dtype), torch.float32)
    predicted, target = predicted.to(dtype), target.to(dtype)
    corner, opposite = predicted.split(2, dim=1), target.split(2, dim=1)
    inner = _area(torch.maximum(corner[0], opposite[0]), torch.minimum(corner[1], opposite[1]))
    outer = _area(torch.minimum(corner[0], opposite[0]), torch.maximum(corner[1], opposite[1])).clamp(min=MIN_AREA)
    union = (_area(*corner) + _area(*opposite) - inner).clamp(min=MIN_AREA)
    iou = inner / union
    return Overlap(iou, iou - (outer - union) / outer)


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    width, height = (bottom_right - top_left).clamp(min=0).unbind(1)
    return width * height
