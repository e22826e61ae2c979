"""The mask losses of the standard detectors: one value per mask, never reduced.

A mask loss is any callable that takes the candidates and their positives and returns (P',) values with gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rankdet.losses.candidates import Positives
from rankdet.losses.gradients import Gradient, Upstream, with_gradient
from rankdet.losses.localization import mask_parts
from rankdet.losses.weighted import WeightedLoss
from rankdet.ranges import NonNegative, checked
from rankdet.structures import Candidates


@checked
class MaskCrossEntropyLoss(WeightedLoss):
    """Binary cross-entropy of a mask with that of its object, the mean over its pixels.

    This is the loss of Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870, section 3). Divided by the size of the
    object it is that of YOLACT (Bolya et al., ICCV 2019, arXiv:1904.02689, section 3). Differs from the published code
    of YOLACT where an object lies outside of its own box: a cropped pixel, at a logit of −∞, has no loss here and 100
    there.

    Parameters
    ----------
    over_box_size
        Whether the loss is divided by the part of the image that the box of the object covers
        (``Candidates.box_shares``), so that small objects count as much as large ones.
    """

    def __init__(self, weight: NonNegative = 1.0, *, over_box_size: bool = False) -> None:
        super().__init__(weight)
        self.over_box_size = over_box_size

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P',) values; raises ValueError where a head passes no masks, or not the box_shares that divide them."""
        masks = candidates.masks
        if masks is None:
            raise ValueError(f"head {candidates.head!r} passes no masks, which its loss needs")
        loss = self.weight * mask_cross_entropy(masks.predicted, masks.target)
        if not self.over_box_size:
            return loss
        if candidates.box_shares is None:
            raise ValueError(f"head {candidates.head!r} passes no box_shares, which divide its loss of masks")
        shares = candidates.box_shares.detach().float()
        return loss / (shares if masks.rows is None else shares[masks.rows])


def mask_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels of each mask of the binary cross-entropy, (P',) in float32 or better.

    Masks are handled some at a time, forward and backward. Nothing of their size is kept beside the logits, the target
    and the gradient.

    Arguments are those of :func:`rankdet.losses.dice_coefficient`. A pixel outside of a crop counts as one without loss
    or gradient.

    Examples
    --------
    One pixel of two at 1/2, the other one cropped:

    >>> mask_cross_entropy(torch.tensor([[[0.0, -torch.inf]]]), torch.tensor([[[True, False]]]))
    tensor([0.3466])
    """
    if logits.shape != target.shape:
        raise ValueError(f"mask logits {tuple(logits.shape)} and target {tuple(target.shape)} must have one shape")
    target = target.detach()
    (loss,) = with_gradient(logits, lambda values: _cross_entropy(values, target))
    return loss


def _cross_entropy(logits: Tensor, target: Tensor) -> tuple[tuple[Tensor], Gradient]:
    """The values and their derivative, which is written out to keep no intermediate."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    num_pixels = max(1, logits.shape[1] * logits.shape[2])
    loss = logits.new_zeros(len(logits), dtype=dtype)
    for part in mask_parts(logits):
        values = logits[part].to(dtype)
        is_cropped = values == -torch.inf
        values = values.masked_fill(is_cropped, 0)
        pixels = softplus(values).addcmul_(target[part].to(dtype), values, value=-1)
        loss[part] = pixels.masked_fill_(is_cropped, 0).sum(dim=(1, 2)) / num_pixels

    def gradient(logits: Tensor, upstream: Upstream) -> Tensor:
        result = torch.empty_like(logits, memory_format=torch.contiguous_format)
        slope = (upstream[0] / num_pixels)[:, None, None]
        for part in mask_parts(logits):
            # d/ds = σ(s) − t
            values = logits[part].to(dtype)
            change = values.sigmoid().sub_(target[part].to(dtype)).mul_(slope[part])
            result[part] = change.masked_fill_(values == -torch.inf, 0)
        return result

    return (loss,), gradient


class DiceLoss(WeightedLoss):
    """1 − Dice coefficient of a mask with that of its object; see :func:`rankdet.losses.dice_coefficient`."""

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P',) values; raises ValueError where a head passes no masks."""
        if positives.dice is None:
            raise ValueError(f"head {candidates.head!r} passes no masks, which its loss needs")
        return self.weight * (1 - positives.dice)


MaskLoss = MaskCrossEntropyLoss | DiceLoss
