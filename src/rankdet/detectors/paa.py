"""PAA (Kim & Lee, ECCV 2020, arXiv:2007.08103), for standard and ranking losses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou, clip_boxes_to_image

from rankdet.backbones import FPN, Backbone
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import DenseOutputs, DenseStage
from rankdet.label_assignment import PAAAssigner, aligned_iou
from rankdet.structures import Batch, Candidates, Detection, Images, Matched

VOTER_IOU = 0.01
"""A box votes on another of its class that it overlaps by more than this."""
VOTE_WIDTH = 0.025
"""How fast a vote falls with 1 − IoU (squared)."""


class PAA(nn.Module):
    """Backbone, pyramid, one dense stage, labels by what the network predicts. The head of the losses is ``"dense"``.

    The form is a matter of values: one anchor per cell of 8 strides and an auxiliary head for IoU make the standard
    form; three anchors from 4 strides on and no auxiliary head make the form of Rank & Sort Loss (Oksuz et al., ICCV
    2021, arXiv:2107.11669). All parts and settings are public attributes and may be replaced.

    Parameters
    ----------
    backbone, fpn
        Images → maps → pyramid.
    dense
        Reads all levels of the pyramid.
    assigner
        Says which anchors are positives.
    detection
        What :meth:`detect` returns; None: suppression at IoU 0.6, and the other defaults.
    test_per_level
        Anchors of each level that :meth:`detect` decodes.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        fpn: FPN,
        dense: DenseStage,
        assigner: PAAAssigner | None = None,
        detection: DetectionSettings | None = None,
        test_per_level: int = 1000,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.dense = dense
        self.assigner = assigner or PAAAssigner()
        self.detection = detection or DetectionSettings(nms_iou=0.6)
        self.test_per_level = test_per_level

    @property
    def num_classes(self) -> int:
        """C."""
        return self.dense.head.num_classes

    def forward(self, batch: Batch) -> list[Candidates]:
        """Candidates of the dense stage: one pool over the images of the batch, their levels and anchors."""
        outputs = self._outputs(batch.images)
        assignment = self.assigner(
            outputs.anchors, batch.targets, self.num_classes, outputs.logits.detach(), self.dense.boxes(outputs)
        )
        candidates, auxiliary = self.dense.candidates(outputs, assignment, batch.targets)
        if auxiliary is not None and candidates.boxes is not None:
            iou = aligned_iou(candidates.boxes.predicted.detach(), candidates.boxes.target)
            candidates = replace(candidates, auxiliary={"iou": Matched(auxiliary, iou)})
        return [candidates]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Detections of each image in its own pixels, without padding. Boxes are means of all that vote for them."""
        best = self.dense.best_boxes(
            self._outputs(images), images.sizes, per_level=self.test_per_level, score=score_by_geometric_mean
        )
        detections = []
        for (boxes, scores), size in zip(best, images.sizes, strict=True):
            selected = self.detection.select(boxes[:, None], scores)
            means = voted(selected, boxes, scores, self.detection.score_threshold)
            # A mean of boxes at the border may lie beyond it by rounding.
            detections.append(replace(means, boxes=clip_boxes_to_image(means.boxes, size)))
        return detections

    def _outputs(self, images: Images) -> DenseOutputs:
        outputs: DenseOutputs = self.dense(self.fpn(self.backbone(images)), images.sizes)
        return outputs


def score_by_geometric_mean(logits: Tensor, auxiliary: Tensor | None) -> Tensor:
    """√(σ(class) · σ(IoU)), or σ(class) alone where there is no auxiliary head.

    Examples
    --------
    >>> score_by_geometric_mean(torch.zeros(1), None), score_by_geometric_mean(torch.zeros(1), torch.zeros(1))
    (tensor([0.5000]), tensor([0.5000]))
    """
    scores = logits.float().sigmoid()
    return scores if auxiliary is None else (scores * auxiliary.float().sigmoid()).sqrt()


def voted(detection: Detection, boxes: Tensor, scores: Tensor, threshold: float) -> Detection:
    r"""Detections whose boxes are weighted means; scores and labels stay.

    .. math:: b = \frac{\sum_i w_i b_i}{\sum_i w_i}, \quad w_i = s_i \exp(-(1 - IoU_i)^2 / 0.025)

    over all boxes with a score s_i above the threshold in the class of the detection and IoU_i > 0.01 with it ("score
    voting" in the paper).

    Parameters
    ----------
    detection
        D of them, made of these boxes.
    boxes, scores
        (K, 4) and (K, C) before suppression.
    threshold
        Scores up to it have no vote.

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
