"""Faster R-CNN, Mask R-CNN and Cascade R-CNN in recipes: every number of their parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from rankdet.recipes.schema.config import Config
from rankdet.recipes.schema.optimization import Fraction

from .backbones import Backbone
from .testing import Testing

if TYPE_CHECKING:
    from rankdet.backbones import Backbone as BackboneModule
    from rankdet.backbones import Pyramid
    from rankdet.detectors import CascadeRCNN as CascadeRCNNModule
    from rankdet.detectors import FasterRCNN as FasterRCNNModule
    from rankdet.detectors import MaskRCNN as MaskRCNNModule
    from rankdet.heads import BoxStage, MaskStage, ProposalSettings, RegionProposalNetwork
    from rankdet.label_assignment import RandomSampler

Stds = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
Prior = Annotated[float, Field(gt=0, lt=1)]


class Sampler(Config):
    """A random choice of candidates per image."""

    num: PositiveInt
    """Candidates per image."""
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
    """Best proposals of an image that remain."""

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
    allowed_border: NonNegativeFloat | None = None
    """Anchors that reach beyond their image by more pixels than this are ignored by the loss; null: none is."""
    prior: Prior = 0.5
    """What scores start at: 0.5 is a bias of 0, 0.01 that of focal loss."""
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
            head=heads.RPNHead(channels, len(self.anchor_ratios), prior=self.prior),
            anchors=heads.AnchorGenerator(strides, (self.anchor_scale,), self.anchor_ratios),
            coder=heads.BoxCoder(self.delta_stds),
            assigner=MaxIoUAssigner(self.positive_iou, self.negative_iou, low_quality_iou=self.negative_iou),
            sampler=None if self.sampler is None else self.sampler.build(),
            allowed_border=self.allowed_border,
            train_proposals=self.train_proposals.build(),
            test_proposals=self.test_proposals.build(),
        )


class RCNN(Config):
    """A stage behind the RPN: RoIs to classes and boxes."""

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
    prior: Prior = 0.5
    """What scores of a sigmoid start at: 0.5 is a bias of 0, 0.01 that of focal loss."""

    @model_validator(mode="after")
    def _softmax_has_no_prior(self) -> Self:
        if self.softmax and self.prior != 0.5:
            raise ValueError(f"prior = {self.prior} is that of a sigmoid, but softmax is true")
        return self

    def build(
        self, channels: int, strides: tuple[int, ...], num_classes: int, class_agnostic: bool = False
    ) -> BoxStage:
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
            head=heads.BoxHead(
                channels,
                num_classes,
                softmax=self.softmax,
                channels=self.channels,
                class_agnostic=class_agnostic,
                prior=self.prior,
            ),
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
    """What detectors with region proposals have in common."""

    type: Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn"]
    backbone: Backbone
    """Images to feature maps."""
    pyramid_channels: PositiveInt = 256
    """Channels of the feature pyramid."""
    extra_levels: NonNegativeInt = 1
    """Coarser levels behind the backbone's (P6), which only the RPN reads."""
    carafe: bool = False
    """Whether maps of the pyramid are enlarged by CARAFE, the "+" of RS-R-CNN+, in place of nearest neighbors. Coarser
    levels then are convolutions of the backbone's last map, and enlarged too."""
    rpn: RPN = RPN()
    """First stage."""
    testing: Testing = Testing()
    """From scores to detections."""

    @property
    def stages(self) -> dict[str, RCNN]:
        """The stages behind the RPN, in order, by the name of their field and head."""
        return {name: part for name, part in self if isinstance(part, RCNN)}

    @property
    def heads(self) -> dict[str, bool]:
        """The heads that need a loss: name → whether it classifies by softmax, with a background logit."""
        return {"rpn": False} | {name: stage.softmax for name, stage in self.stages.items()}

    @property
    def auxiliary_heads(self) -> dict[str, str]:
        """The auxiliary heads by the head that they belong to: none."""
        return {}

    @property
    def has_boxes(self) -> bool:
        """Whether it learns from boxes."""
        return True

    @property
    def has_masks(self) -> bool:
        """Whether it learns from masks and finds them."""
        return False

    def _build_parts(self, pretrained: bool) -> tuple[BackboneModule, Pyramid, RegionProposalNetwork]:
        from rankdet.backbones import FPN, CarafeFPN

        backbone = self.backbone.build(pretrained)
        strides = tuple(backbone.strides)
        coarser = tuple(strides[-1] * 2 ** (level + 1) for level in range(self.extra_levels))
        pyramid = CarafeFPN if self.carafe else FPN
        fpn = pyramid(backbone.channels, self.pyramid_channels, extra_levels=self.extra_levels)
        return backbone, fpn, self.rpn.build(self.pyramid_channels, strides + coarser)


class FasterRCNN(TwoStage):
    """Faster R-CNN with a feature pyramid."""

    type: Literal["faster_rcnn"] = "faster_rcnn"
    rcnn: RCNN
    """Second stage."""

    def build(self, num_classes: int, pretrained: bool = True) -> FasterRCNNModule:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        from rankdet.detectors import FasterRCNN

        backbone, fpn, rpn = self._build_parts(pretrained)
        return FasterRCNN(
            backbone=backbone,
            fpn=fpn,
            rpn=rpn,
            rcnn=self.rcnn.build(self.pyramid_channels, tuple(backbone.strides), num_classes),
            detection=self.testing.build(),
        )


class CascadeRCNN(TwoStage):
    """Cascade R-CNN with a feature pyramid: three stages, each with the boxes of the one before and one box for all
    classes."""

    type: Literal["cascade_rcnn"] = "cascade_rcnn"
    rcnn1: RCNN
    """Second stage."""
    rcnn2: RCNN
    """Third stage."""
    rcnn3: RCNN
    """Fourth stage, whose boxes are detected."""

    @model_validator(mode="after")
    def _logits_have_a_mean(self) -> Self:
        if len({stage.softmax for stage in self.stages.values()}) > 1:
            raise ValueError("softmax must be the same in rcnn1, rcnn2 and rcnn3, for their logits are averaged")
        return self

    def build(self, num_classes: int, pretrained: bool = True) -> CascadeRCNNModule:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        from rankdet.detectors import CascadeRCNN

        backbone, fpn, rpn = self._build_parts(pretrained)
        strides = tuple(backbone.strides)
        return CascadeRCNN(
            backbone=backbone,
            fpn=fpn,
            rpn=rpn,
            stages=[
                stage.build(self.pyramid_channels, strides, num_classes, class_agnostic=True)
                for stage in self.stages.values()
            ],
            detection=self.testing.build(),
        )


class MaskRCNN(TwoStage):
    """Mask R-CNN with a feature pyramid."""

    type: Literal["mask_rcnn"] = "mask_rcnn"
    rcnn: RCNN
    """Second stage."""
    mask: Mask = Mask()
    """Masks of the second stage; they are pooled as its boxes are, from the same levels."""

    @property
    def has_masks(self) -> bool:
        """Whether it learns from masks and finds them."""
        return True

    def build(self, num_classes: int, pretrained: bool = True) -> MaskRCNNModule:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        from rankdet.detectors import MaskRCNN

        backbone, fpn, rpn = self._build_parts(pretrained)
        strides = tuple(backbone.strides)
        return MaskRCNN(
            backbone=backbone,
            fpn=fpn,
            rpn=rpn,
            rcnn=self.rcnn.build(self.pyramid_channels, strides, num_classes),
            mask=self._build_mask(strides, num_classes),
            detection=self.testing.build(),
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
