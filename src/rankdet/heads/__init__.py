"""Feature maps → logits, boxes and Candidates: the parts that detectors are made of."""

from rankdet.heads.anchors import AnchorGenerator
from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.box_head import BoxHead
from rankdet.heads.box_stage import BoxStage, RoIs
from rankdet.heads.dense import DenseHead, DenseOutputs, DenseStage
from rankdet.heads.mask_head import MaskHead
from rankdet.heads.mask_stage import MaskStage
from rankdet.heads.mask_targets import crop_masks, crop_outlines
from rankdet.heads.nms import grouped_nms, select_detections
from rankdet.heads.roi_pooling import RoIPooling
from rankdet.heads.rpn import ProposalSettings, RegionProposalNetwork, RPNHead, RPNOutputs

__all__ = [
    "AnchorGenerator",
    "BoxCoder",
    "BoxHead",
    "BoxStage",
    "DenseHead",
    "DenseOutputs",
    "DenseStage",
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
    "grouped_nms",
    "select_detections",
]
