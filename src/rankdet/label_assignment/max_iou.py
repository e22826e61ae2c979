"""Labels by overlap, for anchors and proposals.

Legend: M candidates, G objects, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from rankdet.ranges import Fraction, checked
from rankdet.structures import IGNORED, Assignment, Target

MAX_PAIRS = 2**23
"""Most pairs of candidate and object in one piece. At its peak torchvision's ``box_iou`` holds eight float32 numbers
for each pair: 256 MiB."""


@checked
@dataclass(frozen=True)
class MaxIoUAssigner:
    """Assigner of each candidate to the object that it overlaps most, if enough; objects may claim their best ones.

    A candidate whose best IoU is below ``negative_iou`` is background, from ``positive_iou`` on it is positive, between
    the two it is ignored: 0.3 and 0.7 for the anchors of an RPN, 0.5 and 0.5 for proposals. The low-quality step
    follows, unless ``low_quality_iou`` is None. Every object whose best IoU over all candidates is at least this claims
    all candidates that reach this best IoU, or only the first of them without ``claim_ties``, whatever they were
    before. With 0 an object that no candidate overlaps claims all of them. Where several objects claim one candidate,
    the last wins. Without objects everything is background.

    Raises
    ------
    ValueError
        When ``positive_iou`` is below ``negative_iou``.

    Examples
    --------
    >>> target = Target(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([1]))
    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 10.0, 40.0]])
    >>> MaxIoUAssigner(positive_iou=0.7, negative_iou=0.3)(boxes, target, 3).labels  # IoU 1, 0.5, 0.25
    tensor([ 1, -1,  3])
    """

    positive_iou: Fraction
    negative_iou: Fraction
    low_quality_iou: Fraction | None = None
    claim_ties: bool = True

    def __post_init__(self) -> None:
        if self.positive_iou < self.negative_iou:
            raise ValueError(f"positive_iou = {self.positive_iou} is below negative_iou = {self.negative_iou}")

    def __call__(self, boxes: Tensor, target: Target, num_classes: int) -> Assignment:
        """Return labels of (M, 4) boxes against the objects of their image; C = ``num_classes`` is background."""
        matched = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        background = torch.full_like(matched, num_classes)
        if not len(boxes) or not len(target.boxes):
            return Assignment(background, matched)
        chunks = boxes.float().split(max(1, MAX_PAIRS // len(target.boxes)))
        # IoUs are (m, G) of each chunk. A single chunk is kept for the second pass, several are computed again.
        held = box_iou(chunks[0], target.boxes) if len(chunks) == 1 else None
        best_parts, matched_parts, target_best_parts = [], [], []
        for chunk in chunks:
            iou = box_iou(chunk, target.boxes) if held is None else held
            chunk_best, chunk_matched = iou.max(dim=1)
            best_parts.append(chunk_best)
            matched_parts.append(chunk_matched)
            target_best_parts.append(iou.amax(dim=0))
        best, best_object = torch.cat(best_parts), torch.cat(matched_parts)
        is_positive = best >= self.positive_iou
        is_negative = (best < self.negative_iou) & ~is_positive
        if self.low_quality_iou is not None:
            target_best = torch.stack(target_best_parts).amax(dim=0)
            # No IoU reaches 2: an object with this number claims nothing.
            claimed_iou = torch.where(target_best >= self.low_quality_iou, target_best, 2)
            claims = []
            is_free = torch.ones_like(target_best, dtype=torch.bool)
            for chunk in chunks:
                iou = box_iou(chunk, target.boxes) if held is None else held
                claim, is_free = self._last_claim(iou, claimed_iou, is_free)
                claims.append(claim)
            last_claim = torch.cat(claims)
            is_claimed = last_claim >= 0
            best_object = torch.where(is_claimed, last_claim, best_object)
            is_positive, is_negative = is_positive | is_claimed, is_negative & ~is_claimed
        labels = torch.where(is_positive, target.labels[best_object], IGNORED)
        return Assignment(torch.where(is_negative, background, labels), torch.where(is_positive, best_object, matched))

    def _last_claim(self, iou: Tensor, claimed_iou: Tensor, is_free: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last object that claims each candidate, (m,) or −1, and which objects may still claim, (G,).

        The IoU is (m, G). Each object claims candidates of its ``claimed_iou`` (G,); where it claims one only,
        ``is_free`` (G,) is False once it has.
        """
        is_best = iou == claimed_iou
        if not self.claim_ties:
            is_best &= is_free & (is_best.cumsum(dim=0) == 1)
            is_free = is_free & ~is_best.any(dim=0)
        order = torch.arange(1, iou.shape[1] + 1, device=iou.device)
        return (is_best * order).amax(dim=1) - 1, is_free
