"""Images that look almost the same, though their files differ.

Legend: N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 24
"""Pixels of the side that images are reduced to before they are compared."""
ALIKE = 0.985
"""Correlation of two reduced images from which on they look almost the same."""
FLAT = 4.0
"""Standard deviation, of 255, below which a reduced image shows too little to be compared."""


def reduced(image: Image.Image) -> NDArray[np.float32] | None:
    """A small gray image as a vector of mean 0 and length 1; None where it shows too little to be compared."""
    gray = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32).ravel()
    if gray.std() < FLAT:
        return None
    gray -= gray.mean()
    return np.asarray(gray / np.linalg.norm(gray))


def similar_pairs(images: Sequence[NDArray[np.float32] | None]) -> Iterator[tuple[int, int]]:
    """Pairs of places (i, j), i < j, of N `reduced` images that look almost the same."""
    rows = [place for place, image in enumerate(images) if image is not None]
    if not rows:
        return
    vectors = np.stack([image for image in images if image is not None])
    for place in range(len(rows)):
        alike = np.flatnonzero(vectors[place + 1 :] @ vectors[place] > ALIKE)
        yield from ((rows[place], rows[place + 1 + other]) for other in alike.tolist())
