"""What all exact ranking losses share: from the logits of all candidates to values and gradients, by a rule.

A rule knows the P positives of a loss and, of each, the soft number of negatives above it, N_FP. The rest is here:

    logits ──count──► N_FP(i) ──rule──► values; gradient of each positive; weights w_i
    logits ──F(s) = Σ_i w_i H(s − p_i)──► gradient of each negative

Legend: P positives, N logits, K values of a loss, J numbers that its rule returns for each positive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.cells import Cells
from rankdet.losses.negatives import Negatives, TorchNegatives
from rankdet.losses.processes import Processes
from rankdet.losses.roles import RankedCandidates, positive_logits


class Ruling(NamedTuple):
    """What a rule returns for P positives in ascending order of their logits; all float64.

    values
        (K,): the values of the loss.
    positive_gradients
        (K, P): gradient of each value at each positive.
    weights
        (K, P): w; the gradient of a value at a negative with logit s is Σ_i w_i H(s − p_i). No two differ in sign.
    per_positive
        (J, P): numbers of each positive for use outside of the loss: its rank first.
    """

    values: Tensor
    positive_gradients: Tensor
    weights: Tensor
    per_positive: Tensor


Rule = Callable[[Tensor, Tensor, Tensor, float], Ruling]
"""Maps (P,) ascending logits, (P,) qualities (or whatever else comes with the positives), (P,) N_FP and δ."""


class Kind(NamedTuple):
    """A rule and the sizes of its answer: K values, J numbers for each positive."""

    rule: Rule
    num_values: int
    num_per_positive: int


class Ranked(NamedTuple):
    """The values of a loss, and what its backward pass needs; P are the positives of this process, P' those of all.

    values
        (K,) in the dtype of the loss.
    per_positive, positive_gradients
        (J, P) and (K, P) float64, in the order of the candidates.
    ascending, weights
        (P',) logits of all positives and their (K, P') weights, float64.
    kept
        (N,) int32: the cell of each logit, for the backward pass; empty where they are not kept.
    """

    values: Tensor
    per_positive: Tensor
    positive_gradients: Tensor
    ascending: Tensor
    weights: Tensor
    kept: Tensor


def negatives_by(triton: bool) -> Callable[[RankedCandidates, Cells, Tensor | None], Negatives]:
    """The implementation of the passes over the negatives; that in Triton is imported on demand."""
    if triton:
        from rankdet.losses.kernels.negatives import TritonNegatives

        return TritonNegatives
    return TorchNegatives


def rank(
    kind: Kind,
    candidates: RankedCandidates,
    qualities: Tensor,
    delta: float,
    triton: bool,
    keep: bool,
    processes: Processes,
) -> Ranked:
    """The forward pass of a loss.

    Parameters
    ----------
    kind
        The rule.
    candidates
        The candidates of this process.
    qualities
        (P,) numbers that come with its positives.
    delta
        δ, half the width of the soft step, in logits.
    triton
        Whether the passes over the negatives are those in Triton.
    keep
        Whether the cells of the logits are kept, in the memory in which the backward pass will write the gradient.
    processes
        The processes whose candidates are ranked in one pool.
    """
    # A logit that is not finite makes the loss NaN, and is kept from the search.
    own, poison = positive_logits(candidates)
    gathered, first = processes.gather(torch.stack([own, qualities.double()]))
    num_own, num_all = len(own), gathered.shape[1]
    kept = torch.empty(candidates.num_logits if keep else 0, dtype=torch.int32, device=own.device)
    if num_all == 0:
        none = own.new_zeros(kind.num_values, 0)
        values = own.new_zeros(kind.num_values, dtype=candidates.dtype)
        return Ranked(values, own.new_zeros(kind.num_per_positive, 0), none, own, none.clone(), kept)
    ascending, order = gathered[0].sort(stable=True)
    cells = Cells(ascending, delta, candidates.dtype)
    counts, sums, not_finite = negatives_by(triton)(candidates, cells, kept if keep else None).count(own)
    false_positives = processes.sum(cells.steps_over(counts, sums).clamp(min=0) + (poison + not_finite))
    ruling = kind.rule(ascending, gathered[1, order], false_positives, delta)
    values = ruling.values + 0 * false_positives.sum()  # NaN in every value where a logit was
    # From ascending order to that of the candidates, of which this process holds some.
    place = torch.empty_like(order).scatter_(0, order, torch.arange(num_all, device=order.device))
    place = place[first : first + num_own]
    return Ranked(
        values.to(candidates.dtype),
        ruling.per_positive[:, place],
        ruling.positive_gradients[:, place],
        ascending,
        ruling.weights,
        kept,
    )


def gradients(
    candidates: RankedCandidates,
    positive_gradients: Tensor,
    ascending: Tensor,
    weights: Tensor,
    upstream: Tensor,
    delta: float,
    triton: bool,
    processes: Processes,
    kept: Tensor | None,
) -> list[Tensor]:
    """The gradient of Σ_k upstream_k · value_k, level by level; in the memory of ``kept`` where cells were kept."""
    upstream = upstream.double() * processes.size
    if len(ascending) == 0:
        if kept is not None:
            kept.zero_()
        return [torch.zeros_like(level, memory_format=torch.contiguous_format) for level in candidates.logits]
    cells = Cells(ascending, delta, candidates.dtype)
    function = cells.weighted_steps(upstream @ weights)
    return negatives_by(triton)(candidates, cells, kept).gradient(function, upstream @ positive_gradients)
