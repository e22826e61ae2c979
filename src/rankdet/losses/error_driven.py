"""Error-driven losses: the soft step, the bridge of their gradients into differentiation, and a way to write one.

A ranking error counts how many candidates stand above a positive; its derivative is zero wherever it exists. The
*identity update* (Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021,
arXiv:2107.11669, section 3) puts the error itself in the derivative's place: with the primary term
:math:`L_{ij} = (\\ell(i) - \\ell^*(i))\\, p(j|i)`, the gradient that :math:`x_{ij} = s_j - s_i` receives is
:math:`L_{ij}`, so that j is pushed down and i is pulled up by as much as j is at fault for the error of i.

Legend: M candidates (all logits), P positives, I positives of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Upstream = tuple[Tensor | None, ...]
Gradient = Callable[[Tensor, Upstream], Tensor]
"""Maps the logits and one upstream gradient per value to the gradient of the logits."""
Evaluate = Callable[[Tensor], tuple[tuple[Tensor, ...], Gradient]]
"""Maps logits to the values of a loss and to the function that gives its gradient."""

PAIRS = 1 << 22
"""Pairs of a positive and a candidate that a dense definition sees at a time."""


def soft_step(difference: Tensor, delta: float) -> Tensor:
    """The step function, linear inside [−δ, δ] (the paper's H).

    .. math:: H_\\delta(x) = \\min(1, \\max(0,\\ x / 2\\delta + 1/2)), \\qquad H_0(x) = [x \\ge 0]

    Parameters
    ----------
    difference
        Differences of logits, any shape.
    delta
        Half the width of the linear part, in logits; 0 gives the hard step.

    Examples
    --------
    >>> soft_step(torch.tensor([-1.0, -0.25, 0.0, 0.5, 2.0]), 0.5)
    tensor([0.0000, 0.2500, 0.5000, 1.0000, 1.0000])
    >>> soft_step(torch.tensor([-0.1, 0.0]), 0.0)
    tensor([0., 1.])
    """
    if delta == 0:
        return (difference >= 0).to(difference.dtype)
    return (difference / (2 * delta)).add_(0.5).clamp_(0, 1)


def prefix_sums(values: Tensor) -> Tensor:
    """Sums of the values before each position along the last dimension, (…, n + 1); repeatable bit for bit.

    Examples
    --------
    >>> prefix_sums(torch.tensor([1, 2, 3]))
    tensor([0, 1, 3, 6])
    """
    if values.device.type == "cpu" or not (values.is_floating_point() or values.is_complex()):
        return functional.pad(values.cumsum(-1), (1, 0))
    # The order in which a GPU's cumsum adds floats differs from call to call: double the reach instead, log n times.
    reach = 1
    while reach < values.shape[-1]:
        values = values + functional.pad(values[..., :-reach], (reach, 0))
        reach *= 2
    return functional.pad(values, (1, 0))


def with_gradient(logits: Tensor, evaluate: Evaluate) -> tuple[Tensor, ...]:
    """Values of an error-driven loss whose gradients are given by the loss, not by differentiation.

    Parameters
    ----------
    logits
        Any shape, any floating dtype; ``evaluate`` sees them detached and with autocast off.
    evaluate
        Returns the values and a function ``gradient(logits, upstream)``. Every value is back-propagated by itself:
        ``upstream`` holds one scalar per value, None for a value that nothing depends on.

    Returns
    -------
    tuple of Tensor
        The values, each connected to ``logits`` (also when all of them are constant zeros).

    Examples
    --------
    A loss whose value is 3 and whose gradient is 1 everywhere:

    >>> def evaluate(logits):
    ...     return (torch.tensor(3.0),), lambda logits, upstream: torch.ones_like(logits) * upstream[0]
    >>> logits = torch.zeros(2, requires_grad=True)
    >>> (value,) = with_gradient(logits, evaluate)
    >>> (2 * value).backward()
    >>> value.item(), logits.grad
    (3.0, tensor([2., 2.]))
    """
    return _WithGradient.apply(logits, evaluate)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, evaluate: Evaluate) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        with torch.autocast(logits.device.type, enabled=False):
            values, ctx.gradient = evaluate(logits.detach())
        ctx.save_for_backward(logits)
        return values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0] or all(value is None for value in upstream):
            return None, None
        (logits,) = ctx.saved_tensors
        with torch.autocast(logits.device.type, enabled=False):
            return ctx.gradient(logits, upstream), None


class Pairs(NamedTuple):
    """What a definition sees: I positives of a chunk, each beside all M candidates.

    above
        (I, M): H(x_ij), how much candidate j stands above positive i; H(0) where j is i itself, 0 where j is ignored.
    own
        (I,) int64: the column in which each positive stands itself.
    targets
        (M,): −1 ignored, 0 negative, above 0 positive.
    is_positive, is_negative
        (M,) in the dtype of ``above``: 1 or 0.
    """

    above: Tensor
    own: Tensor
    targets: Tensor
    is_positive: Tensor
    is_negative: Tensor


class PrimaryTerms(NamedTuple):
    """What a definition says of I positives: :math:`L_{ij} = (\\ell(i) - \\ell^*(i))\\, p(j|i)`.

    error, target_error
        (I,): the current error ℓ(i) and the error ℓ*(i) that i would have if all were ranked as they should be.
    fault
        (I, M): to whom the error of i is handed, in any positive unit: p(j|i) is a row over its sum.
    value
        (I,): what i contributes to the reported loss, where that is not ℓ(i) − ℓ*(i).
    """

    error: Tensor
    target_error: Tensor
    fault: Tensor
    value: Tensor | None = None


Definition = Callable[[Pairs], PrimaryTerms]


def error_driven_loss(
    logits: Tensor,
    targets: Tensor,
    definition: Definition,
    delta: float,
    *,
    epsilon: float = 1e-10,
    refine: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    r"""A loss written as a dense definition: its value, with the gradient of the identity update.

    .. math::

        L = \frac{1}{|P|} \sum_{i \in P} (\ell(i) - \ell^*(i)), \qquad
        L_{ij} = (\ell(i) - \ell^*(i))\, p(j|i), \qquad
        \frac{\partial L}{\partial s_j} = \frac{1}{|P|} \Big( \sum_{i \in P} L_{ij} - \sum_{k} L_{jk} \Big)

    (section 3 of the paper). This is how a new error-driven loss is written and tried: every pair is looked at, a chunk
    of positives at a time, so time is O(P M) and memory O(M). The references of this package's own losses are written
    in it; their fast forms are in :mod:`rankdet.losses.operators`.

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
    epsilon
        A positive whose faults sum to no more than this hands out nothing and pays nothing.
    refine
        Maps the (P,) values ℓ − ℓ* of all positives, in ascending order of their logits, to others that replace them in
        loss and gradient (the interpolation of average precision is of this kind).

    Returns
    -------
    Tensor
        Scalar, connected to ``logits``; a connected zero without positives.

    Raises
    ------
    ValueError
        When shapes differ or δ is negative.

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
    if logits.shape != targets.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} must have one shape")
    check_delta(delta)

    def evaluate(logits: Tensor) -> tuple[tuple[Tensor], Gradient]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        flat, marks = logits.reshape(-1).to(dtype), targets.detach().reshape(-1).to(dtype)
        is_negative, is_used = (marks == 0).to(dtype), ~(marks < 0)
        flat = flat.masked_fill(~is_used, 0)  # a NaN that is ignored
        positives = (is_used & (marks != 0)).nonzero().squeeze(1)
        positives = positives[flat[positives].argsort(stable=True)]
        is_positive = torch.zeros_like(flat).index_fill_(0, positives, 1)
        size = max(1, PAIRS // max(len(flat), 1))

        def terms(own: Tensor) -> PrimaryTerms:
            above = soft_step(flat - flat[own, None], delta) * is_used
            return definition(Pairs(above, own, marks, is_positive, is_negative))

        errors, values = flat.new_zeros(len(positives)), flat.new_zeros(len(positives))
        for part, own in _parts(positives, size):
            found = terms(own)
            errors[part] = found.error - found.target_error
            values[part] = errors[part] if found.value is None else found.value
        if refine is not None and len(positives):
            values = errors = refine(errors)
        count = max(len(positives), 1)

        def gradient(logits: Tensor, upstream: Upstream) -> Tensor:
            result = torch.zeros_like(flat)
            for part, own in _parts(positives, size):
                fault = terms(own).fault
                total = fault.sum(1)
                is_active = ~(total <= epsilon)  # NaN is active
                error = errors[part] * is_active  # the identity update: i pays, every j gets its share
                result += (error / total.where(is_active, 1.0)) @ fault
                result.index_add_(0, own, -error)
            scale = upstream[0] / count if upstream[0] is not None else 0.0
            return (result * scale).reshape(logits.shape).to(logits.dtype)

        poison = (flat - flat).sum() if len(positives) else 0  # NaN where a logit is NaN or infinite, else 0
        return (values.sum() / count + poison,), gradient

    return with_gradient(logits, evaluate)[0]


def check_delta(delta: float) -> None:
    """Raise ValueError where half a width is negative."""
    if delta < 0:
        raise ValueError(f"delta must not be negative, got {delta}")


def _parts(positives: Tensor, size: int) -> list[tuple[slice, Tensor]]:
    return [(slice(start, start + size), positives[start : start + size]) for start in range(0, len(positives), size)]
