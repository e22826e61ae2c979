"""Continuous labels: what the positives of a head are sorted by.

Legend: P positives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdet.losses.candidates import Positives
from rankdet.structures import Candidates


class BinaryLabel:
    """Every positive has the label 1: classification alone, nothing to be sorted."""

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) ones."""
        return torch.ones_like(positives.rows, dtype=torch.float32)


class IoULabel:
    """The label of a positive is the IoU of its predicted box with its object, as it is now."""

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) in [0, 1], detached; raises ValueError where a head hands no boxes."""
        if positives.overlap is None:
            raise ValueError(f"head {candidates.head!r} hands no boxes, which the label IoU needs")
        return positives.overlap.iou.detach()


class DiceLabel:
    """The label of a positive is the Dice coefficient of its predicted mask, as it is now."""

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) in [0, 1), detached; raises ValueError where a head does not hand one mask for each of its positives."""
        if candidates.masks is None or positives.dice is None:
            raise ValueError(f"head {candidates.head!r} hands no masks, which the label Dice needs")
        if candidates.masks.rows is not None:
            raise ValueError(
                f"head {candidates.head!r} hands masks for a part of its positives, or several of one; the label Dice "
                "needs one of each"
            )
        return positives.dice.detach()


class MeanLabel:
    """The label of a positive is the mean of IoU and Dice coefficient (the paper's table A.16)."""

    def __init__(self) -> None:
        self.iou = IoULabel()
        self.dice = DiceLabel()

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) in [0, 1), detached; raises ValueError where boxes or masks are missing."""
        return (self.iou(candidates, positives) + self.dice(candidates, positives)) / 2


Label = BinaryLabel | IoULabel | DiceLabel | MeanLabel
