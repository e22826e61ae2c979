"""Images of 16 bits: their values, also where Pillow keeps the upper eight alone, and these as bytes."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def scaled(values: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Values of so many bits as bytes."""
    return np.minimum(values.astype(np.int32) >> (bits - 8), 255).astype(np.uint8)


def deep_colors(path: Path) -> NDArray[np.int32]:
    """The colors of an image of 16 bits, (height, width, 3).

    Pillow keeps the upper byte of each. Where the order of bytes is told the other way round, it keeps the lower one.
    """
    halves = []
    for keeps_lower in (False, True):
        with Image.open(path) as file:
            if keeps_lower:
                file.tile = [(*tile[:3], _swapped(tile[3])) for tile in file.tile]
            halves.append(np.array(file.convert("RGB")).astype(np.int32))
    return (halves[0] << 8) | halves[1]


def _swapped(mode: Any) -> Any:
    """Pillow's name for how pixels lie in a file, or arguments of a decoder with it, in the other order of bytes."""
    if isinstance(mode, tuple):
        return tuple(map(_swapped, mode))
    if isinstance(mode, str) and ";16" in mode:
        lower = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
        return mode[:-1] + lower[mode[-1]]
    return mode


def has_deep_tiles(file: Image.Image) -> bool:
    """Whether the colors of an image have 16 bits in the file."""
    return any("RGB" in str(tile[3]) and ";16" in str(tile[3]) for tile in getattr(file, "tile", ()))
