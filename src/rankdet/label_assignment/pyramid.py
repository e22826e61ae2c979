"""The anchors of one-stage detectors, and labels of all images of a batch in one piece.

Legend: B images, L levels, M anchors of an image, G objects of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.label_assignment.max_iou import MaxIoUAssigner
from rankdet.structures import IGNORED, Assignment, Target


class PyramidAnchors(NamedTuple):
    """Anchors of every level of a pyramid, and where the images of a batch have them.

    boxes
        (M, 4) xyxy in pixels, level by level.
    num_per_level
        L numbers that add up to M.
    valid
        For each image (M,) bool, False in the padding of the batch; None where all of its anchors are valid.
    """

    boxes: Tensor
    num_per_level: list[int]
    valid: list[Tensor | None]


def pool(
    assignments: Sequence[Assignment], anchors: PyramidAnchors, targets: Sequence[Target], num_classes: int
) -> Assignment:
    """Labels of B images as one assignment of (B · M,) anchors.

    Parameters
    ----------
    assignments
        Of each image.
    anchors
        Those in the padding become ignored.
    targets
        ``matched`` of the result counts through the objects of all of them.
    num_classes
        C.
    """
    labels, matched, first_object = [], [], 0
    for assignment, valid, target in zip(assignments, anchors.valid, targets, strict=True):
        labels.append(assignment.labels if valid is None else assignment.labels.masked_fill(~valid, IGNORED))
        matched.append(assignment.matched + first_object)
        first_object += len(target.labels)
    all_labels = torch.cat(labels)
    is_positive = (all_labels >= 0) & (all_labels < num_classes)
    return Assignment(all_labels, torch.cat(matched).where(is_positive, 0))


def assign_by_overlap(
    assigner: MaxIoUAssigner, anchors: PyramidAnchors, targets: Sequence[Target], num_classes: int
) -> Assignment:
    """Labels of the (B · M,) anchors of B images by an assigner of boxes; what is in the padding wins no object.

    Parameters
    ----------
    assigner
        Labels the anchors of an image.
    anchors
        Of one image, with the padding of each.
    targets
        The objects of B images; ``matched`` of the result counts through all of them.
    num_classes
        C, which is background.

    Examples
    --------
    >>> anchors = PyramidAnchors(torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0]]), [2], [None])
    >>> target = Target(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([1]))
    >>> assign_by_overlap(MaxIoUAssigner(0.5, 0.4), anchors, [target], 3).labels
    tensor([1, 3])
    """
    # An anchor in the padding, as a point at the corner, overlaps nothing.
    usable = [anchors.boxes if valid is None else anchors.boxes * valid[:, None] for valid in anchors.valid]
    assignments = [assigner(own, target, num_classes) for own, target in zip(usable, targets, strict=True)]
    return pool(assignments, anchors, targets, num_classes)


def centers(boxes: Tensor) -> Tensor:
    """(…, 2) centers (x, y) of boxes (…, 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2
