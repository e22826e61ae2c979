"""Resizing inside of a graph, as `rankdet.data.Transforms` does it in detection.

Legend: H, W height and width of the canvas in pixels, h, w those of the given image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rankdet.data.transforms import FixedSize, KeepRatio
from rankdet.exporting.graph import Graph


class Prepared(nn.Module):
    """A graph that takes one image of any size, and finds boxes in its pixels.

    Parameters
    ----------
    graph
        What detects on the canvas.
    resize
        The resizing of detection; None: none, but for images larger than the canvas.
    canvas
        (H, W): the largest size that images are resized to; what remains of it on the right and below is padding.
    """

    def __init__(self, graph: Graph, resize: KeepRatio | FixedSize | None, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.detector = graph  # a child named graph would hide that of the traced module
        self.resize, self.canvas = resize, canvas

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of `FixedDetections` of one image (h, w, 3) uint8 RGB."""
        before = torch.stack([torch.scalar_tensor(side, dtype=torch.float64) for side in image.shape[:2]])
        after = self.new_size(before)
        pixels = resized(image, before, after, self.canvas)
        boxes, scores, labels, *masks = self.detector(pixels, after.long()[None])
        factors = (before / after).flip(0).repeat(2).float()
        if not masks:
            return boxes * factors, scores, labels
        return boxes * factors, scores, labels, masks[0], masks[1] * factors

    def new_size(self, before: Tensor) -> Tensor:
        """Return height and width (2,) float64, whole numbers, that an image of size ``before`` gets.

        Examples
        --------
        >>> prepared = Prepared(Graph(nn.Identity()), KeepRatio(1333, (800,)), (800, 1333))
        >>> prepared.new_size(torch.tensor([480.0, 640.0], dtype=torch.float64))
        tensor([ 800., 1067.], dtype=torch.float64)
        """
        limits = before.new_tensor(self.canvas)
        if isinstance(self.resize, FixedSize):
            return torch.minimum(before.new_tensor([self.resize.height, self.resize.width]), limits)
        scale = (limits / before).amin(dim=0)
        if self.resize is None:
            scale = scale.clamp(max=1)
        else:
            scale = torch.minimum(scale, self.resize.long / before.amax(dim=0))
            scale = torch.minimum(scale, self.resize.for_detection().shorts[0] / before.amin(dim=0))
        return torch.minimum((before * scale + 0.5).floor().clamp(min=1), limits)


def resized(image: Tensor, before: Tensor, after: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Return an image (h, w, 3) uint8 on its canvas, (1, 3, H, W) float32, bilinear with antialiasing.

    Rows are resized first and rounded, then columns, as torch does with bytes. Its weights are rounded, too, so that
    values may differ by one.
    """
    columns = weights(image.shape[1], before[1], after[1], canvas[1])
    rows = weights(image.shape[0], before[0], after[0], canvas[0])
    wide = (image.float().permute(2, 0, 1) @ columns.T + 0.5).floor()
    return (rows @ wide + 0.5).floor().clamp(0, 255)[None]


def weights(length: int, before: Tensor, after: Tensor, canvas: int) -> Tensor:
    """Return by how much each of ``length`` pixels counts in each of ``canvas``, (canvas, length); 0 in the padding.

    ``before`` and ``after`` are the length and the new length. A new pixel is a mean under a triangle, as wide as two
    pixels of the coarser of both images.

    Examples
    --------
    >>> two, four = torch.tensor(2.0), torch.tensor(4.0)
    >>> weights(4, four, two, 3)
    tensor([[0.4286, 0.4286, 0.1429, 0.0000],
            [0.0000, 0.1429, 0.4286, 0.4286],
            [0.0000, 0.0000, 0.0000, 0.0000]])
    """
    scale = before / after
    reach = scale.clamp(min=1)
    new = torch.arange(canvas, dtype=before.dtype, device=before.device)[:, None]
    old = torch.arange(length, device=before.device).to(before.dtype)
    share = (1 - (old + 0.5 - scale * (new + 0.5)).abs() / reach).clamp(min=0)
    share = share.where(new < after, 0)
    return (share / share.sum(dim=1, keepdim=True).clamp(min=1e-6)).float()
