"""Auxiliary heads of the baselines: they predict how well a positive is localized, which ranking losses need not.

Called with candidates and positives they return one value per positive. What they predict multiplies the score in
detection, which is the detector's business.

Legend: P positives.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from rankdet.losses.candidates import Positives, matched_pairs
from rankdet.structures import Candidates, Matched


class CenternessCrossEntropy(nn.Module):
    """Cross-entropy of a predicted centerness with the centerness of the anchor, as in ATSS; (P,).

    Reads ``Candidates.auxiliary["centerness"]``: (P,) logits and targets in [0, 1].
    """

    name = "centerness"

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

    def __init__(self, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, candidates: Candidates, positives: Positives) -> Tensor:
        if positives.overlap is None:
            raise ValueError(f"head {candidates.head!r} hands no boxes, whose IoU is to be predicted")
        predicted = _outputs(candidates, self.name, len(positives.rows)).predicted
        return self.weight * _cross_entropy(predicted, positives.overlap.iou)


Auxiliary = CenternessCrossEntropy | IoUCrossEntropy


def _outputs(candidates: Candidates, name: str, num_positives: int) -> Matched:
    pairs = (candidates.auxiliary or {}).get(name)
    return matched_pairs(candidates, f"auxiliary output {name!r}", pairs, num_positives)


def _cross_entropy(predicted: Tensor, target: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(predicted.float(), target.detach().float(), reduction="none")
