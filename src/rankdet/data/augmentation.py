"""Augmentation of training images as in SSD (Liu et al., ECCV 2016, arXiv:1512.02325): colors, zoom out, crop.

Legend: G objects of an image, T trials. Everything is drawn from torch's global random state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.transforms.v2 import RandomZoomOut
from torchvision.transforms.v2 import functional as F

Range = tuple[float, float]


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
        """(n, height, width) what the window shows of (n, h, w) values: ``fill``, (n, 1, 1) or (), beyond them."""
        shown = fill.expand(len(values), *self.size).clone()
        left, top = max(self.left, 0), max(self.top, 0)
        right, bottom = min(self.right, values.shape[2]), min(self.bottom, values.shape[1])
        if left < right and top < bottom:
            place = shown[:, top - self.top : bottom - self.top, left - self.left : right - self.left]
            place.copy_(values[:, top:bottom, left:right])
        return shown


@dataclass(frozen=True)
class Expansion:
    """Put the image somewhere on a larger canvas: objects become smaller.

    Parameters
    ----------
    probability
        How often.
    ratios
        Smallest and largest side of the canvas, in sides of the image; both sides grow alike.

    Raises
    ------
    ValueError
        When the probability is outside of [0, 1] or a ratio is below 1.

    Notes
    -----
    torchvision's ``RandomZoomOut`` draws the canvas.
    """

    probability: float = 0.5
    ratios: Range = (1.0, 4.0)

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1 or not 1 <= self.ratios[0] <= self.ratios[1]:
            raise ValueError(f"a probability lies in [0, 1], and a canvas is no smaller than its image: {self}")

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


@dataclass(frozen=True)
class MinIoUCrop:
    """Cut out a part that overlaps every object enough, for one of several ideas of enough.

    One of ``ious``, or to leave everything as it is, is drawn, then up to ``trials`` parts until one is fine: its IoU
    with the box of every object is at least the number drawn, and the center of some object lies in it. If none is,
    all is drawn anew. Objects whose centers lie outside of the part are no longer there (:func:`holds_center`).

    Parameters
    ----------
    ious
        What may be asked of the IoU of the part with the box of each object.
    shortest
        Shortest side of a part, in sides of what it is cut from.
    aspects
        Smallest and largest ratio of height to width.
    trials
        T, parts that are drawn for one number.

    Raises
    ------
    ValueError
        When there is nothing to draw, or a number is out of its range.

    Notes
    -----
    Differs from torchvision's ``RandomIoUCrop``, in which it is enough that one object overlaps the part: here all
    must, as in the published code of YOLACT and aLRP Loss.
    """

    ious: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0)
    shortest: float = 0.3
    aspects: Range = (0.5, 2.0)
    trials: int = 50

    def __post_init__(self) -> None:
        is_sound = all(0 <= iou < 1 for iou in self.ious) and 0 < self.shortest <= 1 and self.trials >= 1
        if not is_sound or not 0 < self.aspects[0] <= self.aspects[1]:
            raise ValueError(f"IoUs lie in [0, 1), sides in (0, 1], and aspects ascend from above 0: {self}")

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


@dataclass(frozen=True)
class PhotometricDistortion:
    """Change the colors of an image, each in one of two images: brightness, contrast, saturation, hue, channels.

    Parameters
    ----------
    brightness
        Largest change of all values, which lie in 0 … 255.
    contrast
        Smallest and largest factor of all values; it comes before saturation and hue, or after.
    saturation
        Smallest and largest factor of the saturation (of hue, saturation and value).
    hue
        Largest turn of the hue, in degrees.

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

    brightness: float = 32.0
    contrast: Range = (0.5, 1.5)
    saturation: Range = (0.5, 1.5)
    hue: float = 18.0

    def __post_init__(self) -> None:
        are_ordered = all(0 <= low <= high for low, high in (self.contrast, self.saturation))
        if not are_ordered or self.brightness < 0 or not 0 <= self.hue <= 180:
            raise ValueError(f"factors ascend from 0, brightness is not negative and hue in 0 … 180: {self}")

    def __call__(self, pixels: Tensor) -> Tensor:
        """The image (3, h, w), uint8 RGB, in other colors."""
        # All is drawn in any case, so that one part of a seed does not depend on another.
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


def _between(limits: Range, share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share
