"""ATSS and PAA in recipes: every number of their parts."""

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

from .backbones import Backbone
from .testing import Testing

if TYPE_CHECKING:
    from rankdet.backbones import FPN
    from rankdet.backbones import Backbone as BackboneModule
    from rankdet.detectors import ATSS as ATSSModule
    from rankdet.detectors import PAA as PAAModule
    from rankdet.heads import DenseStage

Stds = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


class Dense(Config):
    """The head of one-stage detectors: every anchor of every level to classes and a box."""

    anchor_scales: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    """Sides of the square anchors of a cell in strides of their level: one of 8 in standard forms, 4, 4 · 2^(1/3) and
    4 · 2^(2/3) in those of ranking losses."""
    auxiliary: bool
    """Whether there is an auxiliary head: centerness in ATSS, IoU in PAA."""
    convolutions: NonNegativeInt = 4
    """3x3 convolutions of each of the two towers."""
    groups: PositiveInt = 32
    """Groups of the normalization of the towers; the channels of the pyramid are a multiple of it."""
    delta_stds: Stds = (0.1, 0.1, 0.2, 0.2)
    """Divisors of the encoded boxes."""
    test_per_level: PositiveInt = 1000
    """Anchors of each level that are decoded in detection: those of the highest scores."""

    def build(self, channels: int, strides: tuple[int, ...], num_classes: int) -> DenseStage:
        """The stage over a pyramid of ``channels`` with these strides."""
        from rankdet import heads

        return heads.DenseStage(
            head=heads.DenseHead(
                channels,
                num_classes,
                num_per_cell=len(self.anchor_scales),
                num_levels=len(strides),
                auxiliary=self.auxiliary,
                num_convolutions=self.convolutions,
                groups=self.groups,
            ),
            anchors=heads.AnchorGenerator(strides, self.anchor_scales, (1.0,)),
            coder=heads.BoxCoder(self.delta_stds),
        )


class OneStage(Config):
    """What one-stage detectors have in common."""

    type: Literal["atss", "paa"]
    backbone: Backbone
    """Images to feature maps, all of which are used: strides 8, 16 and 32 of a large network."""
    pyramid_channels: PositiveInt = 256
    """Channels of the feature pyramid and of the towers behind it."""
    extra_levels: NonNegativeInt = 2
    """Coarser levels behind the backbone's, each by a convolution of stride 2 (P6 and P7)."""
    dense: Dense
    """The head."""
    testing: Testing = Testing(nms_iou=0.6)
    """From scores to detections."""

    @property
    def heads(self) -> dict[str, bool]:
        """The heads that need a loss: name → whether it classifies by softmax, with a background logit."""
        return {"dense": False}

    @property
    def auxiliary_heads(self) -> dict[str, str]:
        """The auxiliary head by the head that it belongs to, where there is one."""
        return {"dense": {"atss": "centerness", "paa": "iou"}[self.type]} if self.dense.auxiliary else {}

    @property
    def has_boxes(self) -> bool:
        """Whether it learns from boxes."""
        return True

    @property
    def has_masks(self) -> bool:
        """Whether it learns from masks and finds them."""
        return False

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        if self.dense.convolutions and self.pyramid_channels % self.dense.groups:
            raise ValueError(
                f"pyramid_channels = {self.pyramid_channels} is no multiple of dense.groups = {self.dense.groups}"
            )
        return self

    def _build_parts(self, num_classes: int, pretrained: bool) -> tuple[BackboneModule, FPN, DenseStage]:
        from rankdet.backbones import FPN

        backbone = self.backbone.build(pretrained)
        strides = tuple(backbone.strides)
        coarser = tuple(strides[-1] * 2 ** (level + 1) for level in range(self.extra_levels))
        fpn = FPN(backbone.channels, self.pyramid_channels, extra_levels=self.extra_levels, extra_convolutions=True)
        return backbone, fpn, self.dense.build(self.pyramid_channels, strides + coarser, num_classes)


class ATSS(OneStage):
    """ATSS: labels by a threshold of IoU for each object."""

    type: Literal["atss"] = "atss"
    candidates_per_level: PositiveInt = 9
    """Anchors of each level, nearest to an object, that may become its positives."""

    def build(self, num_classes: int, pretrained: bool = True) -> ATSSModule:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        from rankdet.detectors import ATSS
        from rankdet.label_assignment import ATSSAssigner

        backbone, fpn, dense = self._build_parts(num_classes, pretrained)
        return ATSS(
            backbone=backbone,
            fpn=fpn,
            dense=dense,
            assigner=ATSSAssigner(self.candidates_per_level),
            detection=self.testing.build(),
            test_per_level=self.dense.test_per_level,
        )


class PAA(OneStage):
    """PAA: labels by what the network predicts, split by a mixture of two Gaussians for each object."""

    type: Literal["paa"] = "paa"
    candidates_per_level: PositiveInt = 9
    """Anchors of each level, of lowest cost, that may become positives of an object."""
    cost_giou_weight: NonNegativeFloat
    """Factor of 1 − GIoU beside focal loss in the cost of an anchor: 1.3 in the standard form, 1 in that of Rank &
    Sort Loss."""
    added_variance: PositiveFloat
    """Added to the variances of the mixture in each iteration: 1e-6 in the standard form, 1e-5 in that of Rank & Sort
    Loss."""

    def build(self, num_classes: int, pretrained: bool = True) -> PAAModule:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        from rankdet.detectors import PAA
        from rankdet.label_assignment import PAAAssigner

        backbone, fpn, dense = self._build_parts(num_classes, pretrained)
        return PAA(
            backbone=backbone,
            fpn=fpn,
            dense=dense,
            assigner=PAAAssigner(self.candidates_per_level, self.cost_giou_weight, self.added_variance),
            detection=self.testing.build(),
            test_per_level=self.dense.test_per_level,
        )
