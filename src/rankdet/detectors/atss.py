"""ATSS (Zhang et al., CVPR 2020, arXiv:1912.02424), for standard and ranking losses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rankdet.backbones import FPN, Backbone
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import DenseOutputs, DenseStage
from rankdet.label_assignment import ATSSAssigner
from rankdet.structures import Batch, Candidates, Detection, Images, Matched


class ATSS(nn.Module):
    """Backbone, pyramid, one dense stage, labels by adaptive thresholds. The head of the losses is ``"dense"``.

    The form is a matter of values: one anchor per cell of 8 strides and an auxiliary head for centerness make the
    standard form; three anchors from 4 strides on and no auxiliary head make the form of Rank & Sort Loss (Oksuz et
    al., ICCV 2021, arXiv:2107.11669). All parts and settings are public attributes and may be replaced.

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
        assigner: ATSSAssigner | None = None,
        detection: DetectionSettings | None = None,
        test_per_level: int = 1000,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.dense = dense
        self.assigner = assigner or ATSSAssigner()
        self.detection = detection or DetectionSettings(nms_iou=0.6)
        self.test_per_level = test_per_level

    @property
    def num_classes(self) -> int:
        """C."""
        return self.dense.head.num_classes

    def forward(self, batch: Batch) -> list[Candidates]:
        """Candidates of the dense stage: one pool over the images of the batch, their levels and anchors."""
        outputs = self._outputs(batch.images)
        assignment = self.assigner(outputs.anchors, batch.targets, self.num_classes)
        candidates, auxiliary = self.dense.candidates(outputs, assignment, batch.targets)
        if auxiliary is not None and candidates.centerness is not None:
            pairs = {"centerness": Matched(auxiliary, candidates.centerness)}
            candidates = replace(candidates, auxiliary=pairs)
        return [candidates]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Detections of each image in its own pixels, without padding."""
        best = self.dense.best_boxes(
            self._outputs(images), images.sizes, per_level=self.test_per_level, score=score_by_product
        )
        return [self.detection.select(boxes[:, None], scores) for boxes, scores in best]

    def _outputs(self, images: Images) -> DenseOutputs:
        outputs: DenseOutputs = self.dense(self.fpn(self.backbone(images)), images.sizes)
        return outputs


def score_by_product(logits: Tensor, auxiliary: Tensor | None) -> Tensor:
    """σ(class) · σ(centerness), or σ(class) alone where there is no auxiliary head.

    Examples
    --------
    >>> score_by_product(torch.zeros(1), None), score_by_product(torch.zeros(1), torch.zeros(1))
    (tensor([0.5000]), tensor([0.2500]))
    """
    scores = logits.float().sigmoid()
    return scores if auxiliary is None else scores * auxiliary.float().sigmoid()
