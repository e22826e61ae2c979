"""Boxes as a network regresses them: shifts and log-scales relative to a reference box (Girshick et al., 2014)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rankdet.ranges import Positive, checked

LARGEST_LOG_SCALE = abs(math.log(16 / 1000))
"""A decoded box is at most 62.5 times as large as its anchor and at least 1 / 62.5 times, in each direction."""


@checked
@dataclass(frozen=True)
class BoxCoder:
    r"""Coder of boxes as deltas from anchors, and back.

    .. math:: \Delta = \left(\frac{x - x_a}{w_a}, \frac{y - y_a}{h_a}, \ln\frac{w}{w_a}, \ln\frac{h}{h_a}\right) / stds

    with centers (x, y).

    Parameters
    ----------
    stds
        Divisors of the four deltas: 1 in the RPN of the standard form, (0.1, 0.1, 0.2, 0.2) elsewhere.

    Examples
    --------
    :meth:`decode` is the inverse of :meth:`encode`:

    >>> coder = BoxCoder((0.1, 0.1, 0.2, 0.2))
    >>> anchors = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    >>> boxes = torch.tensor([[2.0, 0.0, 10.0, 16.0]])
    >>> coder.encode(boxes, anchors)
    tensor([[2.5000, 5.0000, 0.0000, 3.4657]])
    >>> coder.decode(coder.encode(boxes, anchors), anchors)
    tensor([[ 2.,  0., 10., 16.]])
    """

    stds: tuple[Positive, Positive, Positive, Positive] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Return deltas (…, 4) of boxes relative to anchors, both (…, 4) xyxy with positive sides."""
        x, y, width, height = _centers_and_sizes(boxes.float())
        anchor_x, anchor_y, anchor_width, anchor_height = _centers_and_sizes(anchors.float())
        deltas = (
            (x - anchor_x) / anchor_width / self.stds[0],
            (y - anchor_y) / anchor_height / self.stds[1],
            torch.log(width / anchor_width) / self.stds[2],
            torch.log(height / anchor_height) / self.stds[3],
        )
        return torch.stack(deltas, dim=-1)

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Return boxes (…, 4) in float32, not clipped to any image. Log-scales are clamped to ±ln(1000 / 16)."""
        shift_x, shift_y, log_width, log_height = deltas.float().unbind(dim=-1)
        anchor_x, anchor_y, anchor_width, anchor_height = _centers_and_sizes(anchors.float())
        x = anchor_x + shift_x * self.stds[0] * anchor_width
        y = anchor_y + shift_y * self.stds[1] * anchor_height
        largest = LARGEST_LOG_SCALE
        width = anchor_width * torch.exp((log_width * self.stds[2]).clamp(-largest, largest))
        height = anchor_height * torch.exp((log_height * self.stds[3]).clamp(-largest, largest))
        return torch.stack((x - width / 2, y - height / 2, x + width / 2, y + height / 2), dim=-1)

    def limited(self, deltas: Tensor) -> Tensor:
        """Return which boxes (…,) bool are decoded at a clamp, in width or height: there deltas have no gradient.

        Examples
        --------
        >>> BoxCoder().limited(torch.tensor([[0.0, 0.0, 5.0, 0.0], [9.0, 0.0, 0.0, 0.0]]))
        tensor([ True, False])
        """
        # Standard deviations as numbers: a tensor of them would make the host wait for a GPU.
        log_width, log_height = deltas[..., 2:].detach().float().unbind(dim=-1)
        is_limited_in_width = (log_width * self.stds[2]).abs() > LARGEST_LOG_SCALE
        return is_limited_in_width | ((log_height * self.stds[3]).abs() > LARGEST_LOG_SCALE)


def _centers_and_sizes(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, top, right, bottom = boxes.unbind(dim=-1)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
