"""Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870) with a feature pyramid, for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from rankdet.backbones import Backbone
from rankdet.detectors.detection import DetectionSettings
from rankdet.detectors.faster_rcnn import FasterRCNN
from rankdet.heads import BoxStage, MaskStage, RegionProposalNetwork
from rankdet.ranges import Count, CountOrZero, checked
from rankdet.structures import Batch, Candidates, Detection, Images, MaskScores


@checked
class MaskRCNN(FasterRCNN):
    """Faster R-CNN and a mask for each positive RoI. Heads of the losses: ``"rpn"``, ``"rcnn"``.

    The masks are part of the candidates of the R-CNN, so that a loss can weight and balance them like boxes (Oksuz et
    al., ICCV 2021, arXiv:2107.11669, section 5.2). Standard forms and ranking forms differ in values, as those of
    :class:`FasterRCNN`, whose weights fit by their names.

    The parameters beside ``mask`` are those of :class:`FasterRCNN`. The published R-CNN assigns with the low-quality
    step, other than in Faster R-CNN.

    Parameters
    ----------
    mask
        Masks of positive RoIs in training, of the detected boxes in detection: ``functools.partial(MaskStage, ...)``.
        They are pooled as boxes of the second stage are, from the same levels.
    """

    def __init__(
        self,
        num_classes: Count,
        *,
        backbone: Backbone,
        pyramid_channels: Count = 256,
        extra_levels: CountOrZero = 1,
        carafe: bool = False,
        rpn: Callable[..., RegionProposalNetwork] = RegionProposalNetwork,
        rcnn: Callable[..., BoxStage],
        mask: Callable[..., MaskStage] = MaskStage,
        testing: DetectionSettings = DetectionSettings(),
    ) -> None:
        super().__init__(
            num_classes,
            backbone=backbone,
            pyramid_channels=pyramid_channels,
            extra_levels=extra_levels,
            carafe=carafe,
            rpn=rpn,
            rcnn=rcnn,
            testing=testing,
        )
        self.mask = mask(pyramid_channels, num_classes, self.rcnn.pooling)

    def forward(self, batch: Batch) -> list[Candidates]:
        """Return candidates of the RPN (C = 1) and of the R-CNN, these with masks; each one pool over the batch.

        Raises ValueError when an image has objects but no masks.
        """
        (first, second), maps, rois = self._learn(batch)
        return [first, replace(second, masks=self.mask.matched(maps, rois, batch.targets))]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Return detections of each image in its own pixels, without padding, each with its mask."""
        detections, maps = self._detect(images)
        boxes = [detection.boxes for detection in detections]
        labels = torch.cat([detection.labels for detection in detections])
        scores = self.mask(maps, boxes, labels).sigmoid().split([len(image_boxes) for image_boxes in boxes])
        return [
            replace(detection, masks=MaskScores(image_scores, detection.boxes))
            for detection, image_scores in zip(detections, scores, strict=True)
        ]
