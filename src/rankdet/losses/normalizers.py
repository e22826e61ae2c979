"""Normalizers: the numbers of positives by which published baselines divide a sum over candidates.

A normalizer is any callable that takes the candidates and the number of their positives and returns a scalar. Those of
this module differ only where an image has no positive, and need ``Candidates.per_image`` to see that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdet.ranges import NonNegative, checked
from rankdet.structures import Candidates


@checked
class PositiveCount:
    """The number of positives.

    Parameters
    ----------
    added
        Added to it: 1 in SOLOv2.

    Examples
    --------
    >>> candidates = Candidates("dense", torch.zeros(3, 1), torch.tensor([0, 0, 1]), 1, per_image=(2, 1))
    >>> PositiveCount()(candidates, 2), CountPerImage()(candidates, 2), CountOrImages()(candidates, 2)
    (tensor(2.), tensor(3.), tensor(2.))
    """

    def __init__(self, added: NonNegative = 0.0) -> None:
        self.added = added

    def __call__(self, candidates: Candidates, num_positives: int) -> Tensor:
        """The count, a scalar."""
        return _scalar(candidates, num_positives + self.added)


class CountPerImage:
    r"""The number of positives, of which an image without any counts as one, as in ATSS.

    .. math:: \sum_b \max(|P_b|, 1)
    """

    def __call__(self, candidates: Candidates, num_positives: int) -> Tensor:
        """The count, a scalar; it waits for no device."""
        if candidates.per_image is None:
            return _scalar(candidates, num_positives)
        counts = [part.sum().clamp(min=1) for part in candidates.is_positive.split(candidates.per_image)]
        return torch.stack([_scalar(candidates, 0), *counts]).sum()


class CountOrImages:
    """The number of positives, or that of images where it is larger, as in PAA: max(|P|, B)."""

    def __call__(self, candidates: Candidates, num_positives: int) -> Tensor:
        """The count, a scalar."""
        return _scalar(candidates, max(num_positives, len(candidates.per_image or ())))


Normalizer = PositiveCount | CountPerImage | CountOrImages


def _scalar(candidates: Candidates, value: float) -> Tensor:
    return torch.full((), float(value), dtype=torch.float32, device=candidates.logits.device)
