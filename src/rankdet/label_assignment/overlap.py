"""Overlap of boxes pair by pair. (torchvision's ``box_iou`` is for all pairs.)"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_AREA = 1e-6
"""Floor of union and enclosing area in square pixels, so that nothing is divided by zero for boxes without area."""


def aligned_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU (…,) of boxes (…, 4) with others (…, 4), pair by pair; the shapes are broadcast.

    Examples
    --------
    >>> aligned_iou(torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 2.0, 2.0]]), torch.tensor([0.0, 0.0, 4.0, 2.0]))
    tensor([0.5000, 0.5000])
    """
    inner, union = _inner_and_union(boxes, others)
    return inner / union


def aligned_giou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the generalized IoU (…,) of boxes (…, 4) with others (…, 4), pair by pair; the shapes are broadcast.

    It is IoU − (outer − union) / outer, where outer is the area of the smallest box around both.

    Notes
    -----
    torchvision has this as a loss, which indexes by a mask and so makes the host wait for a GPU.

    Examples
    --------
    >>> aligned_giou(torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 2.0, 2.0]]), torch.tensor([0.0, 2.0, 4.0, 4.0]))
    tensor([ 0.5000, -0.2500])
    """
    inner, union = _inner_and_union(boxes, others)
    sides = torch.maximum(boxes[..., 2:], others[..., 2:]) - torch.minimum(boxes[..., :2], others[..., :2])
    outer = sides.prod(dim=-1).clamp(min=MIN_AREA)
    return inner / union - (outer - union) / outer


def _inner_and_union(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    top_left = torch.maximum(boxes[..., :2], others[..., :2])
    inner = (torch.minimum(boxes[..., 2:], others[..., 2:]) - top_left).clamp(min=0).prod(dim=-1)
    return inner, (_area(boxes) + _area(others) - inner).clamp(min=MIN_AREA)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)
