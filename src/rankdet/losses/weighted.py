"""What losses with a factor have in common."""

from __future__ import annotations

from torch import nn

from rankdet.ranges import NonNegative, checked


@checked
class WeightedLoss(nn.Module):
    """A loss that its ``forward`` multiplies by a factor.

    Parameters
    ----------
    weight
        Factor of the loss.
    """

    def __init__(self, weight: NonNegative = 1.0) -> None:
        super().__init__()
        self.weight = weight
