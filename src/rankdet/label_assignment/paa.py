"""Probabilistic Anchor Assignment (Kim & Lee, ECCV 2020, arXiv:2007.08103): the network's own losses choose positives.

Legend: B images, L levels, M anchors of an image, G objects of all images, R candidates of all images, C classes,
K places for the pooled candidates of an object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from rankdet.label_assignment.max_iou import MaxIoUAssigner
from rankdet.label_assignment.mixture import component_log_densities, fit_mixtures
from rankdet.label_assignment.overlap import aligned_giou
from rankdet.label_assignment.pyramid import PyramidAnchors, assign_by_overlap, positive_rows
from rankdet.ranges import Count, NonNegative, Positive, checked
from rankdet.structures import Assignment, Target

FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
"""Parameters of the focal loss in the cost."""
TIED_DENSITY = 1e-9
"""Log-densities that differ by less than this are equal, and the cheaper candidate is the denser one. Two candidates
alone in their component are equally far from its mean: without this, rounding would choose."""
BY_OVERLAP = MaxIoUAssigner(0.1, 0.1, low_quality_iou=0.0)


@checked
@dataclass(frozen=True)
class PAAAssigner:
    """Assigner whose candidates are found by overlap, and split into positives and background by their costs.

    1. Anchors that overlap an object by IoU 0.1, and the best ones of each object, are its candidates (``overlap``).
    2. A candidate costs focal loss + ``giou_weight`` · (1 − GIoU) of what the network predicts for it now.
    3. On each level the ``candidates_per_level`` cheapest of an object are pooled. With fewer than two of them it gets
       no positive at all.
    4. A mixture of two Gaussians is fitted to the pooled costs of each object (:func:`fit_mixtures`), with
       ``added_variance``.
    5. Of the pooled candidates that more likely belong to the cheaper component, all up to and including the one of
       highest density, by rising cost, are positives. Every other candidate is background.

    Only anchors in the padding are ignored, and they are no candidates. The standard form has a weight of 1.3 and a
    variance of 1e-6, that of Rank & Sort Loss 1 and 1e-5.

    Notes
    -----
    The mixtures of all objects of a batch are fitted at once, on the device of the tensors. The host waits for the
    device once, for the number of candidates. Of equally cheap candidates the first come first, of equally dense ones
    the cheapest. (The authors leave both to rounding.) The cost is no loss: it has no gradient and only splits
    positives from negatives, whatever loss the detector is trained with.
    """

    candidates_per_level: Count = 9
    giou_weight: NonNegative = 1.0
    added_variance: Positive = 1e-5
    overlap: MaxIoUAssigner = BY_OVERLAP

    @torch.no_grad()
    def __call__(
        self, anchors: PyramidAnchors, targets: Sequence[Target], num_classes: int, logits: Tensor, boxes: Tensor
    ) -> Assignment:
        """Return labels of the (B · M,) anchors of B images; C = ``num_classes`` is background.

        Logits (B, M, C) and boxes (B, M, 4), decoded, in pixels, are predicted for every anchor.
        """
        first, rows, costs = self.pooled(anchors, targets, num_classes, logits, boxes)
        is_positive = cheap_ones(costs, rows >= 0, added_variance=self.added_variance)
        # Candidates that are no positives are written to one row too many.
        is_chosen = torch.zeros(len(first.labels) + 1, dtype=torch.bool, device=rows.device)
        is_chosen[rows.where(is_positive, len(first.labels)).flatten()] = True
        is_background = (first.labels >= 0) & ~is_chosen[:-1]
        return Assignment(
            first.labels.masked_fill(is_background, num_classes), first.matched.masked_fill(is_background, 0)
        )

    @torch.no_grad()
    def pooled(
        self, anchors: PyramidAnchors, targets: Sequence[Target], num_classes: int, logits: Tensor, boxes: Tensor
    ) -> tuple[Assignment, Tensor, Tensor]:
        """Return the assignment by overlap, and rows and costs (G, K) of the pooled candidates: steps 1 to 3.

        The candidates of an object are ordered cheapest first; where it has fewer, the row is −1. The arguments are
        those of the call.
        """
        first = assign_by_overlap(self.overlap, anchors, targets, num_classes)
        rows = positive_rows(first.labels, num_classes)  # (R,)
        labels, matched = first.labels[rows], first.matched[rows]
        objects = torch.cat([target.boxes for target in targets])
        costs = self.costs(logits.flatten(0, 1)[rows], labels, boxes.flatten(0, 1)[rows], objects[matched])
        levels = anchors.levels()
        groups = matched * len(anchors.num_per_level) + levels[rows % len(levels)]
        return first, *self._pool(rows, costs, groups, len(objects), anchors)

    def costs(self, logits: Tensor, labels: Tensor, boxes: Tensor, objects: Tensor) -> Tensor:
        """Return the costs (R,) of candidates: focal loss, summed over all classes, + ``giou_weight`` · (1 − GIoU).

        Logits are (R, C), labels (R,) the classes of their objects; predicted boxes and those of objects are (R, 4).
        """
        logits = logits.float()
        # Focal loss as if all classes were wrong; then that of the right class takes its place.
        negative = logits.sigmoid().pow_(FOCAL_GAMMA).mul_(softplus(logits)).mul_(1 - FOCAL_ALPHA)
        right = logits.gather(1, labels[:, None])
        positive = FOCAL_ALPHA * (-right).sigmoid() ** FOCAL_GAMMA * softplus(-right)
        focal = negative.scatter_(1, labels[:, None], positive).sum(dim=1)
        return focal + self.giou_weight * (1 - aligned_giou(boxes.float(), objects.float()))

    def _pool(
        self, rows: Tensor, costs: Tensor, groups: Tensor, num_objects: int, anchors: PyramidAnchors
    ) -> tuple[Tensor, Tensor]:
        """Return rows and costs (G, K) of the pooled candidates, cheapest first; where there are fewer, the row is −1.

        Rows, costs and groups are (R,) of all candidates; a group is a level of an object.
        """
        num_groups, size = num_objects * len(anchors.num_per_level), self.candidates_per_level
        # Sort by group, then by cost; the place of a candidate is its rank in its group.
        order = costs.argsort(stable=True)
        order = order[groups[order].argsort(stable=True)]
        rows, costs, groups = rows[order], costs[order], groups[order]
        counts = torch.zeros(num_groups, dtype=torch.int64, device=rows.device)
        counts.scatter_add_(0, groups, torch.ones_like(groups))
        place = torch.arange(len(groups), device=rows.device) - (counts.cumsum(0) - counts)[groups]
        # Candidates that are not pooled are written to one place too many.
        places = (groups * size + place).where(place < size, num_groups * size)
        pooled_rows = rows.new_full((num_groups * size + 1,), -1).scatter_(0, places, rows)[:-1]
        pooled_costs = costs.new_full((num_groups * size + 1,), torch.inf).scatter_(0, places, costs)[:-1]
        shape = num_objects, len(anchors.num_per_level) * size
        pooled_costs, by_cost = pooled_costs.view(shape).sort(dim=1, stable=True)
        return pooled_rows.view(shape).gather(1, by_cost), pooled_costs


def cheap_ones(costs: Tensor, is_given: Tensor, *, added_variance: float) -> Tensor:
    """Return which of the pooled candidates become positives, (G, K) bool.

    Costs (G, K) of each object's candidates rise; ``is_given`` (G, K) bool is False where an object has fewer
    candidates.

    Examples
    --------
    >>> costs = torch.tensor([[1.0, 1.1, 1.2, 5.0, 5.1], [1.0, 0.0, 0.0, 0.0, 0.0]])
    >>> cheap_ones(costs, torch.tensor([[True] * 5, [True] + [False] * 4]), added_variance=1e-5)
    tensor([[ True,  True, False, False, False],
            [False, False, False, False, False]])
    """
    mixture = fit_mixtures(costs, is_given, added_variance=added_variance)
    parts = component_log_densities(costs.double().where(is_given, 0), mixture)
    is_first = is_given & (parts[..., 0] >= parts[..., 1])
    density = parts.logsumexp(dim=2).where(is_first, -torch.inf)
    is_highest = density >= density.amax(dim=1, keepdim=True) - TIED_DENSITY
    last = is_highest.int().argmax(dim=1, keepdim=True)  # the first of them
    has_enough = is_given.sum(dim=1, keepdim=True) >= 2
    return is_first & has_enough & (torch.arange(costs.shape[1], device=costs.device) <= last)
