"""True gradients of the ranking losses in float64, for measuring errors: nothing of the package but the soft step.

Two ways to sum soft steps over negatives, which the tests compare: over all pairs as the equations stand, O(P N), and
by sorting the negatives once, O(N log N), for sizes where the first takes long.

Legend: P positives, N negatives, K losses, H the soft step, δ half its width.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rankdet.losses import soft_step

PAIRS = 1 << 19
"""Pairs looked at at a time: 4 MB."""


class Negatives(Protocol):
    """Sums of soft steps of negatives over positives."""

    def count(self, positives: Tensor, delta: float) -> Tensor:
        """(P,) Σ_j H(s_j − p_i)."""

    def handed(self, positives: Tensor, weights: Tensor, delta: float) -> Tensor:
        """(K, N) Σ_i w_i H(s_j − p_i) for (K, P) weights."""


class AllPairs:
    """Over all pairs of (N,) float64 negatives and the positives."""

    def __init__(self, negatives: Tensor) -> None:
        self.negatives = negatives

    def count(self, positives: Tensor, delta: float) -> Tensor:
        total = torch.zeros_like(positives)
        for part in self.negatives.split(max(1, PAIRS // len(positives))):
            total += soft_step(part - positives[:, None], delta).sum(1)
        return total

    def handed(self, positives: Tensor, weights: Tensor, delta: float) -> Tensor:
        parts = self.negatives.split(max(1, PAIRS // len(positives)))
        return torch.cat([weights @ soft_step(part - positives[:, None], delta) for part in parts], dim=1)


class Sorted:
    """From sorted negatives: those above the ramp of a soft step count 1, those on it by their number and sum.

    Sums run from the top down for counts and from the bottom up for gradients, so that what is small is a difference of
    small sums. Values should be near 0 (see :func:`true_gradients`).
    """

    def __init__(self, negatives: Tensor) -> None:
        self.negatives = negatives
        self.ascending = negatives.sort().values
        from_top = self.ascending.flip(0).cumsum(0).flip(0)
        self.from_top = torch.cat([from_top, from_top.new_zeros(1)])

    def count(self, positives: Tensor, delta: float) -> Tensor:
        num_negatives = len(self.ascending)
        if delta == 0:
            return (num_negatives - torch.searchsorted(self.ascending, positives)).double()
        low = torch.searchsorted(self.ascending, positives - delta)
        high = torch.searchsorted(self.ascending, positives + delta)
        on_ramp = high - low
        sums = self.from_top[low] - self.from_top[high] - on_ramp * positives
        return num_negatives - high + on_ramp / 2 + sums / (2 * delta)

    def handed(self, positives: Tensor, weights: Tensor, delta: float) -> Tensor:
        positives, order = positives.sort()
        weights = weights[:, order]
        up_to, moments = _sums_up_to(weights), _sums_up_to(weights * positives)
        result = weights.new_empty(len(weights), len(self.negatives))
        for part in torch.arange(len(self.negatives), device=weights.device).split(1 << 20):
            values = self.negatives[part]
            if delta == 0:
                result[:, part] = up_to[:, torch.searchsorted(positives, values, right=True)]
                continue
            full = torch.searchsorted(positives, values - delta)
            some = torch.searchsorted(positives, values + delta)
            on_ramp = up_to[:, some] - up_to[:, full]
            rise = values * on_ramp - (moments[:, some] - moments[:, full])
            result[:, part] = up_to[:, full] + on_ramp / 2 + rise / (2 * delta)
        return result


def _sums_up_to(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values.cumsum(-1), (1, 0))


class Gradient(NamedTuple):
    """Gradient of one loss: (P,) at positives, (N,) at negatives, (P,) at localization errors (zeros but in aLRP)."""

    positives: Tensor
    negatives: Tensor
    errors: Tensor


class Pool:
    """Positives and negatives of one call, all float64.

    Parameters
    ----------
    positives, negatives
        (P,) and (N,) logits.
    quality, errors
        (P,) localization qualities and errors of the positives.
    kind
        How soft steps are summed.
    """

    def __init__(
        self,
        positives: Tensor,
        negatives: Tensor,
        quality: Tensor,
        errors: Tensor,
        kind: type[AllPairs] | type[Sorted] = AllPairs,
    ) -> None:
        # Ranking does not see a shift, and sums of large numbers lose digits. Differences of float32 numbers are exact.
        shift = positives.double().median()
        self.positives = positives.double() - shift
        self.quality, self.errors = quality.double(), errors.double()
        self.negatives: Negatives = kind(negatives.double() - shift)

    def true_gradients(self, delta: float) -> dict[str, Gradient]:
        """Of RS, AP, aLRP and of AP Loss as its bucketed form has it (own term H(0), precision not interpolated).

        Each is the identity update of the equations in the docstrings of :mod:`rankdet.losses`, ties among positives in
        the order in which they stand, as there.
        """
        positives, count = self.positives, len(self.positives)
        false = self.negatives.count(positives, delta)
        own_step = float(soft_step(positives.new_zeros(1), delta))
        above, errors_above, sorting_gradient = self._among_positives(delta)
        order = positives.argsort(stable=True)

        rank = above + false
        is_active = false > 1e-10
        rank_sort = (-false / rank * is_active + sorting_gradient, is_active / rank)
        plain = (-false / rank, 1 / rank)

        rank = above + (1 - own_step) + false
        precision = (above + (1 - own_step)) / rank
        missed = torch.empty_like(precision)
        missed[order] = 1 - precision[order].cummax(0).values
        missed = missed.where(false > 0, 0)
        average_precision = (-missed, torch.where(false > 0, missed / false, 0))

        is_active = false > 1e-5
        handed = is_active * (false + errors_above - own_step * self.errors) / rank
        alrp = (-handed, torch.where(is_active, handed / false, 0))
        shares = torch.empty_like(rank)
        shares[order] = (1 / rank[order]).cumsum(0)

        own, weights = (
            torch.stack(parts) / count for parts in zip(rank_sort, average_precision, alrp, plain, strict=True)
        )
        of_negatives = self.negatives.handed(positives, weights, delta)
        none = torch.zeros_like(shares)
        of_errors = (none, none, shares / count, none)
        names = ("RS", "AP", "aLRP", "AP not interpolated")
        return {name: Gradient(*parts) for name, *parts in zip(names, own, of_negatives, of_errors, strict=True)}

    def _among_positives(self, delta: float) -> tuple[Tensor, Tensor, Tensor]:
        """Σ_j H(x_ij) and Σ_j H(x_ij) E_j over positives, and |P| times the gradient of the sorting error; (P,)."""
        logits, quality = self.positives, self.quality
        count, errors_above, gradient = (torch.zeros_like(logits) for _ in range(3))
        for part in torch.arange(len(logits), device=logits.device).split(max(1, (1 << 21) // len(logits))):
            above = soft_step(logits - logits[part, None], delta)
            count[part], errors_above[part] = above.sum(1), above @ self.errors
            worse = above * (quality < quality[part, None])
            better = above - worse
            sorting = above @ (1 - quality) / count[part] - better @ (1 - quality) / better.sum(1)
            num_worse = worse.sum(1)
            is_active = num_worse > 1e-10
            gradient += torch.where(is_active, sorting / num_worse, 0) @ worse
            gradient[part] -= sorting * is_active
        return count, errors_above, gradient
