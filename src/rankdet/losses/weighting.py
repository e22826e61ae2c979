"""Instance weights of the positives in a localization loss.

Legend: M candidates, C classes, P positives.
"""

from __future__ import annotations

from torch import Tensor

MIN_SUM = 1e-10
"""Below this sum of weights nothing is divided (the authors' code)."""


def score_weights(logits: Tensor) -> Tensor:
    r"""Weight of a positive by its best score, :math:`w_i = \max_c \sigma(s_{ic})`, detached.

    The maximum goes over all classes, not the class of the object (the authors' code; the paper says "scores").

    Parameters
    ----------
    logits
        (P, C) raw scores of the positives.

    Returns
    -------
    Tensor
        (P,) in (0, 1).

    Examples
    --------
    >>> import torch
    >>> score_weights(torch.tensor([[0.0, -4.0], [-9.0, 0.0]]))
    tensor([0.5000, 0.5000])
    """
    return logits.detach().float().amax(dim=1).sigmoid()


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Σ w v / Σ w over P positives; connected zero without any.

    Examples
    --------
    >>> import torch
    >>> weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0]))
    tensor(1.5000)
    """
    total = weights.sum()
    return (weights * values).sum() / total.where(total >= MIN_SUM, 1.0)
