"""Auxiliary heads of the baselines, which ranking losses need not.

Called with candidates and positives they return one value per positive, or one per image; a loss divides their sum by
``normalizer``, which is given the number of values.
What is predicted of positives multiplies the score in detection, which is the detector's business.

Legend: B images, C classes, P positives.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rankdet.losses.candidates import Positives, matched_pairs
from rankdet.losses.normalizers import CountPerImage, PositiveCount
from rankdet.structures import Candidates, Matched


class CenternessCrossEntropy(nn.Module):
    """Cross-entropy of a predicted centerness with the centerness of the anchor, as in ATSS; (P,).

    Reads ``Candidates.auxiliary["centerness"]``: (P,) logits and targets in [0, 1].
    """

    name = "centerness"
    normalizer = CountPerImage()

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        predicted, target, _ = _outputs(candidates, self.name, len(positives.rows))
        return self.weight * _cross_entropy(predicted, target)


class IoUCrossEntropy(nn.Module):
    """Cross-entropy of a predicted IoU with the IoU of the predicted box, detached, as in PAA; (P,).

    Reads the (P,) logits of ``Candidates.auxiliary["iou"]``; its target is not used, because only the loss knows it.
    """

    name = "iou"
    normalizer = PositiveCount()

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        if positives.overlap is None:
            raise ValueError(f"head {candidates.head!r} hands no boxes, whose IoU is to be predicted")
        predicted = _outputs(candidates, self.name, len(positives.rows)).predicted
        return self.weight * _cross_entropy(predicted, positives.overlap.iou)


class SemanticCrossEntropy(nn.Module):
    """Cross-entropy of a map of each class with the pixels that any of its objects cover, as in YOLACT; (B,).

    Reads ``Candidates.auxiliary["semantic"]``: (B, C, h, w) logits and targets, bool or in [0, 1]. The value of an
    image is the sum over the classes of the mean over the pixels (Bolya et al., ICCV 2019, arXiv:1904.02689, section
    5). Differs from the published code where an image has no objects: there it has no loss, here all is background.
    """

    name = "semantic"
    normalizer = PositiveCount()  # of its values: the images

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        maps = (candidates.auxiliary or {}).get(self.name)
        if maps is None or maps.predicted.ndim != 4:
            raise ValueError(f"head {candidates.head!r} hands no auxiliary maps {self.name!r} (B, C, h, w)")
        return self.weight * _cross_entropy(maps.predicted, maps.target).mean(dim=(2, 3)).sum(dim=1)


Auxiliary = CenternessCrossEntropy | IoUCrossEntropy | SemanticCrossEntropy


def _outputs(candidates: Candidates, name: str, num_positives: int) -> Matched:
    pairs = (candidates.auxiliary or {}).get(name)
    return matched_pairs(candidates, f"auxiliary output {name!r}", pairs, num_positives)


def _cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(predicted.float(), target.detach().float(), reduction="none")
