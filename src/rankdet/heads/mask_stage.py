"""Masks for the boxes of an R-CNN: RoIs → mask logits and targets.

Legend: B images, K boxes of all images, P positives, P' of them that get a mask, S cells per side of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rankdet.heads.box_stage import RoIs
from rankdet.heads.mask_head import MaskHead
from rankdet.heads.mask_targets import crop_masks, crop_outlines
from rankdet.heads.roi_pooling import RoIPooling
from rankdet.ranges import Count, CountOrZero, checked
from rankdet.structures import Matched, Outlines, Target


@checked
class MaskStage(nn.Module):
    """Pooling and mask head of an R-CNN with their targets. All parts are public and may be replaced.

    Parameters
    ----------
    in_channels, num_classes
        Channels of every level of the pyramid, and C.
    boxes
        Pooling of the boxes; masks are pooled alike, from the same levels.
    channels
        Channels of all layers.
    convolutions
        3x3 convolutions before the size is doubled.
    pooled_size
        Cells per side of the pooled features; masks have twice as many pixels per side.
    budget
        Most positive RoIs per process and step that get a mask, drawn uniformly: a bound on memory. None: all.
    """

    def __init__(
        self,
        in_channels: Count,
        num_classes: Count,
        boxes: RoIPooling,
        *,
        channels: Count = 256,
        convolutions: CountOrZero = 4,
        pooled_size: Count = 14,
        budget: Count | None = None,
    ) -> None:
        super().__init__()
        self.pooling = RoIPooling(
            boxes.strides,
            finest_scale=boxes.finest_scale,
            output_size=pooled_size,
            sampling_ratio=boxes.sampling_ratio,
            half_pixel_shift=boxes.half_pixel_shift,
        )
        self.head = MaskHead(in_channels, num_classes, channels=channels, num_convolutions=convolutions)
        self.budget = budget

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Return mask logits (K, S, S) float32 for the boxes (k, 4) of each image and the classes (K,) of all."""
        logits: Tensor = self.head(self.pooling(maps, boxes), labels)
        return logits

    def matched(self, maps: Sequence[Tensor], rois: Sequence[RoIs], targets: Sequence[Target]) -> Matched:
        """Return mask logits (P', S, S) of positive RoIs and the masks that they learn.

        Row i of both belongs to positive i of the box stage, or to positive ``rows[i]`` where the budget leaves some
        out. Differs from the published code, which pairs the masks of drawn RoIs with the weights of others as soon as
        there are two images. Raises ValueError when an image has objects but no masks.
        """
        drawn = self._draw([image_rois.num_positives for image_rois in rois])
        boxes, labels, target_masks, positives, start = [], [], [], [], 0
        for image_rois, target, chosen in zip(rois, targets, drawn, strict=True):
            rows = chosen.to(image_rois.boxes.device, non_blocking=True)
            boxes.append(image_rois.boxes[rows])
            labels.append(image_rois.labels[rows])
            target_masks.append(self._targets(target, boxes[-1], image_rois.matched[rows]))
            positives.append(rows + start)
            start += image_rois.num_positives
        logits = self(maps, boxes, torch.cat(labels))
        all_masks, all_rows = torch.cat(target_masks), torch.cat(positives)
        return Matched(logits, all_masks, None if len(all_rows) == start else all_rows)

    def _draw(self, counts: Sequence[int]) -> list[Tensor]:
        """Return for each image the rows of its positives that get a mask, ascending.

        They are drawn on the host, which knows the number of each image without waiting for the device.
        """
        total = sum(counts)
        if self.budget is None or total <= self.budget:
            return [torch.arange(count) for count in counts]
        is_drawn = torch.zeros(total, dtype=torch.bool)
        is_drawn[torch.randperm(total)[: self.budget]] = True
        return [part.nonzero().squeeze(1) for part in is_drawn.split(list(counts))]

    @torch.no_grad()
    def _targets(self, target: Target, boxes: Tensor, objects: Tensor) -> Tensor:
        size = 2 * self.pooling.output_size
        if isinstance(target.masks, Outlines):
            return crop_outlines(target.masks, boxes, objects, size)
        if target.masks is not None:
            return crop_masks(target.masks, boxes, objects, size)
        if len(target.boxes):
            raise ValueError(f"an image has {len(target.boxes)} objects but no masks, which a mask head learns from")
        return boxes.new_zeros((0, size, size), dtype=torch.bool)
