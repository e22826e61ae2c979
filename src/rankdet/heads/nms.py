"""Non-maximum suppression inside groups (pyramid levels or classes), for the best few of many boxes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from rankdet.label_assignment import aligned_iou

MAX_PAIRS = 2**22
"""Most pairs of boxes whose overlap is computed in one piece: a few temporaries of 16 MiB."""


def grouped_nms(boxes: Tensor, scores: Tensor, groups: Tensor, *, iou: float, limit: int) -> Tensor:
    """Return the rows of the best ``limit`` boxes that no better box of their group overlaps by more than ``iou``.

    Boxes are (K, 4) xyxy, scores (K,), groups (K,) int64: the pyramid level or class of each box. Rows come best score
    first; of equal scores the first one. A box is only ever suppressed by a better one. So the best are examined first,
    and more of them only until enough remain; the result is that of examining all.

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
            # batched_nms may return equal scores in any order; here rows are sorted by falling score, then by place.
            return order[kept.sort().values[:limit]]
        examined *= 4


def fast_nms(
    boxes: Tensor, scores: Tensor, *, threshold: float, iou: float, limit: int, per_class: int = 200
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best boxes by Fast NMS (Bolya et al., ICCV 2019, arXiv:1904.02689, section 4), all classes at once.

    Unlike in :func:`grouped_nms`, a box that is itself suppressed suppresses those that it overlaps. That drops a few
    boxes too many, and makes each decision independent of the others. The result is (D,) rows of ``boxes``, (D,) scores
    and (D,) labels, best score first; of equal scores the first box and the first class come first.

    Parameters
    ----------
    boxes, scores
        (K, 4) xyxy and (K, C).
    threshold
        Pairs of box and class up to this score are dropped.
    iou
        A box is dropped where a box of its class that scores higher overlaps it by more than this.
    limit
        Most boxes that remain: the best of all classes.
    per_class
        Best boxes of each class that are compared.

    Examples
    --------
    The first box suppresses the second, and the second the third, although it is itself suppressed:

    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 6.0], [0.0, 0.0, 4.0, 9.0]])
    >>> rows, _, _ = fast_nms(boxes, torch.tensor([[0.9], [0.8], [0.7]]), threshold=0.05, iou=0.5, limit=10)
    >>> rows
    tensor([0])
    """
    # Pairs up to the threshold never suppress those above: neither they nor classes of such pairs alone matter.
    counts = (scores > threshold).sum(dim=0)
    classes = counts.nonzero().squeeze(1)
    if not len(classes):
        return classes, scores.new_zeros(0), classes
    most = min(per_class, int(counts.amax()))
    ranked, rows = scores[:, classes].sort(dim=0, descending=True, stable=True)
    ranked, rows = ranked[:most].T, rows[:most].T  # (c, k)
    is_kept = ranked > threshold
    step = max(1, MAX_PAIRS // most**2)
    for class_rows, class_is_kept in zip(rows.split(step), is_kept.split(step), strict=True):
        class_boxes = boxes[class_rows]
        overlap = aligned_iou(class_boxes[:, :, None], class_boxes[:, None]).triu_(diagonal=1)
        class_is_kept &= overlap.amax(dim=1) <= iou
    kept_rows, kept_scores, kept_labels = rows[is_kept], ranked[is_kept], classes[is_kept.nonzero()[:, 0]]
    # They are in the order of their classes: sort by box, then class, before the stable sort by score.
    order = (kept_rows * scores.shape[1] + kept_labels).argsort()
    best = order[kept_scores[order].argsort(descending=True, stable=True)[:limit]]
    return kept_rows[best], kept_scores[best], kept_labels[best]


def select_detections(
    boxes: Tensor, scores: Tensor, *, threshold: float, iou: float, limit: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best pairs of box and class: boxes (D, 4), scores (D,) and labels (D,), best score first.

    Boxes (K, C, 4) are one for each class, scores (K, C). Pairs up to ``threshold`` are dropped, then the lower-scored
    of two boxes of a class that overlap by an IoU of more than ``iou``. At most ``limit`` pairs remain.
    """
    rows, labels = torch.nonzero(scores > threshold, as_tuple=True)
    boxes, scores = boxes[rows, labels], scores[rows, labels]
    best = grouped_nms(boxes, scores, labels, iou=iou, limit=limit)
    return boxes[best], scores[best], labels[best]
