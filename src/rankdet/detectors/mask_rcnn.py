"""Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870) with a feature pyramid, for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Self

import torch

from rankdet.backbones import Backbone, Pyramid
from rankdet.detectors.detection import DetectionSettings
from rankdet.detectors.faster_rcnn import FasterRCNN, pyramid_and_rpn
from rankdet.heads import BoxStage, MaskStage, RegionProposalNetwork
from rankdet.ranges import Count, CountOrZero
from rankdet.structures import Batch, Candidates, Detection, Images, MaskScores


class MaskRCNN(FasterRCNN):
    """Faster R-CNN and a mask for each positive RoI. Heads of the losses: ``"rpn"``, ``"rcnn"``.

    The masks are part of the candidates of the R-CNN, so that a loss can weight and balance them like boxes (Oksuz et
    al., ICCV 2021, arXiv:2107.11669, section 5.2). Standard forms and ranking forms differ in values, as those of
    :class:`FasterRCNN`, whose weights fit by their names.

    Parameters
    ----------
    backbone, fpn, rpn, rcnn, detection
        The parts of :class:`FasterRCNN`. The published R-CNN assigns with the low-quality step, other than in Faster
        R-CNN.
    mask
        Stage that reads the same levels of the pyramid as the R-CNN: inside of positive RoIs in training, inside of the
        detected boxes in detection.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        fpn: Pyramid,
        rpn: RegionProposalNetwork,
        rcnn: BoxStage,
        mask: MaskStage,
        detection: DetectionSettings | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            fpn=fpn,
            rpn=rpn,
            rcnn=rcnn,
            detection=detection,
        )
        self.mask = mask

    @classmethod
    def build(
        cls,
        num_classes: int,
        *,
        backbone: Backbone,
        pyramid_channels: Count = 256,
        extra_levels: CountOrZero = 1,
        carafe: bool = False,
        rpn: Callable[..., RegionProposalNetwork] = RegionProposalNetwork.build,
        rcnn: Callable[..., BoxStage],
        mask: Callable[..., MaskStage] = MaskStage.build,
        testing: DetectionSettings = DetectionSettings(),
    ) -> Self:
        """Return the detector of a backbone; the other parameters are those of :meth:`FasterRCNN.build`.

        Parameters
        ----------
        mask
            Masks of the second stage, ``functools.partial(MaskStage.build, ...)``. They are pooled as its boxes are,
            from the same levels.
        """
        fpn, first = pyramid_and_rpn(backbone, pyramid_channels, extra_levels, carafe, rpn)
        second = rcnn(pyramid_channels, backbone.strides, num_classes)
        masks = mask(pyramid_channels, num_classes, second.pooling)
        return cls(backbone=backbone, fpn=fpn, rpn=first, rcnn=second, mask=masks, detection=testing)

    def forward(self, batch: Batch) -> list[Candidates]:
        """Return candidates of the RPN (C = 1) and of the R-CNN, these with masks; each one pool over the batch.

        Raises
        ------
        ValueError
            When an image has objects but no masks.
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
