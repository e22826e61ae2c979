"""Labels by one-to-one matching, as in DETR (Carion et al., ECCV 2020, arXiv:2005.12872).

Legend: B images, Q queries of an image, G most objects of an image, P positives, H heads, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert

from rankdet.label_assignment.overlap import aligned_giou
from rankdet.ranges import Fraction, NonNegative, checked
from rankdet.structures import Target


class PaddedObjects(NamedTuple):
    """The objects of B images in one piece; row j of image b holds an object if j < numbers[b].

    Attributes
    ----------
    boxes
        (B, G, 4) xyxy in pixels.
    centered
        (B, G, 4) x and y of the center, width and height, as parts of the image.
    labels
        (B, G) int64 in 0 … C−1; C where there is no object.
    scales
        (B, 1, 4) width, height, width and height of each image in pixels.
    numbers
        Objects of each image.
    """

    boxes: Tensor
    centered: Tensor
    labels: Tensor
    scales: Tensor
    numbers: tuple[int, ...]


def pad_objects(targets: Sequence[Target], image_sizes: Sequence[tuple[int, int]], num_classes: int) -> PaddedObjects:
    """Return the objects of images of these (height, width) in pixels.

    Examples
    --------
    >>> target = Target(torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([1]))
    >>> pad_objects([target], [(4, 8)], num_classes=3).centered
    tensor([[[0.2500, 0.2500, 0.5000, 0.5000]]])
    """
    device = targets[0].boxes.device
    scales = torch.tensor([[[float(width), float(height)] * 2] for height, width in image_sizes])
    scales = scales.to(device, non_blocking=True)
    boxes = pad_sequence([target.boxes for target in targets], batch_first=True)
    labels = pad_sequence([target.labels for target in targets], batch_first=True, padding_value=num_classes)
    centered = box_convert(boxes / scales, "xyxy", "cxcywh")
    return PaddedObjects(boxes, centered, labels, scales, tuple(len(target.labels) for target in targets))


class Matching(NamedTuple):
    """Which queries of a batch are positives, and of which objects.

    Rows (P,) int64 are places among the B · Q queries of all images, ascending. Objects (P,) int64 are places among the
    B · G rows of :class:`PaddedObjects`.
    """

    rows: Tensor
    objects: Tensor


@checked
class HungarianAssigner:
    r"""Assigner of each object to one query, at the least total cost; all other queries are background.

    .. math:: c_{qg} = \lambda_{cls} \left( FL^+(s_{q y_g}) - FL^-(s_{q y_g}) \right)
        + \lambda_{L1} |b_q - b_g|_1 - \lambda_{GIoU} GIoU(b_q, b_g)

    with the focal loss that the logit of the object's class would have as a positive, FL⁺, and as a negative, FL⁻, and
    the L1 distance of centered boxes as parts of the image (Zhu et al., "Deformable DETR", arXiv:2010.04159). Of more
    objects than queries, those that cost most stay without one. The cost is the same whatever loss is trained with.

    Parameters
    ----------
    class_cost
        λ of the classes.
    l1_cost
        λ of the L1 distance.
    giou_cost
        λ of GIoU.
    alpha
        Weight of positives in the focal loss; that of negatives is 1 − alpha.
    gamma
        Its exponent.

    Examples
    --------
    Each of two objects gets the query whose box is its own:

    >>> targets = [Target(torch.tensor([[0.0, 0.0, 4.0, 4.0], [4.0, 4.0, 8.0, 8.0]]), torch.tensor([0, 0]))]
    >>> objects = pad_objects(targets, [(8, 8)], num_classes=1)
    >>> boxes = torch.tensor([[[[0.7, 0.7, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0], [0.2, 0.2, 0.5, 0.5]]]])
    >>> HungarianAssigner()(torch.zeros(1, 1, 3, 1), boxes, objects)
    [Matching(rows=tensor([0, 2]), objects=tensor([1, 0]))]
    """

    def __init__(
        self,
        *,
        class_cost: NonNegative = 2.0,
        l1_cost: NonNegative = 5.0,
        giou_cost: NonNegative = 2.0,
        alpha: Fraction = 0.25,
        gamma: NonNegative = 2.0,
    ) -> None:
        self.class_cost = class_cost
        self.l1_cost = l1_cost
        self.giou_cost = giou_cost
        self.alpha = alpha
        self.gamma = gamma

    @torch.no_grad()
    def __call__(self, logits: Tensor, boxes: Tensor, objects: PaddedObjects) -> list[Matching]:
        """Return the matching of each head, from logits (H, B, Q, C) and centered boxes (H, B, Q, 4).

        The host solves all of them and waits for the device once, for the costs.
        """
        # A seventh of the time in which torch is imported, and only here.
        from scipy.optimize import linear_sum_assignment

        costs = self.costs(logits, boxes, objects).cpu().numpy()
        num_queries, num_rows = costs.shape[2:]
        found = []
        for head in costs:
            for image, number in enumerate(objects.numbers):
                queries, matched = linear_sum_assignment(head[image, :, :number])
                found.append(torch.from_numpy(queries) + image * num_queries)
                found.append(torch.from_numpy(matched) + image * num_rows)
        # One copy to the device.
        pairs = [torch.cat(found[first::2]) for first in (0, 1)]
        both = torch.stack(pairs).view(2, len(costs), -1).to(logits.device, non_blocking=True)
        return [Matching(rows, matched) for rows, matched in zip(*both, strict=True)]

    def costs(self, logits: Tensor, boxes: Tensor, objects: PaddedObjects) -> Tensor:
        """Return the cost (H, B, Q, G) of every query for every object of its image; arguments are those of a call.

        What is not finite costs as much as can be, so that a training that has diverged is told of by its loss.
        """
        index = objects.labels.clamp(max=logits.shape[3] - 1)[:, None].expand(*logits.shape[:3], -1)
        scores = logits.float().gather(3, index)
        chances = scores.sigmoid()
        as_positive = self.alpha * (1 - chances) ** self.gamma * softplus(-scores)
        as_negative = (1 - self.alpha) * chances**self.gamma * softplus(scores)
        centered = objects.centered.expand(len(boxes), -1, -1, -1)
        distance = torch.cdist(boxes.float(), centered, p=1.0)
        pixels = box_convert(boxes.float(), "cxcywh", "xyxy") * objects.scales
        overlap = aligned_giou(pixels[:, :, :, None], objects.boxes[:, None])
        cost = self.class_cost * (as_positive - as_negative) + self.l1_cost * distance - self.giou_cost * overlap
        most = torch.finfo(cost.dtype).max
        return cost.nan_to_num(most, most, most)
