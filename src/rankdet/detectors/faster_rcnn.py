"""Faster R-CNN (Ren et al., NeurIPS 2015, arXiv:1506.01497) with a feature pyramid, for standard and ranking losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdet.backbones import Backbone, Pyramid
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import BoxStage, ProposalSettings, RegionProposalNetwork, RoIs, poolable
from rankdet.structures import Batch, Candidates, Detection, Images


class FasterRCNN(nn.Module):
    """Backbone, pyramid, region proposals, one R-CNN stage. Heads of the losses: ``"rpn"`` and ``"rcnn"``.

    The form is a matter of values: samplers, softmax and the coder of the RPN make the standard form; no sampler,
    sigmoid and stds (0.1, 0.1, 0.2, 0.2) in both stages make the form of Rank & Sort Loss (Oksuz et al., ICCV 2021,
    arXiv:2107.11669, section 5). The detector's own parts do not look at ``self.training``; only a backbone
    with unfrozen batch normalization or with dropout follows the mode. All parts and settings are public attributes and
    may be replaced.

    Parameters
    ----------
    backbone, fpn
        Images → maps → pyramid.
    rpn
        Reads all levels of the pyramid.
    rcnn
        Reads the first levels of the pyramid.
    train_proposals, test_proposals
        Proposals in :meth:`forward` and in :meth:`detect`.
    detection
        What :meth:`detect` returns.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        fpn: Pyramid,
        rpn: RegionProposalNetwork,
        rcnn: BoxStage,
        train_proposals: ProposalSettings | None = None,
        test_proposals: ProposalSettings | None = None,
        detection: DetectionSettings | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.rcnn = rcnn
        self.train_proposals = train_proposals or ProposalSettings(per_level=2000)
        self.test_proposals = test_proposals or ProposalSettings()
        self.detection = detection or DetectionSettings()

    @property
    def num_classes(self) -> int:
        """C."""
        return self.rcnn.head.num_classes

    def forward(self, batch: Batch) -> list[Candidates]:
        """Candidates of the RPN (C = 1) and of the R-CNN, each one pool over the images of the batch."""
        return self._learned(batch)[0]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Detections of each image in its own pixels, without padding."""
        return self._found(images)[0]

    def _learned(self, batch: Batch) -> tuple[list[Candidates], list[Tensor], list[RoIs]]:
        """Candidates of both heads; the maps of the pyramid and the RoIs of each image that they were read from."""
        sizes = batch.images.sizes
        maps = self.fpn(self.backbone(batch.images))
        outputs = self.rpn(maps, sizes)
        proposals = self.rpn.proposals(outputs, sizes, self.train_proposals)
        first = self.rpn.candidates(outputs, sizes, batch.targets)
        maps = poolable(maps)
        rois = [self.rcnn.choose(*pair) for pair in zip(proposals, batch.targets, strict=True)]
        second = self.rcnn(maps, [image_rois.boxes for image_rois in rois])
        return [first, self.rcnn.candidates(second, rois, batch.targets)], maps, rois

    def _found(self, images: Images) -> tuple[list[Detection], list[Tensor]]:
        """Boxes of each image, and the maps of the pyramid that they were read from."""
        maps = self.fpn(self.backbone(images))
        proposals = self.rpn.proposals(self.rpn(maps, images.sizes), images.sizes, self.test_proposals)
        maps = poolable(maps)
        logits, deltas = self.rcnn(maps, proposals)
        scores = self.rcnn.head.scores(logits).split([len(boxes) for boxes in proposals])
        boxes = self.rcnn.boxes(deltas, proposals, images.sizes)
        return [self.detection.select(*found) for found in zip(boxes, scores, strict=True)], maps
