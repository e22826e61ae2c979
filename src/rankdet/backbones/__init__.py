"""Backbones and pyramids: images → feature maps.

A backbone is a module that takes ``Images`` (uint8 pixels and sizes) and returns a list of maps (B, channels, H, W),
finest first. Its attributes ``channels`` and ``strides`` describe these maps. A pyramid converts them to maps with
equal numbers of channels.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from rankdet.extras import require

require(__name__)

from rankdet.backbones.carafe import CARAFE, CarafeFPN
from rankdet.backbones.deformable import DeformableConv2d, make_deformable
from rankdet.backbones.fpn import FPN, pyramid_strides
from rankdet.backbones.hybrid_encoder import HybridEncoder
from rankdet.backbones.normalization import PixelNormalization
from rankdet.backbones.timm_backbone import TimmBackbone
from rankdet.backbones.tiny import TinyBackbone
from rankdet.backbones.weights import FileWeights, HubWeights, WheelWeights
from rankdet.structures import Images

__all__ = [
    "CARAFE",
    "FPN",
    "Backbone",
    "CarafeFPN",
    "DeformableConv2d",
    "FileWeights",
    "HubWeights",
    "HybridEncoder",
    "PixelNormalization",
    "Pyramid",
    "TimmBackbone",
    "TinyBackbone",
    "WheelWeights",
    "make_deformable",
    "pyramid_strides",
]


class Backbone(Protocol):
    """Interface of a backbone."""

    channels: tuple[int, ...]
    """Channels of each map, finest first."""
    strides: tuple[int, ...]
    """Pixels per cell of each map."""

    def __call__(self, images: Images) -> list[Tensor]:
        """Return a map (B, channels, H / stride, W / stride) for each stride."""
        ...


class Pyramid(Protocol):
    """Interface of a feature pyramid."""

    channels: int
    """Channels of every output."""

    def __call__(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps (B, channels, H, W), finest first: one for each map of the backbone, then coarser ones."""
        ...
