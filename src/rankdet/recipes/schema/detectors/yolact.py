"""YOLACT in recipes: every number of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    Field,
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
    from rankdet.detectors import YOLACT as YOLACTModule

Stds = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]


class YOLACT(Config):
    """YOLACT: masks as sums of prototypes, one head for classes, boxes and coefficients."""

    type: Literal["yolact"] = "yolact"
    backbone: Backbone
    """Images to feature maps, all of which are used: strides 8, 16 and 32 of a large network."""
    pyramid_channels: PositiveInt = 256
    """Channels of the feature pyramid and of the head."""
    extra_levels: PositiveInt = 2
    """Coarser levels behind the backbone's, each by a convolution of stride 2, the first one on its coarsest map."""
    softmax: bool
    """Whether classes compete with each other and a background logit (softmax); otherwise each is for itself
    (sigmoid) and there is no background logit."""
    semantic: bool
    """Whether there is an auxiliary head for the pixels of each class, in training alone."""
    head_convolutions: NonNegativeInt = 1
    """3x3 convolutions that classes, boxes and coefficients share."""
    prototypes: PositiveInt = 32
    """Maps that masks are sums of."""
    mask_channels: PositiveInt = 256
    """Channels of the convolutions that make the prototypes."""
    mask_convolutions: NonNegativeInt = 3
    """3x3 convolutions of these before the size is doubled."""
    masks_per_image: PositiveInt | None = None
    """Most positives of an image that get a mask in training, drawn uniformly; null: all."""
    anchor_scale: PositiveFloat = 3.0
    """Side of the square anchors in strides of their level: 24 to 384 pixels for strides 8 to 128."""
    anchor_ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Height over width of the anchors."""
    delta_stds: Stds = (0.1, 0.1, 0.2, 0.2)
    """Divisors of the encoded boxes."""
    positive_iou: Fraction = 0.5
    """Anchors of at least this IoU are positives, as is the best anchor of each object."""
    negative_iou: Fraction = 0.4
    """Anchors below this IoU are negatives; between the two they are ignored."""
    testing: Testing = Testing()
    """From scores to detections, by Fast NMS."""
    test_per_level: PositiveInt = 1000
    """Anchors of each level that are decoded in detection: those of the highest scores."""
    test_per_class: PositiveInt = 200
    """Best boxes of each class that Fast NMS compares with each other."""

    @property
    def heads(self) -> dict[str, bool]:
        """The heads that need a loss: name → whether it classifies by softmax, with a background logit."""
        return {"dense": self.softmax}

    @property
    def auxiliary_heads(self) -> dict[str, str]:
        """The auxiliary head by the head that it belongs to, where there is one."""
        return {"dense": "semantic"} if self.semantic else {}

    @property
    def has_boxes(self) -> bool:
        """Whether it learns from boxes."""
        return True

    @property
    def has_masks(self) -> bool:
        """Whether it learns from masks and finds them."""
        return True

    @model_validator(mode="after")
    def _thresholds_leave_room(self) -> Self:
        if self.positive_iou < self.negative_iou:
            raise ValueError(f"positive_iou = {self.positive_iou} is below negative_iou = {self.negative_iou}")
        return self

    def build(self, num_classes: int, pretrained: bool = True) -> YOLACTModule:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        from rankdet import heads
        from rankdet.backbones import FPN
        from rankdet.detectors import YOLACT
        from rankdet.label_assignment import MaxIoUAssigner

        backbone = self.backbone.build(pretrained)
        strides = tuple(backbone.strides)
        strides += tuple(strides[-1] * 2 ** (level + 1) for level in range(self.extra_levels))
        channels = self.pyramid_channels
        return YOLACT(
            backbone=backbone,
            fpn=FPN(
                backbone.channels,
                channels,
                extra_levels=self.extra_levels,
                extra_convolutions=True,
                extra_from_input=True,
                bilinear=True,
            ),
            head=heads.InstanceHead(
                channels,
                num_classes,
                num_per_cell=len(self.anchor_ratios),
                num_prototypes=self.prototypes,
                softmax=self.softmax,
                num_convolutions=self.head_convolutions,
            ),
            prototypes=heads.PrototypeNetwork(
                channels,
                num_prototypes=self.prototypes,
                channels=self.mask_channels,
                num_convolutions=self.mask_convolutions,
            ),
            instances=heads.InstanceStage(
                anchors=heads.CenteredAnchors(
                    tuple(self.anchor_scale * stride for stride in strides), self.anchor_ratios
                ),
                coder=heads.BoxCoder(self.delta_stds),
                assigner=MaxIoUAssigner(self.positive_iou, self.negative_iou, low_quality_iou=0.0, claim_ties=False),
                masks_per_image=self.masks_per_image,
            ),
            semantic=heads.SemanticHead(channels, num_classes) if self.semantic else None,
            detection=self.testing.build(),
            test_per_level=self.test_per_level,
            test_per_class=self.test_per_class,
        )
