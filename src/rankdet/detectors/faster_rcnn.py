"""Faster R-CNN (Ren et al., NeurIPS 2015, arXiv:1506.01497) with a feature pyramid, for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rankdet.backbones import FPN, Backbone, CarafeFPN, Pyramid, pyramid_strides
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import BoxStage, RegionProposalNetwork, RoIs, poolable
from rankdet.ranges import Count, CountOrZero, checked
from rankdet.structures import Batch, Candidates, Detection, Images


@checked
class FasterRCNN(nn.Module):
    """Backbone, pyramid, region proposals, one R-CNN stage. Heads of the losses: ``"rpn"`` and ``"rcnn"``.

    Standard forms and ranking forms differ in values. Samplers, softmax and the coder of the RPN make the standard
    form. No sampler, sigmoid and stds (0.1, 0.1, 0.2, 0.2) in both stages make the form of Rank & Sort Loss (Oksuz et
    al., ICCV 2021, arXiv:2107.11669, section 5). The detector's own parts do not look at ``self.training``; only a
    backbone with unfrozen batch normalization or with dropout follows the mode. All parts and settings are public
    attributes and may be replaced.

    Parameters
    ----------
    num_classes
        Number of classes C, without background.
    backbone
        Network from images to feature maps.
    pyramid_channels
        Channels of the feature pyramid.
    extra_levels
        Coarser levels behind the backbone's (P6), which only the RPN reads.
    carafe
        Whether maps of the pyramid are enlarged by CARAFE, the "+" of RS-R-CNN+, in place of nearest neighbors. Coarser
        levels then are convolutions of the backbone's last map, and enlarged too.
    rpn
        First stage, from channels and strides of the pyramid: ``functools.partial(RegionProposalNetwork, ...)``.
    rcnn
        Second stage, from channels, strides and classes: ``functools.partial(BoxStage, ...)``.
    testing
        From scores to detections.

    Examples
    --------
    >>> from functools import partial
    >>> from rankdet.backbones import TinyBackbone
    >>> from rankdet.structures import Source, Target
    >>> backbone = TinyBackbone((8, 16))
    >>> detector = FasterRCNN(3, backbone=backbone, pyramid_channels=16, rcnn=partial(BoxStage, softmax=False))
    >>> images = Images(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ((64, 64),))
    >>> target = Target(torch.tensor([[8.0, 8.0, 40.0, 40.0]]), torch.tensor([2]))
    >>> heads = detector(Batch(images, (target,), (Source(0, "0.png", (64, 64)),)))
    >>> [(candidates.head, candidates.num_classes) for candidates in heads]
    [('rpn', 1), ('rcnn', 3)]
    >>> len(detector.detect(images))
    1
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
        testing: DetectionSettings = DetectionSettings(),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.fpn = two_stage_pyramid(backbone, pyramid_channels, extra_levels, carafe)
        self.rpn = rpn(pyramid_channels, pyramid_strides(backbone.strides, extra_levels))
        self.rcnn = rcnn(pyramid_channels, backbone.strides, num_classes)
        self.detection = testing

    def forward(self, batch: Batch) -> list[Candidates]:
        """Return candidates of the RPN (C = 1) and of the R-CNN, each one pool over the images of the batch."""
        return self._learn(batch)[0]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Return detections of each image in its own pixels, without padding."""
        return self._detect(images)[0]

    def _learn(self, batch: Batch) -> tuple[list[Candidates], list[Tensor], list[RoIs]]:
        """Return candidates of both heads, the maps that the R-CNN reads, and the RoIs of each image."""
        maps = self.fpn(self.backbone(batch.images))
        # First stage: anchors become candidates and proposals.
        first, proposals = self.rpn.learn(maps, batch)
        # Second stage: proposals become RoIs with labels, and these candidates.
        maps = poolable(maps)
        rois = [self.rcnn.choose(*pair) for pair in zip(proposals, batch.targets, strict=True)]
        outputs = self.rcnn(maps, [image_rois.boxes for image_rois in rois])
        return [first, self.rcnn.candidates(outputs, rois, batch.targets)], maps, rois

    def _detect(self, images: Images) -> tuple[list[Detection], list[Tensor]]:
        """Return detections without masks, and the maps that the R-CNN reads."""
        maps = self.fpn(self.backbone(images))
        proposals = self.rpn.propose(maps, images.sizes)
        maps = poolable(maps)
        logits, deltas = self.rcnn(maps, proposals)
        scores = self.rcnn.head.scores(logits).split([len(boxes) for boxes in proposals])
        boxes = self.rcnn.boxes(deltas, proposals, images.sizes)
        return [self.detection.select(*pair) for pair in zip(boxes, scores, strict=True)], maps


def two_stage_pyramid(backbone: Backbone, channels: int, extra_levels: int, carafe: bool) -> Pyramid:
    """Return the pyramid of a backbone, with or without CARAFE; see :class:`FasterRCNN`."""
    pyramid: Callable[..., Pyramid] = CarafeFPN if carafe else FPN
    return pyramid(backbone.channels, channels, extra_levels=extra_levels)
