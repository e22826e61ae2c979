"""Error-driven losses: the soft step, and the one bridge by which their gradients enter automatic differentiation.

A ranking error counts how many candidates stand above a positive; its derivative is zero wherever it exists. The
*identity update* (Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021,
arXiv:2107.11669, section 3) puts the error itself in the derivative's place: with the primary term
:math:`L_{ij} = (\\ell(i) - \\ell^*(i))\\, p(j|i)`, the gradient that :math:`x_{ij} = s_j - s_i` receives is
:math:`L_{ij}`, so that j is pushed down and i is pulled up by as much as j is at fault for the error of i.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Upstream = tuple[Tensor | None, ...]
Gradient = Callable[[Tensor, Upstream], Tensor]
"""Maps the logits and one upstream gradient per value to the gradient of the logits."""
Evaluate = Callable[[Tensor], tuple[tuple[Tensor, ...], Gradient]]
"""Maps logits to the values of a loss and to the function that gives its gradient."""


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


def identity_update(logits: Tensor, evaluate: Evaluate) -> tuple[Tensor, ...]:
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
    >>> (value,) = identity_update(logits, evaluate)
    >>> (2 * value).backward()
    >>> value.item(), logits.grad
    (3.0, tensor([2., 2.]))
    """
    return _IdentityUpdate.apply(logits, evaluate)


class _IdentityUpdate(torch.autograd.Function):
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
