"""Localization qualities: the continuous targets by which the positives of a head are sorted.

A quality is any callable that takes the candidates and their P positives and returns (P,) detached numbers in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdet.losses.candidates import Positives
from rankdet.structures import Candidates


class BinaryQuality:
    """Every positive has the quality 1: classification alone, nothing to be sorted."""

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) ones."""
        return torch.ones_like(positives.rows, dtype=torch.float32)


class IoUQuality:
    """The quality of a positive is the IoU of its predicted box with its object, as it is now."""

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) in [0, 1], detached; raises ValueError where a head passes no boxes."""
        if positives.overlap is None:
            raise ValueError(
                f"head {candidates.head!r} passes no boxes, which the quality IoU needs; GivenQuality takes one "
                "that the head passes itself"
            )
        return positives.overlap.iou.detach()


class GivenQuality:
    """The quality of a positive is what the head says it is, ``Candidates.quality``.

    For boxes that a loss here cannot compare, such as rotated ones, and for heads that pass none.
    """

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,), detached; raises ValueError where a head passes no quality, or not one of each positive."""
        if candidates.quality is None:
            raise ValueError(f"head {candidates.head!r} passes no quality of its own")
        if candidates.quality.shape != positives.rows.shape:
            raise ValueError(
                f"head {candidates.head!r}: {len(positives.rows)} positives but a quality of shape "
                f"{tuple(candidates.quality.shape)}"
            )
        return candidates.quality.detach()


class DiceQuality:
    """The quality of a positive is the Dice coefficient of its predicted mask, as it is now."""

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) in [0, 1), detached; raises ValueError where a head does not pass one mask for each of its positives."""
        if candidates.masks is None or positives.dice is None:
            raise ValueError(f"head {candidates.head!r} passes no masks, which the quality Dice needs")
        if candidates.masks.rows is not None:
            raise ValueError(
                f"head {candidates.head!r} passes masks for a part of its positives, or several of one; "
                "the quality Dice needs one of each"
            )
        return positives.dice.detach()


class MeanQuality:
    """The quality of a positive is the mean of IoU and Dice coefficient (the paper's table A.16)."""

    def __call__(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) in [0, 1), detached; raises ValueError where boxes or masks are missing."""
        return (IoUQuality()(candidates, positives) + DiceQuality()(candidates, positives)) / 2


Quality = BinaryQuality | IoUQuality | DiceQuality | MeanQuality | GivenQuality
