"""Geometry of the training pictures: one plan is drawn per sample, and picture, boxes and masks all follow it.

Legend: G objects of a picture. Sizes are (height, width) in pixels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F


@dataclass(frozen=True)
class KeepRatio:
    """Resize to the largest size that fits into ``long`` × ``short`` and keeps the ratio of the sides (spec 2.7).

    Parameters
    ----------
    long
        The longer side is at most this, in pixels.
    shorts
        The shorter side is at most one of these, in pixels; several are the scales of multi-scale training, one of
        which is drawn for each picture.

    Raises
    ------
    ValueError
        When ``shorts`` is empty or a side is below one pixel.

    Examples
    --------
    >>> KeepRatio(1333, (800,)).size((480, 640)), KeepRatio(1333, (800,)).size((1000, 200))
    ((800, 1067), (1333, 267))
    """

    long: int = 1333
    shorts: tuple[int, ...] = (800,)

    def __post_init__(self) -> None:
        if not self.shorts or min(self.long, *self.shorts) < 1:
            raise ValueError(f"sides of a resized picture must be at least one pixel: {self}")

    def size(self, size: tuple[int, int], choice: float = 0.0) -> tuple[int, int]:
        """The new (height, width); ``choice`` in [0, 1) picks one of ``shorts``."""
        short = self.shorts[int(choice * len(self.shorts))]
        scale = min(self.long / max(size), short / min(size))
        # Very long pictures would otherwise lose their short side.
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


@dataclass(frozen=True)
class FixedSize:
    """Resize to one size whatever the ratio of the sides.

    Parameters
    ----------
    height, width
        The new sides in pixels.

    Raises
    ------
    ValueError
        When a side is below one pixel.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise ValueError(f"sides of a resized picture must be at least one pixel: {self}")

    def size(self, size: tuple[int, int], choice: float = 0.0) -> tuple[int, int]:
        """The new (height, width)."""
        return self.height, self.width


@dataclass(frozen=True)
class Placement:
    """What happens to one picture: resized from ``before`` to ``after``, then flipped."""

    before: tuple[int, int]
    after: tuple[int, int]
    horizontal_flip: bool = False
    vertical_flip: bool = False

    def picture(self, pixels: Tensor) -> Tensor:
        """The placed picture: (3, h, w) uint8 in and out, bilinear with antialiasing."""
        if self.before != self.after:
            pixels = F.resize(pixels, list(self.after), interpolation=InterpolationMode.BILINEAR, antialias=True)
        return self._flip(pixels).contiguous()

    def boxes(self, boxes: Tensor) -> Tensor:
        """The placed boxes, clipped to the picture: (G, 4) float32 xyxy in and out."""
        # Wrapped, so that the flips and the clipping know what they are given.
        if self.before != self.after:
            boxes = boxes * boxes.new_tensor(
                [self.after[1] / self.before[1], self.after[0] / self.before[0]] * 2,
            )
        wrapped = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=self.after)
        return F.clamp_bounding_boxes(self._flip(wrapped)).as_subclass(Tensor)

    def masks(self, masks: Tensor) -> Tensor:
        """The placed masks: (G, h, w) bool, of ``before`` or already of ``after`` size."""
        if tuple(masks.shape[-2:]) != self.after:
            wrapped = tv_tensors.Mask(masks.to(torch.uint8))
            masks = F.resize(wrapped, list(self.after)).as_subclass(Tensor).to(torch.bool)
        return self._flip(masks).contiguous()

    def points(self, points: Tensor) -> Tensor:
        """The placed points, not clipped: (N, 2) float32 (x, y) in and out."""
        scale = points.new_tensor([self.after[1] / self.before[1], self.after[0] / self.before[0]])
        x, y = (points * scale).unbind(dim=1)
        x = self.after[1] - x if self.horizontal_flip else x
        return torch.stack([x, self.after[0] - y if self.vertical_flip else y], dim=1)

    def _flip(self, values: Tensor) -> Tensor:
        if self.horizontal_flip:
            values = F.horizontal_flip(values)
        return F.vertical_flip(values) if self.vertical_flip else values


@dataclass(frozen=True)
class Transforms:
    """What is done to the pictures of a data set.

    Parameters
    ----------
    resize
        New size, or None to keep the size of the file.
    horizontal_flip, vertical_flip
        Probabilities.

    Raises
    ------
    ValueError
        When a probability is outside of [0, 1].

    Examples
    --------
    >>> Transforms(KeepRatio(1333, (800,)), horizontal_flip=0.0).place((480, 640))
    Placement(before=(480, 640), after=(800, 1067), horizontal_flip=False, vertical_flip=False)
    """

    resize: KeepRatio | FixedSize | None = None
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.horizontal_flip <= 1 and 0 <= self.vertical_flip <= 1):
            raise ValueError(f"probabilities lie in [0, 1]: {self}")

    def place(self, size: tuple[int, int]) -> Placement:
        """Draw what happens to a picture of ``size`` (height, width), from torch's global random state."""
        # Three numbers are drawn in any case: the flips of a seed do not depend on the list of scales.
        choice, horizontal, vertical = torch.rand(3, dtype=torch.float64).tolist()
        return Placement(
            before=size,
            after=size if self.resize is None else self.resize.size(size, choice),
            horizontal_flip=horizontal < self.horizontal_flip,
            vertical_flip=vertical < self.vertical_flip,
        )
