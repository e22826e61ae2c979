"""Random choice of candidates, for losses that many easy negatives would dominate."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rankdet.ranges import Count, Fraction, checked
from rankdet.structures import IGNORED, Assignment, is_class


@checked
@dataclass(frozen=True)
class RandomSampler:
    """Sampler that keeps at most ``num`` candidates of an image; the others are ignored.

    At most ``num · positive_fraction`` (rounded down) positives are kept; negatives fill the rest. Ranking losses need
    no sampler. Random numbers come from the generator of the device; the host waits for nothing.

    Parameters
    ----------
    num
        Candidates per image: 256 for an RPN, 512 for an R-CNN.
    positive_fraction
        Largest share of positives among them: 0.5 for an RPN, 0.25 for an R-CNN.
    """

    num: Count
    positive_fraction: Fraction

    def __call__(self, assignment: Assignment, num_classes: int) -> Assignment:
        """Return the same assignment with the labels of candidates that were not chosen set to −1."""
        labels = assignment.labels
        size = min(self.num, len(labels))
        most_positives = min(int(self.num * self.positive_fraction), len(labels))
        is_positive = is_class(labels, num_classes)
        keys = torch.rand(len(labels), device=labels.device)
        # Those of each kind with the largest random keys; candidates of another kind have key −1.
        positive_keys, positives = torch.where(is_positive, keys, -1).topk(most_positives)
        negative_keys, negatives = torch.where(labels == num_classes, keys, -1).topk(size)
        is_kept = torch.zeros_like(is_positive)
        is_kept[positives] = positive_keys >= 0
        num_negatives = self.num - is_kept.sum()
        is_kept[negatives] |= (negative_keys >= 0) & (torch.arange(size, device=labels.device) < num_negatives)
        return Assignment(torch.where(is_kept, labels, IGNORED), assignment.matched)
