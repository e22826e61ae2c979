"""Task balancing: how much a localization loss counts beside the classification loss of its head."""

from __future__ import annotations

from torch import Tensor


def value_balance(classification: Tensor, task: Tensor) -> Tensor:
    r"""Weight that gives a task's loss the value of the classification loss, each iteration anew, detached.

    .. math:: \lambda_t = L_{RS} / L_t \qquad (section 5.1 of the paper)

    The task's gradient becomes :math:`L_{RS} \nabla \log L_t`: its direction is kept, its size is that of the ranking
    error. Nothing is tuned, averaged over iterations or reduced over processes.

    Parameters
    ----------
    classification
        Scalar: the sum of all classification terms of the head.
    task
        Scalar: the task's loss, weighted and normalized.

    Returns
    -------
    Tensor
        Scalar λ; 0 where the task's loss is 0 or not finite (the authors' code divides by zero there).

    Examples
    --------
    >>> import torch
    >>> value_balance(torch.tensor(0.6), torch.tensor(0.2)), value_balance(torch.tensor(0.6), torch.tensor(0.0))
    (tensor(3.), tensor(0.))
    """
    classification, task = classification.detach(), task.detach()
    usable = task.isfinite() & (task > 0)
    return (classification / task.where(usable, 1.0)).where(usable, 0.0)
