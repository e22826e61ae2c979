"""The score-based baselines: cross-entropy with a sigmoid or a softmax, beside a box loss of the standard detectors.

Legend: M candidates, C classes, P positives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rankdet.losses.candidates import matched_pairs, positive_rows, task_counts
from rankdet.losses.localization import box_overlap
from rankdet.structures import Candidates, LossOutput


class L1(nn.Module):
    """Sum over the four encoded values of |predicted − target|, times ``weight``; (P,)."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, num_positives: int) -> Tensor:
        predicted, target, _ = matched_pairs(candidates, "deltas", candidates.deltas, num_positives)
        return self.weight * (predicted.float() - target.float()).abs().sum(dim=1)


class SmoothL1(nn.Module):
    """As :class:`L1` but x² / 2β for |x| < β and |x| − β/2 beyond (Girshick, "Fast R-CNN", ICCV 2015)."""

    def __init__(self, beta: float, weight: float = 1.0) -> None:
        super().__init__()
        self.beta = beta
        self.weight = weight

    def forward(self, candidates: Candidates, num_positives: int) -> Tensor:
        predicted, target, _ = matched_pairs(candidates, "deltas", candidates.deltas, num_positives)
        loss = functional.smooth_l1_loss(predicted.float(), target.float(), beta=self.beta, reduction="none")
        return self.weight * loss.sum(dim=1)


class GIoU(nn.Module):
    """1 − GIoU of the decoded boxes, times ``weight``; (P,)."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, num_positives: int) -> Tensor:
        predicted, target, _ = matched_pairs(candidates, "boxes", candidates.boxes, num_positives)
        return self.weight * (1 - box_overlap(predicted, target).giou)


BoxLoss = L1 | SmoothL1 | GIoU


class SigmoidCrossEntropyLoss(nn.Module):
    """Binary cross-entropy of each logit, and a box loss; both divided by the number of candidates that take part.

    The standard RPN with C = 1: its sampler marks whatever it did not draw as ignored.

    Parameters
    ----------
    box_loss
        Box loss per positive.

    Notes
    -----
    Terms: ``classification``, ``localization``. Statistics: ``positives``, ``negatives``. With no candidate that takes
    part, both terms are zeros connected to all outputs.
    """

    def __init__(self, box_loss: BoxLoss) -> None:
        super().__init__()
        self.box_loss = box_loss

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        if candidates.logits.shape[1] != candidates.num_classes:
            raise ValueError(f"head {candidates.head!r} classifies by softmax: its logits have a background column")
        rows = positive_rows(candidates)
        targets = torch.zeros_like(candidates.logits, dtype=torch.float32)
        targets[rows, candidates.labels[rows]] = 1
        used = candidates.labels >= 0
        loss = functional.binary_cross_entropy_with_logits(_used_logits(candidates), targets, reduction="none")
        return _output(candidates, loss.sum(dim=1).where(used, 0), self.box_loss(candidates, len(rows)), len(rows))


class SoftmaxCrossEntropyLoss(nn.Module):
    """Cross-entropy over C classes and background, and a box loss; both divided by the number of candidates used.

    The standard R-CNN head, over its sampled RoIs. ``candidates.logits`` is (M, C + 1) with the background last.

    Parameters
    ----------
    box_loss
        Box loss per positive.

    Raises
    ------
    ValueError
        When the logits have no background column.
    """

    def __init__(self, box_loss: BoxLoss) -> None:
        super().__init__()
        self.box_loss = box_loss

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        if candidates.logits.shape[1] != candidates.num_classes + 1:
            raise ValueError(f"head {candidates.head!r} classifies by sigmoid: its logits have no background column")
        rows = positive_rows(candidates)
        loss = functional.cross_entropy(_used_logits(candidates), candidates.labels, ignore_index=-1, reduction="none")
        return _output(candidates, loss, self.box_loss(candidates, len(rows)), len(rows))


def _used_logits(candidates: Candidates) -> Tensor:
    """The logits in float32, zeros where ignored: a NaN there would come back as 0 · NaN in the gradient."""
    return candidates.logits.float().masked_fill((candidates.labels < 0)[:, None], 0)


def _output(candidates: Candidates, classification: Tensor, localization: Tensor, num_positives: int) -> LossOutput:
    """Both sums over the number of candidates that are not ignored."""
    num_used = (candidates.labels >= 0).sum().clamp(min=1)
    return LossOutput(
        terms={"classification": classification.sum() / num_used, "localization": localization.sum() / num_used},
        stats=task_counts(candidates, num_positives),
    )
