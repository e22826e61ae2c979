"""The tail of every loss: all that a head learns beside its classification, weighted, normalized and balanced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rankdet.losses.auxiliary import Auxiliary
from rankdet.losses.balancing import Balancing, ValueBalance
from rankdet.losses.box_losses import BoxLoss, GIoULoss
from rankdet.losses.candidates import Positives, find_positives, task_counts
from rankdet.losses.localization import saturated_share
from rankdet.losses.processes import Processes, with_value
from rankdet.losses.weighting import Ranking, ScoreWeights, Weighting, usable_sum
from rankdet.ranges import Positive, checked
from rankdet.structures import Candidates, LossOutput


class _Sum(NamedTuple):
    """A task before it is normalized: its name, a connected sum, and what divides it (both scalars)."""

    name: str
    total: Tensor
    divisor: Tensor


@checked
class Tasks(nn.Module):
    r"""Localization of boxes and masks beside a classification, and auxiliary heads of baselines.

    .. math:: \sum_t \lambda_t L_t, \qquad L_{box} = \frac{\sum_i w_i \ell_i}{\sum_i w_i}, \qquad
        L_{mask} = \frac{\sum_i w_i (1 - D_i)}{\sum_i w_i}

    A head may learn its boxes by two losses, as DETRs do by GIoU and L1. These are two tasks, each with a λ of its own
    (F. Yavuz et al., "Bucketed Ranking-based Losses for Efficient Training of Object Detectors", ECCV 2024). The
    weights of the masks are those of the boxes of the same positives. Instead of a part of this package, any callable
    serves that takes and returns the same.

    Parameters
    ----------
    box_loss
        ℓ, the loss of the box of each positive. None where boxes are learned elsewhere: a head need not pass any, and
        what it passes serves as quality alone.
    delta_loss
        A second loss of the box of each positive, such as L1 of ``Candidates.deltas``. Its balance is of the same kind
        as that of the first.
    weighting
        w, what each positive counts in the localization.
    balancing
        λ of the boxes: what the localization counts beside the classification.
    mask_balancing
        λ of the masks; None: a balance of the same kind as that of the boxes.
    auxiliary
        Auxiliary heads, which the detector must have. Each adds its mean over all positives, or over all images,
        unbalanced.
    dice_epsilon
        Added to the denominator of the Dice coefficient of masks; 2e-3 in SOLOv2.

    Notes
    -----
    Terms: ``localization`` where a head passes boxes (or deltas), ``deltas`` of the second loss, ``mask`` where it
    passes masks, all balanced, and one by the name of each auxiliary head. Statistics: ``positives``, ``background``,
    ``negatives``; the errors before λ, ``localization_error``, ``deltas_error`` and ``mask_error``; their λ,
    ``balance``, ``deltas_balance`` and ``mask_balance``; the shares of what has no gradient, ``boxes_limited`` and
    ``masks_saturated``. Without positives, and where all weights vanish, the terms are
    zeros connected to all outputs of the positives.
    """

    def __init__(
        self,
        *,
        box_loss: BoxLoss | None = GIoULoss(),
        delta_loss: BoxLoss | None = None,
        weighting: Weighting = ScoreWeights(),
        balancing: Balancing = ValueBalance(),
        mask_balancing: Balancing | None = None,
        auxiliary: tuple[Auxiliary, ...] = (),
        dice_epsilon: Positive = 1e-5,
    ) -> None:
        super().__init__()
        self.box_loss = box_loss
        self.delta_loss = delta_loss
        self.weighting = weighting
        self.balancing = balancing
        # Copies, because a balance may remember the values of its task.
        self.delta_balancing = None if delta_loss is None else deepcopy(balancing)
        self.mask_balancing = deepcopy(balancing) if mask_balancing is None else mask_balancing
        self.auxiliary = tuple(auxiliary)
        self.dice_epsilon = dice_epsilon

    def find_positives(self, candidates: Candidates) -> Positives:
        """The positives of a head, with the Dice coefficient of this loss."""
        return find_positives(candidates, self.dice_epsilon)

    def forward(
        self,
        candidates: Candidates,
        positives: Positives,
        classification: Tensor,
        *,
        ranks: Tensor | None = None,
        processes: Processes = Processes(),
    ) -> LossOutput:
        """The terms and statistics of all tasks beside the classification.

        Parameters
        ----------
        candidates, positives
            What the head passes to its loss, and its positives.
        classification
            Scalar: the sum of all classification terms of the head.
        ranks
            (P,) soft rank of each positive among all candidates, detached; None from a loss that ranks nothing.
        processes
            The processes whose candidates the loss sees as one pool: tasks are normalized and balanced over them.

        Raises
        ------
        ValueError
            When the head passes neither boxes nor masks where there is a loss of boxes, or not what the parts of this
            loss need.
        """
        ranking = None if ranks is None else Ranking(ranks, processes)
        localized = list(self._localized(candidates, positives, ranking))
        if not localized and not (self.box_loss is None and self.delta_loss is None):
            raise ValueError(f"head {candidates.head!r} passes neither boxes nor masks, which its loss needs")
        auxiliary = list(self._auxiliary(candidates, positives))
        own = [_Sum("classification", classification, torch.ones_like(classification)), *auxiliary, *localized]
        (_, classification, _), *sums = _of_all(own, processes)
        terms, stats = {}, task_counts(candidates, len(positives.rows))
        for name, total, divisor in sums[: len(auxiliary)]:
            terms[name] = total / divisor.clamp(min=1)
        balances = {"localization": ("balance", self.balancing), "mask": ("mask_balance", self.mask_balancing)}
        if self.delta_balancing is not None:
            balances["deltas"] = ("deltas_balance", self.delta_balancing)
        for name, total, divisor in sums[len(auxiliary) :]:
            balance, balancing = balances[name]
            loss = total / usable_sum(divisor)
            stats[f"{name}_error"] = loss.detach()
            stats[balance] = balancing(classification, loss, candidates, processes)
            terms[name] = stats[balance] * loss
        if candidates.limited is not None:
            stats["boxes_limited"] = candidates.limited.sum() / max(1, len(candidates.limited))
        if candidates.masks is not None:
            stats["masks_saturated"] = saturated_share(candidates.masks.predicted, candidates.masks.target)
        return LossOutput(terms, stats)

    def _localized(self, candidates: Candidates, positives: Positives, ranking: Ranking | None) -> Iterator[_Sum]:
        has_boxes = candidates.boxes is not None or candidates.deltas is not None
        losses = {"localization": self.box_loss, "deltas": self.delta_loss} if has_boxes else {}
        wanted = {name: loss for name, loss in losses.items() if loss is not None}
        if not wanted and candidates.masks is None:
            return
        weights = self.weighting(candidates, positives, ranking)
        for name, loss in wanted.items():
            yield _Sum(name, (weights * loss(candidates, positives)).sum(), weights.sum())
        if candidates.masks is not None and positives.dice is not None:
            rows = candidates.masks.rows
            weights = weights if rows is None else weights[rows]
            yield _Sum("mask", (weights * (1 - positives.dice)).sum(), weights.sum())

    def _auxiliary(self, candidates: Candidates, positives: Positives) -> Iterator[_Sum]:
        for head in self.auxiliary:
            values = head(candidates, positives)
            yield _Sum(head.name, values.sum(), head.normalizer(candidates, len(values)).to(values.dtype))


def _of_all(sums: Sequence[_Sum], processes: Processes) -> Iterator[_Sum]:
    """The means of these sums over the processes, by one exchange for all of them, with the gradients of the own."""
    own = torch.stack([value.detach() for entry in sums for value in entry[1:]])
    for entry, (total, divisor) in zip(sums, processes.mean(own).view(-1, 2).unbind(), strict=True):
        yield _Sum(entry.name, with_value(entry.total, total), divisor)
