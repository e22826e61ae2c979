"""ATSS (Zhang et al., CVPR 2020, arXiv:1912.02424), for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from rankdet.backbones import Backbone
from rankdet.detectors.dense import DenseDetector
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import DenseOutputs, DenseStage, centerness
from rankdet.label_assignment import ATSSAssigner
from rankdet.ranges import Count, CountOrZero, checked
from rankdet.structures import Assignment, Matched, Target


@checked
class ATSS(DenseDetector[ATSSAssigner]):
    """Dense detector with labels by a threshold of IoU for each object; its auxiliary head learns centerness.

    The other parameters are those of :class:`DenseDetector`.

    Parameters
    ----------
    candidates_per_level
        Anchors of each level, nearest to an object, that may become its positives.
    """

    auxiliary = "centerness"

    def __init__(
        self,
        num_classes: Count,
        *,
        backbone: Backbone,
        pyramid_channels: Count = 256,
        extra_levels: CountOrZero = 2,
        dense: Callable[..., DenseStage],
        candidates_per_level: Count = 9,
        testing: DetectionSettings = DetectionSettings(nms_iou=0.6),
        test_per_level: Count = 1000,
    ) -> None:
        super().__init__(
            ATSSAssigner(candidates_per_level),
            num_classes,
            backbone=backbone,
            pyramid_channels=pyramid_channels,
            extra_levels=extra_levels,
            dense=dense,
            testing=testing,
            test_per_level=test_per_level,
        )

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
