"""The interfaces of parts that label the boxes of one image, so that detectors can be given other ones.

Legend: M boxes of an image, C classes.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from rankdet.structures import Assignment, Target


class Assigner(Protocol):
    """Decides which class each box of an image belongs to."""

    def __call__(self, boxes: Tensor, target: Target, num_classes: int) -> Assignment:
        """Return labels and matched objects of (M, 4) boxes: 0 … C−1, C for background, −1 for ignored."""
        ...


class Sampler(Protocol):
    """Chooses the candidates of an image that a loss learns from; the others are ignored."""

    def __call__(self, assignment: Assignment, num_classes: int) -> Assignment:
        """Return the same assignment with more labels −1."""
        ...
