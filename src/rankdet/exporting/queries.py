"""RT-DETR as a graph.

Legend: B images, Q queries of an image, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert

from rankdet.detectors import RTDETR
from rankdet.exporting.fixed import FixedDetections, FixedImages, best, cells_inside, clipped, rows_of
from rankdet.heads.anchors import sizes_of
from rankdet.heads.queries import Padding


def detect_by_queries(network: RTDETR, images: FixedImages) -> FixedDetections:
    """Return what `detect` of the network finds."""
    images = images.padded()
    maps = network.backbone(images)  # type: ignore[arg-type]
    padding = padding_of(maps, images)
    pyramid = network.encoder(maps, padding.inside[-1])
    logits, boxes = network.decoder(pyramid, padding).layers[-1]
    settings, num_classes = network.detection, logits.shape[2]
    scores, pairs = best(logits.sigmoid().flatten(1), settings.per_image)
    pixels = clipped(box_convert(boxes, "cxcywh", "xyxy") * images.limits(), images)
    scores = scores.where(scores > settings.score_threshold, 0)
    return FixedDetections(rows_of(pixels, pairs // num_classes), scores, pairs % num_classes)


def padding_of(maps: Sequence[Tensor], images: FixedImages) -> Padding:
    """Return where images lie in the canvas, for maps (B, channels, h, w): `rankdet.heads.padding_of`."""
    canvas = images.pixels.shape[-2:]
    height, width = (images.sizes[:, axis] / pixels for axis, pixels in enumerate(canvas))
    inside = []
    for shape in sizes_of(maps):
        ends = [
            (images.sizes[:, axis] * cells + (pixels - 1)) // pixels
            for axis, (cells, pixels) in enumerate(zip(shape, canvas, strict=True))
        ]
        inside.append(cells_inside(shape, torch.stack(ends, dim=1)))
    return Padding(torch.stack([width, height, width, height], dim=1)[:, None], inside)
