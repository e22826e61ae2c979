"""ATSS and PAA as a graph.

Legend: B images, K boxes of an image, C classes, D detections of an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdet.detectors import ATSS, PAA
from rankdet.detectors.paa import VOTE_WIDTH, VOTER_IOU
from rankdet.exporting.anchors import best_anchors, boxes_at, corner_anchors
from rankdet.exporting.fixed import FixedDetections, FixedImages, clipped, rows_of, select


def detect_densely(network: ATSS | PAA, images: FixedImages) -> FixedDetections:
    """Return what `detect` of the network finds."""
    images = images.padded()
    maps = network.fpn(network.backbone(images))  # type: ignore[arg-type]
    stage = network.dense
    logits, deltas, auxiliary = stage.head(maps)
    anchors = corner_anchors(stage.anchors, maps, images)
    chosen = best_anchors(network.score(logits.amax(dim=2), auxiliary), anchors, network.test_per_level)
    of_boxes = None if auxiliary is None else auxiliary.gather(1, chosen.rows)[..., None]
    scores = network.score(rows_of(logits, chosen.rows), of_boxes).where(chosen.valid[..., None], 0)
    boxes = clipped(boxes_at(chosen.rows, deltas, anchors, stage.coder), images)
    settings = network.detection
    found = select(
        boxes[:, :, None],
        scores,
        images,
        threshold=settings.score_threshold,
        iou=settings.nms_iou,
        limit=settings.per_image,
    )
    if isinstance(network, PAA):
        means = voted(found, boxes, scores, settings.score_threshold)
        return found._replace(boxes=clipped(means, images))
    return found


def voted(found: FixedDetections, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Return the boxes (B, D, 4) of `rankdet.detectors.paa.voted` from boxes (B, K, 4) and scores (B, K, C)."""
    votes = rows_of(scores.transpose(1, 2), found.labels)  # (B, D, K)
    iou = overlaps(found.boxes, boxes)
    weights = (votes * torch.exp(-(1 - iou).square() / VOTE_WIDTH)).where((votes > threshold) & (iou > VOTER_IOU), 0)
    total = weights.sum(dim=2, keepdim=True)
    means = weights @ boxes / total.clamp(min=torch.finfo(total.dtype).tiny)
    return means.where(total > 0, found.boxes)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the IoU (B, D, K) of boxes (B, D, 4) with others (B, K, 4); NaN of two boxes without area."""
    start = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    end = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    common = (end - start).clamp(min=0).prod(dim=3)
    area, other_area = ((part[..., 2:] - part[..., :2]).prod(dim=2) for part in (boxes, others))
    union = area[:, :, None] + other_area[:, None] - common
    return common / union
