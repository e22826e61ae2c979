"""Error-driven losses from dense definitions.

A ranking error counts how many candidates are above a positive; its derivative is zero wherever it exists. The
*identity update* (Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021,
arXiv:2107.11669, section 3) puts the error itself in the derivative's place. With the primary term
:math:`L_{ij} = (\\ell(i) - \\ell^*(i))\\, p(j|i)`, the gradient that :math:`x_{ij} = s_j - s_i` receives is
:math:`L_{ij}`: j is pushed down and i is pulled up by as much as j is at fault for the error of i.

Legend: M candidates (all logits), P positives, I positives of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.gradients import Gradient, Upstream, with_gradient
from rankdet.losses.steps import check_delta, soft_step

PAIRS = 1 << 22
"""Pairs of a positive and a candidate that a dense definition sees at a time."""


class Pairs(NamedTuple):
    """The input of a definition: I positives of a chunk, each beside all M candidates.

    above
        (I, M): H(x_ij), how far candidate j is above positive i; H(0) where j is i itself, 0 where j is ignored.
    own
        (I,) int64: the column of each positive itself.
    targets
        (M,): −1 ignored, 0 negative, above 0 positive.
    qualities
        (M,) quality of each positive, or whatever else was passed for it; 0 elsewhere.
    is_positive, is_negative
        (M,) in the dtype of ``above``: 1 or 0.
    """

    above: Tensor
    own: Tensor
    targets: Tensor
    qualities: Tensor
    is_positive: Tensor
    is_negative: Tensor


class PrimaryTerms(NamedTuple):
    """What a definition returns for I positives: :math:`L_{ij} = (\\ell(i) - \\ell^*(i))\\, p(j|i)`.

    error, target_error
        (I,): the current error ℓ(i) and the error ℓ*(i) that i would have if all were ranked as they should be.
    fault
        (I, M): how much each candidate is at fault for the error of i, in any unit: p(j|i) is a row over its sum.
    value
        (I,): what i contributes to the reported loss, where that is not ℓ(i) − ℓ*(i).
    """

    error: Tensor
    target_error: Tensor
    fault: Tensor
    value: Tensor | None = None


Definition = Callable[[Pairs], PrimaryTerms]
"""Maps the pairs of a chunk of positives to their primary terms."""


def error_driven_loss(
    logits: Tensor,
    targets: Tensor,
    definition: Definition,
    delta: float,
    *,
    qualities: Tensor | None = None,
    epsilon: float = 1e-10,
    refine: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""A loss written as a dense definition: its value, a scalar, with the gradient of the identity update.

    .. math::

        L = \frac{1}{|P|} \sum_{i \in P} (\ell(i) - \ell^*(i)), \qquad
        L_{ij} = (\ell(i) - \ell^*(i))\, p(j|i), \qquad
        \frac{\partial L}{\partial s_j} = \frac{1}{|P|} \Big( \sum_{i \in P} L_{ij} - \sum_{k} L_{jk} \Big)

    (section 3 of the paper). A new error-driven loss is written and tried like this. Every pair is looked at, a chunk
    of positives at a time: time is O(P M), memory O(M). Without positives the loss
    is a connected zero. The references of this package's own losses are definitions;
    their fast forms are rules (:class:`rankdet.losses.RankingOperator`).

    Parameters
    ----------
    logits
        Raw scores of any shape and floating dtype; computed in float32 or better.
    targets
        Same shape: −1 ignored, 0 negative, above 0 positive.
    definition
        Maps the pairs of a chunk of positives to their primary terms. It is called again in the backward pass.
    delta
        δ, half the width of the soft step, in logits; 0 gives the hard step.
    qualities
        (P,) numbers of the positives, in their order in ``targets``; None: their targets. They receive no gradient.
    epsilon
        A positive whose faults sum to no more than this passes no gradient and pays nothing.
    refine
        Maps the (P,) values ℓ − ℓ* of all positives, in ascending order of their logits, to their replacements in loss
        and gradient. The interpolation of average precision is an example.

    Raises
    ------
    ValueError
        When shapes differ, or δ is negative.

    Examples
    --------
    A loss that is not in the paper, the discounted gain that a positive loses to the negatives above it. With r the
    rank of i among positives and n the negatives above it, ℓ(i) = 1 − log₂(1 + r) / log₂(1 + r + n):

    >>> def discounted_gain(pairs):
    ...     rank = (pairs.above * pairs.is_positive).sum(1)
    ...     false = pairs.above * pairs.is_negative
    ...     error = 1 - (1 + rank).log2() / (1 + rank + false.sum(1)).log2()
    ...     return PrimaryTerms(error, torch.zeros_like(error), false)
    >>> logits = torch.tensor([2.0, 1.0, 0.0], requires_grad=True)
    >>> loss = error_driven_loss(logits, torch.tensor([0.0, 1.0, 0.0]), discounted_gain, delta=0.0)
    >>> loss.backward()
    >>> print(f"{loss:.4f}", logits.grad)
    0.3691 tensor([ 0.3691, -0.3691,  0.0000])
    """

    def evaluate(logits: Tensor) -> tuple[tuple[Tensor], Gradient]:
        problem = _Problem.of(logits, targets, qualities, delta)
        flat, positives = problem.logits, problem.positives
        errors, values = flat.new_zeros(len(positives)), flat.new_zeros(len(positives))
        for part, own in problem.parts():
            found = definition(problem.pairs(own))
            errors[part] = found.error - found.target_error
            values[part] = errors[part] if found.value is None else found.value
        if refine is not None and len(positives):
            values = errors = refine(errors)
        count = max(len(positives), 1)

        def gradient(logits: Tensor, upstream: Upstream) -> Tensor:
            result = torch.zeros_like(flat)
            for part, own in problem.parts():
                fault = definition(problem.pairs(own)).fault
                paid, shares = _identity_update(errors[part], fault, epsilon)  # i pays, every j gets its share
                result += shares @ fault
                result.index_add_(0, own, -paid)
            return (result * (upstream[0] / count)).reshape(logits.shape).to(logits.dtype)

        poison = (flat - flat).sum() if len(positives) else 0  # NaN where a logit is NaN or infinite, else 0
        return (values.sum() / count + poison,), gradient

    return with_gradient(logits, evaluate)[0]


class ErrorTerms(NamedTuple):
    """The errors of P positives and whose faults they are; in descending order of their logits.

    positives
        (P,) int64: places in the flat logits.
    error, target_error
        (P,): ℓ(i), refined where the loss refines it, and ℓ*(i).
    terms
        (P, K): L_ij of the chosen candidates. All candidates of a row add up to ℓ(i) − ℓ*(i), or to 0 where i passes no
        gradient.
    rest
        (P,): the sum of L_ij over all other candidates.
    """

    positives: Tensor
    error: Tensor
    target_error: Tensor
    terms: Tensor
    rest: Tensor


@torch.no_grad()
def error_terms(
    logits: Tensor,
    targets: Tensor,
    definition: Definition,
    delta: float,
    *,
    chosen: Tensor,
    qualities: Tensor | None = None,
    epsilon: float = 1e-10,
    refine: Callable[[Tensor], Tensor] | None = None,
) -> ErrorTerms:
    """All that a dense definition says of each positive: for a look at what :func:`error_driven_loss` does.

    Parameters
    ----------
    chosen
        (K,) int64: the candidates of whom single terms are wanted, as places in the flat logits.
    logits, targets, definition, delta, qualities, epsilon, refine
        See :func:`error_driven_loss`, also for what is raised. Time is O(P M), memory O(P K + M).

    Examples
    --------
    Both false positives are at fault for the positive below them:

    >>> def imprecision(pairs):
    ...     false = pairs.above * pairs.is_negative
    ...     error = false.sum(1) / (pairs.above * (pairs.is_positive + pairs.is_negative)).sum(1)
    ...     return PrimaryTerms(error, torch.zeros_like(error), false)
    >>> logits, targets = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
    >>> found = error_terms(logits, targets, imprecision, delta=0.0, chosen=torch.arange(2))
    >>> found.positives, found.error, found.terms
    (tensor([2]), tensor([0.6667]), tensor([[0.3333, 0.3333]]))
    """
    problem = _Problem.of(logits, targets, qualities, delta)
    flat, positives = problem.logits, problem.positives
    error, target, rest = (flat.new_zeros(len(positives)) for _ in range(3))
    terms = flat.new_zeros(len(positives), len(chosen))
    for part, own in problem.parts():
        found = definition(problem.pairs(own))
        error[part], target[part] = found.error, found.target_error
    if refine is not None and len(positives):
        error = target + refine(error - target)
    for part, own in problem.parts():
        fault = definition(problem.pairs(own)).fault
        paid, shares = _identity_update((error - target)[part], fault, epsilon)
        terms[part] = shares[:, None] * fault[:, chosen]
        rest[part] = paid - terms[part].sum(1)
    return ErrorTerms(*(values.flip(0) for values in (positives, error, target, terms, rest)))


def _identity_update(error: Tensor, fault: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(I,) what each of I positives pays, and (I,) the part of it for a unit of fault."""
    total = fault.sum(1)
    is_active = ~(total <= epsilon)  # NaN is active
    paid = error * is_active
    return paid, paid / total.where(is_active, 1.0)


class _Problem(NamedTuple):
    """M flat logits as a definition sees them, and the places of P positives, in ascending order of their logits."""

    logits: Tensor
    targets: Tensor
    qualities: Tensor
    is_used: Tensor
    is_positive: Tensor
    is_negative: Tensor
    positives: Tensor
    delta: float

    @classmethod
    def of(cls, logits: Tensor, targets: Tensor, qualities: Tensor | None, delta: float) -> _Problem:
        if logits.shape != targets.shape:
            raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape")
        check_delta(delta)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        flat, marks = logits.reshape(-1).to(dtype), targets.detach().reshape(-1).to(dtype)
        is_negative, is_used = (marks == 0).to(dtype), ~(marks < 0)
        flat = flat.masked_fill(~is_used, 0)  # a NaN that is ignored
        positives = (is_used & (marks != 0)).nonzero().squeeze(1)
        of_all = torch.zeros_like(flat)
        of_all[positives] = marks[positives] if qualities is None else qualities.detach().to(dtype)
        positives = positives[flat[positives].argsort(stable=True)]
        is_positive = torch.zeros_like(flat).index_fill_(0, positives, 1)
        return cls(flat, marks, of_all, is_used, is_positive, is_negative, positives, delta)

    def parts(self) -> list[tuple[slice, Tensor]]:
        """Chunks of the positives: which of P they are, and their places."""
        size, count = max(1, PAIRS // max(len(self.logits), 1)), len(self.positives)
        return [(slice(start, start + size), self.positives[start : start + size]) for start in range(0, count, size)]

    def pairs(self, own: Tensor) -> Pairs:
        """I positives beside all candidates."""
        above = soft_step(self.logits - self.logits[own, None], self.delta) * self.is_used
        return Pairs(above, own, self.targets, self.qualities, self.is_positive, self.is_negative)
