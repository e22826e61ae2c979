"""Cascade R-CNN (Cai & Vasconcelos, CVPR 2018, arXiv:1712.00726), for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from rankdet.backbones import Backbone, pyramid_strides
from rankdet.detectors.detection import DetectionSettings
from rankdet.detectors.faster_rcnn import two_stage_pyramid
from rankdet.heads import BoxStage, RegionProposalNetwork, poolable
from rankdet.ranges import Count, CountOrZero, checked
from rankdet.structures import Batch, Candidates, Detection, Images


@checked
class CascadeRCNN(nn.Module):
    """Faster R-CNN with three R-CNN stages, each of which refines the boxes of the one before.

    Heads of the losses: ``"rpn"``, ``"rcnn1"``, ``"rcnn2"`` and ``"rcnn3"``. All stages are class-agnostic: which box
    moves on does not depend on a class. Standard forms and ranking forms differ in values. Samplers, softmax and stds
    of the box coding that shrink from stage to stage make the standard form, in which the RoIs that were drawn move on.
    No sampler, sigmoid and stds (0.1, 0.1, 0.2, 0.2) in all stages make the form of Rank & Sort Loss, in which all of
    them move on (Oksuz et al., ICCV 2021, arXiv:2107.11669, table A.15).

    In the published configurations the RPN ignores anchors that cross the border of the image.

    Parameters
    ----------
    num_classes, backbone, pyramid_channels, extra_levels, carafe, rpn
        The parts of :class:`FasterRCNN`.
    rcnn1
        Second stage, ``functools.partial(BoxStage, ...)``.
    rcnn2
        Third stage, which asks for more overlap.
    rcnn3
        Fourth stage, whose boxes are detected.
    testing
        From scores to detections.
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
        rcnn1: Callable[..., BoxStage],
        rcnn2: Callable[..., BoxStage],
        rcnn3: Callable[..., BoxStage],
        testing: DetectionSettings = DetectionSettings(),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.fpn = two_stage_pyramid(backbone, pyramid_channels, extra_levels, carafe)
        self.rpn = rpn(pyramid_channels, pyramid_strides(backbone.strides, extra_levels))
        self.stages = nn.ModuleList(
            stage(pyramid_channels, backbone.strides, num_classes, True) for stage in (rcnn1, rcnn2, rcnn3)
        )
        self.detection = testing

    def forward(self, batch: Batch) -> list[Candidates]:
        """Return candidates of the RPN (C = 1) and of each stage, each one pool over the images of the batch.

        Every stage appends the boxes of the objects to those that it is given, and they do not move on.
        """
        maps = self.fpn(self.backbone(batch.images))
        first, boxes = self.rpn.learn(maps, batch)
        maps, heads = poolable(maps), [first]
        for number, stage in enumerate(self._stages, start=1):
            rois = [stage.choose(*pair) for pair in zip(boxes, batch.targets, strict=True)]
            before = [image_rois.boxes for image_rois in rois]
            logits, deltas = stage(maps, before)
            heads.append(replace(stage.candidates((logits, deltas), rois, batch.targets), head=f"rcnn{number}"))
            # Regressed boxes are the proposals of the next stage.
            after = stage.boxes(deltas.detach(), before, batch.images.sizes)
            boxes = [image_rois.of_proposals(moved[:, 0]) for image_rois, moved in zip(rois, after, strict=True)]
        return heads

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Return detections of each image in its own pixels, without padding.

        A score is that of the mean of the logits of all stages, each read inside of its own RoIs. The box is that of
        the last stage.
        """
        maps = self.fpn(self.backbone(images))
        boxes = self.rpn.propose(maps, images.sizes)
        maps, all_logits = poolable(maps), []
        for stage in self._stages:
            logits, deltas = stage(maps, boxes)
            all_logits.append(logits.float())
            boxes = [moved[:, 0] for moved in stage.boxes(deltas, boxes, images.sizes)]
        scores = self._stages[-1].head.scores(torch.stack(all_logits).mean(dim=0)).split([len(part) for part in boxes])
        return [
            self.detection.select(image_boxes[:, None], image_scores)
            for image_boxes, image_scores in zip(boxes, scores, strict=True)
        ]

    @property
    def _stages(self) -> list[BoxStage]:
        return list(self.stages)  # type: ignore[arg-type]
