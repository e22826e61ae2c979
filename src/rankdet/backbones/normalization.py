"""Normalization of uint8 images to float images, on their device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rankdet.structures import Images


class PixelNormalization(nn.Module):
    """Module that computes (pixels − mean) / std, with zeros in the padding.

    Parameters
    ----------
    mean, std
        One number per channel (RGB), in the units of the pixels: 0 … 255.

    Examples
    --------
    >>> images = Images(torch.full((1, 3, 1, 2), 255, dtype=torch.uint8), ((1, 1),))
    >>> PixelNormalization([127.5] * 3, [127.5] * 3)(images)[0, 0]
    tensor([[1., 0.]])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Not in the state dict: a checkpoint's images are normalized as in its recipe.
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Images) -> Tensor:
        """Return the normalized pixels, (B, 3, H, W) float32."""
        pixels = (images.pixels.float() - self.mean) / self.std
        for image, (height, width) in zip(pixels, images.sizes, strict=True):
            image[:, height:] = 0
            image[:, :, width:] = 0
        return pixels
