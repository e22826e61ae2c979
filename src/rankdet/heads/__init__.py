"""Feature maps → logits, boxes and Candidates: the parts that detectors are made of."""

from rankdet.extras import require

require(__name__)

from rankdet.heads.anchors import AnchorGenerator, CenteredAnchors
from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.box_head import BoxHead
from rankdet.heads.box_stage import BoxStage, RoIs
from rankdet.heads.decoding import best_anchors, boxes_at, matched_boxes
from rankdet.heads.deformable_attention import DeformableAttention, sample_levels
from rankdet.heads.denoising import Denoising, NoisedQueries
from rankdet.heads.dense import DenseHead, DenseOutputs, DenseStage, centerness
from rankdet.heads.instance_head import InstanceHead, SemanticHead
from rankdet.heads.instance_stage import InstanceOutputs, InstanceStage
from rankdet.heads.mask_head import MaskHead
from rankdet.heads.mask_nms import mask_iou, matrix_nms
from rankdet.heads.mask_stage import MaskStage
from rankdet.heads.mask_targets import crop_masks, crop_outlines, fill_outlines, resize_masks, shrink_masks
from rankdet.heads.nms import fast_nms, grouped_nms, select_detections
from rankdet.heads.prototypes import PrototypeNetwork, assemble_masks, canvas_scores
from rankdet.heads.queries import Padding, QueryOutputs, padding_of, query_candidates
from rankdet.heads.query_decoder import DecoderOutputs, QueryDecoder
from rankdet.heads.roi_pooling import RoIPooling, poolable
from rankdet.heads.rpn import ProposalSettings, RegionProposalNetwork, RPNHead, RPNOutputs
from rankdet.heads.solo import GridHead, GridOutputs, GridStage, MaskFeatures, MaskFeatureSettings, mask_logits

__all__ = [
    "AnchorGenerator",
    "BoxCoder",
    "BoxHead",
    "BoxStage",
    "CenteredAnchors",
    "DecoderOutputs",
    "DeformableAttention",
    "Denoising",
    "DenseHead",
    "DenseOutputs",
    "DenseStage",
    "GridHead",
    "GridOutputs",
    "GridStage",
    "InstanceHead",
    "InstanceOutputs",
    "InstanceStage",
    "MaskFeatureSettings",
    "MaskFeatures",
    "MaskHead",
    "MaskStage",
    "NoisedQueries",
    "Padding",
    "ProposalSettings",
    "PrototypeNetwork",
    "QueryDecoder",
    "QueryOutputs",
    "RPNHead",
    "RPNOutputs",
    "RegionProposalNetwork",
    "RoIPooling",
    "RoIs",
    "SemanticHead",
    "assemble_masks",
    "best_anchors",
    "boxes_at",
    "canvas_scores",
    "centerness",
    "crop_masks",
    "crop_outlines",
    "fast_nms",
    "fill_outlines",
    "grouped_nms",
    "mask_iou",
    "mask_logits",
    "matched_boxes",
    "matrix_nms",
    "padding_of",
    "poolable",
    "query_candidates",
    "resize_masks",
    "sample_levels",
    "select_detections",
    "shrink_masks",
]
