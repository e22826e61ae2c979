"""The negatives from which a score-based baseline learns, where all of them are too many. Ranking losses use all."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.ranges import Count, checked
from rankdet.structures import Candidates


class Chosen(NamedTuple):
    """The candidates from which a loss learns.

    candidates
        (M,) bool.
    divisor
        Scalar that divides a sum over the candidates.
    """

    candidates: Tensor
    divisor: Tensor


@checked
class HardNegatives:
    """Online hard example mining: in each image all positives, and as many times more negatives, those of largest loss.

    In an image without positives all negatives are chosen. Sums are divided by the number of positives, of which such
    an image counts as one (SSD: Liu et al., ECCV 2016, arXiv:1512.02325, section 2.2; the published code of YOLACT for
    such images).

    Parameters
    ----------
    ratio
        Negatives for each positive of their image.

    Notes
    -----
    Among negatives with equal losses the first are chosen. It waits for no device.

    Examples
    --------
    >>> candidates = Candidates("dense", torch.zeros(4, 2), torch.tensor([1, 1, 0, 1]), 1, per_image=(4,))
    >>> HardNegatives(2)(candidates, torch.tensor([0.1, 0.4, 0.3, 0.2])).candidates
    tensor([False,  True,  True,  True])
    """

    def __init__(self, ratio: Count = 3) -> None:
        self.ratio = ratio

    def __call__(self, candidates: Candidates, losses: Tensor) -> Chosen:
        """The candidates chosen by their (M,) losses; raises ValueError where a head does not pass per_image."""
        if candidates.per_image is None:
            raise ValueError(
                f"head {candidates.head!r} passes no per_image: which candidates share an image is unknown"
            )
        chosen, counts = [], []
        background = candidates.labels == candidates.num_classes
        parts = (part.split(candidates.per_image) for part in (candidates.is_positive, background, losses.detach()))
        for is_positive, is_negative, own in zip(*parts, strict=True):
            num_positives = is_positive.sum()
            limit = torch.where(num_positives > 0, self.ratio * num_positives, len(own))
            order = own.masked_fill(~is_negative, -torch.inf).argsort(descending=True, stable=True)
            is_among_first = torch.arange(len(own), device=own.device) < limit
            is_hard = torch.empty_like(is_negative).scatter_(0, order, is_among_first)
            chosen.append(is_positive | (is_negative & is_hard))
            counts.append(num_positives.clamp(min=1))
        if not chosen:
            return Chosen(torch.zeros_like(candidates.labels, dtype=torch.bool), losses.new_ones(()))
        return Chosen(torch.cat(chosen), torch.stack(counts).sum())
