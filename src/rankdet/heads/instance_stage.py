"""Predictions of YOLACT for every anchor → Candidates with masks, and the best boxes of each image.

Legend: B images, M anchors of an image, P positives, P' of them that get a mask, Q prototypes, C classes, G objects,
K anchors taken from an image, h, w cells of a prototype.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from rankdet.heads.anchors import CenteredAnchors
from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.decoding import best_anchors, boxes_at, matched_boxes
from rankdet.heads.mask_targets import resize_masks
from rankdet.heads.prototypes import assemble_masks
from rankdet.label_assignment import Assigner, MaxIoUAssigner, PyramidAnchors, assign_by_overlap
from rankdet.ranges import Count, checked
from rankdet.structures import Candidates, Matched, Target, is_class

BY_OVERLAP = MaxIoUAssigner(0.5, 0.4, low_quality_iou=0.0, claim_ties=False)


class InstanceOutputs(NamedTuple):
    """Predictions of the network for every anchor of B images, and the prototypes of each image.

    Logits are (B, M, C), or (B, M, C + 1) with the background last; deltas (B, M, 4); coefficients (B, M, Q) in (−1,
    1). Prototypes (B, Q, h, w) cover the canvas: (height, width) in pixels of the largest image.
    """

    logits: Tensor
    deltas: Tensor
    coefficients: Tensor
    prototypes: Tensor
    anchors: PyramidAnchors
    canvas: tuple[int, int]


@checked
@dataclass
class InstanceStage:
    """Anchors, box coding and labels of YOLACT: what its predictions mean. It has no weights.

    By default anchors of IoU ½ and more are positives; every object claims the first of its best anchors, and anchors
    from IoU 0.4 on are ignored. At most ``masks_per_image`` positives of an image get a mask in training, drawn
    uniformly; None: all.
    """

    anchors: CenteredAnchors
    coder: BoxCoder
    assigner: Assigner = BY_OVERLAP
    masks_per_image: Count | None = None

    def candidates(
        self,
        outputs: InstanceOutputs,
        semantic: Tensor | None,
        targets: Sequence[Target],
        image_sizes: Sequence[tuple[int, int]],
        num_classes: int,
    ) -> Candidates:
        """Return one pool of all anchors: by image, level, cell; with masks of positives.

        ``semantic`` are logits (B, C, rows, columns) of the pixels of each class, which cover the canvas; None without
        such a head. Sizes of images are (height, width) in pixels. Raises ValueError when an image has objects but no
        masks.
        """
        num_anchors = len(outputs.anchors.boxes)
        with torch.no_grad():
            labels, matched = assign_by_overlap(self.assigner, outputs.anchors, targets, num_classes)
        is_positive = is_class(labels, num_classes)
        # The host waits once: with the number of positives of each image it need not ask for anything else.
        counts: list[int] = is_positive.view(len(targets), num_anchors).sum(dim=1).tolist()
        rows = torch.nonzero_static(is_positive, size=sum(counts)).squeeze(1)
        objects = torch.cat([target.boxes for target in targets])[matched[rows]]
        boxes, deltas = matched_boxes(
            outputs.deltas.flatten(0, 1)[rows], outputs.anchors.of_rows(rows), objects, self.coder
        )
        # Masks of all positives, or of those that are drawn, cropped to the boxes of their objects.
        target_masks, maps = _targets(outputs, semantic, targets)
        drawn = [own.to(rows.device, non_blocking=True) for own in self._draw(counts)]
        masks = [
            assemble_masks(prototypes, coefficients[rows[own] % num_anchors], objects[own], outputs.canvas)
            for prototypes, coefficients, own in zip(outputs.prototypes, outputs.coefficients, drawn, strict=True)
        ]
        learned = torch.cat(drawn)
        target = target_masks[matched[rows[learned]]]
        return Candidates(
            head="dense",
            logits=outputs.logits.flatten(0, 1),
            labels=labels,
            num_classes=num_classes,
            boxes=boxes,
            deltas=deltas,
            limited=self.coder.limited(deltas.predicted),
            masks=Matched(torch.cat(masks), target, None if len(learned) == len(rows) else learned),
            auxiliary=None if maps is None else {"semantic": maps},
            box_shares=_shares(objects.split(counts), image_sizes),
            per_image=(num_anchors,) * len(targets),
            rows=rows,
        )

    @torch.no_grad()
    def best_boxes(
        self, outputs: InstanceOutputs, scores: Tensor, image_sizes: Sequence[tuple[int, int]], per_level: int
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return boxes (K, 4), clipped to the image, scores (K, C) and coefficients (K, Q) of each image.

        They are those of at most ``per_level`` anchors of each level, whose best class scores highest. Scores are (B,
        M, C) in [0, 1]; those in the padding become 0.
        """
        rows, is_valid = best_anchors(scores.amax(dim=2), outputs.anchors, per_level)
        scores = scores.gather(1, rows[..., None].expand(-1, -1, scores.shape[2]))
        if is_valid is not None:
            scores = scores * is_valid[..., None]
        boxes = boxes_at(rows, outputs.deltas, outputs.anchors, self.coder)
        return [
            (clip_boxes_to_image(boxes[image], size), scores[image], outputs.coefficients[image][rows[image]])
            for image, size in enumerate(image_sizes)
        ]

    def _draw(self, counts: Sequence[int]) -> list[Tensor]:
        """Return for each image which of its positives get a mask, counted through all images, ascending.

        They are drawn on the host, which knows how many positives each image has.
        """
        drawn, most, first = [], self.masks_per_image, 0
        for count in counts:
            own = torch.arange(count)
            if most is not None and count > most:
                own = torch.randperm(count)[:most].sort().values
            drawn.append(own + first)
            first += count
        return drawn


@torch.no_grad()
def _targets(
    outputs: InstanceOutputs, semantic: Tensor | None, targets: Sequence[Target]
) -> tuple[Tensor, Matched | None]:
    """Return the masks (G, h, w) of the objects of all images, and the semantic output with what it learns."""
    maps = [outputs.prototypes] if semantic is None else [outputs.prototypes, semantic]
    sizes = [(features.shape[2], features.shape[3]) for features in maps]
    masks = [_resized(target, outputs.canvas, sizes, outputs.prototypes.device) for target in targets]
    target_masks = torch.cat([own[0] for own in masks])
    if semantic is None:
        return target_masks, None
    counts = torch.zeros_like(semantic, dtype=torch.float32)
    for image, own, target in zip(counts, masks, targets, strict=True):
        image.index_add_(0, target.labels, own[1].to(image.dtype))
    return target_masks, Matched(semantic, counts > 0)


def _resized(
    target: Target, canvas: tuple[int, int], sizes: Sequence[tuple[int, int]], device: torch.device
) -> list[Tensor]:
    """Return the masks (G, rows, columns) of an image in each of the sizes."""
    if target.masks is not None:
        return resize_masks(target.masks, canvas, sizes)
    if len(target.boxes):
        raise ValueError(f"an image has {len(target.boxes)} objects but no masks, which YOLACT learns from")
    return [torch.zeros(0, *size, dtype=torch.bool, device=device) for size in sizes]


def _shares(objects: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return the part of its image that each box of an object covers, (P,), from the boxes (p, 4) of each image."""
    return torch.cat(
        [
            (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) / (height * width)
            for boxes, (height, width) in zip(objects, image_sizes, strict=True)
        ]
    )
