"""aLRP Loss: the localization-recall-precision error at the rank of every positive, averaged."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from rankdet.losses.balancing import Balancing, EpochBalance
from rankdet.losses.candidates import Positives, check_sigmoid, find_positives, matched_pairs, task_counts
from rankdet.losses.checks import Levels
from rankdet.losses.error_driven import Pairs, PrimaryTerms, error_driven_loss
from rankdet.losses.operators import Implementation, RankingOperator, Values
from rankdet.losses.pools import Pools
from rankdet.losses.processes import Processes, Sync, with_value
from rankdet.losses.ranking import Ruling
from rankdet.losses.roles import Index
from rankdet.losses.sorting import Window
from rankdet.losses.steps import soft_step
from rankdet.ranges import NonNegative, Range, checked
from rankdet.structures import Candidates, LossOutput

EPSILON = 1e-5
"""A positive with no more than this above it passes no gradient (the authors' code)."""


class ALRPValues(NamedTuple):
    """The two parts of aLRP Loss, scalars: the first with the gradient of the identity update, the second
    differentiable through the localization errors."""

    classification: Tensor
    localization: Tensor


def alrp_loss(
    logits: Levels,
    targets: Levels,
    localization_errors: Tensor,
    delta: float = 1.0,
    *,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> ALRPValues:
    r"""aLRP Loss of logits and of the localization errors of their positives.

    For every positive i, with :math:`x_{ij} = s_j - s_i` and the soft step H:

    .. math::

        rank(i) &= 1 + \sum_{j \in P, j \ne i} H(x_{ij}) + N_{FP}(i), \qquad
            N_{FP}(i) = \sum_{j \in N} H(x_{ij}) \\
        L_{cls} &= \frac{1}{|P|} \sum_i \frac{N_{FP}(i)}{rank(i)}, \qquad
        L_{loc} = \frac{1}{|P|} \sum_i \frac{\sum_{k \in P, s_k \ge s_i} E(k)}{rank(i)}

    (K. Oksuz, B. C. Cam, E. Akbas, S. Kalkan, "A Ranking-based, Balanced Loss Function Unifying Classification and
    Localisation in Object Detection", NeurIPS 2020, arXiv:2009.13592).

    The gradient of the first is the identity update of both together. Its target is E(i) / rank(i), the error that i
    would have without negatives above it: negative j gets
    :math:`\frac{H(x_{ij})}{N_{FP}(i)} \cdot \frac{N_{FP}(i) + \sum_{k \ne i} H(x_{ik}) E(k)}{rank(i)}` from i, which
    pays for it. The second is differentiated through E, with ranks as constants. Its order is a hard one; of positives
    with equal logits, the last in ``targets`` is the highest.

    Parameters
    ----------
    targets
        Shapes of the logits: −1 ignored, 0 negative, above 0 positive.
    localization_errors
        (P,) E ≥ 0 of the positives, in their order in ``targets``: (1 − GIoU) / (2 (1 − τ)) with
        τ = 0.5 in detectors.
    logits, delta, pools, sync, check, implementation
        See :func:`rank_sort_loss`, also for what is raised.

    Returns
    -------
    ALRPValues
        Scalars (float64 for float64 logits, else float32). Without positives both are zeros, connected to ``logits``
        and to ``localization_errors``.

    Notes
    -----
    How the parts are balanced is the caller's: the paper multiplies the second by a weight that starts at 50 and is set
    anew each epoch (:class:`EpochBalance`). Differs from the authors' code, which fails without positives.

    Examples
    --------
    >>> logits = torch.tensor([2.0, 0.0, -2.0], requires_grad=True)
    >>> errors = torch.tensor([0.3], requires_grad=True)
    >>> classification, localization = alrp_loss(logits, torch.tensor([0.0, 1.0, 0.0]), errors)
    >>> print(f"{classification:.2f} {localization:.2f}")
    0.50 0.15
    >>> (classification + localization).backward()
    >>> logits.grad, errors.grad
    (tensor([ 0.5000, -0.5000,  0.0000]), tensor([0.5000]))
    """
    found = _ALRP.of_targets(
        logits, targets, delta, localization_errors, pools=pools, sync=sync, check=check, implementation=implementation
    )
    return _parts(found, localization_errors, sync)


def alrp_loss_of_labels(
    logits: Levels,
    labels: Levels,
    localization_errors: Tensor,
    delta: float = 1.0,
    *,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> ALRPValues:
    """aLRP Loss of classifiers: the same as :func:`alrp_loss`, without the dense (M, C) target.

    Arguments are those of :func:`rank_sort_loss_of_labels`, with the (P,) errors E of the positives, in their order in
    ``labels``, in place of qualities.

    Examples
    --------
    >>> logits, labels = torch.tensor([[2.0, -2.0], [0.0, 3.0]]), torch.tensor([0, 2])
    >>> alrp_loss_of_labels(logits, labels, torch.tensor([0.3]), delta=0)
    ALRPValues(classification=tensor(0.5000), localization=tensor(0.1500))
    """
    found = _ALRP.of_labels(
        logits, labels, delta, localization_errors, pools=pools, sync=sync, check=check, implementation=implementation
    )
    return _parts(found, localization_errors, sync)


def alrp_loss_at(
    logits: Levels,
    index: Index,
    localization_errors: Tensor,
    delta: float = 1.0,
    *,
    ignored: Levels | None = None,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> ALRPValues:
    """aLRP Loss of logits of which the positives are named; all others are negatives.

    Arguments are those of :func:`rank_sort_loss_at`, with the (P,) errors E of the positives, row by row those of
    ``index``, in place of qualities. Of positives with equal logits, the last in ``logits`` is the highest.

    Examples
    --------
    >>> alrp_loss_at(torch.tensor([[2.0, -2.0], [0.0, 3.0]]), torch.tensor([0]), torch.tensor([0.3]), delta=0)
    ALRPValues(classification=tensor(0.5000), localization=tensor(0.1500))
    """
    found = _ALRP.at_index(
        logits,
        index,
        delta,
        localization_errors,
        ignored=ignored,
        pools=pools,
        sync=sync,
        check=check,
        implementation=implementation,
    )
    return _parts(found, localization_errors, sync)


def _parts(found: Values, errors: Tensor, sync: Sync) -> ALRPValues:
    """The values of the operator, the second with the gradient of the localization errors."""
    classification, localization = found.values
    if found.per_positive is None:
        return ALRPValues(classification, localization)
    _, shares = found.per_positive
    # A part of a sum over all processes, whose gradient data-parallel training divides by their number.
    parts = shares * errors if (size := Processes(sync).size) == 1 else shares * errors * size
    if found.pools is None:
        return ALRPValues(classification, with_value(parts.sum(), localization).to(classification.dtype))
    # Sums of zeros, which are the same in any order, have the gradient.
    sums = torch.zeros_like(localization, dtype=parts.dtype).index_add(0, found.pools, parts - parts.detach())
    return ALRPValues(classification, (localization + sums).to(classification.dtype))


def _rule(window: Window, errors: Tensor, false_positives: Tensor) -> Ruling:
    count, own = window.count, 0.5 if window.delta > 0 else 1.0
    ones_above, errors_above = window.steps_above(torch.stack([torch.ones_like(errors), errors]))
    rank = ones_above + (1 - own) + false_positives
    # The identity update passes on the localization errors above i, but for its own.
    is_active = ~(false_positives <= EPSILON)
    passed = (false_positives + errors_above - own * errors) / rank * is_active
    # E(k) counts for k and every i below it, so its share is a sum from the lowest up.
    shares = window.cumulative(1 / rank) / count
    return Ruling(
        values=torch.stack([window.means(false_positives / rank), window.totals(shares * errors)]),
        positive_gradients=torch.stack([-passed / count, torch.zeros_like(rank)]),
        weights=torch.stack([torch.where(is_active, passed / false_positives, 0.0) / count, torch.zeros_like(rank)]),
        per_positive=torch.stack([rank, shares]),
    )


def lrp_terms(pairs: Pairs) -> PrimaryTerms:
    """The definition of the LRP error of a positive; its target is that without negatives above it."""
    above = pairs.above.scatter(1, pairs.own[:, None], 1.0)  # the own term is 1
    false = above * pairs.is_negative
    rank = (above * (pairs.is_positive + pairs.is_negative)).sum(1)
    error = (false.sum(1) + (above * pairs.is_positive) @ pairs.qualities) / rank
    return PrimaryTerms(error, pairs.qualities[pairs.own] / rank, false, value=false.sum(1) / rank)


def _reference(logits: Tensor, targets: Tensor, errors: Tensor, delta: float) -> ALRPValues:
    """The equations as they are written, over all pairs: the yardstick of every faster form."""
    classification = error_driven_loss(logits, targets, lrp_terms, delta, qualities=errors, epsilon=EPSILON)
    flat, marks = logits.detach().reshape(-1), targets.reshape(-1)
    positives = (~(marks < 0) & (marks != 0)).nonzero().squeeze(1)
    ranks = []
    negatives = flat[marks == 0]
    for i in positives:
        above = soft_step(flat[positives] - flat[i], delta) * (positives != i)
        ranks.append(1 + above.sum() + soft_step(negatives - flat[i], delta).sum())
    localization = (errors.sum() * 0).to(classification.dtype) + 0 * classification.detach()  # both are NaN, or none
    best_first = flat[positives].flip(0).argsort(descending=True, stable=True)
    best_first = len(positives) - 1 - best_first
    for place, i in enumerate(best_first):
        localization = localization + errors[best_first[: place + 1]].sum() / ranks[i] / len(positives)
    return ALRPValues(classification, localization)


_ALRP = RankingOperator("alrp", _rule, _reference, num_values=2, num_per_positive=2, quality_range=(0.0, math.inf))


@checked
class ALRPLoss(nn.Module):
    r"""aLRP Loss of one head: classification and localization of a positive in one error.

    .. math:: L = L_{cls} + \lambda L_{loc}, \qquad E(i) = \frac{1 - GIoU_i}{2 (1 - \tau)}

    Parameters
    ----------
    delta
        δ, half the width of the soft step, in logits.
    tau
        τ, the IoU at which a box is as good as none: 0.5 in detectors, 0.7 in an RPN.
    balancing
        λ, what the localization counts beside the classification. The loss keeps a copy.
    sync
        Whether the candidates of all processes are ranked in one pool.
    check
        Whether logits that are not finite, or beyond 2e10 δ, raise an error instead of making the loss NaN or inexact;
        this waits for the device.
    implementation
        How the loss is computed; see :func:`rank_sort_loss`.

    Notes
    -----
    Terms: ``classification`` and ``localization`` (balanced). Statistics: ``positives``, ``background``, ``negatives``,
    ``localization_error`` (before λ), ``balance`` (λ). Without positives both terms are zeros connected to all outputs.
    Differs from the authors' code in the RPN, where E(i) drives the ranks but 1 − GIoU the localization; here both are
    E(i).

    Examples
    --------
    >>> from rankdet.losses import EpochBalance
    >>> from rankdet.structures import Candidates, Matched
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    >>> candidates = Candidates(
    ...     head="dense", num_classes=2, labels=torch.tensor([1, 2]),
    ...     logits=torch.tensor([[-3.0, 0.0], [3.0, -3.0]], requires_grad=True),
    ...     boxes=Matched(boxes, torch.tensor([[0.0, 0.0, 4.0, 2.0]])),
    ... )
    >>> terms, stats = ALRPLoss(balancing=EpochBalance(iterations=7330))(candidates)
    >>> {name: round(term.item(), 4) for name, term in terms.items()}
    {'classification': 0.5, 'localization': 12.5}
    """

    def __init__(
        self,
        delta: NonNegative = 1.0,
        *,
        tau: Annotated[float, Range(ge=0, lt=1)] = 0.5,
        balancing: Balancing = EpochBalance(),
        sync: Sync = False,
        check: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        self.delta = delta
        self.tau = tau
        self.balancing = deepcopy(balancing)  # it has a state, which no two losses may share
        self.sync = sync
        self.check = check
        self.implementation: Implementation = implementation

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head; raises ValueError when its boxes are missing or do not pair.

        A head of masks alone is localized by these: its boxes are not missed.
        """
        check_sigmoid(candidates)
        positives = find_positives(candidates)
        errors = self.errors(candidates, positives)
        found = _ALRP.of_labels(
            candidates.logits,
            candidates.labels,
            self.delta,
            errors,
            rows=positives.rows,
            sync=self.sync,
            check=self.check,
            implementation=self.implementation,
        )
        classification, localization = _parts(found, errors, self.sync)
        balance = self.balancing(classification, localization, candidates, Processes(self.sync))
        return LossOutput(
            terms={"classification": classification, "localization": balance * localization},
            stats={
                **task_counts(candidates, len(positives.rows)),
                "localization_error": localization.detach(),
                "balance": balance,
            },
        )

    def errors(self, candidates: Candidates, positives: Positives) -> Tensor:
        """(P,) the localization errors E of the positives, with gradient; raises ValueError without boxes and masks.

        (1 − GIoU) / (2 (1 − τ)) of boxes; where a head has none, (1 − Dice) / (1 − τ) of masks.
        """
        if positives.overlap is not None:
            return (1 - positives.overlap.giou) / 2 / (1 - self.tau)
        if positives.dice is None:
            raise ValueError(f"head {candidates.head!r} passes no boxes, which its loss needs")
        matched_pairs(candidates, "masks", candidates.masks, len(positives.rows))
        return (1 - positives.dice) / (1 - self.tau)
