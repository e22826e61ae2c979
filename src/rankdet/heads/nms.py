"""Non-maximum suppression inside groups (pyramid levels or classes), for the best few of many boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from rankdet.label_assignment import aligned_iou

MAX_PAIRS = 2**22
"""Pairs of boxes whose overlap is computed in one piece: a few temporaries of 16 MiB."""


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


def fast_nms(
    boxes: Tensor, scores: Tensor, *, threshold: float, iou: float, limit: int, per_class: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """Fast NMS (Bolya et al., ICCV 2019, arXiv:1904.02689, section 4): all boxes of all classes at once.

    Other than in :func:`grouped_nms` also a box that is itself suppressed suppresses those that it overlaps, which
    takes a few boxes too many, and makes each decision independent of the others.

    Parameters
    ----------
    boxes
        (K, 4) xyxy.
    scores
        (K, C).
    threshold
        Pairs of box and class up to this score are dropped.
    iou
        A box is dropped where a box of its class that scores higher overlaps it by more than this.
    limit
        The best of all classes that remain.
    per_class
        The best boxes of each class that are looked at.

    Returns
    -------
    tuple
        (D,) rows of ``boxes``, (D,) scores and (D,) labels, best score first; of equal scores the first box and the
        first class come first.

    Examples
    --------
    The second box goes by the first, and the third by the second, which is no longer there:

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 6.0], [0.0, 0.0, 4.0, 9.0]])
    >>> rows, _, _ = fast_nms(boxes, torch.tensor([[0.9], [0.8], [0.7]]), threshold=0.05, iou=0.5, limit=10)
    >>> rows
    tensor([0])
    """
    # What is not above the threshold never suppresses what is: neither such pairs nor classes without others matter.
    counts = (scores > threshold).sum(dim=0)
    classes = counts.nonzero().squeeze(1)
    if not len(classes):
        return classes, scores.new_zeros(0), classes
    most = min(per_class, int(counts.amax()))
    ranked, rows = scores[:, classes].sort(dim=0, descending=True, stable=True)
    ranked, rows = ranked[:most].T, rows[:most].T  # (c, k)
    is_kept = ranked > threshold
    step = max(1, MAX_PAIRS // most**2)
    for chosen, kept in zip(rows.split(step), is_kept.split(step), strict=True):
        candidates = boxes[chosen]
        overlap = aligned_iou(candidates[:, :, None], candidates[:, None]).triu_(diagonal=1)
        kept &= overlap.amax(dim=1) <= iou
    places = is_kept.nonzero()
    found = ranked[is_kept]
    # Classes are the outer order of ``places``: a stable sort would put the class before the box.
    order = (rows[is_kept] * scores.shape[1] + classes[places[:, 0]]).argsort()
    best = order[found[order].argsort(descending=True, stable=True)[:limit]]
    return rows[is_kept][best], found[best], classes[places[best, 0]]


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
