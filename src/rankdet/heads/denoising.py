"""Contrastive denoising (Zhang et al., "DINO", ICLR 2023, arXiv:2203.03605, section 3.3): queries made of objects.

Legend: B images, G most objects of an image, N noised queries of an image, D channels, C classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from rankdet.label_assignment import Matching, PaddedObjects
from rankdet.ranges import Count, Fraction, NonNegative, checked
from rankdet.structures import IGNORED


class NoisedQueries(NamedTuple):
    """Queries of a decoder that are made of objects, N for each image.

    Attributes
    ----------
    queries
        (B, N, D) embedded classes.
    boxes
        (B, N, 4) centered boxes, as parts of the image.
    groups
        (N,) int64: which of them may attend to each other.
    labels
        (B · N,) int64: class of a positive, C for a negative, −1 where an image has fewer objects than others.
    matching
        The positives and their objects.
    """

    queries: Tensor
    boxes: Tensor
    groups: Tensor
    labels: Tensor
    matching: Matching


@checked
class Denoising(nn.Module):
    """Groups of queries made of all objects, half of which are positives near to them, and half are negatives.

    Each object makes two queries in each group, with its class embedded. Sides of the positive's box move by less than
    half of its width or height, times the noise; those of the negative's by that and as much again. Boxes end at the
    image. A decoder learns to move the first onto the object, and to score the second as background. There are as
    many groups as make about ``queries`` queries, and at least one; none without any object.

    Parameters
    ----------
    num_classes, channels
        C and D.
    queries
        About how many positives there are for each image, and as many negatives.
    label_noise
        Twice the chance of another class: one that is drawn uniformly.
    box_noise
        Factor of how far boxes move; from 0 on.

    Notes
    -----
    Images of a batch have different numbers of objects. What fills up the others is ignored here; in the published code
    it counts as negatives. All randomness is that of torch on the device of the objects.
    """

    def __init__(
        self,
        num_classes: Count,
        channels: Count,
        *,
        queries: Count = 100,
        label_noise: Fraction = 0.5,
        box_noise: NonNegative = 1.0,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_queries = queries
        self.label_noise = label_noise
        self.box_noise = box_noise
        self.embedding = nn.Embedding(num_classes + 1, channels, padding_idx=num_classes)

    def forward(self, objects: PaddedObjects) -> NoisedQueries:
        """Return queries made of these objects; N is 2 · G · groups."""
        most = objects.labels.shape[1]
        num_groups = max(1, self.num_queries // max(1, most))
        # (B, groups, 2, G), of which [:, :, 0] are positives.
        classes = objects.labels[:, None, None].expand(-1, num_groups, 2, -1)
        is_object = classes < self.num_classes
        is_other = (torch.rand(classes.shape, device=classes.device) < self.label_noise / 2) & is_object
        noised = torch.where(is_other, torch.randint_like(classes, self.num_classes), classes)
        labels = torch.where(is_object, classes, IGNORED)
        labels[:, :, 1] = labels[:, :, 1].where(~is_object[:, :, 1], self.num_classes)
        return NoisedQueries(
            self.embedding(noised.flatten(1)),
            self._moved(objects.centered, num_groups).flatten(1, 3),
            torch.arange(num_groups, device=classes.device)[:, None].expand(-1, 2 * most).flatten(),
            labels.flatten(),
            _matching(objects, num_groups),
        )

    def _moved(self, boxes: Tensor, num_groups: int) -> Tensor:
        """Return centered boxes (B, groups, 2, G, 4) of such boxes (B, G, 4), with noise."""
        boxes = boxes[:, None, None].expand(-1, num_groups, 2, -1, -1)
        distance = torch.rand_like(boxes)
        distance[:, :, 1] += 1
        sign = 2 * torch.randint_like(boxes, 2) - 1
        reach = boxes[..., 2:].repeat(1, 1, 1, 1, 2) / 2 * self.box_noise
        moved = box_convert(boxes, "cxcywh", "xyxy") + sign * distance * reach
        return box_convert(moved.clamp(0, 1), "xyxy", "cxcywh")


def _matching(objects: PaddedObjects, num_groups: int) -> Matching:
    """Return the positives among all B · N queries, which the host knows."""
    most = objects.labels.shape[1]
    rows, matched = [], []
    for image, number in enumerate(objects.numbers):
        places = torch.arange(number)
        groups = torch.arange(num_groups)[:, None] + image * num_groups
        rows.append((groups * 2 * most + places).flatten())
        matched.append((image * most + places).repeat(num_groups))
    device = objects.labels.device
    return Matching(torch.cat(rows).to(device, non_blocking=True), torch.cat(matched).to(device, non_blocking=True))
