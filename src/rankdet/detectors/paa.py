"""PAA (Kim & Lee, ECCV 2020, arXiv:2007.08103), for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from rankdet.backbones import Backbone
from rankdet.detectors.dense import DenseDetector
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import DenseOutputs, DenseStage
from rankdet.label_assignment import PAAAssigner, aligned_iou
from rankdet.ranges import Count, CountOrZero, NonNegative, Positive, checked
from rankdet.structures import Assignment, Detection, Matched, Target

VOTER_IOU = 0.01
"""A box votes on another of its class that it overlaps by more than this."""
VOTE_WIDTH = 0.025
"""How fast a vote falls with 1 − IoU (squared)."""


@checked
class PAA(DenseDetector[PAAAssigner]):
    """Dense detector with labels by its own predictions; its auxiliary head learns IoU, and boxes are voted for.

    The other parameters are those of :class:`DenseDetector`.

    Parameters
    ----------
    candidates_per_level
        Anchors of each level, of lowest cost, that may become positives of an object.
    cost_giou_weight
        Factor of 1 − GIoU beside focal loss in the cost of an anchor: 1.3 in the standard form, 1 in that of Rank &
        Sort Loss.
    added_variance
        Added to the variances of the mixture in each iteration: 1e-6 in the standard form, 1e-5 in that of Rank &
        Sort Loss.
    """

    auxiliary = "iou"

    def __init__(
        self,
        num_classes: Count,
        *,
        backbone: Backbone,
        pyramid_channels: Count = 256,
        extra_levels: CountOrZero = 2,
        dense: Callable[..., DenseStage],
        candidates_per_level: Count = 9,
        cost_giou_weight: NonNegative,
        added_variance: Positive,
        testing: DetectionSettings = DetectionSettings(nms_iou=0.6),
        test_per_level: Count = 1000,
    ) -> None:
        super().__init__(
            PAAAssigner(candidates_per_level, cost_giou_weight, added_variance),
            num_classes,
            backbone=backbone,
            pyramid_channels=pyramid_channels,
            extra_levels=extra_levels,
            dense=dense,
            testing=testing,
            test_per_level=test_per_level,
        )

    def assign(self, outputs: DenseOutputs, targets: Sequence[Target]) -> Assignment:
        """Return labels by what the network now predicts for every anchor."""
        boxes = self.dense.boxes(outputs)
        return self.assigner(outputs.anchors, targets, self.num_classes, outputs.logits.detach(), boxes)

    def quality(self, anchors: Tensor, boxes: Matched) -> Tensor:
        """Return the IoU of predicted boxes with their objects."""
        return aligned_iou(boxes.predicted, boxes.target)

    def score(self, logits: Tensor, auxiliary: Tensor | None) -> Tensor:
        """Return √(σ(class) · σ(IoU)), or σ(class) alone where there is no auxiliary head."""
        scores = logits.float().sigmoid()
        return scores if auxiliary is None else (scores * auxiliary.float().sigmoid()).sqrt()

    def refined(self, found: Detection, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detection:
        """Return the detections with boxes that are means of all that vote for them, clipped to the image."""
        means = voted(found, boxes, scores, self.detection.score_threshold)
        # A mean of boxes at the border may lie beyond it by rounding.
        return replace(means, boxes=clip_boxes_to_image(means.boxes, size))


def voted(detection: Detection, boxes: Tensor, scores: Tensor, threshold: float) -> Detection:
    r"""Replace the boxes of D detections by weighted means; scores and labels stay.

    .. math:: b = \frac{\sum_i w_i b_i}{\sum_i w_i}, \quad w_i = s_i \exp(-(1 - IoU_i)^2 / 0.025)

    over all boxes (K, 4), before suppression, with a score s_i above the threshold in the class of the detection and
    IoU_i > 0.01 with it ("score voting" in the paper).

    Examples
    --------
    >>> boxes, scores = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0]]), torch.tensor([[0.6], [0.5]])
    >>> voted(Detection(boxes[:1], scores[0], torch.tensor([0])), boxes, scores, 0.05).boxes  # 0.5 · 0.2019 = 0.1009
    tensor([[0.0000, 0.0000, 4.0000, 4.1440]])
    """
    votes = scores[:, detection.labels].T  # (D, K)
    iou = box_iou(detection.boxes, boxes)
    weights = (votes * torch.exp(-(1 - iou).square() / VOTE_WIDTH)).where((votes > threshold) & (iou > VOTER_IOU), 0)
    total = weights.sum(dim=1, keepdim=True)
    # A box without area overlaps nothing, not even itself: it stays.
    means = (weights @ boxes / total.clamp(min=torch.finfo(total.dtype).tiny)).where(total > 0, detection.boxes)
    return replace(detection, boxes=means)
