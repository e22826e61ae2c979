"""The box losses of the standard detectors: one value for each of P positives, never reduced.

A box loss is any callable that takes the candidates and their positives and returns (P,) values with gradient. It finds
its boxes in ``Candidates.boxes`` (xyxy) or ``Candidates.deltas`` (any other form that a head puts out).
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from rankdet.losses.candidates import Positives, matched_pairs
from rankdet.losses.weighted import WeightedLoss
from rankdet.ranges import NonNegative, Positive, checked
from rankdet.structures import Candidates


class L1Loss(WeightedLoss):
    """Absolute error of the encoded boxes, summed over their four values."""

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) values; raises ValueError where a head passes no deltas."""
        predicted, target, _ = matched_pairs(candidates, "deltas", candidates.deltas, len(positives.rows))
        return self.weight * (predicted.float() - target.float()).abs().sum(dim=1)


@checked
class SmoothL1Loss(WeightedLoss):
    """Absolute error of the encoded boxes, quadratic where it is small, summed over their four values.

    An error x counts x² / 2β below β, and x − β/2 above (Girshick, "Fast R-CNN", ICCV 2015).

    Parameters
    ----------
    beta
        β, the error below which the loss is quadratic, in units of the encoding.
    """

    def __init__(self, beta: Positive, weight: NonNegative = 1.0) -> None:
        super().__init__(weight)
        self.beta = beta

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) values; raises ValueError where a head passes no deltas."""
        predicted, target, _ = matched_pairs(candidates, "deltas", candidates.deltas, len(positives.rows))
        loss = functional.smooth_l1_loss(predicted.float(), target.float(), beta=self.beta, reduction="none")
        return self.weight * loss.sum(dim=1)


class GIoULoss(WeightedLoss):
    """1 − GIoU of the decoded boxes with their objects."""

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) values; raises ValueError where a head passes no boxes."""
        if positives.overlap is None:
            raise ValueError(f"head {candidates.head!r} passes no boxes, which its loss needs")
        return self.weight * (1 - positives.overlap.giou)


BoxLoss = L1Loss | SmoothL1Loss | GIoULoss
