"""Bucketed ranking losses, the published approximation of Rank & Sort and AP Loss: for comparison.

F. Yavuz, B. C. Cam, A. H. Dogan, K. Oksuz, E. Akbas, S. Kalkan, "Bucketed Ranking-based Losses for Efficient Training
of Object Detectors", ECCV 2024, arXiv:2407.14204.

The negatives between two neighboring positives are a bucket, and the mean of their logits takes the place of each of
them. The soft step H is linear inside of [−δ, δ]. The buckets are therefore exact for δ = 0, without ties and up to the
rounding of the mean, and wherever a bucket lies in one linear piece of H for every positive. They are wrong where a
bucket crosses p_i − δ or p_i + δ. :mod:`rankdet.losses.cells` cuts at these edges instead, and is exact for every δ.

Legend: P positives with logits p, N negatives, B = P + 1 buckets of n negatives with mean m, δ half the step's width.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from rankdet.losses.balancing import ConstantBalance, ValueBalance
from rankdet.losses.box_losses import GIoULoss
from rankdet.losses.candidates import Positives, check_sigmoid
from rankdet.losses.gradients import Gradient, Upstream, with_gradient
from rankdet.losses.quality import BinaryQuality, IoUQuality, Quality
from rankdet.losses.rank_sort import RankSortValues
from rankdet.losses.sorting import EPSILON, Sorting, Window
from rankdet.losses.steps import soft_step
from rankdet.losses.tasks import Tasks
from rankdet.losses.weighting import ScoreWeights
from rankdet.ranges import NonNegative, checked
from rankdet.structures import Candidates, LossOutput


def bucketed_rank_sort_loss(logits: Tensor, targets: Tensor, delta: float = 0.5) -> RankSortValues:
    r"""Rank & Sort Loss with the negatives in buckets.

    .. math:: N_{FP}(i) \approx \sum_b n_b H(m_b - p_i)

    and every negative of bucket b receives :math:`\frac{1}{|P|} \sum_i \ell_R(i) H(m_b - p_i) / N_{FP}(i)`;
    positives are sorted as in :func:`rankdet.losses.rank_sort_loss`. Negatives below all p_i − δ are in no bucket.

    Arguments are those of :func:`rankdet.losses.rank_sort_loss`, with all logits in one tensor.

    Notes
    -----
    Where all logits of a bucket are within r of their mean, H of the mean differs from the mean of H by at most r / 2δ.
    It does not differ where the bucket crosses no kink p_i ± δ. Time is O(N log P + P²), and the P × B matrix of H is
    in memory.

    Examples
    --------
    Two negatives share a bucket with the mean 0.075, and so a gradient:

    >>> logits = torch.tensor([0.3, 0.1, 0.05, -0.2], requires_grad=True)
    >>> ranking, sorting = bucketed_rank_sort_loss(logits, torch.tensor([0.7, 0, 0, 0.5]))
    >>> ranking.backward()
    >>> logits.grad
    tensor([-0.2619,  0.2580,  0.2580, -0.2541])
    """
    return RankSortValues(*_bucketed(logits, targets, delta, Window.sorting))


def bucketed_ap_loss(logits: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
    r"""AP Loss with the negatives in buckets, :math:`\frac{1}{|P|} \sum_i N_{FP}(i) / rank(i)`.

    As published it is another loss than AP Loss also where buckets are exact: a positive's own term in its rank is H(0)
    = 1/2 instead of 1, and precision is not interpolated.

    Arguments are those of :func:`bucketed_rank_sort_loss`; all targets above 0 are alike.

    Examples
    --------
    >>> bucketed_ap_loss(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 0.0]))
    tensor(0.6667)
    """
    return _bucketed(logits, targets, delta, _unsorted)[0]


def _unsorted(window: Window, _: Tensor) -> Sorting:
    """The ranks among positives alone."""
    rank = soft_step(window.logits - window.logits[:, None], window.delta).sum(dim=1)
    return Sorting(rank, torch.zeros_like(rank), torch.zeros_like(rank))


def _bucketed(
    logits: Tensor, targets: Tensor, delta: float, sort: Callable[[Window, Tensor], Sorting]
) -> tuple[Tensor, ...]:
    """The mean of N_FP / rank and that of the sorting errors, each with a gradient of its own."""
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape")
    targets = targets.detach().reshape(-1)

    def evaluate(logits: Tensor) -> tuple[tuple[Tensor, Tensor], Gradient]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        flat, positives = logits.reshape(-1), (targets > 0).nonzero().squeeze(1)
        if len(positives) == 0:
            zero = logits.new_zeros((), dtype=dtype)
            return (zero, zero.clone()), lambda logits, _: torch.zeros_like(logits)
        ascending, order = flat[positives].double().sort()
        positives = positives[order]
        negatives = (targets == 0).nonzero().squeeze(1)
        values = flat[negatives].double()
        # Those below are above no positive, and would move the mean of the lowest bucket.
        is_seen = ~(values < ascending[0] - delta)
        negatives, values = negatives[is_seen], values[is_seen]
        bucket, num_buckets = torch.searchsorted(ascending, values), len(positives) + 1
        counts = torch.bincount(bucket, minlength=num_buckets).double()
        means = torch.bincount(bucket, weights=values, minlength=num_buckets) / counts.clamp(min=1)
        above = soft_step(means - ascending[:, None], delta)
        false_positives = above @ counts
        sorting = sort(Window(ascending, delta), targets[positives].double())
        rank = sorting.rank + false_positives
        errors = false_positives / rank
        shares = ~(false_positives <= EPSILON) / rank  # what a unit of H is worth to a negative

        def gradient(logits: Tensor, upstream: Upstream) -> Tensor:
            result = torch.zeros_like(logits, memory_format=torch.contiguous_format)
            of_positives = upstream[1] * sorting.gradient - upstream[0] * errors * (shares > 0)
            of_buckets = (upstream[0] * shares / len(positives)) @ above
            result.view(-1)[negatives] = of_buckets[bucket].to(result.dtype)
            result.view(-1)[positives] = (of_positives / len(positives)).to(result.dtype)
            return result

        return (errors.mean().to(dtype), sorting.error.mean().to(dtype)), gradient

    return with_gradient(logits, evaluate)


@checked
class BucketedRankSortLoss(nn.Module):
    """Rank & Sort Loss of one head with bucketed negatives, to compare with :class:`rankdet.losses.RankSortLoss`.

    Parameters
    ----------
    delta
        δ, half the width of the soft step, in logits.
    quality
        What the positives are sorted by.
    tasks
        What the head learns beside its classification. The loss keeps a copy.

    Notes
    -----
    Terms: ``ranking``, ``sorting`` and those of :class:`rankdet.losses.Tasks`. A positive of quality exactly 0 is a
    negative, as in the authors' code. It builds the (M, C) targets.
    """

    def __init__(
        self,
        delta: NonNegative = 0.5,
        *,
        quality: Quality = IoUQuality(),
        tasks: Tasks = Tasks(weighting=ScoreWeights(), balancing=ValueBalance()),
    ) -> None:
        super().__init__()
        self.delta = delta
        self.quality = quality
        self.tasks = deepcopy(tasks)  # a balance has a state, which no two losses may share

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        positives = self.tasks.find_positives(candidates)
        targets = _dense_targets(candidates, positives, self.quality(candidates, positives))
        ranking, sorting = bucketed_rank_sort_loss(candidates.logits, targets, self.delta)
        tasks = self.tasks(candidates, positives, ranking + sorting)
        return LossOutput({"ranking": ranking, "sorting": sorting, **tasks.terms}, tasks.stats)


@checked
class BucketedAPLoss(nn.Module):
    """AP Loss of one head with bucketed negatives, to compare with :class:`rankdet.losses.APLoss`.

    The defaults are those published: 2 (1 − GIoU), weighted by scores.

    Parameters
    ----------
    delta
        δ, half the width of the soft step, in logits.
    tasks
        What the head learns beside its classification. The loss keeps a copy.

    Notes
    -----
    Terms: ``classification`` and those of :class:`rankdet.losses.Tasks`. It builds the (M, C) targets.
    """

    def __init__(
        self,
        delta: NonNegative = 1.0,
        *,
        tasks: Tasks = Tasks(box_loss=GIoULoss(2.0), weighting=ScoreWeights(), balancing=ConstantBalance()),
    ) -> None:
        super().__init__()
        self.delta = delta
        self.quality = BinaryQuality()
        self.tasks = deepcopy(tasks)  # a balance has a state, which no two losses may share

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head."""
        positives = self.tasks.find_positives(candidates)
        targets = _dense_targets(candidates, positives, self.quality(candidates, positives))
        classification = bucketed_ap_loss(candidates.logits, targets, self.delta)
        tasks = self.tasks(candidates, positives, classification)
        return LossOutput({"classification": classification, **tasks.terms}, tasks.stats)


def _dense_targets(candidates: Candidates, positives: Positives, quality: Tensor) -> Tensor:
    """(M, C): −1 in ignored rows, the quality of a positive at its class, 0 elsewhere."""
    check_sigmoid(candidates)
    targets = torch.zeros_like(candidates.logits, dtype=torch.float32)
    targets.masked_fill_((candidates.labels < 0)[:, None], -1)
    targets[positives.rows, candidates.labels[positives.rows]] = quality.float()
    return targets
