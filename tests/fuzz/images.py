"""Damaged image files of all usual kinds: pixels, or a message that names the file; header and pixels agree."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from rankdet.data import images
from rankdet.data.images import decode, header, measured_bits, read_image
from rankdet.structures import InputError

from .fuzzing import Fuzz, Verdict, refused
from .mutations import EDITS, Edit, edited

SIZE = (20, 24)
"""Height and width; the height is a multiple of what JPEG files may be divided by."""
MOST_PIXELS = 1 << 20
"""A larger image is refused here, so that no damaged size takes memory."""


def written(mode: str, form: str, **options: Any) -> bytes:
    """A file of few colors with an edge."""
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    pixels[4:15, 6:] = (200, 90, 30)
    image = Image.fromarray(pixels)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def turned() -> Image.Exif:
    """EXIF of an image that lies on its side."""
    exif = Image.Exif()
    exif[images.ORIENTATION] = 6
    return exif


SOUND = {
    "RGB.png": written("RGB", "PNG"),
    "gray of 16 bits.png": written("I;16", "PNG"),
    "palette.png": written("P", "PNG"),
    "transparent.png": written("RGBA", "PNG", exif=turned()),
    "RGB.jpg": written("RGB", "JPEG"),
    "progressive and turned.jpg": written("RGB", "JPEG", progressive=True, exif=turned()),
    "gray.jpg": written("L", "JPEG"),
    "CMYK.jpg": written("CMYK", "JPEG"),
    "RGB.tif": written("RGB", "TIFF"),
    "gray of 16 bits.tif": written("I;16", "TIFF", exif=turned()),
    "compressed.tif": written("RGB", "TIFF", compression="tiff_lzw"),
    "RGB.bmp": written("RGB", "BMP"),
    "palette.gif": written("P", "GIF"),
    "RGB.webp": written("RGB", "WEBP", exif=turned()),
    "gray.pgm": written("L", "PPM"),
}


class Case(NamedTuple):
    """A file, what happens to its bytes, and how it is read."""

    name: str
    edits: list[Edit]
    bits: int
    at_least: tuple[int, int] | None


CASES = st.builds(
    Case,
    st.sampled_from(sorted(SOUND)),
    EDITS.map(lambda edits: edits[:2]),  # of more few files remain that anything can be read of
    st.sampled_from([16, 16, 8, 12]),
    st.sampled_from([None, (5, 6), (10, 12)]),
)


def check(folder: Path, case: Case) -> Verdict:
    """Pixels of the size that the header says, or a message."""
    path = folder / case.name
    path.write_bytes(edited(SOUND[case.name], case.edits))
    measured_bits([path])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MOST_PIXELS", MOST_PIXELS)
        try:
            said = header(path)
            pixels = decode(path, bits=case.bits)
            sized = read_image(path, said.upright, case.bits, case.at_least)
        except InputError as error:
            return refused(error, path)
    assert pixels.dtype == sized.dtype == torch.uint8
    assert pixels.shape == (3, *said.upright)
    if case.at_least is None:
        assert torch.equal(sized, pixels)
    for side, whole, least in zip(sized.shape[1:], said.upright, case.at_least or said.upright, strict=True):
        assert min(least, whole) <= side <= whole
    return Verdict.ACCEPTED


def prepare(folder: Path) -> Fuzz:
    """The target."""
    return Fuzz(CASES, partial(check, folder))
