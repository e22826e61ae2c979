"""Feature maps → logits, boxes and Candidates: the parts that detectors are made of."""

from rankdet.heads.anchors import AnchorGenerator
from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.box_head import BoxHead
from rankdet.heads.box_stage import BoxStage, RoIs
from rankdet.heads.dense import DenseHead, DenseOutputs, DenseStage
from rankdet.heads.mask_head import MaskHead
from rankdet.heads.mask_nms import mask_iou, matrix_nms
from rankdet.heads.mask_stage import MaskStage
from rankdet.heads.mask_targets import crop_masks, crop_outlines, fill_outlines, shrink_masks
from rankdet.heads.nms import grouped_nms, select_detections
from rankdet.heads.roi_pooling import RoIPooling
from rankdet.heads.rpn import ProposalSettings, RegionProposalNetwork, RPNHead, RPNOutputs
from rankdet.heads.solo import GridHead, GridOutputs, GridStage, MaskFeatures, mask_logits

__all__ = [
    "AnchorGenerator",
    "BoxCoder",
    "BoxHead",
    "BoxStage",
    "DenseHead",
    "DenseOutputs",
    "DenseStage",
    "GridHead",
    "GridOutputs",
    "GridStage",
    "MaskFeatures",
    "MaskHead",
    "MaskStage",
    "ProposalSettings",
    "RPNHead",
    "RPNOutputs",
    "RegionProposalNetwork",
    "RoIPooling",
    "RoIs",
    "crop_masks",
    "crop_outlines",
    "fill_outlines",
    "grouped_nms",
    "mask_iou",
    "mask_logits",
    "matrix_nms",
    "select_detections",
    "shrink_masks",
]
