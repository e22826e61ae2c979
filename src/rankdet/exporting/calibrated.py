"""Calibrated scores in a graph.

Legend: B images, D detections of an image, C classes, K pieces of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rankdet.exporting.fixed import FixedDetections, rows_of
from rankdet.inference.score_maps import SHARE_OF_SCORE, Isotonic, Platt, ScoreMap

LARGEST_SCORE = 1 - 2.0**-24
"""The largest float32 below 1, of which there is a logit."""


class CalibratedScores(nn.Module):
    """C maps of scores as tensors: what `rankdet.inference.score_maps.Calibration` does, in float32.

    Examples
    --------
    >>> calibrated = CalibratedScores([Isotonic((0.5,), (0.2,)), Platt(1.0, 0.0)])
    >>> calibrated.scores(torch.tensor([[0.5, 0.25]]), torch.tensor([[0, 1]])).round(decimals=3)
    tensor([[0.2000, 0.2500]])
    """

    starts: Tensor
    lengths: Tensor
    rises: Tensor
    scales: Tensor
    shifts: Tensor
    is_sigmoid: Tensor

    def __init__(self, maps: Sequence[ScoreMap]) -> None:
        super().__init__()
        columns = zip(*map(_pieces, maps), strict=True)
        # Pieces that are none have length 1 and rise by 0.
        for name, column, filling in zip(("starts", "lengths", "rises"), columns, (0.0, 1.0, 0.0), strict=True):
            self.register_buffer(name, pad_sequence(list(column), batch_first=True, padding_value=filling))
        sigmoids = [each if isinstance(each, Platt) else Platt(1.0, 0.0) for each in maps]
        self.register_buffer("scales", torch.tensor([each.scale for each in sigmoids]))
        self.register_buffer("shifts", torch.tensor([each.shift for each in sigmoids]))
        self.register_buffer("is_sigmoid", torch.tensor([isinstance(each, Platt) for each in maps]))

    def scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return what scores (B, D) in [0, 1] of classes ``labels`` become, (B, D)."""
        shares = ((scores[..., None] - self.starts[labels]) / self.lengths[labels]).clamp(0, 1)
        lines = (shares * self.rises[labels]).sum(dim=-1)
        inside = scores.clamp(torch.finfo(torch.float32).tiny, LARGEST_SCORE)
        logits = inside.log() - torch.log1p(-inside)
        sigmoids = torch.sigmoid(self.scales[labels] * logits + self.shifts[labels])
        found = sigmoids.where(self.is_sigmoid[labels], lines)
        return found + SHARE_OF_SCORE * (scores - found)

    def forward(self, found: FixedDetections) -> FixedDetections:
        """Return the detections with their new scores, best score first; rows of score 0 remain so."""
        scores = self.scores(found.scores, found.labels).where(found.scores > 0, 0)
        ordered, rows = scores.topk(scores.shape[1])  # ONNX has no stable sorting
        parts = {name: rows_of(part, rows) for name, part in found._asdict().items() if part is not None}
        return found._replace(**parts | {"scores": ordered})


def _pieces(each: ScoreMap) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores at which the K pieces of a line start, their lengths, and by how much they rise."""
    knots = ((0.0, *each.scores), (0.0, *each.values)) if isinstance(each, Isotonic) else ((0.0, 1.0), (0.0, 1.0))
    scores, values = (torch.tensor(column, dtype=torch.float32) for column in knots)
    return scores[:-1], scores.diff().clamp(min=torch.finfo(torch.float32).tiny), values.diff()
