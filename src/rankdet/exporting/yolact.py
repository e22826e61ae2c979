"""YOLACT as a graph.

Legend: B images, H, W height and width of the canvas in pixels, N boxes of an image, C classes, D detections of an
image, Q prototypes, h, w cells of a prototype, R boxes of a class that compete.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from rankdet.detectors import YOLACT
from rankdet.exporting.anchors import best_anchors, boxes_at, centered_anchors
from rankdet.exporting.fixed import FixedDetections, FixedImages, best, clipped, rows_of
from rankdet.heads.prototypes import MARGIN
from rankdet.label_assignment import aligned_iou


def detect_with_prototypes(network: YOLACT, images: FixedImages) -> FixedDetections:
    """Return what `detect` of the network finds. The canvas is not padded: cells divide it evenly."""
    maps = network.fpn(network.backbone(images))  # type: ignore[arg-type]
    anchors = centered_anchors(network.instances.anchors, maps, images)
    logits, deltas, coefficients = network.head(maps)
    chosen = best_anchors(network.head.scores(logits).amax(dim=2), anchors, network.test_per_level)
    scores = network.head.scores(rows_of(logits, chosen.rows)).where(chosen.valid[..., None], 0)
    boxes = clipped(boxes_at(chosen.rows, deltas, anchors, network.instances.coder), images)
    found, rows = fast_nms(network, boxes, scores)
    of_found = rows_of(rows_of(coefficients, chosen.rows), rows)
    masks = assembled(network.prototypes(maps[0]), of_found, found.boxes, images)
    return with_canvas_masks(found, masks, images)


def fast_nms(network: YOLACT, boxes: Tensor, scores: Tensor) -> tuple[FixedDetections, Tensor]:
    """Return the detections among boxes (B, N, 4) with scores (B, N, C), without masks, and their rows (B, D).

    It is `rankdet.heads.fast_nms` of each image, over the same number of boxes in each class.
    """
    settings, num_classes = network.detection, scores.shape[2]
    ranked, rows = scores.transpose(1, 2).topk(min(network.test_per_class, scores.shape[1]), dim=2)  # (B, C, R)
    num_ranked = ranked.shape[2]
    of_classes = rows_of(boxes, rows.flatten(1)).unflatten(1, (num_classes, num_ranked))
    order = torch.arange(num_ranked, device=boxes.device)
    is_better = order[:, None] < order
    overlap = aligned_iou(of_classes[:, :, :, None], of_classes[:, :, None]).where(is_better, 0)
    kept = (overlap.amax(dim=2) <= settings.nms_iou) & (ranked > settings.score_threshold)
    found, places = best(ranked.where(kept, 0).flatten(1), settings.per_image)
    of_found = rows.flatten(1).gather(1, places)
    return FixedDetections(rows_of(boxes, of_found), found, places // num_ranked), of_found


def assembled(prototypes: Tensor, coefficients: Tensor, boxes: Tensor, images: FixedImages) -> Tensor:
    """Return scores (B, D, h, w) of masks over the canvas, 0 outside of boxes (B, D, 4).

    They are those of `rankdet.heads.assemble_masks` from prototypes (B, Q, h, w) and coefficients (B, D, Q).
    """
    height, width = prototypes.shape[-2:]
    canvas_height, canvas_width = images.pixels.shape[-2:]
    logits = (coefficients @ prototypes.flatten(2)).unflatten(2, (height, width))
    left, top, right, bottom = boxes[..., None].unbind(dim=2)
    rows = inside(top * (height / canvas_height), bottom * (height / canvas_height), height)
    columns = inside(left * (width / canvas_width), right * (width / canvas_width), width)
    return logits.sigmoid().where(rows[..., :, None] & columns[..., None, :], 0)


def inside(start: Tensor, end: Tensor, cells: int) -> Tensor:
    """Return which cells a box from ``start`` to ``end``, (B, D, 1) in cells, keeps: (B, D, cells) bool."""
    cell = torch.arange(cells, device=start.device)
    return (cell >= start - MARGIN) & (cell < end + MARGIN)


def with_canvas_masks(found: FixedDetections, scores: Tensor, images: FixedImages) -> FixedDetections:
    """Return detections with masks whose scores (B, D, h, w) cover the canvas: `rankdet.heads.canvas_scores`."""
    height, width = images.pixels.shape[-2:]
    cell_height, cell_width = height / scores.shape[2], width / scores.shape[3]
    region = [-cell_width, -cell_height, width + cell_width, height + cell_height]
    regions = torch.stack([scores.new_full((), side) for side in region]).expand(*scores.shape[:2], 4)
    return found._replace(masks=pad(scores, (1, 1, 1, 1), mode="replicate"), regions=regions)
