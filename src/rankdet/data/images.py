"""Image files → uint8 RGB tensors.

Pillow decodes. The decoders of torchvision give the same pixels, but warn since version 0.29 of their removal.
"""

import struct
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from rankdet.structures import InputError

BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow raises on broken files."""


def read_image(path: Path, size: tuple[int, int]) -> Tensor:
    """Read an image that annotations describe.

    Parameters
    ----------
    path
        A file of any format that Pillow reads: gray, palette, RGB, RGBA (alpha is ignored), CMYK; 8 or 16 bit.
    size
        (height, width) in pixels, as the annotations say. An image is turned as its EXIF orientation says only if
        that is what makes it fit.

    Returns
    -------
    Tensor
        (3, height, width) uint8 RGB.

    Raises
    ------
    InputError
        When the file is missing, cannot be decoded or has another size.
    """
    return fit(decode(path), path, size)


def decode(path: Path, follow_exif: bool = False) -> Tensor:
    """Decode an image to (3, height, width) uint8 RGB; raises InputError that names the file."""
    try:
        # Pillow warns of odd metadata each time, but decoding shows whether the pixels are sound.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as file:
            return to_rgb(ImageOps.exif_transpose(file) if follow_exif else file, str(path))
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: the image is missing") from error
    except BROKEN as error:
        # A missing reader and a broken file sound alike in Pillow, and the path is in the message already.
        reason = str(error).replace(f" '{path}'", "").replace(f" {str(path)!r}", "") or type(error).__name__
        raise InputError(f"{path}: the image cannot be decoded: {reason}") from error


def to_rgb(image: Image.Image, name: str) -> Tensor:
    """The pixels of an image of any mode as (3, height, width) uint8 RGB.

    Images of 16 bits keep the upper eight, and transparency is ignored.

    Raises
    ------
    InputError
        When the image has 32 bits per channel; the message starts with ``name``.
    """
    if image.mode.startswith("I;16"):
        gray = torch.from_numpy(np.array(image).astype(np.int32) >> 8).to(torch.uint8)
        return gray.expand(3, -1, -1)
    if image.mode in ("I", "F"):
        raise InputError(f"{name}: the image has 32 bits per pixel and channel, which is no color")
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def is_file(path: Path) -> bool:
    """Whether there is such a file; False also where the file system refuses the name, as too long for instance."""
    try:
        return path.is_file()
    except OSError:
        return False


def fit(pixels: Tensor, path: Path, size: tuple[int, int]) -> Tensor:
    """The image if it has the size (height, width) asked for, turned by its EXIF orientation where that helps."""
    height, width = pixels.shape[1:]
    if (height, width) == size:
        return pixels
    if (width, height) == size:
        turned = decode(path, follow_exif=True)
        if tuple(turned.shape[1:]) == size:
            return turned
    raise InputError(f"{path}: the image is {width} × {height} pixels, its annotations say {size[1]} × {size[0]}")
