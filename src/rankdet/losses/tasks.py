"""The tail of every loss: all that a head learns beside its classification, weighted, normalized and balanced.

Legend: P positives, P' masks (of some positives, or of all).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rankdet.losses.auxiliary import Auxiliary
from rankdet.losses.balancing import Balancing, ValueBalance
from rankdet.losses.box_losses import BoxLoss, GIoU
from rankdet.losses.candidates import Positives, find_positives, task_counts
from rankdet.losses.localization import DICE_EPSILON
from rankdet.losses.processes import Processes, with_value
from rankdet.losses.weighting import ScoreWeights, Weighting, usable_sum
from rankdet.structures import Candidates, LossOutput


class _Task(NamedTuple):
    """One task before it is normalized: a connected sum and what to divide it by, both scalars."""

    term: str
    error: str
    balance: str
    balancing: Balancing
    total: Tensor
    weight: Tensor


class Tasks(nn.Module):
    r"""Localization of boxes and masks beside a classification, and auxiliary heads of baselines.

    .. math:: \sum_t \lambda_t L_t, \qquad L_{box} = \frac{\sum_i w_i \ell_i}{\sum_i w_i}, \qquad
        L_{mask} = \frac{\sum_i w_i (1 - D_i)}{\sum_i w_i}

    The weights of the masks are those of the boxes of the same positives.

    Parameters
    ----------
    box_loss
        ℓ, per positive: 1 − GIoU by default.
    weighting
        w, instance weights: the best score by default.
    balancing
        λ of the boxes: the value of the classification by default.
    mask_balancing
        λ of the masks; None is one of the same kind.
    auxiliary
        Auxiliary heads; the mean of their values over all positives, or over all images, is not balanced.
    dice_epsilon
        See :func:`rankdet.losses.dice_coefficient`.
    processes
        Normalizes by, and balances with, the values of all processes instead of one's own.

    Notes
    -----
    Terms: ``localization`` where a head hands boxes (or deltas), ``mask`` where it hands masks, both balanced, and one
    by the name of each auxiliary head. Statistics: ``positives``, ``background``, ``negatives``; the errors before λ,
    ``localization_error`` and ``mask_error``; their λ, ``balance`` and ``mask_balance``. Without positives, and where
    all weights vanish, the terms are zeros connected to all outputs of the positives.
    """

    def __init__(
        self,
        *,
        box_loss: BoxLoss | None = None,
        weighting: Weighting | None = None,
        balancing: Balancing | None = None,
        mask_balancing: Balancing | None = None,
        auxiliary: Sequence[Auxiliary] = (),
        dice_epsilon: float = DICE_EPSILON,
        processes: Processes | None = None,
    ) -> None:
        super().__init__()
        self.box_loss = box_loss or GIoU()
        self.weighting = weighting or ScoreWeights()
        self.balancing = balancing or ValueBalance()
        # A copy, for a balance may remember the values of its task.
        self.mask_balancing = mask_balancing or deepcopy(self.balancing)
        self.auxiliary = tuple(auxiliary)
        self.dice_epsilon = dice_epsilon
        self.processes = processes or Processes()

    def find_positives(self, candidates: Candidates) -> Positives:
        """The positives of a head, with the Dice coefficient of this loss."""
        return find_positives(candidates, self.dice_epsilon)

    def forward(self, candidates: Candidates, positives: Positives, classification: Tensor) -> LossOutput:
        """The terms and statistics of all tasks beside the classification.

        Parameters
        ----------
        candidates
            What the head hands.
        positives
            Of these candidates.
        classification
            Scalar: the sum of all classification terms of the head.

        Raises
        ------
        ValueError
            When the head hands neither boxes nor masks, or not what the parts of this loss need.
        """
        weights = self.weighting(candidates, positives)
        tasks = list(self._tasks(candidates, positives, weights))
        if not tasks:
            raise ValueError(f"head {candidates.head!r} hands neither boxes nor masks, which its loss needs")
        heads = {head.name: head(candidates, positives) for head in self.auxiliary}
        own = [classification]
        for head in self.auxiliary:
            values = heads[head.name]
            own += [values.sum(), head.normalizer(candidates, len(values)).to(values.dtype)]
        own += [value for task in tasks for value in (task.total, task.weight)]
        # One exchange between processes, for everything.
        whole = iter(self.processes.mean(torch.stack([value.detach() for value in own])).unbind())
        classification = with_value(classification, next(whole))
        terms, stats = {}, task_counts(candidates, len(weights))
        for name, values in heads.items():
            terms[name] = with_value(values.sum(), next(whole)) / next(whole).clamp(min=1)
        for task in tasks:
            total, divisor = with_value(task.total, next(whole)), usable_sum(next(whole))
            loss = total / divisor
            stats[task.error] = loss.detach()
            stats[task.balance] = task.balancing(classification, loss, candidates, self.processes)
            terms[task.term] = stats[task.balance] * loss
        return LossOutput(terms, stats)

    def _tasks(self, candidates: Candidates, positives: Positives, weights: Tensor) -> Iterator[_Task]:
        if candidates.boxes is not None or candidates.deltas is not None:
            total = (weights * self.box_loss(candidates, positives)).sum()
            yield _Task("localization", "localization_error", "balance", self.balancing, total, weights.sum())
        if candidates.masks is not None and positives.dice is not None:
            rows = candidates.masks.rows
            weights = weights if rows is None else weights[rows]
            total = (weights * (1 - positives.dice)).sum()
            yield _Task("mask", "mask_error", "mask_balance", self.mask_balancing, total, weights.sum())
