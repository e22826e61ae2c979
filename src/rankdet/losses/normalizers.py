"""Numbers of positives that sums over candidates are divided by, in the forms of the published baselines.

Called with candidates and the number of their positives they return a scalar. They differ only where an image has no
positive, and not for heads that do not say which candidates share an image (``Candidates.per_image``).

Legend: B images, P positives, P_b those of image b.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdet.structures import Candidates


class PositiveCount:
    """|P| + ``added``: SOLOv2 adds 1.

    Examples
    --------
    >>> candidates = Candidates("dense", torch.zeros(3, 1), torch.tensor([0, 0, 1]), 1, per_image=(2, 1))
    >>> PositiveCount()(candidates, 2), CountPerImage()(candidates, 2), CountOrImages()(candidates, 2)
    (tensor(2.), tensor(3.), tensor(2.))
    """

    def __init__(self, added: float = 0.0) -> None:
        self.added = added

    def __call__(self, candidates: Candidates, num_positives: int) -> Tensor:
        return _scalar(candidates, num_positives + self.added)


class CountPerImage:
    r""":math:`\sum_b \max(|P_b|, 1)`: an image without positives counts as one, as in ATSS."""

    def __call__(self, candidates: Candidates, num_positives: int) -> Tensor:
        if candidates.per_image is None:
            return _scalar(candidates, num_positives)
        counts = [part.sum().clamp(min=1) for part in candidates.is_positive.split(candidates.per_image)]
        # Nothing waits for a device.
        return torch.stack([_scalar(candidates, 0), *counts]).sum()


class CountOrImages:
    """max(|P|, B): no fewer positives than images, as in PAA."""

    def __call__(self, candidates: Candidates, num_positives: int) -> Tensor:
        return _scalar(candidates, max(num_positives, len(candidates.per_image or ())))


Normalizer = PositiveCount | CountPerImage | CountOrImages


def _scalar(candidates: Candidates, value: float) -> Tensor:
    return torch.full((), float(value), dtype=torch.float32, device=candidates.logits.device)
