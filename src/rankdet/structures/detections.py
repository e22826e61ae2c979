"""Detections of an image.

Legend: D detections, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import Self

from rankdet.structures.masks import MaskScores


@dataclass(frozen=True)
class Detection:
    """Detections of one image, best score first.

    Parameters
    ----------
    boxes
        (D, 4) xyxy in pixels of the image as it entered the detector, clipped to it.
    scores
        (D,) in [0, 1]. The scores of a ranking loss order detections; they are no probabilities.
    labels
        (D,) int64 in 0 … C−1.
    masks
        Masks of the D detections; None from a detector of boxes alone.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: MaskScores | None = None

    def select(self, rows: Tensor) -> Self:
        """Return some of the detections, by index or bool mask."""
        masks = None if self.masks is None else self.masks.select(rows)
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows], masks=masks)

    def scaled(self, from_size: tuple[int, int], to_size: tuple[int, int]) -> Self:
        """Return the same detections in an image of another size; sizes are (height, width).

        Examples
        --------
        >>> import torch
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
        >>> found = Detection(boxes, torch.tensor([0.9]), torch.tensor([1]))
        >>> found.scaled((20, 10), (40, 30)).boxes
        tensor([[ 0.,  0., 30., 40.]])
        """
        height, width = to_size[0] / from_size[0], to_size[1] / from_size[1]
        factors = self.boxes.new_tensor([width, height, width, height])
        masks = None if self.masks is None else replace(self.masks, regions=self.masks.regions * factors)
        return replace(self, boxes=self.boxes * factors, masks=masks)

    def shifted(self, right: float, down: float) -> Self:
        """Return the same detections in an image that begins so many pixels further left and up.

        Examples
        --------
        >>> import torch
        >>> found = Detection(torch.tensor([[0.0, 0.0, 10.0, 20.0]]), torch.tensor([0.9]), torch.tensor([1]))
        >>> found.shifted(100, 5).boxes
        tensor([[100.,   5., 110.,  25.]])
        """
        offset = self.boxes.new_tensor([right, down, right, down])
        masks = None if self.masks is None else replace(self.masks, regions=self.masks.regions + offset)
        return replace(self, boxes=self.boxes + offset, masks=masks)
