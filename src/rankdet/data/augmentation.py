"""Augmentation of training images as in SSD (Liu et al., ECCV 2016, arXiv:1512.02325): colors, zoom out, crop.

Legend: G objects of an image, T trials. Everything is drawn from torch's global random state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import RandomZoomOut
from torchvision.transforms.v2 import functional as F

from rankdet.ranges import Ascending, Byte, Count, Fraction, NonNegative, Positive, Range, checked


class Window(NamedTuple):
    """The part of the plane that is shown, in pixels of an image; it may go beyond the image or lie inside of it.

    Examples
    --------
    >>> Window(-1, 0, 2, 1).cut(torch.tensor([[[5, 6, 7], [8, 9, 9]]]), torch.tensor(0))
    tensor([[[0, 5, 6]]])
    """

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.bottom - self.top, self.right - self.left

    def cut(self, values: Tensor, fill: Tensor) -> Tensor:
        """What the window shows of (n, h, w) values, as (n, height, width); ``fill``, (n, 1, 1) or (), beyond them."""
        shown = fill.expand(len(values), *self.size).clone()
        left, top = max(self.left, 0), max(self.top, 0)
        right, bottom = min(self.right, values.shape[2]), min(self.bottom, values.shape[1])
        if left < right and top < bottom:
            place = shown[:, top - self.top : bottom - self.top, left - self.left : right - self.left]
            place.copy_(values[:, top:bottom, left:right])
        return shown


@checked
@dataclass(frozen=True)
class Expansion:
    """Put the image somewhere on a larger canvas, so that objects become smaller.

    Parameters
    ----------
    fill
        Color of the canvas (0–255): the mean that the backbone subtracts.
    probability
        Probability of a canvas.
    ratios
        Smallest and largest side of the canvas, in sides of the image; both sides grow alike.

    Raises
    ------
    ValueError
        When a number is out of its range.

    Notes
    -----
    torchvision's ``RandomZoomOut`` draws the canvas.
    """

    fill: tuple[Byte, Byte, Byte]
    probability: Fraction = 0.5
    ratios: Annotated[tuple[Annotated[float, Range(ge=1)], Annotated[float, Range(ge=1)]], Ascending()] = (1.0, 4.0)

    def draw(self, size: tuple[int, int]) -> Window:
        """The canvas around an image of ``size`` (height, width), or the image itself."""
        height, width = size
        is_drawn = bool(torch.rand(()) < self.probability)
        if not is_drawn:
            return Window(0, 0, width, height)
        # An image without memory: torchvision looks at its size alone.
        image = torch.empty(()).expand(3, height, width)
        left, top, right, bottom = RandomZoomOut(side_range=self.ratios).make_params([image])["padding"]
        return Window(-left, -top, width + right, height + bottom)


@checked
@dataclass(frozen=True)
class MinIoUCrop:
    """Cut out a part of the image or of its canvas that overlaps the box of every object enough.

    A minimum IoU is drawn from ``ious``, or the choice to keep everything. Then up to ``trials`` parts are drawn until
    one fits: its IoU with the box of every object reaches the minimum, and the center of some object lies in it. If
    none fits, a minimum is drawn anew. Objects whose centers lie outside of the part are left out
    (:func:`holds_center`).

    Parameters
    ----------
    ious
        Minimum IoUs of the part with the box of each object, in [0, 1).
    shortest
        Shortest side of a part, as a fraction of the side that it is cut from.
    aspects
        Smallest and largest ratio of height to width.
    trials
        T, the parts that are drawn for one minimum IoU.

    Raises
    ------
    ValueError
        When a number is out of its range.

    Notes
    -----
    Differs from torchvision's ``RandomIoUCrop``, in which it is enough that one object overlaps the part: here all
    must, as in the published code of YOLACT and aLRP Loss.
    """

    ious: tuple[Annotated[float, Range(ge=0, lt=1)], ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
    shortest: Annotated[float, Range(gt=0, le=1)] = 0.3
    aspects: Annotated[tuple[Positive, Positive], Ascending()] = (0.5, 2.0)
    trials: Count = 50

    def draw(self, window: Window, boxes: Tensor) -> Window:
        """A part of ``window``, or all of it, for the boxes (G, 4) of an image, xyxy in the same pixels."""
        while True:
            choice = int(torch.randint(len(self.ious) + 1, ()))
            if choice == len(self.ious):
                return window
            parts = self._draw_parts(window)
            sides = parts[:, 2:] - parts[:, :2]
            is_fine = (sides >= 1).all(dim=1)
            if len(boxes):
                iou = box_iou(parts.float(), boxes.float())
                is_fine &= (iou.amin(dim=1) >= self.ious[choice]) & holds_center(parts[:, None], boxes).any(dim=1)
            if bool(is_fine.any()):
                left, top, right, bottom = parts[int(is_fine.int().argmax())].tolist()
                return Window(left, top, right, bottom)

    def _draw_parts(self, window: Window) -> Tensor:
        """(T or fewer, 4) int64 parts of a window that have one of the aspects, or one that is empty."""
        height, width = window.size
        limits = torch.tensor([width, height], dtype=torch.float64)
        drawn = torch.rand(self.trials, 4, dtype=torch.float64)
        sides = limits * (self.shortest + (1 - self.shortest) * drawn[:, :2])
        aspects = sides[:, 1] / sides[:, 0]
        corners = (limits - sides) * drawn[:, 2:]
        parts = torch.cat([corners.long(), (corners + sides).long()], dim=1)
        parts += torch.tensor([window.left, window.top] * 2)
        parts = parts[(self.aspects[0] <= aspects) & (aspects <= self.aspects[1])]
        return parts if len(parts) else torch.zeros(1, 4, dtype=torch.int64)


def holds_center(windows: Tensor, boxes: Tensor) -> Tensor:
    """Which boxes (G, 4) have their center strictly inside of windows (…, 4): (…, G) bool.

    Examples
    --------
    >>> holds_center(torch.tensor([0, 0, 4, 4]), torch.tensor([[1.0, 1, 5, 5], [3, 3, 7, 7]]))
    tensor([ True, False])
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((windows[..., :2] < centers) & (centers < windows[..., 2:])).all(dim=-1)


@checked
@dataclass(frozen=True)
class PhotometricDistortion:
    """Change the colors of an image: brightness, contrast, saturation, hue, order of the channels, each in one of two.

    Parameters
    ----------
    brightness
        Largest change of all values, which lie in 0 … 255.
    contrast
        Smallest and largest factor of all values, applied before saturation and hue, or after them.
    saturation
        Smallest and largest factor of the saturation (of hue, saturation and value).
    hue
        Largest rotation of the hue, in degrees from 0 to 180.

    Raises
    ------
    ValueError
        When a number is out of its range.

    Notes
    -----
    Hue and the order of the channels are changed by torchvision. Differs from its ``RandomPhotometricDistort``, as the
    published code of YOLACT does: there brightness is a factor, contrast is the distance to the mean gray, saturation
    that to the gray of a pixel. Differs from that code: values are cut off at 0 and 255.
    """

    brightness: NonNegative = 32.0
    contrast: Annotated[tuple[NonNegative, NonNegative], Ascending()] = (0.5, 1.5)
    saturation: Annotated[tuple[NonNegative, NonNegative], Ascending()] = (0.5, 1.5)
    hue: Annotated[float, Range(ge=0, le=180)] = 18.0

    def __call__(self, pixels: Tensor) -> Tensor:
        """The image (3, h, w), uint8 RGB, in other colors."""
        # Everything is drawn in any case, so that one change of color does not depend on another.
        is_done = (torch.rand(5) < 0.5).tolist()
        is_contrast_first = bool(torch.rand(()) < 0.5)
        brightness, contrast, saturation, hue = torch.rand(4, dtype=torch.float64).tolist()
        order = torch.randperm(3)
        values = pixels.float()
        if is_done[0]:
            values += self.brightness * (2 * brightness - 1)
        if is_done[1] and is_contrast_first:
            values *= _between(self.contrast, contrast)
        values.clamp_(0, 255)
        if is_done[2]:
            # The value is the largest channel, the saturation the distance to the smallest as a part of it.
            value = values.amax(dim=0)
            values = (value - (value - values) * _between(self.saturation, saturation)).clamp_(min=0)
        if is_done[3]:
            values = F.adjust_hue(values / 255, self.hue / 360 * (2 * hue - 1)) * 255
        if is_done[1] and not is_contrast_first:
            values *= _between(self.contrast, contrast)
        if is_done[4]:
            values = F.permute_channels(values, order.tolist())
        return values.round_().clamp_(0, 255).to(torch.uint8)


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share
