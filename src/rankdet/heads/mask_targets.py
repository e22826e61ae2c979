"""Masks of objects → what a mask head shall say of RoIs.

Legend: G objects of a picture of H × W pixels, P RoIs, S cells per side of a target.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, roi_align

MAX_PIXELS = 2**24
"""Pixels of masks that are looked at in one piece, as float32: 64 MiB."""


def crop_masks(masks: Tensor, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
    """The part of an object's mask that lies in a box, in ``size`` × ``size`` cells.

    A cell belongs to the mask where at least half of it is covered, measured by RoIAlign with its half-pixel shift
    (the published implementation of the loss, and that of most others).

    Parameters
    ----------
    masks
        (G, H, W) bool.
    boxes
        (P, 4) xyxy in pixels; clipped to the picture.
    objects
        (P,) int64: index of the mask for each box.
    size
        S.

    Returns
    -------
    Tensor
        (P, S, S) bool.

    Examples
    --------
    >>> masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    >>> masks[:, :, 2:5] = True
    >>> crop_masks(masks, torch.tensor([[0.0, 0.0, 8.0, 4.0]]), torch.tensor([0]), 4)[0, 0]
    tensor([False,  True,  True, False])
    """
    boxes = clip_boxes_to_image(boxes.float(), (masks.shape[1], masks.shape[2]))
    step = max(1, MAX_PIXELS // max(1, masks.shape[1] * masks.shape[2]))
    targets = []
    for part, chosen in zip(boxes.split(step), objects.split(step), strict=True):
        pixels = masks[chosen][:, None].float()
        rois = torch.cat([torch.arange(len(part), device=part.device)[:, None].float(), part], dim=1)
        targets.append(roi_align(pixels, rois, size, 1.0, 0, aligned=True)[:, 0] >= 0.5)
    return torch.cat(targets)
