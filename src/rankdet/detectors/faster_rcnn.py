"""Faster R-CNN (Ren et al., NeurIPS 2015, arXiv:1506.01497) with a feature pyramid, for standard and ranking losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from rankdet.backbones import FPN, Backbone, CarafeFPN, Pyramid, pyramid_strides
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import BoxStage, RegionProposalNetwork, RoIs, poolable
from rankdet.ranges import Count, CountOrZero
from rankdet.structures import Batch, Candidates, Detection, Images


def pyramid_and_rpn(
    backbone: Backbone, channels: int, extra_levels: int, carafe: bool, rpn: Callable[..., RegionProposalNetwork]
) -> tuple[Pyramid, RegionProposalNetwork]:
    """Return the pyramid of a backbone and the first stage of a two-stage detector; see :meth:`FasterRCNN.build`."""
    pyramid: Callable[..., Pyramid] = CarafeFPN if carafe else FPN
    fpn = pyramid(backbone.channels, channels, extra_levels=extra_levels)
    return fpn, rpn(channels, pyramid_strides(backbone.strides, extra_levels))


class FasterRCNN(nn.Module):
    """Backbone, pyramid, region proposals, one R-CNN stage. Heads of the losses: ``"rpn"`` and ``"rcnn"``.

    Standard forms and ranking forms differ in values. Samplers, softmax and the coder of the RPN make the standard
    form. No sampler, sigmoid and stds (0.1, 0.1, 0.2, 0.2) in both stages make the form of Rank & Sort Loss (Oksuz et
    al., ICCV 2021, arXiv:2107.11669, section 5). The detector's own parts do not look at ``self.training``; only a
    backbone with unfrozen batch normalization or with dropout follows the mode. All parts and settings are public
    attributes and may be replaced.

    Parameters
    ----------
    backbone, fpn
        Images → maps → pyramid.
    rpn
        Network that reads all levels of the pyramid and makes proposals.
    rcnn
        Stage that reads the first levels of the pyramid inside of the proposals.
    detection
        Choice of detections in :meth:`detect`.

    Examples
    --------
    >>> from rankdet.backbones import FPN, TinyBackbone
    >>> from rankdet.heads import AnchorGenerator, BoxCoder, BoxHead, RoIPooling, RPNHead
    >>> from rankdet.label_assignment import MaxIoUAssigner
    >>> from rankdet.structures import Source, Target
    >>> backbone, coder = TinyBackbone((8, 16)), BoxCoder((0.1, 0.1, 0.2, 0.2))
    >>> anchors = AnchorGenerator(backbone.strides)
    >>> rpn = RegionProposalNetwork(
    ...     head=RPNHead(16, anchors.num_per_cell), anchors=anchors, coder=coder, assigner=MaxIoUAssigner(0.7, 0.3)
    ... )
    >>> rcnn = BoxStage(
    ...     pooling=RoIPooling(backbone.strides),
    ...     head=BoxHead(16, num_classes=3, softmax=False),
    ...     coder=coder,
    ...     assigner=MaxIoUAssigner(0.5, 0.5),
    ... )
    >>> detector = FasterRCNN(backbone=backbone, fpn=FPN((8, 16), 16, extra_levels=0), rpn=rpn, rcnn=rcnn)
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
        *,
        backbone: Backbone,
        fpn: Pyramid,
        rpn: RegionProposalNetwork,
        rcnn: BoxStage,
        detection: DetectionSettings | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.rpn = rpn
        self.rcnn = rcnn
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
        rcnn: Callable[..., BoxStage],
        testing: DetectionSettings = DetectionSettings(),
    ) -> Self:
        """Return the detector of a backbone.

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
            Whether maps of the pyramid are enlarged by CARAFE, the "+" of RS-R-CNN+, in place of nearest neighbors.
            Coarser levels then are convolutions of the backbone's last map, and enlarged too.
        rpn
            First stage, ``functools.partial(RegionProposalNetwork.build, ...)``.
        rcnn
            Second stage, ``functools.partial(BoxStage.build, ...)``.
        testing
            From scores to detections.

        Examples
        --------
        >>> from functools import partial
        >>> from rankdet.backbones import TinyBackbone
        >>> rcnn = partial(BoxStage.build, softmax=False)
        >>> FasterRCNN.build(3, backbone=TinyBackbone((8, 16)), pyramid_channels=16, rcnn=rcnn).num_classes
        3
        """
        fpn, first = pyramid_and_rpn(backbone, pyramid_channels, extra_levels, carafe, rpn)
        second = rcnn(pyramid_channels, backbone.strides, num_classes)
        return cls(backbone=backbone, fpn=fpn, rpn=first, rcnn=second, detection=testing)

    @property
    def num_classes(self) -> int:
        """Number of classes C, without background."""
        return self.rcnn.head.num_classes

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
