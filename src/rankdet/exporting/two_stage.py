"""Faster, Mask and Cascade R-CNN as a graph.

Legend: B images, L levels, P proposals of an image, C classes, D detections of an image, S cells per side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

from rankdet.detectors import CascadeRCNN, FasterRCNN, MaskRCNN
from rankdet.exporting.anchors import best_anchors, boxes_at, corner_anchors
from rankdet.exporting.fixed import FixedDetections, FixedImages, best, clipped, not_suppressed, rows_of, select
from rankdet.heads import BoxStage, RegionProposalNetwork, RoIPooling


def detect_in_two_stages(network: FasterRCNN, images: FixedImages) -> FixedDetections:
    """Return what `detect` of the network finds, with masks from a Mask R-CNN."""
    images = images.padded()
    maps = network.fpn(network.backbone(images))  # type: ignore[arg-type]
    proposals, is_any = propose(network.rpn, maps, images)
    logits, deltas = run_stage(network.rcnn, maps, proposals)
    scores = network.rcnn.head.scores(logits).unflatten(0, proposals.shape[:2])
    boxes = moved(network.rcnn, deltas, proposals, images)
    found = chosen(network, boxes, scores.where(is_any[..., None], 0), images)
    if not isinstance(network, MaskRCNN):
        return found
    of_boxes = pooled(network.mask.pooling, maps, found.boxes)
    masks = network.mask.head(of_boxes, found.labels.flatten()).sigmoid().unflatten(0, found.scores.shape)
    return found._replace(masks=masks, regions=found.boxes)


def detect_in_cascade(network: CascadeRCNN, images: FixedImages) -> FixedDetections:
    """Return what `detect` of the network finds."""
    images = images.padded()
    maps = network.fpn(network.backbone(images))  # type: ignore[arg-type]
    boxes, is_any = propose(network.rpn, maps, images)
    stages: list[BoxStage] = list(network.stages)  # type: ignore[arg-type]
    all_logits = []
    for stage in stages:
        logits, deltas = run_stage(stage, maps, boxes)
        all_logits.append(logits)
        boxes = moved(stage, deltas, boxes, images)[:, :, 0]
    scores = stages[-1].head.scores(torch.stack(all_logits).mean(dim=0)).unflatten(0, boxes.shape[:2])
    return chosen(network, boxes[:, :, None], scores.where(is_any[..., None], 0), images)


def propose(rpn: RegionProposalNetwork, maps: Sequence[Tensor], images: FixedImages) -> tuple[Tensor, Tensor]:
    """Return proposals (B, P, 4), best first, and which are any, (B, P) bool."""
    settings = rpn.test_proposals
    logits, deltas = rpn.head(maps)
    anchors = corner_anchors(rpn.anchors, maps, images)
    highest = best_anchors(logits, anchors, settings.per_level)
    boxes = clipped(boxes_at(highest.rows, deltas, anchors, rpn.coder), images)
    kept = not_suppressed(
        boxes,
        highest.scores,
        highest.levels.expand_as(highest.rows),
        highest.valid,
        images,
        num_groups=len(maps),
        iou=settings.nms_iou,
    )
    scores, rows = best(highest.scores.where(kept, -torch.inf), settings.per_image)
    return rows_of(boxes, rows), scores > -torch.inf


def run_stage(stage: BoxStage, maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (B · P, …) and deltas (B · P, …, 4) for boxes (B, P, 4)."""
    outputs: tuple[Tensor, Tensor] = stage.head(pooled(stage.pooling, maps, boxes))
    return outputs


def moved(stage: BoxStage, deltas: Tensor, boxes: Tensor, images: FixedImages) -> Tensor:
    """Return the boxes (B, P, C or 1, 4) that deltas (B · P, C or 1, 4) make of boxes (B, P, 4)."""
    return clipped(stage.coder.decode(deltas.unflatten(0, boxes.shape[:2]), boxes[:, :, None]), images)


def chosen(network: FasterRCNN | CascadeRCNN, boxes: Tensor, scores: Tensor, images: FixedImages) -> FixedDetections:
    """Return detections among boxes (B, P, C or 1, 4) with scores (B, P, C)."""
    settings = network.detection
    return select(
        boxes, scores, images, threshold=settings.score_threshold, iou=settings.nms_iou, limit=settings.per_image
    )


def pooled(pooling: RoIPooling, maps: Sequence[Tensor], boxes: Tensor) -> Tensor:
    """Return features (B · P, channels, S, S) of boxes (B, P, 4), image by image.

    Every level reads all boxes, those of other levels as boxes without area, which cost next to nothing.
    """
    images = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2]).reshape(-1, 1)
    flat = boxes.flatten(0, 1)
    levels = pooling.levels(flat)
    total: Tensor | None = None
    for level, (features, stride) in enumerate(zip(maps, pooling.strides, strict=False)):
        is_here = levels == level
        rois = torch.cat([images.float(), flat.where(is_here[:, None], 0)], dim=1)
        read = roi_align(
            features, rois, pooling.output_size, 1 / stride, pooling.sampling_ratio, pooling.half_pixel_shift
        ).where(is_here[:, None, None, None], 0)
        total = read if total is None else total + read
    assert total is not None  # there is a level
    return total
