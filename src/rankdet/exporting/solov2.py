"""SOLOv2 as a graph.

Legend: B images, N masks of an image that compete, C classes, D detections of an image, h, w height and width of the
mask features.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from rankdet.detectors import SOLOv2
from rankdet.exporting.fixed import FixedDetections, FixedImages, best, rows_of
from rankdet.exporting.yolact import with_canvas_masks

TOGETHER = 10
"""Masks whose pixels are looked at together: a bound on memory."""
BEYOND = 1 << 30
"""Farther than any pixel."""


def detect_on_grids(network: SOLOv2, images: FixedImages) -> FixedDetections:
    """Return what `detect` of the network finds.

    The masks that compete are those of the highest scores. `detect` first multiplies the scores of all cells above the
    threshold by those of their masks: that is the same where there are not more of them than compete.
    """
    images = images.padded()
    settings, stage = network.detection, network.grid
    outputs = stage(network.fpn(network.backbone(images)))  # type: ignore[arg-type]
    peaks = stage.peaks(outputs)
    num_classes = peaks.shape[2]
    pairs = peaks.flatten(1)
    scores, places = best(pairs.where(pairs > settings.score_threshold, 0), settings.num_candidates)
    cells, labels = places // num_classes, places % num_classes

    # The score of a mask with more pixels than the stride of its level is multiplied by the mean inside of the mask.
    logits = rows_of(outputs.kernels, cells) @ outputs.features.flatten(2)  # (B, N, h · w)
    is_inside = (logits > 0).float()
    area = is_inside.sum(dim=2)
    mean = (logits.sigmoid() * is_inside).sum(dim=2) / area.clamp(min=1)
    scores, order = best((scores * mean).where(area > stage.cell_strides[cells], 0), settings.num_candidates)

    # Matrix NMS in the order of falling scores.
    is_inside, labels, area = rows_of(is_inside, order), labels.gather(1, order), area.gather(1, order)
    common = is_inside @ is_inside.transpose(1, 2)
    iou = common / (area[:, :, None] + area[:, None] - common).clamp(min=1)
    scores = scores * decays(iou.where((scores > 0)[:, :, None], 0), labels, settings.sigma)
    found, rows = best(scores.where(scores >= settings.least_score, 0), settings.per_image)
    found = found.where(found > 0, 0)

    # The masks of those that remain, and boxes around their pixels.
    shape = outputs.features.shape[2:]
    masks = rows_of(logits, order.gather(1, rows)).sigmoid().unflatten(2, shape)
    boxes = mask_boxes(masks, stage.strides[0], images)
    is_any = (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
    kept, last = best(found.where(is_any, 0), settings.per_image)
    detections = FixedDetections(rows_of(boxes, last), kept, labels.gather(1, rows).gather(1, last))
    return with_canvas_masks(detections, rows_of(masks, last), images)


def decays(iou: Tensor, labels: Tensor, sigma: float) -> Tensor:
    """Return the factors (B, N) of `rankdet.heads.matrix_nms` for IoUs (B, N, N) and labels (B, N)."""
    order = torch.arange(labels.shape[1], device=labels.device)
    counts = (labels[:, :, None] == labels[:, None]) & (order[:, None] < order)
    squares = iou.where(counts, 0).square()
    largest = squares.amax(dim=1)
    return torch.exp(-sigma * (squares - largest[:, :, None]).amax(dim=1))


def mask_boxes(scores: Tensor, stride: int, images: FixedImages) -> Tensor:
    """Return boxes (B, D, 4) around the pixels of masks that score at least ½; zeros where there is none.

    Scores (B, D, h, w) are of cells of ``stride`` pixels.
    """
    return torch.cat([_boxes(part, stride, images) for part in scores.split(TOGETHER, dim=1)], dim=1)


def _boxes(scores: Tensor, stride: int, images: FixedImages) -> Tensor:
    pixels = interpolate(scores, scale_factor=float(stride), mode="bilinear", align_corners=False)
    sides = []
    for axis, across in ((1, 2), (0, 3)):  # x, y
        place = torch.arange(pixels.shape[5 - across], device=scores.device)
        others = torch.arange(pixels.shape[across], device=scores.device)
        shown = others < images.sizes[:, 1 - axis, None]
        is_in_image = shown[:, None, :, None] if across == 2 else shown[:, None, None, :]
        is_hit = ((pixels >= 0.5) & is_in_image).any(dim=across) & (place < images.sizes[:, axis, None])[:, None]
        first = place.where(is_hit, BEYOND).amin(dim=2)
        last = (place + 1).where(is_hit, 0).amax(dim=2)
        sides.append((first.where(last > 0, 0), last))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=2).float()
