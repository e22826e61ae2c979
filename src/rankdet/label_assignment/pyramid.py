"""The anchors of a pyramid, and labels of all images of a batch in one piece.

Legend: B images, L levels, M anchors of an image, G objects of an image, P positives of all images, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.label_assignment.interfaces import Assigner, Sampler
from rankdet.structures import IGNORED, Assignment, Target, is_class


class PyramidAnchors(NamedTuple):
    """Anchors of every level of a pyramid, and where the images of a batch have them.

    Boxes are (M, 4) xyxy in pixels, level by level. ``valid`` has (M,) bool for each image, False in the padding of the
    batch; None where all of its anchors are valid.
    """

    boxes: Tensor
    num_per_level: list[int]
    valid: list[Tensor | None]

    def levels(self) -> Tensor:
        """Return the level of each anchor, (M,) int64, 0 for the finest."""
        return torch.cat(
            [
                torch.full((count,), level, dtype=torch.int64, device=self.boxes.device)
                for level, count in enumerate(self.num_per_level)
            ]
        )

    def of_rows(self, rows: Tensor) -> Tensor:
        """Return the anchors (P, 4) of rows (P,) among the B · M anchors of a batch."""
        return self.boxes[rows % len(self.boxes)]


def pool(
    assignments: Sequence[Assignment],
    anchors: PyramidAnchors,
    targets: Sequence[Target],
    num_classes: int,
    sampler: Sampler | None = None,
) -> Assignment:
    """Join the labels of the M anchors of B images into one assignment of (B · M,) anchors.

    Anchors in the padding become ignored; then the sampler chooses among the others of an image, where there is one.
    ``matched`` of the result counts through the objects of all images.
    """
    labels, matched, first_object = [], [], 0
    for assignment, valid, target in zip(assignments, anchors.valid, targets, strict=True):
        if valid is not None:
            assignment = assignment._replace(labels=assignment.labels.masked_fill(~valid, IGNORED))
        if sampler is not None:
            assignment = sampler(assignment, num_classes)
        labels.append(assignment.labels)
        matched.append(assignment.matched + first_object)
        first_object += len(target.labels)
    all_labels = torch.cat(labels)
    return Assignment(all_labels, torch.cat(matched).where(is_class(all_labels, num_classes), 0))


def assign_by_overlap(
    assigner: Assigner,
    anchors: PyramidAnchors,
    targets: Sequence[Target],
    num_classes: int,
    sampler: Sampler | None = None,
) -> Assignment:
    """Label the (B · M,) anchors of B images by an assigner of boxes; anchors in the padding win no object.

    The sampler chooses among the labeled anchors of an image; None keeps all of them. ``matched`` of the result counts
    through the objects of all images.

    Examples
    --------
    >>> from rankdet.label_assignment import MaxIoUAssigner
    >>> anchors = PyramidAnchors(torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 0.0, 8.0, 4.0]]), [2], [None])
    >>> target = Target(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([1]))
    >>> assign_by_overlap(MaxIoUAssigner(0.5, 0.4), anchors, [target], 3).labels
    tensor([1, 3])
    """
    # An anchor in the padding, as a point at the corner, overlaps nothing.
    usable = [anchors.boxes if valid is None else anchors.boxes * valid[:, None] for valid in anchors.valid]
    assignments = [assigner(boxes, target, num_classes) for boxes, target in zip(usable, targets, strict=True)]
    return pool(assignments, anchors, targets, num_classes, sampler)


def positive_rows(labels: Tensor, num_classes: int) -> Tensor:
    """Return the rows (P,) of positives among labels (M,), ascending. The host waits for the device once.

    Examples
    --------
    >>> positive_rows(torch.tensor([3, 0, -1, 2]), 3)
    tensor([1, 3])
    """
    return torch.nonzero(is_class(labels, num_classes)).squeeze(1)


def centers(boxes: Tensor) -> Tensor:
    """Return the centers (…, 2), x and y, of boxes (…, 4)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2
