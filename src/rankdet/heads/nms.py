"""Non-maximum suppression inside groups (pyramid levels or classes), for the best few of many boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, *, iou: float, limit: int) -> Tensor:
    """The best ``limit`` boxes that no better box of their group overlaps by more than ``iou``.

    Boxes are visited by falling score, and a box is only ever suppressed by a better one: the best are examined first,
    and more of them only until enough remain. The result is that of examining all.

    Parameters
    ----------
    boxes
        (K, 4) xyxy.
    scores
        (K,); of equal scores the first comes first.
    groups
        (K,) int64.

    Returns
    -------
    Tensor
        Rows of ``boxes``, at most ``limit``, best score first.

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0], [0.0, 0.0, 4.0, 4.0]])
    >>> grouped_nms(boxes, torch.tensor([0.5, 0.9, 0.1]), torch.tensor([0, 0, 1]), iou=0.5, limit=10)
    tensor([1, 2])
    """
    # batched_nms may shift every group to a place of its own: in float64 that costs no accuracy.
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, groups = boxes[order].double(), scores[order].double(), groups[order]
    examined = 2 * limit
    while True:
        kept = batched_nms(boxes[:examined], scores[:examined], groups[:examined], iou)
        if len(kept) >= limit or examined >= len(boxes):
            # batched_nms may return equal scores in any order; rows stand by falling score, then by place.
            return order[kept.sort().values[:limit]]
        examined *= 4


def select_detections(
    boxes: Tensor, scores: Tensor, *, threshold: float, iou: float, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Every (box, class) pair above the threshold is a candidate; class-wise suppression; the best ``limit`` remain.

    Parameters
    ----------
    boxes
        (K, C, 4) xyxy, a box for each class.
    scores
        (K, C).

    Returns
    -------
    tuple
        (D, 4) boxes, (D,) scores and (D,) labels, best score first.
    """
    rows, labels = torch.nonzero(scores > threshold, as_tuple=True)
    boxes, scores = boxes[rows, labels], scores[rows, labels]
    best = grouped_nms(boxes, scores, labels, iou=iou, limit=limit)
    return boxes[best], scores[best], labels[best]
