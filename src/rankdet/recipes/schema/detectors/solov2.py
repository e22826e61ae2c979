"""SOLOv2 in recipes: every number of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from rankdet.recipes.schema.config import Config
from rankdet.recipes.schema.optimization import Fraction

from .backbones import Backbone, Timm

if TYPE_CHECKING:
    from rankdet.detectors import MaskDetectionSettings
    from rankdet.detectors import SOLOv2 as SOLOv2Module
    from rankdet.heads import GridStage

Range = tuple[NonNegativeFloat, PositiveFloat]


class Grids(Config):
    """The head: cells of a grid per level of the pyramid to classes and kernels of masks."""

    sizes: Annotated[tuple[PositiveInt, ...], Field(min_length=3)] = (40, 36, 24, 16, 12)
    """Cells per side of the grid of each level, the finest first."""
    scale_ranges: Annotated[tuple[Range, ...], Field(min_length=3)]
    """Smallest and largest objects of each level, as square root of the area of the box in pixels."""
    one_mask_per_cell: bool
    """Whose a cell is that several objects want. True, in the form of Rank & Sort Loss: the first object's, with its
    mask alone; false, in the standard form: the last object's, but the cell learns the masks of all."""
    center_size: PositiveFloat = 0.2
    """Side of the region around the center of mass whose cells are positives, in sides of the box."""
    convolutions: NonNegativeInt = 4
    """3x3 convolutions of each of the two towers."""
    channels: PositiveInt = 512
    """Channels of the towers."""
    groups: PositiveInt = 32
    """Groups of the normalization of the towers; their channels are a multiple of it."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if len(self.sizes) != len(self.scale_ranges):
            raise ValueError(f"{len(self.sizes)} sizes but {len(self.scale_ranges)} scale_ranges")
        for smallest, largest in self.scale_ranges:
            if smallest > largest:
                raise ValueError(f"scale_ranges has a range from {smallest} to {largest}")
        if self.convolutions and self.channels % self.groups:
            raise ValueError(f"channels = {self.channels} is no multiple of groups = {self.groups}")
        return self


class MaskFeatures(Config):
    """The map of features that masks are made of: all levels but the coarsest, added."""

    channels: PositiveInt = 128
    """Channels in which the levels are added."""
    out_channels: PositiveInt = 256
    """Channels of the features, and weights of a mask's kernel."""
    groups: PositiveInt = 32
    """Groups of the normalization; both numbers of channels are multiples of it."""

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        for name in ("channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ValueError(f"{name} = {getattr(self, name)} is no multiple of groups = {self.groups}")
        return self


class MaskTesting(Config):
    """From scores and masks to detections."""

    score_threshold: Fraction = 0.1
    """Pairs of cell and class up to this score are dropped. Scores of a ranking loss are higher: 0.2 is faster, and the
    published code of Rank & Sort Loss has it."""
    num_candidates: PositiveInt = 500
    """Masks of an image that compete with each other: those of the highest scores."""
    sigma: PositiveFloat = 2.0
    """How fast the score of a mask falls with its overlap with a better one of its class."""
    least_score: Fraction = 0.05
    """Masks below this score are dropped after that."""
    per_image: PositiveInt = 100
    """Detections kept per image."""

    def build(self) -> MaskDetectionSettings:
        """The settings as the detector takes them."""
        from rankdet.detectors import MaskDetectionSettings

        return MaskDetectionSettings(
            self.score_threshold, self.num_candidates, self.sigma, self.least_score, self.per_image
        )


class SOLOv2(Config):
    """SOLOv2: a mask for every cell of a few grids, by a kernel that the cell makes; no boxes."""

    type: Literal["solov2"] = "solov2"
    backbone: Backbone
    """Images to feature maps, all of which are used: strides 4, 8, 16 and 32 of a large network."""
    pyramid_channels: PositiveInt = 256
    """Channels of the feature pyramid."""
    extra_levels: NonNegativeInt = 1
    """Coarser levels behind the backbone's (P6)."""
    grids: Grids
    """The head."""
    mask_features: MaskFeatures = MaskFeatures()
    """What masks are made of."""
    testing: MaskTesting = MaskTesting()
    """From scores and masks to detections."""

    @property
    def heads(self) -> dict[str, bool]:
        """The heads that need a loss: name → whether it classifies by softmax, with a background logit."""
        return {"grid": False}

    @property
    def auxiliary_heads(self) -> dict[str, str]:
        """The auxiliary heads by the head that they belong to: none."""
        return {}

    @property
    def has_boxes(self) -> bool:
        """Whether it learns from boxes."""
        return False

    @property
    def has_masks(self) -> bool:
        """Whether it learns from masks and finds them."""
        return True

    @model_validator(mode="after")
    def _every_level_has_a_grid(self) -> Self:
        backbone = self.backbone
        own = len(backbone.out_indices if isinstance(backbone, Timm) else backbone.channels)
        if own + self.extra_levels != len(self.grids.sizes):
            raise ValueError(
                f"grids.sizes has {len(self.grids.sizes)} grids, but the pyramid {own} levels of the backbone and "
                f"{self.extra_levels} more"
            )
        return self

    def build(self, num_classes: int, pretrained: bool = True) -> SOLOv2Module:
        """The detector; ``pretrained=False`` skips the backbone's weights (a checkpoint will bring them)."""
        from rankdet.backbones import FPN
        from rankdet.detectors import SOLOv2

        backbone = self.backbone.build(pretrained)
        strides = tuple(backbone.strides)
        coarser = tuple(strides[-1] * 2 ** (level + 1) for level in range(self.extra_levels))
        return SOLOv2(
            backbone=backbone,
            fpn=FPN(backbone.channels, self.pyramid_channels, extra_levels=self.extra_levels),
            grid=self._build_grid(strides + coarser, num_classes),
            detection=self.testing.build(),
        )

    def _build_grid(self, strides: tuple[int, ...], num_classes: int) -> GridStage:
        from rankdet import heads
        from rankdet.label_assignment import GridAssigner

        return heads.GridStage(
            head=heads.GridHead(
                self.pyramid_channels,
                num_classes,
                grids=self.grids.sizes,
                kernel_channels=self.mask_features.out_channels,
                num_convolutions=self.grids.convolutions,
                channels=self.grids.channels,
                groups=self.grids.groups,
            ),
            mask_features=heads.MaskFeatures(
                self.pyramid_channels,
                len(strides) - 1,
                channels=self.mask_features.channels,
                out_channels=self.mask_features.out_channels,
                groups=self.mask_features.groups,
            ),
            assigner=GridAssigner(
                self.grids.sizes, self.grids.scale_ranges, self.grids.center_size, self.grids.one_mask_per_cell
            ),
            strides=strides,
        )
