"""Image files → uint8 RGB tensors, and the one rule of how an image is turned.

Pillow decodes. The decoders of torchvision give the same pixels, but warn since version 0.29 of their removal.
"""

import math
import re
import stat
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rankdet.data.depth import deep_colors, has_deep_tiles, scaled
from rankdet.structures import InputError

BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    *(ArithmeticError, LookupError, TypeError),  # of entries that no reader expects
)
"""What Pillow raises on broken files."""
MOST_PIXELS = 2**30
"""The largest image that is read, 32,768 × 32,768: 3 GB of RGB, and six times what Pillow takes without a warning."""
MOST_MEASURED = 64
"""Images of 16 bits whose values are looked at."""
PARTS = (8, 4, 2)
"""What the sides of a JPEG may be divided by in decoding."""
ORIENTATION = 0x0112
"""The number of the EXIF entry."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the stored pixels upright."""
_BACK = _TURNS | {6: _TURNS[8], 8: _TURNS[6]}


class UnreadableImageError(InputError):
    """An image file is missing or cannot be decoded; an image of another size than its annotations say is no such."""


class Header(NamedTuple):
    """What an image file says of its pixels before they are decoded.

    stored
        (height, width) of the pixels as they lie in the file.
    orientation
        1 … 8, how EXIF says that these are to be turned; 1: not at all.
    mode
        Pillow's name for the kind of pixels: "RGB", "L", "I;16", …
    depth
        Bits of a channel in the file, 8 or 16; fewer count as 8.
    frames
        Images in the file, of which the first is read.
    is_transparent
        Whether it has an alpha channel or transparent colors, which are ignored.
    """

    stored: tuple[int, int]
    orientation: int = 1
    mode: str = "RGB"
    depth: int = 8
    frames: int = 1
    is_transparent: bool = False

    @property
    def upright(self) -> tuple[int, int]:
        """(height, width) as viewers show the image.

        Examples
        --------
        >>> Header((40, 60), orientation=6).upright, Header((40, 60), orientation=3).upright
        ((60, 40), (40, 60))
        """
        return self.stored[::-1] if self.orientation >= 5 else self.stored

    @property
    def is_deep_color(self) -> bool:
        """Whether the colors have 16 bits, of which Pillow keeps the upper eight."""
        return self.depth == 16 and not self.mode.startswith("I;16")

    def is_turned(self, size: tuple[int, int] | None) -> bool:
        """Whether an image is turned as its EXIF orientation says: the one rule for all that reads images.

        It is, wherever the upright image has the annotated ``size`` (height, width), or where there is none. Only where
        the size fits the stored pixels alone are these taken as they are.

        Examples
        --------
        >>> header = Header((40, 60), orientation=6)
        >>> header.is_turned((60, 40)), header.is_turned((40, 60)), header.is_turned(None)
        (True, False, True)
        """
        return self.orientation != 1 and size in (None, self.upright)

    def fits(self, size: tuple[int, int]) -> bool:
        """Whether the image has the annotated ``size`` (height, width), upright or as it is stored."""
        return size in (self.stored, self.upright)

    def check_size(self, size: tuple[int, int], path: Path) -> None:
        """Raise InputError that names the file unless the image has the annotated ``size``, upright or stored."""
        if not self.fits(size):
            height, width = self.upright
            raise InputError(
                f"{path}: the image is {width} × {height} pixels, its annotations say {size[1]} × {size[0]}"
            )

    def doubt(self, size: tuple[int, int]) -> str:
        """Why it is uncertain which way the boxes of an image lie, in words, or "".

        The annotated ``size`` (height, width) decides only where the upright image and the stored one differ in it.

        Examples
        --------
        >>> Header((40, 60), orientation=6).doubt((60, 40))
        ''
        >>> Header((40, 60), orientation=3).doubt((40, 60))
        'has an EXIF orientation that its size cannot confirm: it is turned upright, as viewers show it'
        """
        if self.orientation == 1:
            return ""
        if self.upright == self.stored == size:
            return "has an EXIF orientation that its size cannot confirm: it is turned upright, as viewers show it"
        if self.stored == size:
            return "has an EXIF orientation, and the annotated size of the image as it is stored: it is not turned"
        return ""


def header(path: Path) -> Header:
    """What an image file says of its pixels, without decoding them.

    Raises
    ------
    UnreadableImageError
        When the file is missing, is no image, has more than `MOST_PIXELS` or 32 bits per channel; the message names it.
    """
    with _opened(path) as file:
        found = _header(file, path)
        return found._replace(frames=_num_frames(file))


def read_image(path: Path, size: tuple[int, int], bits: int = 16, at_least: tuple[int, int] | None = None) -> Tensor:
    """Read an image that annotations describe.

    Parameters
    ----------
    path
        A file of any format that Pillow reads: gray, palette, RGB, RGBA (alpha is ignored), CMYK; 8 or 16 bit.
    size
        (height, width) in pixels, as the annotations say. `Header.is_turned` decides by it whether the image is turned
        as its EXIF orientation says.
    bits
        Of an image of 16 bits, how many are used: `to_rgb`.
    at_least
        (height, width) from which on the pixels may be fewer: a JPEG is then decoded to a half, a quarter or an eighth
        of its sides, the least that is as large and a whole number of pixels.

    Returns
    -------
    Tensor
        (3, height, width) uint8 RGB.

    Raises
    ------
    UnreadableImageError
        When the file is missing or cannot be decoded.
    InputError
        When the image has another size.
    """
    pixels = decode(path, size, bits=bits, at_least=at_least)
    if at_least is None:
        Header((pixels.shape[1], pixels.shape[2])).check_size(size, path)
    return pixels


def decode(
    path: Path,
    size: tuple[int, int] | None = None,
    *,
    upright: bool = True,
    bits: int = 16,
    at_least: tuple[int, int] | None = None,
) -> Tensor:
    """Decode an image to (3, height, width) uint8 RGB.

    It is turned as `Header.is_turned` decides by the annotated ``size``, if there is one; never where ``upright`` is
    False. For ``bits`` see `to_rgb`, for ``at_least``, which needs a size, `read_image`. Raises UnreadableImageError
    that names the file.
    """
    with _opened(path) as file:
        found = _header(file, path)
        is_turned = upright and found.is_turned(size)
        image: Image.Image = file
        if at_least is not None and size is not None:
            found.check_size(size, path)  # what is decoded does not tell it
            if file.format == "JPEG":
                _reduce(file, at_least[::-1] if is_turned and found.orientation >= 5 else at_least)
        if found.is_deep_color and bits < 16:
            image = Image.fromarray(scaled(deep_colors(path), bits))
        if file.format == "TIFF":
            image.load()  # which turns it: of this format alone, Pillow never shows the stored pixels
            if not is_turned and found.orientation != 1:
                image = image.transpose(_BACK[found.orientation])
        elif is_turned:
            image = image.transpose(_TURNS[found.orientation])
        return to_rgb(image, str(path), bits)


def _reduce(file: Image.Image, at_least: tuple[int, int]) -> None:
    """Let a JPEG be decoded to the smallest part of its sides that is at least (height, width).

    Only where that is a whole number of pixels: otherwise the last ones would go beyond the image, and all be shifted.
    """
    for part in PARTS:
        if file.height % part == file.width % part == 0:
            height, width = file.height // part, file.width // part
            if height >= at_least[0] and width >= at_least[1]:
                file.draft(None, (width, height))
                return


def upright_image(image: Image.Image) -> Image.Image:
    """An image of Pillow, turned as its EXIF orientation says."""
    orientation = _orientation(image.getexif)
    return image.transpose(_TURNS[orientation]) if orientation != 1 else image


def to_rgb(image: Image.Image, name: str, bits: int = 16) -> Tensor:
    """The pixels of an image of any mode as (3, height, width) uint8 RGB; transparency is ignored.

    Parameters
    ----------
    image
        An image of Pillow.
    name
        What the message calls it.
    bits
        Of an image of 16 bits, how many are used, from 8 to 16: of 12 bits the upper eight are kept, and values beyond
        are white. Cameras put 10, 12 or 14 bits into files of 16. The same number for all images of a data set keeps
        their brightness comparable.

    Raises
    ------
    UnreadableImageError
        When the image has 32 bits per channel, or negative values; the message starts with ``name``.
    """
    if image.mode.startswith("I;16"):
        return torch.from_numpy(scaled(np.array(image), bits)).expand(3, -1, -1)
    _check_mode(image, name)
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which would copy
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1)


def measured_bits(paths: Sequence[Path]) -> tuple[int, int] | None:
    """How many bits images of 16 bits use, and their largest value.

    At most `MOST_MEASURED` of the files are looked at, evenly spread over all. The bits are the fewest of 8, 10, 12, 14
    and 16 that hold every value. None where no such image is among them; files that cannot be read do not count.
    """
    largest = None
    for path in paths[:: max(1, math.ceil(len(paths) / MOST_MEASURED))]:
        try:
            with _opened(path) as file:
                found = _header(file, path)
                if found.depth == 16:
                    values = deep_colors(path) if found.is_deep_color else np.array(file)
                    largest = max(largest or 0, int(values.max()))
        except UnreadableImageError:
            continue
    return None if largest is None else (min(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits), largest)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file, opened by Pillow; what is broken about it is raised as UnreadableImageError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("it is no regular file")  # a pipe would be waited for
        with _silent(), _UNLIMITED, Image.open(path) as file:
            if file.format == "TIFF":
                # Pillow 13.0 maps uncompressed gray pixels of a named file into memory, by the size after turning.
                file.filename = ""
            if file.width * file.height > MOST_PIXELS:
                raise UnreadableImageError(
                    f"{path}: the image has {file.width} × {file.height} pixels, and more than {MOST_PIXELS} are not "
                    "read: cut it into tiles"
                )
            yield file
    except InputError:
        raise
    except FileNotFoundError as error:
        raise UnreadableImageError(f"{path}: the image is missing") from error
    except BROKEN as error:
        # A missing reader and a broken file sound alike in Pillow, and the path is in the message already.
        reason = str(error).replace(f" '{path}'", "").replace(f" {str(path)!r}", "") or type(error).__name__
        raise UnreadableImageError(f"{path}: the image cannot be decoded: {reason}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Pillow warns of odd metadata each time, but decoding shows whether the pixels are sound."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class _Unlimited:
    """Takes away Pillow's limit of pixels, a variable of its module, while any thread is inside."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limit = threading.Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._limit


_UNLIMITED = _Unlimited()


def _header(file: Image.Image, path: Path) -> Header:
    width, height = file.size
    if file.format == "TIFF":
        width, height = file.tag_v2[256], file.tag_v2[257]  # type: ignore[attr-defined]  # only this class has it
    if file.format == "PNG" and "exif" not in file.info and _has_metadata_behind_pixels(path):
        file.load()
    _check_mode(file, str(path))
    return Header(
        (height, width),
        _orientation(lambda: Image.Image.getexif(file)),  # the class of PNG files would decode the image for its EXIF
        file.mode,
        16 if file.mode.startswith("I;16") or has_deep_tiles(file) else 8,
        is_transparent=file.has_transparency_data,
    )


def _num_frames(file: Image.Image) -> int:
    if file.format == "MPO":  # a photo of a telephone has previews as further frames, which nobody misses
        return 1
    try:
        return int(getattr(file, "n_frames", 1))
    except BROKEN:  # those behind the first one, which is read
        return 1


def _check_mode(image: Image.Image, name: str) -> None:
    if image.mode in ("I", "F"):
        raise UnreadableImageError(
            f"{name}: the image has 32 bits per channel, or signed ones, which are no colors; save it with 8 or 16 bits"
        )


def _orientation(read: Callable[[], Image.Exif]) -> int:
    try:
        orientation = read().get(ORIENTATION, 1)
    except BROKEN:  # the entries alone: the pixels may be sound
        return 1
    return orientation if orientation in _TURNS else 1


def _has_metadata_behind_pixels(path: Path) -> bool:
    """Whether a PNG file has metadata that Pillow sees only after the pixels, as ExifTool writes it."""
    kinds = b""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            kinds += kind
            file.seek(length + 4, 1)
    return re.search(b"IDAT.*(eXIf|[zti]..t)", kinds) is not None
