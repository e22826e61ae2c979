"""One training step: batch → candidates → losses → the sum that is minimized."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rankdet.structures import Batch, Candidates, InputError


def training_step(
    forward: Callable[[Batch], list[Candidates]],
    losses: Mapping[str, nn.Module],
    batch: Batch,
    head_weights: Mapping[str, float],
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Run the network and the loss of every head.

    ``forward`` gives one Candidates per head: it is a network, or `Model.forward`. Losses and weights are mappings by
    the names of the heads. A weight is the factor of all terms of a head, 1 where the head is not named.

    Returns the sum that is minimized, a scalar with gradient, the detached weighted terms and the detached statistics.
    The names of terms and statistics are ``head/term``. Raises InputError when a head has no loss.
    """
    terms: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for candidates in forward(batch):
        if candidates.head not in losses:
            head = candidates.head
            raise InputError(f"the network has a head {head!r} without a loss; pass losses={{{head!r}: ...}}")
        output = losses[candidates.head](candidates)
        weight = head_weights.get(candidates.head, 1.0)
        terms |= {f"{candidates.head}/{name}": weight * value for name, value in output.terms.items()}
        stats |= {f"{candidates.head}/{name}": value.detach() for name, value in output.stats.items()}
    total = torch.stack(list(terms.values())).sum()
    return total, {name: value.detach() for name, value in terms.items()}, stats
