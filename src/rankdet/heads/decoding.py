"""Anchors and deltas → boxes: those of positives beside their objects, those of the anchors that score highest.

Legend: B images, L levels, M anchors of an image, P positives, K anchors taken from an image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdet.heads.box_coding import BoxCoder
from rankdet.label_assignment import PyramidAnchors
from rankdet.structures import Matched


def matched_boxes(deltas: Tensor, anchors: Tensor, objects: Tensor, coder: BoxCoder) -> tuple[Matched, Matched]:
    """Return the boxes of positives with those of their objects, decoded, and the same pairs as deltas; all in float32.

    The deltas (P, 4) that are predicted for the positives are relative to anchors or RoIs (P, 4).

    Examples
    --------
    >>> anchors, objects = torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[1.0, 0.0, 5.0, 4.0]])
    >>> boxes, deltas = matched_boxes(torch.zeros(1, 4), anchors, objects, BoxCoder())
    >>> boxes.predicted, deltas.target
    (tensor([[0., 0., 4., 4.]]), tensor([[0.2500, 0.0000, 0.0000, 0.0000]]))
    """
    deltas = deltas.float()
    return Matched(coder.decode(deltas, anchors), objects), Matched(deltas, coder.encode(objects, anchors))


def best_anchors(scores: Tensor, anchors: PyramidAnchors, per_level: int) -> tuple[Tensor, Tensor | None]:
    """Return the rows (B, K) int64 of the anchors of each level that score highest, at most ``per_level`` of each.

    Scores or logits are (B, M). Anchors in the padding come last. The second value, (B, K) bool, is False for these;
    None where an image has no padding.
    """
    is_valid = None
    if any(valid is not None for valid in anchors.valid):
        everywhere = torch.ones_like(scores[0], dtype=torch.bool)
        is_valid = torch.stack([everywhere if valid is None else valid for valid in anchors.valid])
        scores = scores.where(is_valid, -torch.inf)
    best, start = [], 0
    for level in scores.split(anchors.num_per_level, dim=1):
        best.append(level.topk(min(per_level, level.shape[1]), dim=1).indices + start)
        start += level.shape[1]
    rows = torch.cat(best, dim=1)
    return rows, None if is_valid is None else is_valid.gather(1, rows)


def boxes_at(rows: Tensor, deltas: Tensor, anchors: PyramidAnchors, coder: BoxCoder) -> Tensor:
    """Decode the boxes (B, K, 4) of some anchors, rows (B, K), from the deltas (B, M, 4) of all; not clipped."""
    return coder.decode(deltas.gather(1, rows[..., None].expand(-1, -1, 4)), anchors.boxes[rows])
