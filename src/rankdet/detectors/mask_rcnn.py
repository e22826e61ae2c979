"""Mask R-CNN (He et al., ICCV 2017, arXiv:1703.06870) with a feature pyramid, for standard and ranking losses."""

from __future__ import annotations

from dataclasses import replace

import torch

from rankdet.backbones import Backbone, Pyramid
from rankdet.detectors.detection import DetectionSettings
from rankdet.detectors.faster_rcnn import FasterRCNN
from rankdet.heads import BoxStage, MaskStage, ProposalSettings, RegionProposalNetwork
from rankdet.structures import Batch, Candidates, Detection, Images, MaskScores


class MaskRCNN(FasterRCNN):
    """:class:`FasterRCNN` and a mask for each positive RoI. Heads of the losses: ``"rpn"``, ``"rcnn"``.

    The masks are handed together with the boxes of the R-CNN, so that a loss can weight and balance them alike (Oksuz
    et al., ICCV 2021, arXiv:2107.11669, section 5.2). The form is a matter of values, as in Faster R-CNN, whose weights
    fit by their names.

    Parameters
    ----------
    backbone, fpn, rpn, rcnn, train_proposals, test_proposals, detection
        As in :class:`FasterRCNN`. The published R-CNN assigns with the low-quality step, other than in Faster R-CNN.
    mask
        Reads the levels of the pyramid that the R-CNN reads: in training for positive RoIs, in detection for the boxes
        found.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        fpn: Pyramid,
        rpn: RegionProposalNetwork,
        rcnn: BoxStage,
        mask: MaskStage,
        train_proposals: ProposalSettings | None = None,
        test_proposals: ProposalSettings | None = None,
        detection: DetectionSettings | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone,
            fpn=fpn,
            rpn=rpn,
            rcnn=rcnn,
            train_proposals=train_proposals,
            test_proposals=test_proposals,
            detection=detection,
        )
        self.mask = mask

    def forward(self, batch: Batch) -> list[Candidates]:
        """Candidates of the RPN (C = 1) and of the R-CNN, these with masks; each one pool over the batch.

        Raises
        ------
        ValueError
            When an image has objects but no masks.
        """
        (first, second), maps, rois = self._learned(batch)
        return [first, replace(second, masks=self.mask.matched(maps, rois, batch.targets))]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Detections of each image in its own pixels, without padding: boxes as of Faster R-CNN, and their masks."""
        found, maps = self._found(images)
        labels = torch.cat([detection.labels for detection in found])
        scores = self.mask(maps, [detection.boxes for detection in found], labels).sigmoid()
        return [
            replace(detection, masks=MaskScores(image_scores, detection.boxes))
            for detection, image_scores in zip(found, scores.split([len(each.boxes) for each in found]), strict=True)
        ]
