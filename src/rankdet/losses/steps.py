"""The soft step and what sums of it are made from."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional


def check_delta(delta: float) -> None:
    """Raise ValueError where half a width is negative or not finite."""
    if not 0 <= delta < math.inf:
        raise ValueError(f"delta must be finite and not negative, got {delta}")


def soft_step(difference: Tensor, delta: float) -> Tensor:
    """The step function, linear inside [−δ, δ] (the paper's H).

    .. math:: H_\\delta(x) = \\min(1, \\max(0,\\ x / 2\\delta + 1/2)), \\qquad H_0(x) = [x \\ge 0]

    δ is half the width of the linear part, in logits; 0 gives the hard step.

    Examples
    --------
    >>> import torch
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
    >>> import torch
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
