"""Faster R-CNN and Mask R-CNN in recipes: every number of their parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rankdet.recipes.config import Config
from rankdet.recipes.optimization import Fraction

from .backbones import Backbone
from .testing import Testing

if TYPE_CHECKING:
    from rankdet.detectors import FasterRCNN as FasterRCNNModule
    from rankdet.detectors import MaskRCNN as MaskRCNNModule
    from rankdet.heads import BoxStage, MaskStage, ProposalSettings, RegionProposalNetwork
    from rankdet.label_assignment import RandomSampler

Stds = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


class Sampler(Config):
    """A random choice of candidates per picture."""

    num: PositiveInt
    """Candidates per picture."""
    positive_fraction: Fraction
    """Largest share of positives among them."""

    def build(self) -> RandomSampler:
        """The sampler itself."""
        from rankdet.label_assignment import RandomSampler

        return RandomSampler(self.num, self.positive_fraction)


class Proposals(Config):
    """How the RPN's boxes become proposals."""

    per_level: PositiveInt = 1000
    """Best boxes of each level that enter non-maximum suppression."""
    nms_iou: Fraction = 0.7
    """IoU above which the lower-scored of two boxes of a level goes."""
    per_image: PositiveInt = 1000
    """Best proposals of a picture that remain."""

    def build(self) -> ProposalSettings:
        """The settings as the detector takes them."""
        from rankdet.heads import ProposalSettings

        return ProposalSettings(self.per_level, self.nms_iou, self.per_image)


class RPN(Config):
    """Region proposal network."""

    anchor_scale: PositiveFloat = 8.0
    """Side of the anchors in strides of their level."""
    anchor_ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    delta_stds: Stds = (1.0, 1.0, 1.0, 1.0)
    """Divisors of the encoded boxes."""
    positive_iou: Fraction = 0.7
    """Anchors of at least this IoU are positives."""
    negative_iou: Fraction = 0.3
    """Anchors below this IoU are negatives; between the two they are ignored. An object without an anchor of
    ``positive_iou`` takes its best ones from this IoU on."""
    sampler: Sampler | None = None
    """Choice of anchors for the loss; null: all of them."""
    train_proposals: Proposals = Proposals(per_level=2000)
    """Proposals in training."""
    test_proposals: Proposals = Proposals()
    """Proposals in detection."""

    @model_validator(mode="after")
    def _thresholds_leave_room(self) -> RPN:
        if self.positive_iou < self.negative_iou:
            raise ValueError(f"positive_iou = {self.positive_iou} is below negative_iou = {self.negative_iou}")
        return self

    def build(self, channels: int, strides: tuple[int, ...]) -> RegionProposalNetwork:
        """The network over a pyramid of ``channels`` with these strides."""
        from rankdet import heads
        from rankdet.label_assignment import MaxIoUAssigner

        return heads.RegionProposalNetwork(
            head=heads.RPNHead(channels, len(self.anchor_ratios)),
            anchors=heads.AnchorGenerator(strides, (self.anchor_scale,), self.anchor_ratios),
            coder=heads.BoxCoder(self.delta_stds),
            assigner=MaxIoUAssigner(self.positive_iou, self.negative_iou, low_quality_iou=self.negative_iou),
            sampler=None if self.sampler is None else self.sampler.build(),
        )


class RCNN(Config):
    """Second stage: RoIs to classes and boxes."""

    softmax: bool
    """Whether classes compete with each other and a background logit (softmax); otherwise each is for itself
    (sigmoid) and there is no background logit."""
    channels: PositiveInt = 1024
    """Width of the two fully connected layers."""
    delta_stds: Stds = (0.1, 0.1, 0.2, 0.2)
    """Divisors of the encoded boxes."""
    positive_iou: Fraction = 0.5
    """RoIs of at least this IoU are positives, the others negatives."""
    low_quality_iou: Fraction | None = None
    """IoU from which on an object claims its best RoIs even from objects that they overlap more; null: it does not."""
    sampler: Sampler | None = None
    """Choice of RoIs for the loss; null: all of them."""
    finest_scale: PositiveFloat = 56.0
    """RoIs with a side (square root of the area, pixels) below twice this are read from the finest level."""
    sampling_ratio: NonNegativeInt = 0
    """Points per cell and direction of RoIAlign; 0 takes as many as suit the size of the RoI."""
    half_pixel_shift: bool = True
    """Whether RoIAlign takes the value of a cell to stand at its center; false for weights of torchvision and of
    mmdetection 1.x, which learned without."""

    def build(self, channels: int, strides: tuple[int, ...], num_classes: int) -> BoxStage:
        """The stage over a pyramid of ``channels``, of which it reads the levels with these strides."""
        from rankdet import heads
        from rankdet.label_assignment import MaxIoUAssigner

        return heads.BoxStage(
            pooling=heads.RoIPooling(
                strides,
                finest_scale=self.finest_scale,
                sampling_ratio=self.sampling_ratio,
                half_pixel_shift=self.half_pixel_shift,
            ),
            head=heads.BoxHead(channels, num_classes, softmax=self.softmax, channels=self.channels),
            coder=heads.BoxCoder(self.delta_stds),
            assigner=MaxIoUAssigner(self.positive_iou, self.positive_iou, low_quality_iou=self.low_quality_iou),
            sampler=None if self.sampler is None else self.sampler.build(),
        )


class Mask(Config):
    """Mask branch: RoIs to masks of twice as many pixels per side as cells are pooled."""

    channels: PositiveInt = 256
    """Channels of all layers."""
    convolutions: NonNegativeInt = 4
    """3x3 convolutions before the size is doubled."""
    pooled_size: PositiveInt = 14
    """Cells per side of the pooled features."""
    budget: PositiveInt | None = None
    """Most positive RoIs per process and step that get a mask, drawn uniformly; null: all."""


class TwoStage(Config):
    """What Faster R-CNN and Mask R-CNN have in common."""

    type: Literal["faster_rcnn", "mask_rcnn"]
    backbone: Backbone
    """Pictures to feature maps."""
    pyramid_channels: PositiveInt = 256
    """Channels of the feature pyramid."""
    extra_levels: NonNegativeInt = 1
    """Coarser levels behind the backbone's (P6), which only the RPN reads."""
    rpn: RPN = RPN()
    """First stage."""
    rcnn: RCNN
    """Second stage."""
    testing: Testing = Testing()
    """From scores to detections."""

    @property
    def heads(self) -> dict[str, bool]:
        """The heads that need a loss: name → whether it classifies by softmax, with a background logit."""
        return {"rpn": False, "rcnn": self.rcnn.softmax}

    @property
    def auxiliary_heads(self) -> dict[str, str]:
        """The auxiliary heads by the head that they belong to: none."""
        return {}

    @property
    def has_masks(self) -> bool:
        """Whether it learns from masks and finds them."""
        return False

    def _build_boxes(self, num_classes: int, pretrained: bool) -> FasterRCNNModule:
        from rankdet.backbones import FPN
        from rankdet.detectors import FasterRCNN

        backbone = self.backbone.build(pretrained)
        strides = tuple(backbone.strides)
        coarser = tuple(strides[-1] * 2 ** (level + 1) for level in range(self.extra_levels))
        return FasterRCNN(
            backbone=backbone,
            fpn=FPN(backbone.channels, self.pyramid_channels, extra_levels=self.extra_levels),
            rpn=self.rpn.build(self.pyramid_channels, strides + coarser),
            rcnn=self.rcnn.build(self.pyramid_channels, strides, num_classes),
            train_proposals=self.rpn.train_proposals.build(),
            test_proposals=self.rpn.test_proposals.build(),
            detection=self.testing.build(),
        )


class FasterRCNN(TwoStage):
    """Faster R-CNN with a feature pyramid."""

    type: Literal["faster_rcnn"] = "faster_rcnn"

    def build(self, num_classes: int, pretrained: bool = True) -> FasterRCNNModule:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        return self._build_boxes(num_classes, pretrained)


class MaskRCNN(TwoStage):
    """Mask R-CNN with a feature pyramid."""

    type: Literal["mask_rcnn"] = "mask_rcnn"
    mask: Mask = Mask()
    """Masks of the second stage; they are pooled as its boxes are, from the same levels."""

    @property
    def has_masks(self) -> bool:
        """Whether it learns from masks and finds them."""
        return True

    def build(self, num_classes: int, pretrained: bool = True) -> MaskRCNNModule:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        from rankdet.detectors import MaskRCNN

        boxes = self._build_boxes(num_classes, pretrained)
        return MaskRCNN(
            backbone=boxes.backbone,
            fpn=boxes.fpn,
            rpn=boxes.rpn,
            rcnn=boxes.rcnn,
            mask=self._build_mask(boxes.rcnn.pooling.strides, num_classes),
            train_proposals=boxes.train_proposals,
            test_proposals=boxes.test_proposals,
            detection=boxes.detection,
        )

    def _build_mask(self, strides: tuple[int, ...], num_classes: int) -> MaskStage:
        from rankdet import heads

        return heads.MaskStage(
            pooling=heads.RoIPooling(
                strides,
                finest_scale=self.rcnn.finest_scale,
                output_size=self.mask.pooled_size,
                sampling_ratio=self.rcnn.sampling_ratio,
                half_pixel_shift=self.rcnn.half_pixel_shift,
            ),
            head=heads.MaskHead(
                self.pyramid_channels,
                num_classes,
                channels=self.mask.channels,
                num_convolutions=self.mask.convolutions,
            ),
            budget=self.mask.budget,
        )
