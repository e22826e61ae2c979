"""One training step: batch → candidates → losses → the sum that is minimized."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from rankdet.structures import Batch, Candidates, InputError, LossOutput


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
    The names of terms and statistics are ``head/term``. Raises InputError when a head has no loss, or one that returns
    something else.
    """
    terms: dict[str, Tensor] = {}
    stats: dict[str, Tensor] = {}
    for candidates in forward(batch):
        if candidates.head not in losses:
            head = candidates.head
            raise InputError(f"the network has a head {head!r} without a loss; pass losses={{{head!r}: ...}}")
        output = losses[candidates.head](candidates)
        _check(output, candidates.head, losses[candidates.head])
        weight = head_weights.get(candidates.head, 1.0)
        terms |= {f"{candidates.head}/{name}": weight * value for name, value in output.terms.items()}
        stats |= {f"{candidates.head}/{name}": value.detach() for name, value in output.stats.items()}
    total = torch.stack(list(terms.values())).sum()
    return total, {name: value.detach() for name, value in terms.items()}, stats


def _check(output: object, head: str, loss: nn.Module) -> None:
    """Raise InputError unless a loss returned a LossOutput of scalars, of which at least one is minimized."""
    wanted = f"the loss of head {head!r} ({type(loss).__name__}) must return a LossOutput"
    if not isinstance(output, LossOutput):
        raise InputError(f"{wanted}, not {type(output).__name__}")
    if not output.terms:
        raise InputError(f"{wanted} with at least one term")
    for name, value in [*output.terms.items(), *output.stats.items()]:
        if not isinstance(value, Tensor) or value.ndim:
            form = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise InputError(f"{wanted} of scalar tensors; {name!r} is {form}")
