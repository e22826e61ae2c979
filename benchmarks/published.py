"""The published algorithms of RS, AP and aLRP Loss: one positive at a time over the relevant negatives, in float32.

O(P (P + N)) time and O(P + N) memory. Written from the equations, for comparison; the bucketed algorithm of Yavuz et
al. is :mod:`rankdet.losses.bucketed`. "Relevant" are negatives that are not below all positives by more than δ: no soft
step of the others is above 0.

Legend: P positives, N negatives, H the soft step, δ half its width.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


def loop_rank_sort_loss(logits: Tensor, targets: Tensor, delta: float = 0.5) -> Tensor:
    """Rank & Sort Loss, ranking and sorting together (Oksuz et al., ICCV 2021, section 4).

    Parameters
    ----------
    logits
        Raw scores of any shape.
    targets
        Same shape: −1 ignored, 0 negative, (0, 1] localization quality of a positive.
    delta
        δ, in logits.

    Returns
    -------
    Tensor
        Scalar; at least one positive is needed.
    """
    positives, negatives, relevant = _split(logits, targets, delta)
    quality = targets[targets > 0]
    gradient, gradient_of_negatives = torch.zeros_like(positives), torch.zeros_like(negatives)
    total = positives.new_zeros(())
    for i in positives.argsort(stable=True):
        above, false = _step(positives - positives[i], delta), _step(negatives - positives[i], delta)
        num_above, num_false = above.sum(), false.sum()
        ranking = num_false / (num_above + num_false)
        better = above * (quality >= quality[i])
        sorting = (above * (1 - quality)).sum() / num_above - (better * (1 - quality)).sum() / better.sum()
        worse = above - better
        num_worse = worse.sum()
        if num_false > 1e-10:
            gradient[i] -= ranking
            gradient_of_negatives += false * (ranking / num_false)
        if num_worse > 1e-10:
            gradient[i] -= sorting
            gradient += worse * (sorting / num_worse)
        total += ranking + sorting
    return _with_gradient(logits, total, _Found(targets > 0, gradient, relevant, gradient_of_negatives))


def loop_ap_loss(logits: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
    """AP Loss with interpolated precision (Chen et al., TPAMI 2021); as :func:`loop_rank_sort_loss`."""
    positives, negatives, relevant = _split(logits, targets, delta)
    gradient, gradient_of_negatives = torch.zeros_like(positives), torch.zeros_like(negatives)
    total, best = positives.new_zeros(()), positives.new_zeros(())
    for i in positives.argsort(stable=True):
        above, false = _step(positives - positives[i], delta), _step(negatives - positives[i], delta)
        above[i] = 1
        num_above, num_false = above.sum(), false.sum()
        best = torch.maximum(best, num_above / (num_above + num_false))
        error = 1 - best
        if num_false > 0:
            gradient[i] -= error
            gradient_of_negatives += false * (error / num_false)
        total += error
    return _with_gradient(logits, total, _Found(targets > 0, gradient, relevant, gradient_of_negatives))


def loop_alrp_loss(logits: Tensor, targets: Tensor, localization_errors: Tensor, delta: float = 1.0) -> Tensor:
    """aLRP Loss, classification and localization together (Oksuz et al., NeurIPS 2020).

    Parameters
    ----------
    logits, targets, delta
        As in :func:`loop_rank_sort_loss`.
    localization_errors
        (P,) of the positives, in the order in which they stand in ``targets``; the loss is differentiable in them.
    """
    positives, negatives, relevant = _split(logits, targets, delta)
    errors = localization_errors.detach()
    gradient, gradient_of_negatives = torch.zeros_like(positives), torch.zeros_like(negatives)
    total, ranks = positives.new_zeros(()), torch.zeros_like(positives)
    order = positives.argsort(stable=True)
    for i in order:
        above, false = _step(positives - positives[i], delta), _step(negatives - positives[i], delta)
        above[i] = 1
        num_false = false.sum()
        ranks[i] = above.sum() + num_false
        above[i] = 0  # its own localization error would be there without negatives, too
        handed = (num_false + (above * errors).sum()) / ranks[i]
        if num_false > 1e-5:
            gradient[i] -= handed
            gradient_of_negatives += false * (handed / num_false)
        total += num_false / ranks[i]
    best_first = order.flip(0)
    localization = (localization_errors[best_first].cumsum(0) / ranks[best_first]).mean()
    found = _Found(targets > 0, gradient, relevant, gradient_of_negatives)
    return _with_gradient(logits, total, found) + localization


def _step(difference: Tensor, delta: float) -> Tensor:
    """H, in place."""
    if delta == 0:
        return (difference >= 0).to(difference.dtype)
    return difference.div_(2 * delta).add_(0.5).clamp_(0, 1)


def _split(logits: Tensor, targets: Tensor, delta: float) -> tuple[Tensor, Tensor, Tensor]:
    """(P,) logits of positives and (R,) of relevant negatives, and the mask of these, in the shape of ``logits``."""
    values = logits.detach()
    positives = values[targets > 0]
    relevant = (targets == 0) & (values >= positives.min() - delta)
    return positives, values[relevant], relevant


class _Found(NamedTuple):
    """Masks in the shape of the logits, and sums of gradients at what they mark."""

    positives: Tensor
    gradient: Tensor
    relevant: Tensor
    gradient_of_negatives: Tensor


def _with_gradient(logits: Tensor, total: Tensor, found: _Found) -> Tensor:
    """The mean over positives, whose gradient was found beside the value."""
    gradient = torch.zeros_like(logits)
    gradient[found.relevant] = found.gradient_of_negatives / len(found.gradient)
    gradient[found.positives] = found.gradient / len(found.gradient)
    return _WithGradient.apply(logits, total / len(found.gradient), gradient)


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None
