"""Feature Pyramid Network (Lin et al., CVPR 2017, arXiv:1612.03144) in the forms of two- and one-stage detectors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d


def pyramid_strides(strides: Sequence[int], extra_levels: int) -> tuple[int, ...]:
    """Return the strides of all levels of a pyramid: those of the backbone, and twice as many pixels for each more.

    Examples
    --------
    >>> pyramid_strides((8, 16), 2)
    (8, 16, 32, 64)
    """
    return (*strides, *(strides[-1] * 2 ** (level + 1) for level in range(extra_levels)))


class FPN(nn.Module):
    """Pyramid of 1x1 laterals, a top-down path and 3x3 outputs, without normalization and activation.

    The coarser map is enlarged to the size of the finer one, so that images of any size work. Weights start Xavier
    uniform, biases 0.

    Parameters
    ----------
    in_channels
        Channels of the backbone's maps, finest first.
    channels
        Channels of every output.
    extra_levels
        Number of coarser levels, each made from the level before: P6 from P5, P7 from P6.
    extra_convolutions
        False: an extra level is every second cell of the level before (two-stage detectors). True: a 3x3 convolution of
        stride 2 makes it, with no activation between two of them (one-stage detectors).
    extra_from_input
        True: the first of these convolutions reads the coarsest map of the backbone, as in YOLACT. False: it reads the
        coarsest output.
    bilinear
        True: the coarser map is interpolated linearly, as in YOLACT. False: the nearest cell is taken.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        extra_levels: int = 1,
        extra_convolutions: bool = False,
        extra_from_input: bool = False,
        bilinear: bool = False,
    ) -> None:
        super().__init__()
        if extra_from_input and not extra_convolutions:
            raise ValueError("extra levels of the backbone's map are made by convolutions: extra_convolutions is False")
        self.channels = channels
        self.extra_levels = extra_levels
        self.extra_from_input = extra_from_input
        self.bilinear = bilinear
        self.laterals = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels)
        self.coarser = nn.ModuleList(
            nn.Conv2d(
                in_channels[-1] if extra_from_input and level == 0 else channels, channels, 3, stride=2, padding=1
            )
            for level in range(extra_levels * extra_convolutions)
        )
        for convolution in (*self.laterals, *self.outputs, *self.coarser):
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return ``len(maps) + extra_levels`` maps (B, channels, H, W), finest first, from the maps of the backbone."""
        merged = [lateral(features) for lateral, features in zip(self.laterals, maps, strict=True)]
        for level in range(len(merged) - 1, 0, -1):
            finer = merged[level - 1]
            mode = "bilinear" if self.bilinear else "nearest"
            merged[level - 1] = finer + interpolate(merged[level], size=finer.shape[-2:], mode=mode)
        pyramid = [output(features) for output, features in zip(self.outputs, merged, strict=True)]
        coarsest = maps[-1] if self.extra_from_input else pyramid[-1]
        for convolution in self.coarser:
            coarsest = convolution(coarsest)
            pyramid.append(coarsest)
        while len(pyramid) < len(maps) + self.extra_levels:
            pyramid.append(max_pool2d(pyramid[-1], kernel_size=1, stride=2))
        return pyramid
