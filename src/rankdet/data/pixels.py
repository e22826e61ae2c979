"""Images in any of the forms that Python programs have them in → pixels."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rankdet.data.images import decode, to_rgb, upright_image
from rankdet.structures import InputError

ImageLike = str | PathLike[str] | Image.Image | NDArray[np.generic] | Tensor
"""An image that a model takes: a file, a PIL image, an array (H, W, 3) or a tensor (3, H, W)."""


def to_pixels(image: ImageLike, name: str = "image", upright: bool = True, bits: int = 16) -> Tensor:
    """The pixels of one image.

    Parameters
    ----------
    image
        A file that Pillow reads, or a PIL image of any mode; an array (H, W, 3) or a tensor (3, H, W), RGB: uint8, or
        floating point from 0 to 1.
    name
        What a message calls it.
    upright
        Whether files and PIL images are turned as their EXIF orientation says.
    bits
        Of files and PIL images of 16 bits, how many are used; see `rankdet.data.images.to_rgb`.

    Returns
    -------
    Tensor
        (3, H, W) uint8 RGB on the CPU.

    Raises
    ------
    InputError
        When it is none of these or cannot be decoded.

    Examples
    --------
    >>> to_pixels(np.zeros((40, 60, 3), dtype=np.uint8)).shape
    torch.Size([3, 40, 60])
    >>> to_pixels(torch.zeros(40, 60))
    Traceback (most recent call last):
    rankdet.structures.errors.InputError: image: a tensor of shape (40, 60), not (3, H, W)
    """
    if isinstance(image, str | PathLike):
        return decode(Path(image), upright=upright, bits=bits)
    if isinstance(image, Image.Image):
        return to_rgb(upright_image(image) if upright else image, name, bits)
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise InputError(f"{name}: an array of shape {image.shape}, not (H, W, 3)")
        if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
            raise InputError(f"{name}: an array of {image.dtype}, not of uint8 or floating-point numbers from 0 to 1")
        return _to_bytes(torch.from_numpy(np.ascontiguousarray(image)), name).permute(2, 0, 1)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise InputError(f"{name}: a tensor of shape {tuple(image.shape)}, not (3, H, W)")
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise InputError(f"{name}: a tensor of {image.dtype}, not of uint8 or floating-point numbers from 0 to 1")
        return _to_bytes(image.detach().cpu(), name)
    raise InputError(
        f"{name}: {type(image).__name__} is no image: give a path, a PIL image, an array (H, W, 3) or a tensor "
        "(3, H, W), or a list of them"
    )


def _to_bytes(values: Tensor, name: str) -> Tensor:
    if values.dtype == torch.uint8:
        return values
    low, high = values.min().item(), values.max().item()
    if not (low >= 0 and high <= 1):  # as NaN is neither
        raise InputError(f"{name}: floating-point values go from {low:g} to {high:g}, not from 0 to 1; or use uint8")
    return (values.float() * 255).round().to(torch.uint8)
