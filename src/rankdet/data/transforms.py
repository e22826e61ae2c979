"""Geometry of training images: one placement is drawn for each sample, and image, boxes and masks follow it.

Legend: G objects of an image. Sizes are (height, width) in pixels.
"""

from dataclasses import dataclass, replace
from typing import Annotated

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F
from typing_extensions import Self

from rankdet.data.augmentation import Expansion, MinIoUCrop, PhotometricDistortion, Window, holds_center
from rankdet.ranges import Bits, Count, Fraction, NotEmpty, checked

Color = tuple[float, float, float]
"""Red, green and blue in 0 … 255."""


@checked
@dataclass(frozen=True)
class KeepRatio:
    """Resize to the largest size within the limits that keeps the ratio of the sides.

    Parameters
    ----------
    long
        Largest longer side in pixels.
    shorts
        Largest shorter side in pixels; of several, one is drawn for each training image.
    test_short
        Largest shorter side in pixels in detection; None: the last of ``shorts``.

    Raises
    ------
    ValueError
        When ``shorts`` is empty or a side is below one pixel.

    Examples
    --------
    >>> KeepRatio(1333, (800,)).size((480, 640)), KeepRatio(1333, (800,)).size((1000, 200))
    ((800, 1067), (1333, 267))
    """

    long: Count
    shorts: Annotated[tuple[Count, ...], NotEmpty()]
    test_short: Count | None = None

    def size(self, size: tuple[int, int], choice: float = 0.0) -> tuple[int, int]:
        """The new (height, width); ``choice`` in [0, 1) picks one of ``shorts``."""
        short = self.shorts[int(choice * len(self.shorts))]
        scale = min(self.long / max(size), short / min(size))
        # Very long images would otherwise lose their short side.
        return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))

    def largest(self, size: tuple[int, int]) -> tuple[int, int]:
        """The largest (height, width) that may be drawn."""
        return replace(self, shorts=(max(self.shorts),)).size(size)

    def for_detection(self) -> Self:
        """The same resizing with the one shorter side of detection."""
        return replace(self, shorts=(self.test_short or self.shorts[-1],))


@checked
@dataclass(frozen=True)
class FixedSize:
    """Resize to one size, whatever the ratio of the sides.

    Parameters
    ----------
    height
        New height in pixels.
    width
        New width in pixels.

    Raises
    ------
    ValueError
        When a side is below one pixel.
    """

    height: Count
    width: Count

    def size(self, size: tuple[int, int], choice: float = 0.0) -> tuple[int, int]:
        """The new (height, width)."""
        return self.height, self.width

    def largest(self, size: tuple[int, int]) -> tuple[int, int]:
        """The new (height, width)."""
        return self.height, self.width

    def for_detection(self) -> Self:
        """The same size."""
        return self


@dataclass(frozen=True)
class Placement:
    """What happens to one image of size ``before``: a window of it is resized to ``after``, then flipped.

    Parameters
    ----------
    before, after
        (height, width) in pixels.
    horizontal_flip, vertical_flip
        Whether the image is mirrored.
    window
        The part of the image that is shown; None: all of it.
    fill
        Color of the window where it goes beyond the image, rounded to whole numbers.
    """

    before: tuple[int, int]
    after: tuple[int, int]
    horizontal_flip: bool = False
    vertical_flip: bool = False
    window: Window | None = None
    fill: Color = (0.0, 0.0, 0.0)

    @property
    def shown(self) -> Window:
        """The part of the image that is shown, in its pixels."""
        return self.window or Window(0, 0, self.before[1], self.before[0])

    def shows(self, boxes: Tensor) -> Tensor:
        """(G,) bool: which objects (G, 4) remain: where there is a window, those whose center lies in it."""
        if self.window is None:
            return torch.ones(len(boxes), dtype=torch.bool)
        return holds_center(torch.tensor(self.window), _clipped(boxes, self.before))

    def image(self, pixels: Tensor) -> Tensor:
        """The placed image: (3, h, w) uint8 in and out, bilinear with antialiasing."""
        if self.window is not None:
            pixels = self.window.cut(pixels, torch.tensor(self.fill).round().to(pixels.dtype)[:, None, None])
        if tuple(pixels.shape[1:]) != self.after:
            pixels = F.resize(pixels, list(self.after), interpolation=InterpolationMode.BILINEAR, antialias=True)
        return self._flip(pixels).contiguous()

    def boxes(self, boxes: Tensor) -> Tensor:
        """The placed boxes, clipped to the image: (G, 4) float32 xyxy in and out."""
        if self.window is not None:
            # Clipped first: what lies beyond the image must not appear on the canvas around it.
            boxes = _clipped(boxes, self.before) - boxes.new_tensor([self.window.left, self.window.top] * 2)
        if self.shown.size != self.after:
            boxes = boxes * boxes.new_tensor(self._scale() * 2)
        # Wrapped, so that flips and clipping treat them as boxes.
        wrapped = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=self.after)
        return F.clamp_bounding_boxes(self._flip(wrapped)).as_subclass(Tensor)

    def masks(self, masks: Tensor) -> Tensor:
        """The placed masks, (G, h, w) bool, of masks of size ``before``."""
        if self.window is not None:
            masks = self.window.cut(masks, torch.tensor(False))
        if tuple(masks.shape[-2:]) != self.after:
            wrapped = tv_tensors.Mask(masks.to(torch.uint8))
            masks = F.resize(wrapped, list(self.after)).as_subclass(Tensor).to(torch.bool)
        return self.flipped(masks)

    def flipped(self, masks: Tensor) -> Tensor:
        """Flipped masks (G, h, w) of size ``after``, of masks that were rasterized from :meth:`unflipped` points."""
        return self._flip(masks).contiguous()

    def unflipped(self, points: Tensor) -> Tensor:
        """The placed points before any flip, not clipped: (N, 2) (x, y) in and out."""
        left, top, _, _ = self.shown
        return (points - points.new_tensor([left, top])) * points.new_tensor(self._scale())

    def points(self, points: Tensor) -> Tensor:
        """The placed points, not clipped: (N, 2) float32 (x, y) in and out."""
        x, y = self.unflipped(points).unbind(dim=1)
        x = self.after[1] - x if self.horizontal_flip else x
        return torch.stack([x, self.after[0] - y if self.vertical_flip else y], dim=1)

    def _scale(self) -> list[float]:
        """New by old width and height."""
        height, width = self.shown.size
        return [self.after[1] / width, self.after[0] / height]

    def _flip(self, values: Tensor) -> Tensor:
        if self.horizontal_flip:
            values = F.horizontal_flip(values)
        return F.vertical_flip(values) if self.vertical_flip else values


@checked
@dataclass(frozen=True)
class Transforms:
    """What is done to the images of a data set, in this order: colors, canvas, crop, resize, flips.

    Parameters
    ----------
    resize
        New size, or None to keep the size of the file (or of the part of it).
    horizontal_flip, vertical_flip
        Probabilities.
    distortion
        Other colors, or None.
    expansion
        A larger canvas, or None.
    crop
        A part of the image or of its canvas, or None.
    significant_bits
        How many bits gray images of 16 bits use: `rankdet.data.images.to_rgb`. Training and detection scale them alike.
    reduced_decoding
        Whether a JPEG whose sides are at least four times the new ones is decoded to a half, a quarter or an eighth of
        them, which still is twice the new ones and a whole number of pixels. Not where there is a canvas or a crop.

    Raises
    ------
    ValueError
        When a probability is outside of [0, 1], or the bits are not from 8 to 16.

    Examples
    --------
    >>> placement = Transforms(KeepRatio(1333, (800,)), horizontal_flip=0.0).place((480, 640))
    >>> placement == Placement(before=(480, 640), after=(800, 1067), horizontal_flip=False, vertical_flip=False)
    True
    """

    resize: KeepRatio | FixedSize | None = None
    horizontal_flip: Fraction = 0.0
    vertical_flip: Fraction = 0.0
    distortion: PhotometricDistortion | None = None
    expansion: Expansion | None = None
    crop: MinIoUCrop | None = None
    significant_bits: Bits = 16
    reduced_decoding: bool = False

    def decoded_size(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """The least (height, width) that an image of ``size`` may be decoded to; None: its own size.

        Examples
        --------
        >>> Transforms(FixedSize(96, 128), reduced_decoding=True).decoded_size((3000, 4000))
        (192, 256)
        """
        is_whole = self.expansion is None and self.crop is None
        if not self.reduced_decoding or self.resize is None or not is_whole:
            return None
        height, width = self.resize.largest(size)
        return 2 * height, 2 * width

    def place(self, size: tuple[int, int], boxes: Tensor | None = None) -> Placement:
        """Draw what happens to an image of ``size`` (height, width), from torch's global random state.

        Parameters
        ----------
        size
            (height, width) of the image in pixels.
        boxes
            (G, 4) boxes of its objects, xyxy in pixels, which a crop depends on; None where there are none.
        """
        # Three numbers are drawn in any case, and first: the flips of a seed depend on nothing else.
        choice, horizontal, vertical = torch.rand(3, dtype=torch.float64).tolist()
        window = self._draw_window(size, torch.zeros(0, 4) if boxes is None else boxes)
        shown = size if window is None else window.size
        return Placement(
            before=size,
            after=shown if self.resize is None else self.resize.size(shown, choice),
            horizontal_flip=horizontal < self.horizontal_flip,
            vertical_flip=vertical < self.vertical_flip,
            window=window,
            fill=(0.0, 0.0, 0.0) if self.expansion is None else self.expansion.fill,
        )

    def recolored(self, pixels: Tensor) -> Tensor:
        """The image (3, h, w), uint8 RGB, in colors drawn from torch's global random state; or as it is."""
        return pixels if self.distortion is None else self.distortion(pixels)

    def _draw_window(self, size: tuple[int, int], boxes: Tensor) -> Window | None:
        whole = Window(0, 0, size[1], size[0])
        window = whole if self.expansion is None else self.expansion.draw(size)
        if self.crop is not None:
            window = self.crop.draw(window, _clipped(boxes, size))
        return None if window == whole else window


def _clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The parts of boxes that lie in an image of ``size``."""
    wrapped = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
    return F.clamp_bounding_boxes(wrapped).as_subclass(Tensor)
