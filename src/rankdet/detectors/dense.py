"""What one-stage detectors have in common that label every anchor of a pyramid: ATSS and PAA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rankdet.backbones import FPN, Backbone, pyramid_strides
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import DenseOutputs, DenseStage
from rankdet.structures import Assignment, Batch, Candidates, Detection, Images, Matched, Target

AnyAssigner = TypeVar("AnyAssigner")


class DenseDetector(nn.Module, Generic[AnyAssigner]):
    """Backbone, pyramid, one dense stage, an assigner of labels. The head of the losses is ``"dense"``.

    Standard forms and ranking forms differ in values. One anchor of 8 strides per cell and an auxiliary head make the
    standard form. Three anchors from 4 strides on and no auxiliary head make the form of Rank & Sort Loss (Oksuz et
    al., ICCV 2021, arXiv:2107.11669). All parts and settings are public attributes and may be replaced.

    A subclass decides what is assigned, learned and scored: :meth:`assign`, :meth:`quality`, :meth:`score`, and, if it
    likes, :meth:`refined`.

    Parameters
    ----------
    assigner
        Decides which anchors are positives.
    num_classes
        Number of classes C.
    backbone
        Network from images to feature maps, all of which are used: strides 8, 16 and 32 of a large network.
    pyramid_channels
        Channels of the feature pyramid and of the towers behind it.
    extra_levels
        Coarser levels behind the backbone's, each by a convolution of stride 2 (P6 and P7).
    dense
        Head, from channels, strides and classes: ``functools.partial(DenseStage, ...)``.
    testing
        From scores to detections.
    test_per_level
        Anchors of each level that are decoded in detection: those of the highest scores.
    """

    auxiliary: str
    """Name of the auxiliary output in :class:`Candidates`, where the head has one."""

    def __init__(
        self,
        assigner: AnyAssigner,
        num_classes: int,
        *,
        backbone: Backbone,
        pyramid_channels: int,
        extra_levels: int,
        dense: Callable[..., DenseStage],
        testing: DetectionSettings,
        test_per_level: int,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.fpn = FPN(backbone.channels, pyramid_channels, extra_levels=extra_levels, extra_convolutions=True)
        self.dense = dense(pyramid_channels, pyramid_strides(backbone.strides, extra_levels), num_classes)
        self.assigner = assigner
        self.detection = testing
        self.test_per_level = test_per_level

    def assign(self, outputs: DenseOutputs, targets: Sequence[Target]) -> Assignment:
        """Return labels (B · M,) of the anchors of B images, and matched objects, counted through all images."""
        raise NotImplementedError

    def quality(self, anchors: Tensor, boxes: Matched) -> Tensor:
        """Return what the auxiliary output of positives learns, (P,) in [0, 1], from their anchors (P, 4) and boxes."""
        raise NotImplementedError

    def score(self, logits: Tensor, auxiliary: Tensor | None) -> Tensor:
        """Return scores in [0, 1] of class logits (…) and auxiliary logits of the same anchors, or None."""
        raise NotImplementedError

    def refined(self, found: Detection, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detection:
        """Return the detections of an image (height, width) after their selection; here they stay as they are.

        All that detections were selected from are boxes (K, 4) and scores (K, C).
        """
        return found

    def forward(self, batch: Batch) -> list[Candidates]:
        """Return candidates of the dense stage: one pool over the images of the batch, their levels and anchors."""
        outputs = self._outputs(batch.images)
        assignment = self.assign(outputs, batch.targets)
        return [
            self.dense.candidates(outputs, assignment, batch.targets, auxiliary=self.auxiliary, quality=self.quality)
        ]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Return detections of each image in its own pixels, without padding."""
        outputs = self._outputs(images)
        best = self.dense.best_boxes(outputs, images.sizes, per_level=self.test_per_level, score=self.score)
        return [
            self.refined(self.detection.select(boxes[:, None], scores), boxes, scores, size)
            for (boxes, scores), size in zip(best, images.sizes, strict=True)
        ]

    def _outputs(self, images: Images) -> DenseOutputs:
        outputs: DenseOutputs = self.dense(self.fpn(self.backbone(images)), images.sizes)
        return outputs
