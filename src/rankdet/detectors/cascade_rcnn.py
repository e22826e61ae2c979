"""Cascade R-CNN (Cai & Vasconcelos, CVPR 2018, arXiv:1712.00726), for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from rankdet.backbones import Backbone, Pyramid
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import BoxStage, ProposalSettings, RegionProposalNetwork, poolable
from rankdet.structures import Batch, Candidates, Detection, Images


class CascadeRCNN(nn.Module):
    """The parts of :class:`FasterRCNN` with several R-CNN stages, each fed with the boxes of the one before.

    Heads of the losses: ``"rpn"``, ``"rcnn1"``, ``"rcnn2"``, and so on. The form is a matter of values. Samplers,
    softmax and stds of the box coding that shrink from stage to stage make the standard form, in which the RoIs that
    were drawn move on. No sampler, sigmoid and stds (0.1, 0.1, 0.2, 0.2) in all stages make the form of Rank & Sort
    Loss (Oksuz et al., ICCV 2021, arXiv:2107.11669, table A.15), in which all of them do.

    Parameters
    ----------
    backbone, fpn, rpn, train_proposals, test_proposals, detection
        As in :class:`FasterRCNN`. In the published configurations the RPN ignores anchors that cross the border of the
        image.
    stages
        In order. Their assigners ask for more overlap from stage to stage, 0.5, 0.6 and 0.7, and their heads are
        class-agnostic: which box moves on does not depend on a class.

    Raises
    ------
    ValueError
        When there is no stage, or the head of one is not class-agnostic.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        fpn: Pyramid,
        rpn: RegionProposalNetwork,
        stages: Sequence[BoxStage],
        train_proposals: ProposalSettings | None = None,
        test_proposals: ProposalSettings | None = None,
        detection: DetectionSettings | None = None,
    ) -> None:
        super().__init__()
        if not stages or not all(stage.head.class_agnostic for stage in stages):
            raise ValueError("a cascade needs stages, all of them with class-agnostic heads")
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.stages = nn.ModuleList(stages)
        self.train_proposals = train_proposals or ProposalSettings(per_level=2000)
        self.test_proposals = test_proposals or ProposalSettings()
        self.detection = detection or DetectionSettings()

    @property
    def num_classes(self) -> int:
        """C."""
        num_classes: int = self._stages[-1].head.num_classes
        return num_classes

    def forward(self, batch: Batch) -> list[Candidates]:
        """Candidates of the RPN (C = 1) and of each stage, each one pool over the images of the batch.

        Every stage appends the boxes of the objects to those that it is given, and they do not move on.
        """
        sizes, targets = batch.images.sizes, batch.targets
        maps = self.fpn(self.backbone(batch.images))
        outputs = self.rpn(maps, sizes)
        boxes = self.rpn.proposals(outputs, sizes, self.train_proposals)
        heads = [self.rpn.candidates(outputs, sizes, targets)]
        maps = poolable(maps)
        for number, stage in enumerate(self._stages, start=1):
            rois = [stage.choose(*pair) for pair in zip(boxes, targets, strict=True)]
            chosen = [image_rois.boxes for image_rois in rois]
            logits, deltas = stage(maps, chosen)
            heads.append(replace(stage.candidates((logits, deltas), rois, targets), head=f"rcnn{number}"))
            moved = stage.boxes(deltas.detach(), chosen, sizes)
            boxes = [image_rois.of_proposals(found[:, 0]) for image_rois, found in zip(rois, moved, strict=True)]
        return heads

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Detections of each image in its own pixels, without padding.

        A score is that of the mean of the logits of all stages, each read inside of its own RoIs; the box is that of
        the last stage.
        """
        maps = self.fpn(self.backbone(images))
        boxes = self.rpn.proposals(self.rpn(maps, images.sizes), images.sizes, self.test_proposals)
        maps = poolable(maps)
        logits = []
        for stage in self._stages:
            stage_logits, deltas = stage(maps, boxes)
            logits.append(stage_logits.float())
            boxes = [found[:, 0] for found in stage.boxes(deltas, boxes, images.sizes)]
        scores = self._stages[-1].head.scores(torch.stack(logits).mean(dim=0)).split([len(found) for found in boxes])
        return [
            self.detection.select(found[:, None], found_scores)
            for found, found_scores in zip(boxes, scores, strict=True)
        ]

    @property
    def _stages(self) -> list[BoxStage]:
        return list(self.stages)  # type: ignore[arg-type]
