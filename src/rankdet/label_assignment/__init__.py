"""Anchors, proposals or cells and the objects of an image → Assignment."""

from rankdet.extras import require

require(__name__)

from rankdet.label_assignment.atss import ATSSAssigner
from rankdet.label_assignment.hungarian import HungarianAssigner, Matching, PaddedObjects, pad_objects
from rankdet.label_assignment.interfaces import Assigner, Sampler
from rankdet.label_assignment.max_iou import MaxIoUAssigner
from rankdet.label_assignment.overlap import aligned_iou
from rankdet.label_assignment.paa import PAAAssigner
from rankdet.label_assignment.pyramid import PyramidAnchors, assign_by_overlap, positive_rows
from rankdet.label_assignment.sampling import RandomSampler
from rankdet.label_assignment.solo_grid import GridAssigner, GridAssignment, MaskShapes, mask_shapes

__all__ = [
    "ATSSAssigner",
    "Assigner",
    "GridAssigner",
    "GridAssignment",
    "HungarianAssigner",
    "MaskShapes",
    "Matching",
    "MaxIoUAssigner",
    "PAAAssigner",
    "PaddedObjects",
    "PyramidAnchors",
    "RandomSampler",
    "Sampler",
    "aligned_iou",
    "assign_by_overlap",
    "mask_shapes",
    "pad_objects",
    "positive_rows",
]
