"""Rank & Sort Loss: every positive above all negatives, and the positives in the order of their quality."""

from __future__ import annotations

from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rankdet.losses.balancing import ValueBalance
from rankdet.losses.candidates import check_sigmoid
from rankdet.losses.checks import Levels, levels_of
from rankdet.losses.error_driven import Pairs, PrimaryTerms, error_driven_loss
from rankdet.losses.operators import Implementation, RankingOperator
from rankdet.losses.pools import Pools
from rankdet.losses.processes import Processes, Sync
from rankdet.losses.quality import IoUQuality, Quality
from rankdet.losses.ranking import Ruling
from rankdet.losses.roles import Index, indices_of
from rankdet.losses.sorting import EPSILON, Window
from rankdet.losses.tasks import Tasks
from rankdet.losses.weighting import ScoreWeights
from rankdet.ranges import NonNegative, checked
from rankdet.structures import Candidates, LossOutput, is_class


class RankSortValues(NamedTuple):
    """The two parts of Rank & Sort Loss, scalars in [0, 1), each with an identity-update gradient of its own."""

    ranking: Tensor
    sorting: Tensor


def rank_sort_loss(
    logits: Levels,
    targets: Levels,
    delta: float = 0.5,
    *,
    is_positive: Levels | None = None,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> RankSortValues:
    r"""Rank & Sort Loss of logits against continuous targets.

    A target of 0 is a negative: also that of a matched box that misses its object, if it is its IoU. ``is_positive``
    keeps such positives, and so do :func:`rank_sort_loss_at` and :func:`rank_sort_loss_of_labels`.

    For every positive i, with :math:`x_{ij} = s_j - s_i` and the soft step H (the term j = i is part of every sum):

    .. math::

        \ell_R(i) &= N_{FP}(i) / rank(i), \qquad
            N_{FP}(i) = \sum_{j \in N} H(x_{ij}),\quad
            rank(i) = \sum_{j \in P} H(x_{ij}) + N_{FP}(i)  \qquad (R) \\
        \ell_S(i) &= \frac{\sum_{j \in P} H(x_{ij})(1 - y_j)}{\sum_{j \in P} H(x_{ij})} \qquad (S) \\
        \ell_S^*(i) &= \frac{\sum_{j \in P} H(x_{ij})[y_j \ge y_i](1 - y_j)}
            {\sum_{j \in P} H(x_{ij})[y_j \ge y_i]} \qquad (S^*) \\
        L_{RS} &= \frac{1}{|P|}\sum_i \ell_R(i) + \frac{1}{|P|}\sum_i (\ell_S(i) - \ell_S^*(i)) \qquad (RS)

    (K. Oksuz, B. C. Cam, E. Akbas, S. Kalkan, "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV
    2021, arXiv:2107.11669, section 4; the tags are ours). The gradients are those of the identity update. Negative j
    gets :math:`\ell_R(i) H(x_{ij}) / N_{FP}(i)` from each positive i below it. A positive likewise gets a share of the
    sorting error of each better one below it. i pays for all of it.

    Parameters
    ----------
    logits
        Raw scores of any shape and floating dtype, or one such tensor per level; the arithmetic is done in float32 and
        float64.
    targets
        Same shapes: −1 ignored, 0 negative, (0, 1] localization quality of a positive. They receive no gradient.
    delta
        δ, half the width of the soft step, in logits; 0 gives the hard step.
    is_positive
        Bool, same shapes: which logits are positives, of whatever target in [0, 1]; all others with a target of 0 or
        more are negatives. None: those with a target above 0.
    pools
        Rank K pools by themselves, in one call: see :class:`Pools`. Values are (K,) then, 0 for a pool without
        positives. None: all logits are one pool.
    sync
        Rank the candidates of all processes in one pool; see :class:`Processes`. Pools are numbered alike in all of
        them.
    check
        Raise on NaN or infinite logits, on logits beyond 2e10 δ, and on targets outside their range (this waits for the
        device). Without it logits that are not finite make the loss NaN, far ones make it inexact, and targets are
        taken as they are: one that is NaN counts as a positive.
    implementation
        ``"torch"``: exact in O((P + N) log P) time and O(P) memory beside the gradient. ``"triton"``: the same by
        kernels, on CUDA only. ``"numba"``: the same by compiled functions, on a CPU only. ``"reference"``: the
        equations as they are written, over all pairs, in float32 or the dtype of the logits, of this process alone.
        ``"auto"``: Triton on CUDA and numba on a CPU, where they can be imported, else torch.

    Returns
    -------
    RankSortValues
        Scalars, or (K,) with ``pools``; float64 for float64 logits, else float32. Each back-propagates its own
        gradient, so that they can be weighted apart; their sum has the published gradient. Without positives both are
        zeros connected to ``logits``.

    Raises
    ------
    ValueError
        When shapes differ, δ is negative, there is no such implementation, or ``check`` finds a value out of range.
        When a pool is none of 0 … K − 1; on a GPU, and where torch compiles, this makes the loss NaN instead.

    Notes
    -----
    Differs from the authors' code, which fails without positives. It returns the same pair but back-propagates the sum
    of both gradients from the first entry, and nothing from the second. A target of exactly 0 is a negative there and
    here, unless ``is_positive`` says otherwise.

    Examples
    --------
    The worked example of the paper (figure A.4) with the hard step:

    >>> logits = torch.tensor([3.0, 2, 1, 0, -1, -2, -3, -4], requires_grad=True)
    >>> targets = torch.tensor([0.9, 0.4, 0, 0, 0.8, 0, 0.1, 0])
    >>> ranking, sorting = rank_sort_loss(logits, targets, delta=0)
    >>> print(f"{ranking:.4f} {sorting:.4f}")
    0.2071 0.0375
    >>> (ranking + sorting).backward()
    >>> logits.grad
    tensor([ 0.0000,  0.0375,  0.0857,  0.0857, -0.1375,  0.0357, -0.1071,  0.0000])

    Its first and its second half as pools:

    >>> halves = Pools(torch.arange(2)[:, None], 2)
    >>> rank_sort_loss(logits.detach().view(2, 4), targets.view(2, 4), delta=0, pools=halves)
    RankSortValues(ranking=tensor([0.0000, 0.1667]), sorting=tensor([0., 0.]))
    """
    quality = None
    if is_positive is not None:
        targets, quality = _with_zeros(targets, is_positive)
    found = _RANK_SORT.of_targets(
        logits, targets, delta, quality, pools=pools, sync=sync, check=check, implementation=implementation
    )
    return RankSortValues(*found.values)


def rank_sort_loss_of_labels(
    logits: Levels,
    labels: Levels,
    quality: Tensor,
    delta: float = 0.5,
    *,
    zero_quality_is_negative: bool = False,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> RankSortValues:
    """Rank & Sort Loss of classifiers: the same as :func:`rank_sort_loss`, without the dense (M, C) target.

    Candidate i with a class label c < C makes logit (i, c) a positive and the other C − 1 logits of its row negatives;
    background makes the whole row negatives; −1 ignores the whole row.

    Parameters
    ----------
    logits
        (M, C) raw scores, or one such tensor per level.
    labels
        (M,) int64: class 0 … C − 1, C background, −1 ignored; one such tensor per level.
    quality
        (P,) localization quality in [0, 1] of the positives, in their order in ``labels``.
    zero_quality_is_negative
        Whether a positive of quality exactly 0 becomes a negative: the letter of the paper and the authors' code, where
        positives have targets above 0. By default it stays a positive, the one to be sorted last.
    delta, pools, sync, check, implementation
        See :func:`rank_sort_loss`, also for what is returned and raised.

    Examples
    --------
    Two candidates of two classes, the first of class 1, the second background, whose class 0 is above the positive:

    >>> logits = torch.tensor([[-3.0, 0.0], [3.0, -3.0]])
    >>> rank_sort_loss_of_labels(logits, torch.tensor([1, 2]), torch.tensor([0.8]), delta=0).ranking
    tensor(0.5000)
    """
    if zero_quality_is_negative:
        labels, quality, _ = _without_zeros(logits, labels, quality)
    found = _RANK_SORT.of_labels(
        logits, labels, delta, quality, pools=pools, sync=sync, check=check, implementation=implementation
    )
    return RankSortValues(*found.values)


def rank_sort_loss_at(
    logits: Levels,
    index: Index,
    quality: Tensor,
    delta: float = 0.5,
    *,
    ignored: Levels | None = None,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> RankSortValues:
    """Rank & Sort Loss of logits of which the positives are named, as a matcher of a DETR names them.

    The same as :func:`rank_sort_loss`, without a target and without a search for positives. Any logits may be named,
    several of one row too; all others are negatives. A positive of quality 0 stays one, to be sorted last.

    Parameters
    ----------
    logits
        Raw scores of any shape, as (B, Q, C), and any floating dtype; or one such tensor per level.
    index
        Places of the positives in any order, each once: a tuple of (P,) int64 tensors, one for each dimension, as in
        ``logits[index]``. Or one (P,) int64 tensor of places in the flat logits of all levels. They may lie in the
        memory of the host.
    quality
        (P,) localization quality in [0, 1] of the positives, row by row those of ``index``. It receives no gradient.
    ignored
        Bool: the logits that are neither positive nor negative, in the shape of the logits, or without its last
        dimension for whole rows; None: none.
    check
        See :func:`rank_sort_loss`; and a wrong index raises on any device.
    delta, pools, sync, implementation
        See :func:`rank_sort_loss`, also for what is returned.

    Raises
    ------
    ValueError
        When shapes do not fit, or an index is outside of the logits, there twice, or ignored. On a GPU, where looking
        would wait, and where torch compiles, such an index makes the loss NaN instead, unless ``check`` is set. And
        where :func:`rank_sort_loss` raises.

    Notes
    -----
    Nothing waits for a GPU where Triton computes, and ``torch.compile`` keeps all of it in one graph. Only with
    ``ignored`` and without Triton torch looks for what is ignored: that waits, and only ``fullgraph=True`` keeps it.

    Examples
    --------
    Two images of three queries and two classes; query 2 of the first image has found an object of class 1:

    >>> logits = torch.zeros(2, 3, 2)
    >>> logits[0, 2, 1], logits[1, 0, 0] = 1.0, 3.0
    >>> index = torch.tensor([0]), torch.tensor([2]), torch.tensor([1])
    >>> rank_sort_loss_at(logits, index, torch.tensor([0.8]), delta=0)
    RankSortValues(ranking=tensor(0.5000), sorting=tensor(0.))
    >>> rank_sort_loss_at(logits, torch.tensor([5]), torch.tensor([0.8]), delta=0).ranking
    tensor(0.5000)
    """
    found = _RANK_SORT.at_index(
        logits,
        index,
        delta,
        quality,
        ignored=ignored,
        pools=pools,
        sync=sync,
        check=check,
        implementation=implementation,
    )
    return RankSortValues(*found.values)


def _with_zeros(targets: Levels, is_positive: Levels) -> tuple[Levels, Tensor]:
    """Targets in which the positives that are named, and no others, are 1, and the (P,) targets that these had."""
    levels, masks = levels_of(targets), levels_of(is_positive)
    if [level.shape for level in levels] != [mask.shape for mask in masks]:
        raise ValueError(
            f"targets {[tuple(level.shape) for level in levels]} and is_positive "
            f"{[tuple(mask.shape) for mask in masks]} must have the same shapes"
        )
    if any(mask.dtype != torch.bool for mask in masks):
        raise ValueError(f"is_positive must be bool, got {', '.join(str(mask.dtype) for mask in masks)}")
    marks = [level.clamp(max=0).masked_fill(mask, 1) for level, mask in zip(levels, masks, strict=True)]
    quality = torch.cat([level[mask] for level, mask in zip(levels, masks, strict=True)])
    quality = quality.masked_fill(quality < 0, torch.nan)  # ignored and a positive at once: out of range
    return marks[0] if isinstance(targets, Tensor) else marks, quality


def _without_zeros(
    logits: Levels, labels: Levels, quality: Tensor, rows: Tensor | None = None
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Labels of the levels in which positives of quality 0 are background, and qualities and rows of the others."""
    levels, num_classes = levels_of(labels), levels_of(logits)[0].shape[-1]
    flat = torch.cat(levels)
    if rows is None:
        rows = indices_of(is_class(flat, num_classes))
    if rows.shape != quality.shape:
        raise ValueError(f"{len(rows)} positives among the labels but qualities of shape {tuple(quality.shape)}")
    is_zero = quality == 0
    flat = flat.index_fill(0, rows[is_zero], num_classes)
    return list(flat.split([len(level) for level in levels])), quality[~is_zero], rows[~is_zero]


def _rule(window: Window, quality: Tensor, false_positives: Tensor) -> Ruling:
    sorting = window.sorting(quality)
    rank = sorting.rank + false_positives
    ranking_errors = false_positives / rank  # (R)
    is_active = ~(false_positives <= EPSILON)
    none = torch.zeros_like(rank)
    return Ruling(
        values=window.means(torch.stack([ranking_errors, sorting.error])),
        positive_gradients=torch.stack([-ranking_errors * is_active, sorting.gradient]) / window.count,
        # A negative gets ranking_error · H / N_FP, and ranking_error / N_FP = 1 / rank.
        weights=torch.stack([is_active / rank, none]) / window.count,
        per_positive=rank[None],
    )


def ranking_terms(pairs: Pairs) -> PrimaryTerms:
    """The definition of (R), with 0 as its target: no negative is above."""
    false = pairs.above * pairs.is_negative
    error = false.sum(1) / (pairs.above * (pairs.is_positive + pairs.is_negative)).sum(1)
    return PrimaryTerms(error, torch.zeros_like(error), false)


def sorting_terms(pairs: Pairs) -> PrimaryTerms:
    """The definition of (S), with (S*) as its target: only those of equal or higher quality are above."""
    quality = pairs.qualities
    above = pairs.above * pairs.is_positive
    better = above * (quality >= quality[pairs.own, None])
    error = above @ (1 - quality) / above.sum(1)
    target_error = better @ (1 - quality) / better.sum(1)
    return PrimaryTerms(error, target_error, above - better)


def _reference(logits: Tensor, targets: Tensor, qualities: Tensor, delta: float) -> RankSortValues:
    """The equations as they are written, over all pairs: the yardstick of every faster form."""
    return RankSortValues(
        error_driven_loss(logits, targets, ranking_terms, delta, qualities=qualities),
        error_driven_loss(logits, targets, sorting_terms, delta, qualities=qualities),
    )


_RANK_SORT = RankingOperator("rank_sort", _rule, _reference, num_values=2)


@checked
class RankSortLoss(nn.Module):
    r"""Rank & Sort Loss of one head: classification and localization with nothing to tune but δ.

    .. math:: L = L_R + L_S + \lambda L_{box}, \qquad
        L_{box} = \frac{\sum_i w_i (1 - GIoU_i)}{\sum_i w_i},\quad w_i = \max_c \sigma(s_{ic}),\quad
        \lambda = (L_R + L_S) / L_{box}

    The continuous target of a positive is its quality: the IoU of its predicted box with its object, computed at each
    call, detached. Masks, where a head passes them, are a further task, with the weights of the boxes and a λ of their
    own. All candidates of all images of the process are ranked in one pool, over levels and classes.

    Parameters
    ----------
    delta
        δ, half the width of the soft step, in logits.
    quality
        What the positives are sorted by.
    tasks
        What the head learns beside its classification. The loss keeps a copy.
    zero_quality_is_negative
        Whether a positive of quality exactly 0 counts as a negative: the letter of the paper.
    sync
        Whether the candidates of all processes are ranked in one pool, and tasks normalized and balanced over them.
    check
        Whether logits that are not finite, or beyond 2e10 δ, raise an error instead of making the loss NaN or inexact;
        this waits for the device.
    implementation
        How the loss is computed; see :func:`rank_sort_loss`.

    Notes
    -----
    Terms: ``ranking``, ``sorting`` and those of :class:`Tasks`, ``localization`` and ``mask``. These are balanced: each
    has the value of the first two together, so watch the statistic ``localization_error``, which is not balanced.
    Without positives all terms are zeros connected to all outputs. The authors' code returns ones in some heads, zeros
    in others, and fails in the rest.

    Examples
    --------
    >>> from rankdet.structures import Candidates, Matched
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    >>> candidates = Candidates(
    ...     head="rcnn", num_classes=2, labels=torch.tensor([1, 2]),
    ...     logits=torch.tensor([[-3.0, 0.0], [3.0, -3.0]], requires_grad=True),
    ...     boxes=Matched(boxes, torch.tensor([[0.0, 0.0, 4.0, 2.0]])),
    ... )
    >>> terms, stats = RankSortLoss(delta=0.5)(candidates)
    >>> {name: round(term.item(), 4) for name, term in terms.items()}
    {'ranking': 0.6667, 'sorting': 0.0, 'localization': 0.6667}
    >>> stats["balance"]
    tensor(1.3333)
    """

    def __init__(
        self,
        delta: NonNegative = 0.5,
        *,
        quality: Quality = IoUQuality(),
        tasks: Tasks = Tasks(weighting=ScoreWeights(), balancing=ValueBalance()),
        zero_quality_is_negative: bool = False,
        sync: Sync = False,
        check: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        self.delta = delta
        self.quality = quality
        self.tasks = deepcopy(tasks)  # a balance has a state, which no two losses may share
        self.zero_quality_is_negative = zero_quality_is_negative
        self.sync = sync
        self.check = check
        self.implementation: Implementation = implementation

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head; raises ValueError when its boxes are missing or do not pair."""
        check_sigmoid(candidates)
        positives = self.tasks.find_positives(candidates)
        labels: Levels = candidates.labels
        quality, rows = self.quality(candidates, positives), positives.rows
        if self.zero_quality_is_negative:
            labels, quality, rows = _without_zeros(candidates.logits, labels, quality, rows)
        (ranking, sorting), per_positive, _ = _RANK_SORT.of_labels(
            candidates.logits,
            labels,
            self.delta,
            quality,
            rows=rows,
            sync=self.sync,
            check=self.check,
            implementation=self.implementation,
        )
        # A positive that counts as a negative has no rank.
        ranks = None if per_positive is None or self.zero_quality_is_negative else per_positive[0]
        tasks = self.tasks(candidates, positives, ranking + sorting, ranks=ranks, processes=Processes(self.sync))
        return LossOutput({"ranking": ranking, "sorting": sorting, **tasks.terms}, tasks.stats)
