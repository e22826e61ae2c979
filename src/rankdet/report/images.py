"""Drawings of images with detections and objects, alone and side by side.

Legend: H, W height and width of an image in pixels, D detections, G objects.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, pad

from rankdet.report.tables import format_value
from rankdet.structures import Detection, MaskScores, MaskWindow, Target

Color = tuple[float, float, float]


class _Labeled(NamedTuple):
    """A box in pixels of the canvas, its color and its text."""

    box: list[float]
    color: Color
    text: str


_DPI = 100
_SHORTER_SIDE = 480
_LONGER_SIDE = 4096
_MASK_OPACITY = 0.4
_MOST_LABELS = 60
"""More labels would cover the objects."""
# Bright enough for photographs and distinct for color-blind eyes, in this order; more classes get hues between them.
_COLORS: tuple[Color, ...] = (
    (0.902, 0.624, 0.000),
    (0.337, 0.706, 0.914),
    (0.000, 0.780, 0.550),
    (0.941, 0.894, 0.259),
    (0.120, 0.450, 0.900),
    (0.920, 0.340, 0.100),
    (0.890, 0.480, 0.760),
)


def class_color(label: int) -> Color:
    """Return the color of a class (red, green, blue in [0, 1]), the same in every image of every run.

    Examples
    --------
    >>> class_color(0)
    (0.902, 0.624, 0.0)
    """
    if label < len(_COLORS):
        return _COLORS[label]
    hue = (label * (math.sqrt(5) - 1) / 2) % 1  # steps of the golden ratio spread any number of hues evenly
    red, green, blue = hsv_to_rgb((hue, 0.75 if label % 2 else 0.5, 0.95)).tolist()
    return red, green, blue


def draw_detections(
    pixels: Tensor, detection: Detection | None, class_names: Sequence[str], targets: Target | None = None
) -> Tensor:
    """Draw boxes with class and score, and optionally the true objects, on an image.

    A detection is a solid box in the color of its class under a label; the best score lies on top. An object is a
    dashed white box; without detections (``detection`` None) it is drawn like a detection, with its name. Masks are
    tinted and outlined. More than 60 detections have no labels, which would cover them. Small images are enlarged to a
    shorter side of 480 pixels, or a longer one of 4096, so that labels are legible.

    Parameters
    ----------
    pixels
        (3, H, W) uint8 RGB.
    detection
        Boxes in pixels of this image; all are drawn, so leave out those below your threshold.
    class_names
        Name of each label.
    targets
        Objects of this image.

    Returns
    -------
    Tensor
        (3, H', W') uint8; H' = H and W' = W if the shorter side has 480 pixels or more, or the longer one 4096.

    Raises
    ------
    ValueError
        When ``pixels`` is not a uint8 image.
    """
    _check_image(pixels)
    scale = max(1.0, min(_SHORTER_SIDE / min(pixels.shape[1:]), _LONGER_SIDE / max(pixels.shape[1:])))
    canvas = _enlarged(pixels.cpu(), scale)
    height, width = canvas.shape[1:]
    # Everything drawn grows with the image, so that it looks the same when a page shows images at one width.
    unit = max(1.0, min(height, width) / 720)
    canvas = _tinted(canvas, _masks_to_draw(detection, targets, (height, width), scale), round(unit))
    figure, axes = _pixel_axes(width, height)
    figure.figimage(canvas.permute(1, 2, 0).numpy(), resize=False, zorder=-1)
    if targets is not None and detection is not None:
        for box in (targets.boxes.cpu() * scale).tolist():
            _draw_box(axes, box, "black", 2.2 * unit, alpha=0.35)
            _draw_box(axes, box, "white", 1.2 * unit, dashes=(0, (4, 3)))
    labeled: list[_Labeled] = []
    if detection is not None:
        order = torch.argsort(detection.scores.cpu(), stable=True)
        boxes, scores = (detection.boxes.cpu() * scale)[order].tolist(), detection.scores.cpu()[order].tolist()
        labels = detection.labels.cpu()[order].tolist()
        labeled = [
            _Labeled(box, class_color(label), f"{format_value(class_names[label])} {score:.2f}")
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]
    elif targets is not None:
        boxes, labels = (targets.boxes.cpu() * scale).tolist(), targets.labels.tolist()
        labeled = [
            _Labeled(box, class_color(label), format_value(class_names[label]))
            for box, label in zip(boxes, labels, strict=True)
        ]
    for item in labeled:
        _draw_box(axes, item.box, "black", 2.6 * unit, alpha=0.35)
        _draw_box(axes, item.box, item.color, 1.4 * unit)
    if len(labeled) <= _MOST_LABELS:
        _draw_labels(axes, labeled, unit, width, height)
    return _rendered(figure)


def draw_grid(images: Sequence[Tensor], captions: Sequence[str], columns: int | None = None) -> Tensor:
    """Lay images side by side on white, each under its caption.

    Parameters
    ----------
    images
        (3, H, W) uint8 each, row by row; a smaller one is centered in its cell.
    captions
        One caption for each image; a row whose captions are all empty has no space for them.
    columns
        Number of images in a row; None: all in one row.

    Returns
    -------
    Tensor
        (3, H', W') uint8.

    Raises
    ------
    ValueError
        When there are no images, or another number of captions.
    """
    if not images or len(images) != len(captions):
        raise ValueError(f"{len(images)} images and {len(captions)} captions: need as many of both, at least one")
    for image in images:
        _check_image(image)
    columns = columns or len(images)
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    cell_height, cell_width = (max(image.shape[side] for image in images) for side in (1, 2))
    gap = max(4, cell_width // 40)
    caption_height = max(28, cell_width // 14)
    width = columns * (cell_width + gap) + gap
    tops, top = [], gap
    for row in rows:
        top += caption_height if any(captions[i] for i in row) else 0
        tops.append(top)
        top += cell_height + gap
    grid = torch.full((3, top, width), 255, dtype=torch.uint8)
    figure, axes = _pixel_axes(width, top)
    for row, top in zip(rows, tops, strict=True):
        for column, i in enumerate(row):
            image = images[i].cpu()
            left = gap + column * (cell_width + gap)
            x, y = left + (cell_width - image.shape[2]) // 2, top + (cell_height - image.shape[1]) // 2
            grid[:, y : y + image.shape[1], x : x + image.shape[2]] = image
            axes.text(
                left + cell_width / 2,
                top - caption_height * 0.45,
                captions[i],
                ha="center",
                va="center",
                fontsize=caption_height * 0.5 * 72 / _DPI,
                color="#222222",
                parse_math=False,
            )
    figure.figimage(grid.permute(1, 2, 0).numpy(), resize=False, zorder=-1)
    return _rendered(figure)


def write_image(path: str | PathLike[str], image: Tensor) -> None:
    """Write a (3, H, W) uint8 image; the suffix of ``path`` (.png, .jpg) determines the format."""
    _check_image(image)
    imsave(path, np.ascontiguousarray(image.cpu().permute(1, 2, 0).numpy()))


def _check_image(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or image.numel() == 0:
        raise ValueError(f"an image is (3, H, W) uint8, not {tuple(image.shape)} {image.dtype}")


def _enlarged(pixels: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return pixels
    size = [round(side * scale) for side in pixels.shape[1:]]
    return interpolate(pixels[None].float(), size, mode="bicubic").round().clamp(0, 255).to(torch.uint8)[0]


def _masks_to_draw(
    detection: Detection | None, targets: Target | None, size: tuple[int, int], scale: float
) -> Iterator[tuple[MaskWindow, Color]]:
    """Yield masks in pixels of a canvas of ``size``, ``scale`` times the image, with the colors of their classes."""
    if detection is not None:
        if detection.masks is not None:
            order = torch.argsort(detection.scores.cpu(), stable=True)
            masks = detection.masks.to("cpu").select(order)
            masks = MaskScores(masks.scores, masks.regions * scale)
            colors = [class_color(label) for label in detection.labels.cpu()[order].tolist()]
            yield from zip(masks.windows(size), colors, strict=True)
    elif targets is not None and isinstance(targets.masks, Tensor):
        for mask, label in zip(targets.masks.cpu(), targets.labels.tolist(), strict=True):
            yield MaskWindow(0, 0, interpolate(mask[None, None].float(), size)[0, 0] > 0), class_color(label)


def _tinted(canvas: Tensor, masks: Iterable[tuple[MaskWindow, Color]], line: int) -> Tensor:
    """Return a copy of the canvas with masks in their colors, and their outlines, ``line`` pixels wide."""
    tinted = canvas.clone()
    for (top, left, inside), color in masks:
        if not inside.any():
            continue
        part = tinted[:, top : top + inside.shape[0], left : left + inside.shape[1]]
        tint = 255 * torch.tensor(color)[:, None, None]
        # Beyond the window is also outside of the mask.
        outside = pad(1 - inside[None].float(), (line,) * 4, value=1.0)
        is_outline = max_pool2d(outside, 2 * line + 1, stride=1)[0] > 0
        blended = torch.where(is_outline, tint, part + _MASK_OPACITY * (tint - part))
        part.copy_(torch.where(inside, blended, part).round())
    return tinted


def _pixel_axes(width: int, height: int) -> tuple[Figure, Axes]:
    """Return a figure of exactly this size whose axes count pixels from the top left corner."""
    # A tenth of a pixel more, because the canvas size is cut, not rounded, to whole pixels.
    figure = Figure(figsize=((width + 0.1) / _DPI, (height + 0.1) / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    return figure, axes


def _rendered(figure: Figure) -> Tensor:
    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        raise TypeError("images are drawn by the Agg canvas")
    canvas.draw()
    return torch.from_numpy(np.array(canvas.buffer_rgba())[..., :3]).permute(2, 0, 1).contiguous()


def _draw_box(
    axes: Axes,
    box: Sequence[float],
    color: str | Color,
    width: float,
    dashes: tuple[int, tuple[int, ...]] | str = "-",
    alpha: float = 1.0,
) -> None:
    axes.add_patch(
        Rectangle(
            (box[0], box[1]),
            box[2] - box[0],
            box[3] - box[1],
            fill=False,
            edgecolor=color,
            linewidth=width,
            linestyle=dashes,
            alpha=alpha,
            joinstyle="miter",
        )
    )


def _draw_labels(axes: Axes, labeled: Sequence[_Labeled], unit: float, width: int, height: int) -> None:
    """Write the labels, the last first: each takes the first place at its box that is free and inside the image."""
    size = 8.5 * unit
    letter, line = size * _DPI / 72 * 0.66, size * _DPI / 72 * 1.45
    taken: list[tuple[float, float, float, float]] = []
    for rank, (box, color, text) in enumerate(reversed(labeled)):
        span = len(text) * letter + 4 * unit
        left, right = max(box[0], 0), min(box[2], width) - span
        above, below = box[1] - line, min(box[3], height)
        inside_top, inside_bottom = max(box[1], 0), below - line
        places = [(x, y) for y in (above, below, inside_top, inside_bottom) for x in (left, right)]
        inside = [(x, y) for x, y in places if 0 <= x <= width - span and 0 <= y <= height - line]
        free = [
            (x, y)
            for x, y in inside
            if all(x + span <= x1 or x >= x2 or y + line <= y1 or y >= y2 for x1, y1, x2, y2 in taken)
        ]
        x, y = (free or inside or [(min(left, max(0, width - span)), inside_top)])[0]
        taken.append((x, y, x + span, y + line))
        luminance = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        axes.text(
            x + 2 * unit,
            y + line / 2,
            text,
            fontsize=size,
            color="black" if luminance > 0.5 else "white",
            ha="left",
            va="center_baseline",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2 * unit, "alpha": 0.9},
            parse_math=False,
            zorder=1000 - rank,  # where nothing is free, the best score stays legible
        )
