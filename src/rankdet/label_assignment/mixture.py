r"""Mixtures of two Gaussians on a line, many at once, by expectation and maximization.

Legend: G mixtures, K places for values of each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_SHARE = 1e-300
"""Floor of a component's share of the values, so that a component without any is not divided by zero."""


class Mixture(NamedTuple):
    """Weights, means and variances of both components of G mixtures, each (G, 2) float64."""

    weights: Tensor
    means: Tensor
    variances: Tensor


def fit_mixtures(
    values: Tensor, is_given: Tensor, *, added_variance: float, tolerance: float = 1e-3, max_iterations: int = 100
) -> Mixture:
    r"""Fit a mixture to each row of values (G, K), by expectation and maximization.

    .. math:: r_{ik} = \frac{w_k N(c_i; \mu_k, v_k)}{\sum_l w_l N(c_i; \mu_l, v_l)}, \quad
        w_k = \frac{1}{n} \sum_i r_{ik}, \quad \mu_k = \frac{\sum_i r_{ik} c_i}{\sum_i r_{ik}}, \quad
        v_k = \frac{\sum_i r_{ik} (c_i - \mu_k)^2}{\sum_i r_{ik}} + \epsilon

    with ε = ``added_variance``. Component 0 starts at the smallest value of its row and component 1 at the largest,
    both with weight 1/2 and variance 1. A row is done when its mean log-likelihood changes by less than ``tolerance``
    from one iteration to the next; the new parameters of that iteration are taken. Where ``is_given`` (G, K) is False,
    a place holds no value; a row without any keeps finite starting values.

    Notes
    -----
    All rows go through the iterations together, each until it is done. On a GPU the host does not look whether all are
    done: waiting for the answer would cost more than the iterations it saves. The numbers are those of scikit-learn's
    ``GaussianMixture`` with these starting values (a test compares them).

    Examples
    --------
    >>> values = torch.tensor([[0.1, 0.2, 0.3, 4.0, 4.2, 0.0]])
    >>> fit_mixtures(values, torch.tensor([[True] * 5 + [False]]), added_variance=1e-5).means
    tensor([[0.2000, 4.1000]], dtype=torch.float64)
    """
    values = values.double()
    counts = is_given.sum(dim=1).clamp(min=1)
    lowest = values.where(is_given, torch.inf).amin(dim=1)
    highest = values.where(is_given, -torch.inf).amax(dim=1)
    is_done = ~is_given.any(dim=1)
    # Without values, lowest and highest are infinite.
    means = torch.stack([lowest, highest], dim=1).masked_fill(is_done[:, None], 0)
    values = values.where(is_given, means[:, :1])
    mixture = Mixture(torch.full_like(means, 0.5), means, torch.ones_like(means))
    likelihood = torch.full_like(means[:, 0], -torch.inf)
    for _ in range(max_iterations):
        if values.device.type == "cpu" and bool(is_done.all()):
            break
        parts = component_log_densities(values, mixture)  # (G, K, 2)
        total = parts.logsumexp(dim=2)
        share = (parts - total[..., None]).exp() * is_given[..., None]
        sums = share.sum(dim=1)
        new_means = (share * values[..., None]).sum(dim=1) / sums.clamp(min=LEAST_SHARE)
        squares = (share * (values[..., None] - new_means[:, None]).square()).sum(dim=1)
        new = Mixture(sums / counts[:, None], new_means, squares / sums.clamp(min=LEAST_SHARE) + added_variance)
        mixture = Mixture(*(old.where(is_done[:, None], now) for old, now in zip(mixture, new, strict=True)))
        new_likelihood = (total * is_given).sum(dim=1) / counts
        is_done |= (new_likelihood - likelihood).abs() < tolerance
        likelihood = new_likelihood
    return mixture


def component_log_densities(values: Tensor, mixture: Mixture) -> Tensor:
    """Return ln w + ln N(value) of both components, (G, K, 2), at values (G, K) in float64.

    Examples
    --------
    >>> one = Mixture(*(torch.ones(1, 2, dtype=torch.float64) for _ in range(3)))
    >>> component_log_densities(torch.ones(1, 1, dtype=torch.float64), one)  # − ln √(2π)
    tensor([[[-0.9189, -0.9189]]], dtype=torch.float64)
    """
    weights, means, variances = (parameter[:, None] for parameter in mixture)
    squared = (values[..., None] - means).square() / variances
    return weights.log() - (squared + variances.log() + math.log(2 * math.pi)) / 2
