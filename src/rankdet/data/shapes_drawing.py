"""One image of shapes with its exact visible masks, from a seed; the same on every machine.

Only integers and the four basic operations and square root of IEEE arithmetic decide a pixel: no function of a
mathematical library, whose last digit differs between machines, and no matrix product, whose order of summation does.

Legend: S side of the image in pixels, G objects of the image, K kinds of shapes.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SMALLEST, LARGEST = 0.15, 0.60
"""Smallest and largest side of objects, as fractions of the side of the image."""
LEAST_VISIBLE = 0.6
"""Least fraction of an object that later ones may leave visible."""
EMPTY = 0.03
"""Fraction of images without objects."""
MOST_OBJECTS = 5
TRIES = 10
"""Places that are tried for an object before it is left out."""
HABIT = 0.9
"""Probability that an object has the color of its class."""
CONTRAST = 150
"""Least sum of the differences of the three channels between an object and what lies below it, where possible."""

GROUNDS = ((38, 50, 56), (69, 90, 100), (93, 84, 72), (62, 80, 66), (120, 124, 130), (150, 140, 122), (84, 70, 96))
PAINTS = (
    (239, 83, 80),
    (255, 202, 40),
    (102, 187, 106),
    (66, 165, 245),
    (236, 240, 241),
    (255, 138, 101),
    (77, 208, 225),
    (240, 130, 190),
)


Inside = Callable[[Floats, Floats], Bools]

INSIDE: dict[str, Inside] = {
    "ellipse": lambda u, v: u * u + v * v * 1.6 <= 1.0,
    "rectangle": lambda u, v: (np.abs(u) <= 0.92) & (np.abs(v) <= 0.6),
    # 1.732 is about the square root of three: an equilateral triangle in the unit circle.
    "triangle": lambda u, v: (v >= -0.5) & (1.732 * u + v <= 1.0) & (-1.732 * u + v <= 1.0),
    "ring": lambda u, v: (u * u + v * v <= 1.0) & (u * u + v * v >= 0.3),
    "cross": lambda u, v: (np.abs(u) <= 0.34) & (np.abs(v) <= 1.0) | (np.abs(v) <= 0.34) & (np.abs(u) <= 1.0),
    # Between the square on its corner (power 1) and the astroid (power 2/3): four points.
    "star": lambda u, v: np.sqrt(np.abs(u)) + np.sqrt(np.abs(v)) <= 1.0,
    "crescent": lambda u, v: (u * u + v * v <= 1.0) & ((u - 0.55) * (u - 0.55) + v * v >= 0.6),
}
"""Name of a shape → whether points of its own frame, in which it fills the unit circle, lie inside."""


def _spotted(u: Floats, v: Floats) -> Bools:
    # A spot lies on the center: thin shapes would have none elsewhere.
    across, down = 2.0 * u - np.floor(2.0 * u + 0.5), 2.0 * v - np.floor(2.0 * v + 0.5)
    return across * across + down * down <= 0.12


PATTERNS: dict[str, Inside] = {
    "": lambda u, v: np.zeros(u.shape, dtype=np.bool_),
    "striped": lambda u, v: np.floor(3.0 * u) % 2 == 0,
    "spotted": _spotted,
}
"""Name of a pattern → whether points of the frame of a shape are dark."""
DARK = -80.0
"""What is added to the color of dark points."""


def pattern_and_shape(name: str) -> tuple[str, str]:
    """The two parts of the name of a class, of which the first may be empty.

    Examples
    --------
    >>> pattern_and_shape("striped_star"), pattern_and_shape("ring")
    (('striped', 'star'), ('', 'ring'))
    """
    pattern, _, shape = name.rpartition("_")
    return pattern, shape


class Drawing(NamedTuple):
    """An image and the objects that are visible in it."""

    pixels: NDArray[np.uint8]
    """(S, S, 3) RGB."""
    labels: list[int]
    """G places in the list of classes."""
    masks: list[Bools]
    """G visible parts (S, S)."""


def draw(seed: Sequence[int], size: int, classes: Sequence[str], frequencies: Sequence[float]) -> Drawing:
    """Draw one image.

    The integers of ``seed`` name the image. Names of classes are keys of ``INSIDE``, with a key of ``PATTERNS`` before
    some: ``striped_star``. Later objects lie over earlier ones; masks are of the visible part, exact to the pixel.
    """
    random = np.random.Generator(np.random.PCG64(list(seed)))
    pixels = _ground(random, size)
    labels: list[int] = []
    masks: list[Bools] = []
    paints = list(PAINTS)
    whole: list[int] = []  # pixels of each object as if nothing lay over it
    number = 0 if random.random() < EMPTY else 1 + int(random.integers(0, MOST_OBJECTS))
    for _ in range(number):
        label = _choose(random, frequencies)
        for _ in range(TRIES):
            mask, shade = _place(random, size, classes[label])
            left = [other & ~mask for other in masks]
            if all(int(part.sum()) >= LEAST_VISIBLE * area for part, area in zip(left, whole, strict=True)):
                masks = [*left, mask]
                labels.append(label)
                whole.append(int(mask.sum()))
                pixels[mask] = (_paint(random, label, pixels[mask], paints) + shade[mask, None]).clip(0, 255)
                break
    # The sum of four bytes is close to normal; divided by 12 its deviation is 12.3.
    noise = random.integers(0, 256, size=(4, size, size, 3), dtype=np.uint8).sum(axis=0, dtype=np.int32) - 510
    noisy = (np.floor(pixels).astype(np.int32) + noise // 12).clip(0, 255).astype(np.uint8)
    return Drawing(noisy, labels, masks)


def _choose(random: np.random.Generator, frequencies: Sequence[float]) -> int:
    point = random.random() * math.fsum(frequencies)
    for label, frequency in enumerate(frequencies):
        if point < frequency:
            return label
        point -= frequency
    return len(frequencies) - 1


def _ground(random: np.random.Generator, size: int) -> Floats:
    """(S, S, 3) smooth patches around one color, with faint stripes."""
    color = np.array(GROUNDS[int(random.integers(0, len(GROUNDS)))], dtype=np.float64)
    cells = 4
    grid = color + random.integers(-22, 23, size=(cells + 1, cells + 1, 3))
    at = np.arange(size) * (cells / size)
    first = at.astype(np.int64)
    part = at - first
    down, right = part[:, None, None], part[None, :, None]
    top = grid[first][:, first] * (1 - right) + grid[first][:, first + 1] * right
    bottom = grid[first + 1][:, first] * (1 - right) + grid[first + 1][:, first + 1] * right
    ground = top * (1 - down) + bottom * down
    rows, columns = np.mgrid[:size, :size]
    step_down, step_right = random.integers(-3, 4, size=2)
    stripe = (rows * int(step_down) + columns * int(step_right)) // 8 % 2
    return ground + (stripe * int(random.integers(0, 11)))[..., None]


def _place(random: np.random.Generator, size: int, name: str) -> tuple[Bools, Floats]:
    """The (S, S) mask of one shape at a random place, and the (S, S) change of its color by shading and pattern."""
    part = random.random()
    # The power 1.5 makes small objects more frequent than large ones.
    radius = 0.5 * size * (SMALLEST + (LARGEST - SMALLEST) * part * math.sqrt(part))
    x, y = (radius + (size - 2 * radius) * random.random() for _ in range(2))
    slope = 2 * random.random() - 1
    # Rational points of the circle: rotations without sine and cosine.
    cosine, sine = (1 - slope * slope) / (1 + slope * slope), 2 * slope / (1 + slope * slope)
    squeeze = 1 + 0.25 * random.random()
    rows, columns = np.mgrid[:size, :size]
    across, down = (columns + 0.5 - x) / radius, (rows + 0.5 - y) / radius
    u, v = across * cosine + down * sine, (down * cosine - across * sine) * squeeze
    pattern, shape = pattern_and_shape(name)
    return INSIDE[shape](u, v), -16.0 * (across + down) + DARK * PATTERNS[pattern](u, v)


def _paint(random: np.random.Generator, label: int, below: Floats, paints: list[tuple[int, int, int]]) -> Floats:
    """The (3,) color of the class, or another one that contrasts with what lies below.

    It is removed from ``paints``, so that no color occurs twice in an image.
    """
    # Integers: the rounding of a sum of floats would depend on its order.
    ground = below.astype(np.int64).sum(axis=0) // len(below)
    apart = [paint for paint in paints if np.abs(np.array(paint) - ground).sum() >= CONTRAST] or paints
    own, other = PAINTS[label % len(PAINTS)], apart[int(random.integers(0, len(apart)))]
    paint = own if random.random() < HABIT and own in apart else other
    paints.remove(paint)
    return np.array(paint, dtype=np.float64) + random.integers(-14, 15, size=3)
