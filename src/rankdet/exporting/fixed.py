"""Detection in tensors whose shapes are known beforehand, as a graph without Python needs it.

What a detector chooses has another length in each image. Here it has always the greatest one: rows that are none come
last, with a score of 0. Nothing else differs from `detect` of the detectors.

Legend: B images, H, W height and width of the canvas in pixels, M places of an image, N candidates, G groups, D
detections of an image, h, w cells of a mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.ops import nms
from typing_extensions import Self

from rankdet.backbones import PixelNormalization

CANDIDATES = 4096
"""Most pairs of box and class that non-maximum suppression compares: those that score highest."""
DIVISOR = 32
"""Images are padded to multiples of so many pixels, as in batches of `rankdet.data`."""
COLUMNS = 4
"""Images of a batch that lie beside each other while boxes are compared."""
NEVER = -1e30
"""Stands for the score of what is none."""
OUTSIDE = [[-2.0, 0.0, -1.0, 1.0], [-4.0, 0.0, -3.0, 1.0]]
"""Two boxes that overlap neither each other nor any in an image."""


@dataclass(frozen=True)
class FixedImages:
    """Images of a batch whose sizes are numbers of the graph.

    Parameters
    ----------
    pixels
        (B, 3, H, W) uint8 RGB, each image in the upper left corner of the canvas.
    sizes
        (B, 2) int64: height and width in pixels of the part that is not padding.
    """

    pixels: Tensor
    sizes: Tensor

    def padded(self) -> Self:
        """Return the images on a canvas whose sides are multiples of 32 pixels."""
        height, width = self.pixels.shape[-2:]
        return type(self)(pad(self.pixels, (0, -width % DIVISOR, 0, -height % DIVISOR)), self.sizes)

    def limits(self) -> Tensor:
        """Return width, height, width, height of each image, (B, 1, 4) float32."""
        return self.sizes.flip(1).repeat(1, 2)[:, None].float()


class FixedDetections(NamedTuple):
    """The D best detections of each image, best score first; rows of score 0 are none.

    Parameters
    ----------
    boxes
        (B, D, 4) float32, xyxy in pixels of the canvas, clipped to the image.
    scores
        (B, D) float32.
    labels
        (B, D) int64.
    masks
        (B, D, h, w) float32: scores of a small grid for each detection; None from a detector of boxes alone.
    regions
        (B, D, 4) float32: the rectangle that each grid covers, xyxy in pixels of the canvas; None likewise.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None
    regions: Tensor | None = None


class FixedNormalization(nn.Module):
    """`PixelNormalization` of images whose sizes are numbers of the graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalization: PixelNormalization) -> None:
        super().__init__()
        self.register_buffer("mean", normalization.mean)
        self.register_buffer("std", normalization.std)

    def forward(self, images: FixedImages) -> Tensor:
        """Return the normalized pixels, (B, 3, H, W) float32, with zeros in the padding."""
        height, width = images.pixels.shape[-2:]
        inside = cells_inside((height, width), images.sizes)
        return ((images.pixels.float() - self.mean) / self.std) * inside[:, None]


def cells_inside(shape: tuple[int, int], ends: Tensor) -> Tensor:
    """Return which cells of a map (height, width) lie before the ends (B, 2) of rows and columns, (B, H, W) bool.

    Examples
    --------
    >>> cells_inside((1, 3), torch.tensor([[1, 2]]))
    tensor([[[ True,  True, False]]])
    """
    rows, columns = (torch.arange(cells, device=ends.device) < ends[:, axis, None] for axis, cells in enumerate(shape))
    return rows[:, :, None] & columns[:, None]


def clipped(boxes: Tensor, images: FixedImages) -> Tensor:
    """Return boxes (B, …, 4), clipped to their images."""
    limits = images.limits().view(-1, *[1] * (boxes.ndim - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def best(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the ``number`` highest of scores (B, M) and their places, as many in every image; what lacks is −∞.

    Fewer remain where it is known beforehand that there are fewer.

    Examples
    --------
    >>> best(torch.tensor([[0.1, 0.7, 0.2]]), 2)
    (tensor([[0.7000, 0.2000]]), tensor([[1, 2]]))
    """
    places = scores.shape[1]
    if isinstance(places, int):
        values, rows = scores.topk(min(number, places))
        return values, rows
    values, rows = pad(scores, (0, number), value=-torch.inf).topk(number)
    return values, rows.clamp(max=places - 1)


def rows_of(values: Tensor, rows: Tensor) -> Tensor:
    """Return the values (B, N, …) of rows (B, N) among values (B, M, …)."""
    index = rows.view(*rows.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
    return values.gather(1, index)


def not_suppressed(
    boxes: Tensor, scores: Tensor, groups: Tensor, alive: Tensor, images: FixedImages, *, num_groups: int, iou: float
) -> Tensor:
    """Return which boxes no better box of their image and group overlaps by more than ``iou``, (B, N) bool.

    Boxes (B, N, 4), clipped to their images, scores (B, N), groups (B, N) and ``alive`` (B, N): others neither remain
    nor suppress. Each group of each image is moved to a place of its own, so that one suppression serves all. Places
    lie in rows and columns: the farther away they are, the coarser float32 is, and ONNX has no other type for this.
    """
    side = math.isqrt(num_groups - 1) + 1
    num_images, num_boxes = scores.shape
    image = torch.arange(num_images, device=boxes.device)[:, None]
    columns = image % COLUMNS * side + groups % side
    rows = image // COLUMNS * side + groups // side
    offsets = torch.stack([columns, rows, columns, rows], dim=2) * (images.sizes.flatten().amax(dim=0) + 1)
    # All that are not alive become one box, the first of which suppresses the others: that is quick.
    first, second = boxes.new_tensor(OUTSIDE)
    placed = (boxes + offsets).where(alive[..., None], first).flatten(0, 1)
    values = scores.where(alive, NEVER).flatten()
    # Two boxes that always remain: torch.export takes it for granted that at least two do.
    placed, values = torch.cat([placed, torch.stack([first, second])]), pad(values, (0, 2), value=NEVER)
    is_kept = torch.zeros_like(values).index_put((nms(placed, values, iou),), values.new_ones(()))
    return (is_kept[: num_images * num_boxes].view(num_images, num_boxes) > 0) & alive


def select(
    boxes: Tensor, scores: Tensor, images: FixedImages, *, threshold: float, iou: float, limit: int
) -> FixedDetections:
    """Return the best pairs of box and class, as `rankdet.heads.select_detections` does, among `CANDIDATES` at most.

    Boxes (B, N, C, 4), or (B, N, 1, 4), one for all classes, are clipped to their images; scores are (B, N, C).
    """
    num_classes = scores.shape[2]
    pairs = scores.flatten(1)
    values, places = best(pairs.where(pairs > threshold, 0), CANDIDATES)
    labels = places % num_classes
    of_pairs = boxes.flatten(1, 2)
    candidates = rows_of(of_pairs, places if boxes.shape[2] == num_classes else places // num_classes)
    kept = not_suppressed(candidates, values, labels, values > 0, images, num_groups=num_classes, iou=iou)
    found, rows = best(values.where(kept, 0), limit)
    return FixedDetections(rows_of(candidates, rows), found, labels.gather(1, rows))
