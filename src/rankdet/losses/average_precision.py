"""AP Loss: every positive above all negatives, by the precision at its rank."""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from rankdet.losses.balancing import ConstantBalance
from rankdet.losses.candidates import check_sigmoid
from rankdet.losses.checks import Levels
from rankdet.losses.error_driven import Pairs, PrimaryTerms, error_driven_loss
from rankdet.losses.operators import Implementation, RankingOperator
from rankdet.losses.pools import Pools
from rankdet.losses.processes import Processes, Sync
from rankdet.losses.ranking import Ruling
from rankdet.losses.roles import Index
from rankdet.losses.sorting import Window
from rankdet.losses.tasks import Tasks
from rankdet.losses.weighting import NoWeights
from rankdet.ranges import NonNegative, checked
from rankdet.structures import Candidates, LossOutput


def ap_loss(
    logits: Levels,
    targets: Levels,
    delta: float = 1.0,
    *,
    interpolate: bool = True,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> Tensor:
    r"""AP Loss of logits.

    For every positive i, with :math:`x_{ij} = s_j - s_i` and the soft step H:

    .. math::

        rank^+(i) &= 1 + \sum_{j \in P, j \ne i} H(x_{ij}), \qquad rank(i) = rank^+(i) + \sum_{j \in N} H(x_{ij}) \\
        precision(i) &= rank^+(i) / rank(i), \qquad
            m(i) = \max_{k \in P, s_k \le s_i} precision(k) \\
        L_{AP} &= 1 - \frac{1}{|P|} \sum_{i \in P} m(i)

    (K. Chen, W. Lin, J. Li, J. See, J. Wang, J. Zou, "AP-Loss for Accurate One-Stage Object Detection", TPAMI 2021,
    arXiv:2008.07294; in the notation of Oksuz et al., ICCV 2021, section 3.1).

    The term of i itself is 1, where :func:`rank_sort_loss` counts H(0). The gradient is that of the identity update:
    negative j gets :math:`(1 - m(i)) H(x_{ij}) / N_{FP}(i)` from every positive i, which pays 1 − m(i).

    Parameters
    ----------
    targets
        Shapes of the logits: −1 ignored, 0 negative, above 0 positive.
    interpolate
        False takes precision(i) itself in place of m(i).
    logits, delta, pools, sync, check, implementation
        See :func:`rank_sort_loss`, also for what is raised.

    Returns
    -------
    Tensor
        Scalar in [0, 1): float64 for float64 logits, else float32. Without positives a zero connected to ``logits``.

    Notes
    -----
    This equals the authors' code at its δ = 1. There, precision is also interpolated while the positives are visited in
    ascending order, with ties in their given order. That code fails without positives, and its negatives get no
    gradient in float16.

    Examples
    --------
    >>> logits = torch.tensor([2.0, 0.0, -2.0], requires_grad=True)
    >>> loss = ap_loss(logits, torch.tensor([0.0, 1.0, 0.0]))
    >>> loss.backward()
    >>> loss.item(), logits.grad
    (0.5, tensor([ 0.5000, -0.5000,  0.0000]))
    """
    loss = _INTERPOLATED if interpolate else _PLAIN
    return loss.of_targets(
        logits, targets, delta, pools=pools, sync=sync, check=check, implementation=implementation
    ).values[0]


def ap_loss_of_labels(
    logits: Levels,
    labels: Levels,
    num_positives: int | None = None,
    delta: float = 1.0,
    *,
    interpolate: bool = True,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> Tensor:
    """AP Loss of classifiers: the same as :func:`ap_loss`, without the dense (M, C) target.

    Parameters
    ----------
    num_positives
        P, where it is known: counting would wait for a GPU. A wrong number raises on a CPU and makes the loss NaN on a
        GPU.
    logits, labels, delta, interpolate, pools, sync, check, implementation
        See :func:`rank_sort_loss_of_labels` and :func:`ap_loss`.

    Examples
    --------
    >>> ap_loss_of_labels(torch.tensor([[2.0, -2.0], [0.0, 3.0]]), torch.tensor([0, 2]), delta=0)
    tensor(0.5000)
    """
    loss = _INTERPOLATED if interpolate else _PLAIN
    found = loss.of_labels(
        logits,
        labels,
        delta,
        num_positives=num_positives,
        pools=pools,
        sync=sync,
        check=check,
        implementation=implementation,
    )
    return found.values[0]


def ap_loss_at(
    logits: Levels,
    index: Index,
    delta: float = 1.0,
    *,
    interpolate: bool = True,
    ignored: Levels | None = None,
    pools: Pools | None = None,
    sync: Sync = False,
    check: bool = False,
    implementation: Implementation = "auto",
) -> Tensor:
    """AP Loss of logits of which the positives are named; all others are negatives.

    Arguments are those of :func:`rank_sort_loss_at`, without qualities, and of :func:`ap_loss`.

    Examples
    --------
    >>> ap_loss_at(torch.tensor([[2.0, -2.0], [0.0, 3.0]]), torch.tensor([0]), delta=0)
    tensor(0.5000)
    """
    loss = _INTERPOLATED if interpolate else _PLAIN
    found = loss.at_index(
        logits, index, delta, ignored=ignored, pools=pools, sync=sync, check=check, implementation=implementation
    )
    return found.values[0]


def _rule(window: Window, _: Tensor, false_positives: Tensor, *, interpolate: bool) -> Ruling:
    positive_rank = window.steps_above(torch.ones_like(false_positives)) + (0.5 if window.delta > 0 else 0.0)
    rank = positive_rank + false_positives
    precision = positive_rank / rank
    # Each at least as precise as those below it.
    errors = 1 - (window.running_max(precision) if interpolate else precision)
    is_active = ~(false_positives <= 0)
    errors = errors * is_active
    return Ruling(
        values=window.means(errors[None]),
        positive_gradients=-errors[None] / window.count,
        weights=torch.where(is_active, errors / false_positives, 0.0)[None] / window.count,
        per_positive=rank[None],
    )


def imprecision_terms(pairs: Pairs) -> PrimaryTerms:
    """The definition of 1 − precision, with 0 as its target: no negative is above."""
    above = pairs.above.scatter(1, pairs.own[:, None], 1.0)  # the own term is 1
    false = above * pairs.is_negative
    precision = (above * pairs.is_positive).sum(1) / (above * (pairs.is_positive + pairs.is_negative)).sum(1)
    return PrimaryTerms(1 - precision, torch.zeros_like(precision), false)


def interpolated(errors: Tensor) -> Tensor:
    """(P,) errors 1 − m(i) from errors 1 − precision(i), in ascending order of the logits."""
    return 1 - (1 - errors).cummax(0).values


def _reference(logits: Tensor, targets: Tensor, _: Tensor, delta: float, interpolate: bool) -> list[Tensor]:
    """The equations as they are written, over all pairs: the yardstick of every faster form."""
    refine = interpolated if interpolate else None
    return [error_driven_loss(logits, targets, imprecision_terms, delta, refine=refine)]


_INTERPOLATED, _PLAIN = (
    RankingOperator(name, partial(_rule, interpolate=interpolate), partial(_reference, interpolate=interpolate))
    for name, interpolate in (("average_precision", True), ("average_precision_plain", False))
)


@checked
class APLoss(nn.Module):
    r"""AP Loss of one head, and the losses of a dense detector beside it.

    .. math:: L = L_{AP} + \lambda \frac{\sum_i w_i \ell_i}{\sum_i w_i} + \text{auxiliary heads}

    Parameters
    ----------
    delta
        δ, half the width of the soft step, in logits.
    interpolate
        Whether a positive gets the best precision at or below its score, as in the published code.
    tasks
        What the head learns beside its classification. The loss keeps a copy.
    sync
        Whether the candidates of all processes are ranked in one pool, and tasks normalized over them.
    check
        Whether logits that are not finite, or beyond 2e10 δ, raise an error instead of making the loss NaN or inexact;
        this waits for the device.
    implementation
        How the loss is computed; see :func:`rank_sort_loss`.

    Notes
    -----
    Terms: ``classification`` and those of :class:`Tasks`. Without positives all are zeros connected to all outputs.

    Examples
    --------
    >>> from rankdet.structures import Candidates, Matched
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]], requires_grad=True)
    >>> candidates = Candidates(
    ...     head="dense", num_classes=2, labels=torch.tensor([1, 2]),
    ...     logits=torch.tensor([[-3.0, 0.0], [3.0, -3.0]], requires_grad=True),
    ...     boxes=Matched(boxes, torch.tensor([[0.0, 0.0, 4.0, 2.0]])),
    ... )
    >>> terms, stats = APLoss()(candidates)
    >>> {name: round(term.item(), 4) for name, term in terms.items()}
    {'classification': 0.5, 'localization': 1.0}
    """

    def __init__(
        self,
        delta: NonNegative = 1.0,
        *,
        interpolate: bool = True,
        tasks: Tasks = Tasks(weighting=NoWeights(), balancing=ConstantBalance(2.0)),
        sync: Sync = False,
        check: bool = False,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        self.delta = delta
        self.interpolate = interpolate
        self.tasks = deepcopy(tasks)  # a balance has a state, which no two losses may share
        self.sync = sync
        self.check = check
        self.implementation: Implementation = implementation

    def forward(self, candidates: Candidates) -> LossOutput:
        """The terms and statistics of one head; raises ValueError when its boxes are missing or do not pair."""
        check_sigmoid(candidates)
        positives = self.tasks.find_positives(candidates)
        loss = _INTERPOLATED if self.interpolate else _PLAIN
        (classification,), per_positive, _ = loss.of_labels(
            candidates.logits,
            candidates.labels,
            self.delta,
            rows=positives.rows,
            sync=self.sync,
            check=self.check,
            implementation=self.implementation,
        )
        ranks = None if per_positive is None else per_positive[0]
        tasks = self.tasks(candidates, positives, classification, ranks=ranks, processes=Processes(self.sync))
        return LossOutput({"classification": classification, **tasks.terms}, tasks.stats)
