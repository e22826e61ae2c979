"""Adaptive Training Sample Selection (Zhang et al., CVPR 2020, arXiv:1912.02424): a threshold for each object.

Legend: B images, L levels, M anchors of an image, G objects of an image, K candidates of an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rankdet.label_assignment.overlap import aligned_iou
from rankdet.label_assignment.pyramid import PyramidAnchors, centers, pool
from rankdet.ranges import Count, checked
from rankdet.structures import Assignment, Target

LEAST_DISTANCE = 0.01
"""Least distance in pixels, exclusive, of the center of a positive anchor from all sides of its object."""


@checked
@dataclass(frozen=True)
class ATSSAssigner:
    """Assigner with a threshold of IoU for each object, over the anchors of each level that are nearest to it.

    The candidates of an object are, on each level, the ``candidates_per_level`` anchors whose centers are nearest to
    its own, or all of a smaller level. A candidate is a positive when its center lies inside of the object, and its IoU
    with it reaches a threshold. This threshold is the mean plus the standard deviation (that of a sample, n − 1) of the
    IoUs of all candidates of the object. An anchor that is a positive of several objects goes to the one that it
    overlaps most. All other anchors are background. Only those in the padding are ignored, and they are no candidates.

    Notes
    -----
    With several anchors per cell the k nearest are those of fewer cells: their centers are the same. Of equally near
    anchors the first ones are taken, and of equally overlapped objects the first one. (The authors leave both to the
    order in which a sort happens to return ties.) The deviation of a single candidate is 0. The host waits for no
    tensor.

    Examples
    --------
    >>> anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0], [8.0, 0.0, 16.0, 8.0], [16.0, 0.0, 24.0, 8.0]])
    >>> target = Target(torch.tensor([[1.0, 0.0, 9.0, 8.0]]), torch.tensor([2]))
    >>> ATSSAssigner()(PyramidAnchors(anchors, [3], [None]), [target], num_classes=5).labels
    tensor([2, 5, 5])
    """

    candidates_per_level: Count = 9

    @torch.no_grad()
    def __call__(self, anchors: PyramidAnchors, targets: Sequence[Target], num_classes: int) -> Assignment:
        """Return labels of the (B · M,) anchors of B images; C = ``num_classes`` is background."""
        images = [
            self._assign(anchors, valid, target, num_classes)
            for valid, target in zip(anchors.valid, targets, strict=True)
        ]
        return pool(images, anchors, targets, num_classes)

    def _assign(self, anchors: PyramidAnchors, valid: Tensor | None, target: Target, num_classes: int) -> Assignment:
        num_objects, num_anchors = len(target.labels), len(anchors.boxes)
        matched = torch.zeros(num_anchors, dtype=torch.int64, device=anchors.boxes.device)
        background = torch.full_like(matched, num_classes)
        if not num_objects or not num_anchors:
            return Assignment(background, matched)
        # The candidates of each object: the nearest anchors of each level.
        objects = target.boxes.float()[:, None]  # (G, 1, 4)
        rows = self._nearest(anchors, valid, centers(objects))  # (G, K)
        is_candidate = torch.ones_like(rows, dtype=torch.bool) if valid is None else valid[rows]
        candidates = anchors.boxes[rows]  # (G, K, 4)
        # Those that reach the threshold of their object, with the center inside of it, are its positives.
        iou = aligned_iou(candidates, objects)
        reaches = iou.double() >= _threshold(iou.double(), is_candidate)
        to_sides = torch.cat([centers(candidates) - objects[..., :2], objects[..., 2:] - centers(candidates)], dim=-1)
        is_positive = is_candidate & reaches & (to_sides.amin(dim=-1) > LEAST_DISTANCE)
        # An anchor has one owner: the object that it overlaps most.
        owner = _owners(rows, iou, is_positive, num_anchors)
        is_owned = owner < num_objects
        matched = owner.where(is_owned, 0)
        return Assignment(target.labels[matched].where(is_owned, background), matched)

    def _nearest(self, anchors: PyramidAnchors, valid: Tensor | None, object_centers: Tensor) -> Tensor:
        """Return the rows (G, K) of the anchors nearest to the centers (G, 1, 2), level by level."""
        nearest, start = [], 0
        for level in centers(anchors.boxes).split(anchors.num_per_level):
            x, y = (level - object_centers).unbind(dim=-1)
            squared = x.square_().add_(y.square_())  # (G, anchors of the level)
            if valid is not None:
                squared = squared.masked_fill(~valid[start : start + len(level)], torch.inf)
            nearest.append(first_smallest(squared, min(self.candidates_per_level, len(level))) + start)
            start += len(level)
        return torch.cat(nearest, dim=1)


def first_smallest(values: Tensor, count: int) -> Tensor:
    """Return the columns of the ``count`` smallest of values (G, m), smallest first; of equal values the first ones.

    The values are float32, and none of them is negative.

    Examples
    --------
    >>> first_smallest(torch.tensor([[2.0, 1.0, 0.5, 1.0, 1.0]]), 3)
    tensor([[2, 1, 3]])
    """
    # The bits of floating-point numbers from 0 on are in the order of the numbers: column numbers below break ties.
    keys = (values.view(torch.int32).long() << 32) + torch.arange(values.shape[1], device=values.device)
    return keys.topk(count, largest=False).values & 0xFFFFFFFF


def _threshold(iou: Tensor, is_candidate: Tensor) -> Tensor:
    """Return mean + standard deviation, (G, 1), of the IoUs (G, K) of candidates; NaN without any."""
    count = is_candidate.sum(dim=1, keepdim=True)
    mean = iou.where(is_candidate, 0).sum(dim=1, keepdim=True) / count
    squared = (iou - mean).square().where(is_candidate, 0).sum(dim=1, keepdim=True)
    return mean + (squared / (count - 1).clamp(min=1)).sqrt()


def _owners(rows: Tensor, iou: Tensor, is_positive: Tensor, num_anchors: int) -> Tensor:
    """Return the object (M,) that each anchor belongs to; G where it is a positive of none. Arguments are (G, K)."""
    num_objects = len(rows)
    positive_iou = iou.where(is_positive, -1)
    best = iou.new_full((num_anchors,), -1).scatter_reduce(0, rows.flatten(), positive_iou.flatten(), "amax")
    order = torch.arange(num_objects, device=rows.device)[:, None]
    claims = order.where(is_positive & (iou == best[rows]), num_objects)
    return rows.new_full((num_anchors,), num_objects).scatter_reduce(0, rows.flatten(), claims.flatten(), "amin")
