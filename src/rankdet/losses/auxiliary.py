"""Losses of the auxiliary heads of baselines; ranking losses do without these heads.

Such a loss takes the candidates and their positives and returns one value per positive, or one per image. Its ``name``
is that of its term and of the head's output in ``Candidates.auxiliary``. Its ``normalizer`` takes the candidates and
the number of values, and returns what divides their sum. In detection, the detector multiplies its scores by what such
a head predicts.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from rankdet.losses.candidates import Positives, matched_pairs
from rankdet.losses.normalizers import CountPerImage, PositiveCount
from rankdet.losses.weighted import WeightedLoss
from rankdet.ranges import NonNegative
from rankdet.structures import Candidates, Matched


class CenternessCrossEntropyLoss(WeightedLoss):
    """Cross-entropy of a predicted centerness with the centerness of the anchor, as in ATSS.

    It reads ``Candidates.auxiliary["centerness"]``: (P,) logits and targets in [0, 1].
    """

    name = "centerness"
    normalizer = CountPerImage()

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) values; raises ValueError where a head passes no such output for each positive."""
        predicted, target, _ = _outputs(candidates, self.name, len(positives.rows))
        return self.weight * _cross_entropy(predicted, target)


class IoUCrossEntropyLoss(WeightedLoss):
    """Cross-entropy of a predicted IoU with the IoU of the predicted box, detached, as in PAA.

    It reads the (P,) logits of ``Candidates.auxiliary["iou"]``, but not their target: only the loss knows the IoU.
    """

    name = "iou"
    normalizer = PositiveCount()

    def __init__(self, weight: NonNegative = 0.5) -> None:
        super().__init__(weight)

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) values; raises ValueError where a head passes no such output for each positive, or no boxes."""
        if positives.overlap is None:
            raise ValueError(f"head {candidates.head!r} passes no boxes, whose IoU is to be predicted")
        predicted = _outputs(candidates, self.name, len(positives.rows)).predicted
        return self.weight * _cross_entropy(predicted, positives.overlap.iou)


class SemanticCrossEntropyLoss(WeightedLoss):
    """Cross-entropy of a map of each class with the pixels that any of its objects cover, as in YOLACT.

    It reads ``Candidates.auxiliary["semantic"]``: (B, C, h, w) logits and targets, bool or in [0, 1]. The value of an
    image is the sum over the classes of the mean over the pixels (Bolya et al., ICCV 2019, arXiv:1904.02689, section
    5). Differs from the published code where an image has no objects: there it has no loss, here all is background.
    """

    name = "semantic"
    normalizer = PositiveCount()  # counts its values, one per image

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(B,) values; raises ValueError where a head passes no such maps."""
        maps = (candidates.auxiliary or {}).get(self.name)
        if maps is None or maps.predicted.ndim != 4:
            raise ValueError(f"head {candidates.head!r} passes no auxiliary maps {self.name!r} (B, C, h, w)")
        return self.weight * _cross_entropy(maps.predicted, maps.target).mean(dim=(2, 3)).sum(dim=1)


Auxiliary = CenternessCrossEntropyLoss | IoUCrossEntropyLoss | SemanticCrossEntropyLoss


def _outputs(candidates: Candidates, name: str, num_positives: int) -> Matched:
    pairs = (candidates.auxiliary or {}).get(name)
    return matched_pairs(candidates, f"auxiliary output {name!r}", pairs, num_positives)


def _cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(predicted.float(), target.detach().float(), reduction="none")
