"""YOLACT (Bolya et al., ICCV 2019, arXiv:1904.02689), for standard and ranking losses.

Legend: B images, M anchors of an image, P positives, P' of them that get a mask, Q prototypes, C classes.
"""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from rankdet.backbones import FPN, Backbone, pyramid_strides
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import (
    BoxCoder,
    CenteredAnchors,
    InstanceHead,
    InstanceOutputs,
    InstanceStage,
    PrototypeNetwork,
    SemanticHead,
    assemble_masks,
    canvas_scores,
    fast_nms,
)
from rankdet.label_assignment import MaxIoUAssigner
from rankdet.ranges import Count, CountOrZero, Fraction, NotEmpty, Positive, Stds, checked
from rankdet.structures import Batch, Candidates, Detection, Images


@checked
class YOLACT(nn.Module):
    """Backbone, pyramid, one head, prototypes of masks. The head of the losses is ``"dense"``.

    Standard forms and ranking forms differ in values. Softmax, a semantic head and at most 100 masks per image make the
    standard form. Sigmoid, no semantic head and masks of all positives make the form of Rank & Sort Loss (Oksuz et al.,
    ICCV 2021, arXiv:2107.11669, section 5.2). Neither looks at ``self.training``; only a backbone with unfrozen batch
    normalization does. All parts and settings are public attributes and may be replaced.

    Parameters
    ----------
    num_classes
        Number of classes C.
    backbone
        Network from images to feature maps, all of which are used: strides 8, 16 and 32 of a large network.
    pyramid_channels
        Channels of the feature pyramid and of the head.
    extra_levels
        Coarser levels behind the backbone's, each by a convolution of stride 2, the first one on its coarsest map.
    softmax
        Whether classes compete with each other and a background logit (softmax). Otherwise each is for itself (sigmoid)
        and there is no background logit.
    semantic
        Whether there is an auxiliary head for the pixels of each class, in training alone.
    head_convolutions
        3x3 convolutions that classes, boxes and coefficients share.
    prototypes
        Maps that masks are sums of.
    mask_channels
        Channels of the convolutions that make the prototypes.
    mask_convolutions
        3x3 convolutions of these before the size is doubled.
    masks_per_image
        Most positives of an image that get a mask in training, drawn uniformly; None: all.
    anchor_scale
        Side of the square anchors in strides of their level: 24 to 384 pixels for strides 8 to 128.
    anchor_ratios
        Height over width of the anchors.
    delta_stds
        Divisors of the encoded boxes.
    positive_iou
        Anchors of at least this IoU are positives, as is the best anchor of each object.
    negative_iou
        Anchors below this IoU are negatives; between the two they are ignored.
    testing
        From scores to detections, by Fast NMS.
    test_per_level
        Anchors of each level that are decoded in detection: those of the highest scores.
    test_per_class
        Best boxes of each class that Fast NMS compares with each other.

    Notes
    -----
    The padding that a batch adds to its largest image is cut off: cells divide the image itself (550 pixels into 69,
    35, 18, 9 and 5 cells), so that images should be resized to one size.
    """

    def __init__(
        self,
        num_classes: Count,
        *,
        backbone: Backbone,
        pyramid_channels: Count = 256,
        extra_levels: Count = 2,
        softmax: bool,
        semantic: bool,
        head_convolutions: CountOrZero = 1,
        prototypes: Count = 32,
        mask_channels: Count = 256,
        mask_convolutions: CountOrZero = 3,
        masks_per_image: Count | None = None,
        anchor_scale: Positive = 3.0,
        anchor_ratios: Annotated[tuple[Positive, ...], NotEmpty()] = (0.5, 1.0, 2.0),
        delta_stds: Stds = (0.1, 0.1, 0.2, 0.2),
        positive_iou: Fraction = 0.5,
        negative_iou: Fraction = 0.4,
        testing: DetectionSettings = DetectionSettings(),
        test_per_level: Count = 1000,
        test_per_class: Count = 200,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.fpn = FPN(
            backbone.channels,
            pyramid_channels,
            extra_levels=extra_levels,
            extra_convolutions=True,
            extra_from_input=True,
            bilinear=True,
        )
        self.head = InstanceHead(
            pyramid_channels,
            num_classes,
            num_per_cell=len(anchor_ratios),
            num_prototypes=prototypes,
            softmax=softmax,
            num_convolutions=head_convolutions,
        )
        self.prototypes = PrototypeNetwork(
            pyramid_channels,
            num_prototypes=prototypes,
            channels=mask_channels,
            num_convolutions=mask_convolutions,
        )
        sides = tuple(anchor_scale * stride for stride in pyramid_strides(backbone.strides, extra_levels))
        self.instances = InstanceStage(
            anchors=CenteredAnchors(sides, anchor_ratios),
            coder=BoxCoder(delta_stds),
            assigner=MaxIoUAssigner(positive_iou, negative_iou, low_quality_iou=0.0, claim_ties=False),
            masks_per_image=masks_per_image,
        )
        self.semantic = SemanticHead(pyramid_channels, num_classes) if semantic else None
        self.detection = testing
        self.test_per_level = test_per_level
        self.test_per_class = test_per_class

    def forward(self, batch: Batch) -> list[Candidates]:
        """Return candidates of the head: one pool over the images of the batch, their levels and anchors, with masks.

        Raises ValueError when an image has objects but no masks.
        """
        outputs, finest = self._outputs(batch.images)
        semantic = None if self.semantic is None else self.semantic(finest)
        return [self.instances.candidates(outputs, semantic, batch.targets, batch.images.sizes, self.num_classes)]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Return detections of each image in its own pixels, without padding, each with its mask."""
        outputs, _ = self._outputs(images)
        scores = self.head.scores(outputs.logits)
        best = self.instances.best_boxes(outputs, scores, images.sizes, self.test_per_level)
        return [
            self._select(*image, prototypes, outputs.canvas)
            for image, prototypes in zip(best, outputs.prototypes, strict=True)
        ]

    def _outputs(self, images: Images) -> tuple[InstanceOutputs, Tensor]:
        """Return predictions for every anchor, and the finest map, which the semantic head reads in training."""
        height, width = (max(sides) for sides in zip(*images.sizes, strict=True))
        maps = self.fpn(self.backbone(Images(images.pixels[..., :height, :width], images.sizes)))
        anchors = self.instances.anchors.pyramid(maps, (height, width), images.sizes)
        logits, deltas, coefficients = self.head(maps)
        outputs = InstanceOutputs(logits, deltas, coefficients, self.prototypes(maps[0]), anchors, (height, width))
        return outputs, maps[0]

    def _select(
        self, boxes: Tensor, scores: Tensor, coefficients: Tensor, prototypes: Tensor, canvas: tuple[int, int]
    ) -> Detection:
        """Return the detections of an image among boxes (K, 4) with scores (K, C) and coefficients (K, Q)."""
        rows, best_scores, labels = fast_nms(
            boxes,
            scores,
            threshold=self.detection.score_threshold,
            iou=self.detection.nms_iou,
            limit=self.detection.per_image,
            per_class=self.test_per_class,
        )
        logits = assemble_masks(prototypes, coefficients[rows], boxes[rows], canvas)
        return Detection(boxes[rows], best_scores, labels, canvas_scores(logits, canvas))
