"""Cascade R-CNN (Cai & Vasconcelos, CVPR 2018, arXiv:1712.00726), for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

import torch
from torch import nn

from rankdet.backbones import Backbone, Pyramid
from rankdet.detectors.detection import DetectionSettings
from rankdet.detectors.faster_rcnn import pyramid_and_rpn
from rankdet.heads import BoxStage, RegionProposalNetwork, poolable
from rankdet.ranges import Count, CountOrZero
from rankdet.structures import Batch, Candidates, Detection, Images


class CascadeRCNN(nn.Module):
    """Faster R-CNN with several R-CNN stages, each of which refines the boxes of the one before.

    Heads of the losses: ``"rpn"``, ``"rcnn1"``, ``"rcnn2"``, and so on. Standard forms and ranking forms differ in
    values. Samplers, softmax and stds of the box coding that shrink from stage to stage make the standard form, in
    which the RoIs that were drawn move on. No sampler, sigmoid and stds (0.1, 0.1, 0.2, 0.2) in all stages make the
    form of Rank & Sort Loss, in which all of them move on (Oksuz et al., ICCV 2021, arXiv:2107.11669, table A.15).

    Parameters
    ----------
    backbone, fpn, rpn, detection
        The parts of :class:`FasterRCNN`. In the published configurations the RPN ignores anchors that cross the border
        of the image.
    stages
        The stages in order. Their assigners ask for more overlap from stage to stage, 0.5, 0.6 and 0.7. Their heads are
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
        detection: DetectionSettings | None = None,
    ) -> None:
        super().__init__()
        if not stages or not all(stage.head.class_agnostic for stage in stages):
            raise ValueError("a cascade needs stages, all of them with class-agnostic heads")
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.stages = nn.ModuleList(stages)
        self.detection = detection or DetectionSettings()

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
        rcnn1: Callable[..., BoxStage],
        rcnn2: Callable[..., BoxStage],
        rcnn3: Callable[..., BoxStage],
        testing: DetectionSettings = DetectionSettings(),
    ) -> Self:
        """Return the detector of a backbone, with three stages; see also :meth:`FasterRCNN.build`.

        Parameters
        ----------
        num_classes
            C.
        backbone
            Network from images to feature maps.
        pyramid_channels
            Channels of the feature pyramid.
        extra_levels
            Coarser levels behind the backbone's (P6), which only the RPN reads.
        carafe
            Whether maps of the pyramid are enlarged by CARAFE.
        rpn
            First stage.
        rcnn1
            Second stage, ``functools.partial(BoxStage.build, ...)``.
        rcnn2
            Third stage.
        rcnn3
            Fourth stage, whose boxes are detected.
        testing
            From scores to detections.
        """
        fpn, first = pyramid_and_rpn(backbone, pyramid_channels, extra_levels, carafe, rpn)
        stages = [stage(pyramid_channels, backbone.strides, num_classes, True) for stage in (rcnn1, rcnn2, rcnn3)]
        return cls(backbone=backbone, fpn=fpn, rpn=first, stages=stages, detection=testing)

    @property
    def num_classes(self) -> int:
        """Number of classes C, without background."""
        num_classes: int = self._stages[-1].head.num_classes
        return num_classes

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
