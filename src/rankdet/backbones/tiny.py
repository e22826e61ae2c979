"""A small residual network for demonstrations and tests, which learns from scratch on a laptop."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn
from torch.nn.functional import relu

from rankdet.backbones.normalization import PixelNormalization
from rankdet.ranges import Finite, NotEmpty, Range, checked
from rankdet.structures import Images

GROUPS = 8


@checked
class TinyBackbone(nn.Module):
    """A stem of stride 2 and one residual block of stride 2 per stage, with group normalization.

    From scratch, a small batch learns best with group normalization. Nothing depends on ``self.training``.

    Parameters
    ----------
    channels
        Channels of the stages, each a multiple of 8; stage i has stride 2^(i+2), so the default has 4, 8, 16.
    mean, std
        Mean and standard deviation of the pixels, in 0 … 255.
    """

    def __init__(
        self,
        channels: Annotated[tuple[Annotated[int, Range(gt=0, multiple_of=GROUPS)], ...], NotEmpty()] = (32, 64, 128),
        *,
        mean: tuple[Finite, Finite, Finite] = (127.5, 127.5, 127.5),
        std: tuple[Finite, Finite, Finite] = (127.5, 127.5, 127.5),
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.strides = tuple(4 * 2**stage for stage in range(len(channels)))
        self.normalization = PixelNormalization(mean, std)
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(GROUPS, channels[0]),
            nn.ReLU(),
        )
        inputs = (channels[0], *channels[:-1])
        self.stages = nn.ModuleList(ResidualBlock(*pair) for pair in zip(inputs, channels, strict=True))

    def forward(self, images: Images) -> list[Tensor]:
        """Return a map (B, channels, H / stride, W / stride) for each stage."""
        features = self.stem(self.normalization(images))
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the first of stride 2, beside a 1x1 convolution of stride 2."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(GROUPS, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(GROUPS, channels)
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=2, bias=False)
        self.shortcut_norm = nn.GroupNorm(GROUPS, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return a map (B, channels, H / 2, W / 2) of a map (B, in_channels, H, W)."""
        residual = relu(self.first_norm(self.first(features)))
        residual = self.second_norm(self.second(residual))
        return relu(residual + self.shortcut_norm(self.shortcut(features)))
