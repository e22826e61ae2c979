"""Rank & Sort Loss: every positive above all negatives, and the positives in the order of their localization quality.

K. Oksuz, B. C. Cam, E. Akbas, S. Kalkan, "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021,
arXiv:2107.11669, section 4.

Legend: M candidates, C classes, P positives, N negatives, s logits, y localization qualities, δ half the step's width.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from rankdet.losses.balancing import value_balance
from rankdet.losses.candidates import matched_pairs, positive_rows, task_counts
from rankdet.losses.cells import Cells
from rankdet.losses.error_driven import Gradient, Upstream, identity_update, soft_step
from rankdet.losses.localization import box_overlap
from rankdet.losses.negatives import Negatives, Roles, not_finite
from rankdet.losses.sorting import EPSILON, sorting_errors
from rankdet.losses.weighting import score_weights, weighted_mean
from rankdet.structures import Candidates, LossOutput

Implementation = Literal["auto", "reference", "torch"]


class RankSort(NamedTuple):
    """The two parts of Rank & Sort Loss, scalars in [0, 1), each with an identity-update gradient of its own."""

    ranking: Tensor
    sorting: Tensor


def rank_sort_loss(
    logits: Tensor,
    targets: Tensor,
    delta: float = 0.5,
    *,
    check: bool = False,
    implementation: Implementation = "auto",
) -> RankSort:
    r"""Rank & Sort Loss of logits against continuous targets.

    For every positive i, with :math:`x_{ij} = s_j - s_i` and the soft step H (the term j = i is part of every sum):

    .. math::

        \ell_R(i) &= N_{FP}(i) / rank(i), \qquad
            N_{FP}(i) = \sum_{j \in N} H(x_{ij}),\quad
            rank(i) = \sum_{j \in P} H(x_{ij}) + N_{FP}(i)  \qquad (R) \\
        \ell_S(i) &= \frac{\sum_{j \in P} H(x_{ij})(1 - y_j)}{\sum_{j \in P} H(x_{ij})} \qquad (S) \\
        \ell_S^*(i) &= \frac{\sum_{j \in P} H(x_{ij})[y_j \ge y_i](1 - y_j)}
            {\sum_{j \in P} H(x_{ij})[y_j \ge y_i]} \qquad (S^*) \\
        L_{RS} &= \frac{1}{|P|}\sum_i \ell_R(i) + \frac{1}{|P|}\sum_i (\ell_S(i) - \ell_S^*(i)) \qquad (RS)

    (section 4 of the paper; the tags are ours). The gradients are those of the identity update: j gets
    :math:`\ell_R(i) H(x_{ij}) / N_{FP}(i)` from each positive i that it stands above, a positive ranked above a better
    one likewise of its sorting error, and i pays for all of it.

    Parameters
    ----------
    logits
        Raw scores of any shape and floating dtype; the arithmetic is done in float32 and float64.
    targets
        Same shape: −1 ignored, 0 negative, (0, 1] localization quality of a positive. They receive no gradient.
    delta
        δ, half the width of the soft step, in logits; 0 gives the hard step.
    check
        Raise on NaN or infinite logits and on targets outside their range (this waits for the device). Without it they
        make the loss NaN; they are never dropped.
    implementation
        ``"torch"``: exact in O((P + N) log P) time and O(P) memory beside the gradient; ``"reference"``: the equations
        as they stand, one positive at a time, in the dtype of the logits; ``"auto"``: the fastest there is.

    Returns
    -------
    RankSort
        ``ranking`` and ``sorting``, scalars (float64 for float64 logits, else float32). Each back-propagates its own
        gradient, so that they can be weighted apart; their sum has the published gradient. Without positives both are
        zeros connected to ``logits``.

    Raises
    ------
    ValueError
        When shapes differ, δ is negative, there is no such implementation, or ``check`` finds a value out of range.

    Notes
    -----
    Differs from the authors' code, which returns the same pair but back-propagates the sum of both gradients from its
    first entry and nothing from its second, and fails without positives. A target of exactly 0 is a negative there and
    here; :func:`rank_sort_loss_of_labels` can tell a positive of quality 0 from a negative.

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
    """
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape")
    targets = targets.detach().reshape(-1)
    if check:
        _check_range("targets", targets, -1, 1)
    special = targets.nonzero().squeeze(1)
    quality = targets[special]
    is_ignored = quality < 0  # NaN is not: it stays a positive and makes the loss NaN
    roles = Roles(special[~is_ignored], quality[~is_ignored], ignored=special[is_ignored], width=1)
    return _loss(logits, roles, delta, check, implementation)


def rank_sort_loss_of_labels(
    logits: Tensor,
    labels: Tensor,
    quality: Tensor,
    delta: float = 0.5,
    *,
    zero_quality_is_negative: bool = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> RankSort:
    """Rank & Sort Loss of classifiers: the same as :func:`rank_sort_loss`, without the dense (M, C) target.

    Candidate i with a class label c < C makes logit (i, c) a positive and the other C − 1 logits of its row negatives;
    background makes the whole row negatives; −1 ignores the whole row.

    Parameters
    ----------
    logits
        (M, C) raw scores.
    labels
        (M,) int64: class 0 … C − 1, C background, −1 ignored.
    quality
        (P,) localization quality in [0, 1] of the positives, in the order in which they stand in ``labels``.
    delta, check, implementation
        As in :func:`rank_sort_loss`.
    zero_quality_is_negative
        The letter of the paper and of the authors' code, where a positive is what has a target above 0: a positive of
        quality exactly 0 becomes a negative. By default it stays a positive, the one to be sorted last.

    Returns
    -------
    RankSort
        As in :func:`rank_sort_loss`.

    Raises
    ------
    ValueError
        When shapes do not fit, δ is negative, or ``check`` finds a value out of range.

    Examples
    --------
    Two candidates of two classes, the first of class 1, the second background: its class 0 stands above the positive.

    >>> logits = torch.tensor([[-3.0, 0.0], [3.0, -3.0]])
    >>> rank_sort_loss_of_labels(logits, torch.tensor([1, 2]), torch.tensor([0.8]), delta=0).ranking
    tensor(0.5000)
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} must be (M, C) and (M,)")
    num_classes = logits.shape[1]
    if check:
        _check_range("labels", labels, -1, num_classes)
    special = (labels < num_classes).nonzero().squeeze(1)
    is_ignored = labels[special] < 0
    rows, ignored = special[~is_ignored], special[is_ignored]
    quality = quality.detach()
    if quality.shape != rows.shape:
        raise ValueError(f"{len(rows)} positives among the labels but quality of shape {tuple(quality.shape)}")
    if check:
        _check_range("quality", quality, 0, 1)
    positives = rows * num_classes + labels[rows]
    if zero_quality_is_negative:
        kept = ~(quality <= 0)
        positives, quality = positives[kept], quality[kept]
    return _loss(logits, Roles(positives, quality, ignored, num_classes), delta, check, implementation)


def _loss(logits: Tensor, roles: Roles, delta: float, check: bool, implementation: Implementation) -> RankSort:
    if delta < 0:
        raise ValueError(f"delta must not be negative, got {delta}")
    if check and not bool(torch.isfinite(logits).all()):
        raise ValueError(f"{int((~torch.isfinite(logits)).sum())} of {logits.numel()} logits are NaN or infinite")
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation must be one of {get_args(Implementation)}, got {implementation!r}")
    evaluate = _evaluate_reference if implementation == "reference" else _evaluate
    return RankSort(*identity_update(logits, lambda values: evaluate(values, roles, delta)))


def _evaluate_reference(logits: Tensor, roles: Roles, delta: float) -> tuple[tuple[Tensor, Tensor], Gradient]:
    """The equations as they stand, one positive at a time: the yardstick of every faster form."""
    flat = logits.reshape(-1)
    positives, quality = roles.positives, roles.quality.to(flat.dtype)
    is_negative = torch.ones_like(flat, dtype=torch.bool)
    if flat.numel():
        is_negative.view(-1, roles.width)[roles.ignored] = False
    is_negative[positives] = False
    negatives = is_negative.nonzero().squeeze(1)
    ranking = sorting = flat.new_zeros(())
    ranking_gradient, sorting_gradient = torch.zeros_like(flat), torch.zeros_like(flat)
    for i, y in zip(positives, quality, strict=True):
        above = soft_step(flat[positives] - flat[i], delta)  # H(x_ij), j in P, own term included
        false = soft_step(flat[negatives] - flat[i], delta)  # H(x_ij), j in N
        ranking_error = false.sum() / (above.sum() + false.sum())  # (R)
        better = above * (quality >= y)
        worse = above * (quality < y)
        sorting_error = (above * (1 - quality)).sum() / above.sum()  # (S)
        sorting_error = sorting_error - (better * (1 - quality)).sum() / better.sum()  # (S*)
        ranking, sorting = ranking + ranking_error, sorting + sorting_error
        if false.sum() > EPSILON:  # the identity update: i pays, every j gets its share
            ranking_gradient[i] -= ranking_error
            ranking_gradient[negatives] += ranking_error * false / false.sum()
        if worse.sum() > EPSILON:
            sorting_gradient[i] -= sorting_error
            sorting_gradient[positives] += sorting_error * worse / worse.sum()
    num_positives = max(len(positives), 1)

    def gradient(logits: Tensor, upstream: Upstream) -> Tensor:
        parts = zip((ranking_gradient, sorting_gradient), upstream, strict=True)
        total = sum(part * weight for part, weight in parts if weight is not None) / num_positives
        return torch.as_tensor(total).reshape(logits.shape).to(logits.dtype)

    return (ranking / num_positives, sorting / num_positives), gradient


def _evaluate(logits: Tensor, roles: Roles, delta: float) -> tuple[tuple[Tensor, Tensor], Gradient]:
    """The same by cells: one pass over the negatives forward, one backward."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    num_positives = len(roles.positives)
    if num_positives == 0:
        zero = logits.new_zeros((), dtype=dtype)
        return (zero, zero.clone()), lambda logits, _: torch.zeros_like(logits)
    poison = not_finite(logits, roles)
    if poison.device.type == "cpu" and bool(poison.isnan()):
        return (poison.to(dtype), poison.to(dtype)), lambda logits, _: torch.full_like(logits, torch.nan)
    # Where looking would wait for the device, positives that are not finite are kept from the search.
    ascending, order = logits.reshape(-1)[roles.positives].double().nan_to_num(0.0, 0.0, 0.0).sort()
    negatives = Negatives(roles, dtype)
    cells = Cells(ascending, delta, dtype)
    counts, sums = negatives.count(logits, cells)
    false_positives = cells.steps_over(counts, sums).clamp(min=0) + poison
    sorting = sorting_errors(ascending, roles.quality[order].double(), delta)
    rank = sorting.rank + false_positives
    ranking_errors = false_positives / rank
    is_active = ~(false_positives <= EPSILON)

    def gradient(logits: Tensor, upstream: Upstream) -> Tensor:
        of_positives = torch.zeros_like(rank)
        of_negatives = None
        if upstream[0] is not None:
            # A negative gets ranking_error · H / N_FP, and ranking_error / N_FP = 1 / rank.
            of_positives -= upstream[0] * ranking_errors * is_active / num_positives
            of_negatives = upstream[0] * is_active / rank / num_positives
        if upstream[1] is not None:
            of_positives += upstream[1] * sorting.gradient / num_positives
        result = negatives.gradient(logits, cells, of_negatives)
        result.view(-1)[roles.positives[order]] = of_positives.to(result.dtype)
        return result

    return (ranking_errors.mean().to(dtype), sorting.error.mean().to(dtype)), gradient


def _check_range(name: str, values: Tensor, low: float, high: float) -> None:
    if not bool(((values >= low) & (values <= high)).all()):
        raise ValueError(f"{name} must lie in [{low}, {high}], got values from {values.min()} to {values.max()}")


class RankSortLoss(nn.Module):
    r"""Rank & Sort Loss of one head: classification and localization with nothing to tune but δ.

    .. math:: L = L_R + L_S + \lambda L_{box}, \qquad
        L_{box} = \frac{\sum_i w_i (1 - GIoU_i)}{\sum_i w_i},\quad w_i = \max_c \sigma(s_{ic}),\quad
        \lambda = (L_R + L_S) / L_{box}

    A positive's continuous target is the IoU of its predicted box with its object, computed at each call, detached.
    All candidates of all pictures that the process holds are ranked in one pool, over levels and classes.

    Parameters
    ----------
    delta
        δ, half the width of the soft step, in logits.
    zero_quality_is_negative
        See :func:`rank_sort_loss_of_labels`.
    check
        Raise on logits that are not finite; see :func:`rank_sort_loss`.
    implementation
        See :func:`rank_sort_loss`.

    Notes
    -----
    Terms: ``ranking``, ``sorting``, ``localization`` (balanced: its value is that of the other two together, so watch
    the statistic ``localization_error``, which is not). Statistics: ``positives``, ``negatives``,
    ``localization_error``, ``balance`` (λ). Without positives all terms are zeros connected to all outputs; the
    authors' code returns ones in some heads, zeros in others, and fails in the rest.

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
        delta: float = 0.5,
        *,
        zero_quality_is_negative: bool = False,
        check: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        self.delta = delta
        self.zero_quality_is_negative = zero_quality_is_negative
        self.check = check
        self.implementation: Implementation = implementation

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head; raises ValueError when its boxes are missing or do not pair."""
        rows = positive_rows(candidates)
        boxes = matched_pairs(candidates, "boxes", candidates.boxes, len(rows))
        overlap = box_overlap(boxes.predicted, boxes.target)
        ranking, sorting = rank_sort_loss_of_labels(
            candidates.logits,
            candidates.labels,
            overlap.iou,
            self.delta,
            zero_quality_is_negative=self.zero_quality_is_negative,
            check=self.check,
            implementation=self.implementation,
        )
        localization = weighted_mean(1 - overlap.giou, score_weights(candidates.logits[rows]))
        balance = value_balance(ranking + sorting, localization)
        return LossOutput(
            terms={"ranking": ranking, "sorting": sorting, "localization": balance * localization},
            stats={
                **task_counts(candidates, len(rows)),
                "localization_error": localization.detach(),
                "balance": balance,
            },
        )
