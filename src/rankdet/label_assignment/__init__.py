"""Anchors, proposals or cells and the objects of an image → Assignment."""

from typing import Protocol

from torch import Tensor

from rankdet.label_assignment.atss import ATSSAssigner
from rankdet.label_assignment.max_iou import MaxIoUAssigner
from rankdet.label_assignment.overlap import aligned_iou
from rankdet.label_assignment.paa import PAAAssigner
from rankdet.label_assignment.pyramid import PyramidAnchors, assign_by_overlap
from rankdet.label_assignment.sampling import RandomSampler
from rankdet.label_assignment.solo_grid import GridAssigner, GridAssignment, MaskShapes, mask_shapes
from rankdet.structures import Assignment, Target

__all__ = [
    "ATSSAssigner",
    "Assigner",
    "GridAssigner",
    "GridAssignment",
    "MaskShapes",
    "MaxIoUAssigner",
    "PAAAssigner",
    "PyramidAnchors",
    "RandomSampler",
    "Sampler",
    "aligned_iou",
    "assign_by_overlap",
    "mask_shapes",
]


class Assigner(Protocol):
    """Says which class each of (M, 4) boxes of one image stands for."""

    def __call__(self, boxes: Tensor, target: Target, num_classes: int) -> Assignment:
        """Labels 0 … C−1, C for background, −1 for ignored, and the matched objects."""
        ...


class Sampler(Protocol):
    """Chooses candidates of one image; the others are ignored."""

    def __call__(self, assignment: Assignment, num_classes: int) -> Assignment:
        """The same assignment with more labels −1."""
        ...
