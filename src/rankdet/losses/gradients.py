"""The bridge into differentiation of a function whose gradient is written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Upstream = tuple[Tensor, ...]
Gradient = Callable[[Tensor, Upstream], Tensor]
"""Maps the logits and one upstream gradient per value to the gradient of the logits."""
Evaluate = Callable[[Tensor], tuple[tuple[Tensor, ...], Gradient]]
"""Maps logits to the values of a function and to the function that returns its gradient."""


def with_gradient(logits: Tensor, evaluate: Evaluate) -> tuple[Tensor, ...]:
    """Values of a function of the logits, with a gradient that the function writes out itself.

    Error-driven losses put another gradient in the place of the derivative. Focal loss, Dice and mask cross-entropy
    write out their derivative, which spares the memory of intermediate results.

    ``evaluate`` sees the logits detached and with autocast off. It returns the values and a function
    ``gradient(logits, upstream)``. Every value is back-propagated by itself: ``upstream`` holds one gradient per value,
    zeros for one that nothing depends on. Each value is connected to ``logits`` (also when all are constant zeros).

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
        with torch.autocast(logits.device.type, enabled=False):
            values, ctx.gradient = evaluate(logits.detach())
        ctx.save_for_backward(logits)
        return values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None
        (logits,) = ctx.saved_tensors
        with torch.autocast(logits.device.type, enabled=False):
            return ctx.gradient(logits, upstream), None
