"""The mask losses of the standard detectors: one value per mask, never reduced.

Legend: P' masks (of some positives, or of all) of H × W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rankdet.losses.candidates import Positives
from rankdet.structures import Candidates


class MaskCrossEntropy(nn.Module):
    """Binary cross-entropy, the mean over the pixels of a mask, times ``weight``; (P',).

    That of Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870, section 3). For masks without a crop: at a logit of −∞
    it is not defined.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        if candidates.masks is None:
            raise ValueError(f"head {candidates.head!r} hands no masks, which its loss needs")
        predicted, target, _ = candidates.masks
        loss = binary_cross_entropy_with_logits(predicted.float(), target.float(), reduction="none")
        return self.weight * loss.mean(dim=(1, 2))


class Dice(nn.Module):
    """1 − Dice coefficient, times ``weight``; (P',)."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        if positives.dice is None:
            raise ValueError(f"head {candidates.head!r} hands no masks, which its loss needs")
        return self.weight * (1 - positives.dice)


MaskLoss = MaskCrossEntropy | Dice
