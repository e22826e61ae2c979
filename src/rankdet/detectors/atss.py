"""ATSS (Zhang et al., CVPR 2020, arXiv:1912.02424), for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rankdet.detectors.dense import DenseDetector
from rankdet.heads import DenseOutputs, centerness
from rankdet.label_assignment import ATSSAssigner
from rankdet.structures import Assignment, Matched, Target


class ATSS(DenseDetector[ATSSAssigner]):
    """Dense detector with labels by a threshold of IoU for each object; its auxiliary head learns centerness.

    The parameters are those of :class:`DenseDetector`.
    """

    auxiliary = "centerness"

    def assign(self, outputs: DenseOutputs, targets: Sequence[Target]) -> Assignment:
        """Return labels by the anchors alone; what the network predicts plays no part."""
        return self.assigner(outputs.anchors, targets, self.num_classes)

    def quality(self, anchors: Tensor, boxes: Matched) -> Tensor:
        """Return the centerness of anchors in their objects."""
        return centerness(anchors, boxes.target)

    def score(self, logits: Tensor, auxiliary: Tensor | None) -> Tensor:
        """Return σ(class) · σ(centerness), or σ(class) alone where there is no auxiliary head."""
        scores = logits.float().sigmoid()
        return scores if auxiliary is None else scores * auxiliary.float().sigmoid()
