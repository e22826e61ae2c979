"""Localization of matched pairs: how well each positive is localized, never reduced.

Boxes are (x1, y1, x2, y2), in pixels or in parts of an image: overlaps have no unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.gradients import Gradient, Upstream, with_gradient

DICE_EPSILON = 1e-5
"""Added to the denominator of Dice (the authors' code)."""
MASK_CHUNK = 1 << 22
"""Pixels of masks handled at a time: their temporaries stay small beside the masks."""
SEEN_MASKS = 32
"""About as many masks as statistics look at."""
MIN_AREA = 1e-16
"""An area of no more than this is none. Boxes in [0, 1] that have one have more: float32 has steps of 6e-8 below 1."""


class Overlap(NamedTuple):
    """IoU in [0, 1] and GIoU in (−1, 1] of P pairs of boxes, each (P,)."""

    iou: Tensor
    giou: Tensor


def box_overlap(predicted: Tensor, target: Tensor) -> Overlap:
    r"""IoU and generalized IoU of pairs of boxes, in float32 or better.

    .. math:: IoU = \frac{|A \cap B|}{|A \cup B|}, \qquad GIoU = IoU - \frac{|C| - |A \cup B|}{|C|}

    with C the smallest box around both (Rezatofighi et al., "Generalized Intersection over Union", CVPR 2019).

    Both are (P, 4) boxes (x1, y1, x2, y2) in one unit: pixels, or parts of an image. Gradients flow to both. Where
    neither has an area, the IoU is 0 and has no gradient. Other shapes (…, 4) are broadcast: (D, 1, 4) beside (G, 4)
    give all pairs, (D, G).

    Examples
    --------
    Two boxes of one size side by side, and a box with itself:

    >>> predicted = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
    >>> target = torch.tensor([[2.0, 0, 4, 2], [0, 0, 2, 2]])
    >>> box_overlap(predicted, target)
    Overlap(iou=tensor([0., 1.]), giou=tensor([0., 1.]))
    """
    dtype = torch.promote_types(torch.promote_types(predicted.dtype, target.dtype), torch.float32)
    predicted, target = predicted.to(dtype), target.to(dtype)
    corner, opposite = predicted.split(2, dim=-1), target.split(2, dim=-1)
    inner = _area(torch.maximum(corner[0], opposite[0]), torch.minimum(corner[1], opposite[1]))
    outer = _area(torch.minimum(corner[0], opposite[0]), torch.maximum(corner[1], opposite[1]))
    union = _area(*corner) + _area(*opposite) - inner
    iou = _share(inner, union)
    return Overlap(iou, iou - _share(outer - union, outer))


def _share(part: Tensor, area: Tensor) -> Tensor:
    """``part / area``; 0, without gradient, where the area is none."""
    is_none = area <= MIN_AREA  # NaN is not
    return (part / area.masked_fill(is_none, 1.0)).masked_fill(is_none, 0.0)


def _area(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width * height


def dice_coefficient(logits: Tensor, target: Tensor, epsilon: float = DICE_EPSILON) -> Tensor:
    r"""Dice coefficient of each mask, (P',) in [0, 1), in float32 or better; 0 for an empty target.

    .. math:: D = \frac{2 \sum p g}{\sum p^2 + \sum g^2 + \epsilon}, \qquad p = \sigma(s)

    over the pixels of a mask (Milletari et al., "V-Net", 3DV 2016, with squares in the denominator). Masks are handled
    some at a time, forward and backward. Nothing of their size is kept beside the logits, the target and the gradient.

    Parameters
    ----------
    logits
        (P', H, W) mask logits; −∞ is a pixel outside of a crop, and gets no gradient.
    target
        (P', H, W) bool, or in [0, 1].
    epsilon
        :math:`\epsilon`; 1e-5 in the authors' box detectors. Their SOLOv2 adds 1e-3 to each of the two sums: 2e-3.

    Examples
    --------
    Half of the pixels are found for sure, the others are left at 1/2:

    >>> logits = torch.tensor([[[100.0, -100.0], [0.0, 0.0]]])
    >>> dice_coefficient(logits, torch.tensor([[[True, False], [True, False]]]))
    tensor([0.8571])
    """
    if logits.shape != target.shape:
        raise ValueError(f"mask logits {tuple(logits.shape)} and target {tuple(target.shape)} must have one shape")
    target = target.detach()
    (dice,) = with_gradient(logits, lambda values: _dice(values, target, epsilon))
    return dice


def _dice(logits: Tensor, target: Tensor, epsilon: float) -> tuple[tuple[Tensor], Gradient]:
    """The coefficients and their derivative, which is written out to keep no intermediate."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    common, size = logits.new_zeros(len(logits), dtype=dtype), logits.new_zeros(len(logits), dtype=dtype)
    for part in mask_parts(logits):
        scores, inside = logits[part].to(dtype).sigmoid().flatten(1), target[part].to(dtype).flatten(1)
        common[part] = torch.einsum("ij,ij->i", scores, inside)
        size[part] = scores.square().sum(dim=1) + inside.square().sum(dim=1)
    size += epsilon
    dice = 2 * common / size

    def gradient(logits: Tensor, upstream: Upstream) -> Tensor:
        result = torch.empty_like(logits, memory_format=torch.contiguous_format)
        # dD/dp = 2 (g − D p) / size and dp/ds = p (1 − p)
        slope = (2 * upstream[0] / size)[:, None, None]
        for part in mask_parts(logits):
            scores = logits[part].to(dtype).sigmoid()
            change = torch.addcmul(target[part].to(dtype), dice[part, None, None], scores, value=-1)
            result[part] = change.mul_(slope[part]).mul_(scores).mul_(1 - scores)
        return result

    return (dice,), gradient


@torch.no_grad()
def saturated_share(logits: Tensor, target: Tensor) -> Tensor:
    r"""Share of the wrong pixels of masks that Dice can hardly correct, a scalar in [0, 1]; 0 without any.

    Dice sees logits through a sigmoid, so :math:`p (1 - p)` is a factor of its gradient. Counted are wrong pixels where
    that is below 0.01. Arguments are those of :func:`dice_coefficient`; at most some dozens of masks are looked at.

    Examples
    --------
    Three pixels are wrong, one of them by far:

    >>> saturated_share(torch.tensor([[[9.0, 1.0], [-1.0, 9.0]]]), torch.tensor([[[False, False], [True, True]]]))
    tensor(0.3333)
    """
    step = max(1, len(logits) // SEEN_MASKS)
    values, inside = logits[::step].float(), target[::step] > 0.5
    wrong = ((values > 0) != inside) & (values > -torch.inf)
    scores = values.sigmoid()
    stuck = wrong & (scores * (1 - scores) < 0.01)
    return stuck.sum() / wrong.sum().clamp(min=1)


def mask_parts(masks: Tensor) -> Iterator[slice]:
    """Slices of (P', H, W) masks, each of as many as are handled at a time."""
    size = max(1, MASK_CHUNK // max(1, masks[:1].numel()))
    return (slice(start, start + size) for start in range(0, len(masks), size))
