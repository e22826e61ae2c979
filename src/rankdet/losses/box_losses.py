"""The box losses of the standard detectors: one value per positive, never reduced.

Legend: P positives.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from rankdet.losses.candidates import Positives, matched_pairs
from rankdet.structures import Candidates


class L1(nn.Module):
    """Sum over the four encoded values of |predicted − target|, times ``weight``; (P,)."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        predicted, target, _ = matched_pairs(candidates, "deltas", candidates.deltas, len(positives.rows))
        return self.weight * (predicted.float() - target.float()).abs().sum(dim=1)


class SmoothL1(nn.Module):
    """As :class:`L1` but x² / 2β for |x| < β and |x| − β/2 beyond (Girshick, "Fast R-CNN", ICCV 2015)."""

    def __init__(self, beta: float, weight: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        predicted, target, _ = matched_pairs(candidates, "deltas", candidates.deltas, len(positives.rows))
        loss = functional.smooth_l1_loss(predicted.float(), target.float(), beta=self.beta, reduction="none")
        return self.weight * loss.sum(dim=1)


class GIoU(nn.Module):
    """1 − GIoU of the decoded boxes, times ``weight``; (P,)."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        if positives.overlap is None:
            raise ValueError(f"head {candidates.head!r} hands no boxes, which its loss needs")
        return self.weight * (1 - positives.overlap.giou)


BoxLoss = L1 | SmoothL1 | GIoU
