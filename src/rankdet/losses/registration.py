"""Ranking losses as operators of torch (``torch.ops.rankdet``), which ``torch.compile(fullgraph=True)`` keeps whole.

Torch takes flat lists of arguments only. They are named once, by the fields of two tuples, beside their schemas.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankdet.losses.negatives import in_place_of
from rankdet.losses.processes import Processes
from rankdet.losses.ranking import Kind, gradients, rank
from rankdet.losses.roles import RankedCandidates, Roles


class _Forward(NamedTuple):
    """The arguments of a loss: candidates, and those of :func:`rankdet.losses.ranking.rank`."""

    logits: list[Tensor]
    marks: list[Tensor]
    positives: Tensor
    ignored: Tensor
    width: int
    qualities: Tensor
    delta: float
    triton: bool
    keep: bool
    group: str


_FORWARD = """(Tensor[] logits, Tensor[] marks, Tensor positives, Tensor ignored, SymInt width, Tensor qualities,
float delta, bool triton, bool keep, str group) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"""


class _Backward(NamedTuple):
    """The arguments of its gradient: candidates, and those of :func:`rankdet.losses.ranking.gradients`."""

    logits: list[Tensor]
    marks: list[Tensor]
    positives: Tensor
    ignored: Tensor
    width: int
    positive_gradients: Tensor
    ascending: Tensor
    weights: Tensor
    upstream: Tensor
    delta: float
    triton: bool
    group: str


_BACKWARD = """Tensor[] logits, Tensor[] marks, Tensor positives, Tensor ignored, SymInt width,
Tensor positive_gradients, Tensor ascending, Tensor weights, Tensor upstream, float delta, bool triton, str group"""


def register(name: str, kind: Kind) -> Any:
    """The operator ``rankdet::name`` of a rule, differentiable; the name must be new."""

    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        given = _Forward(*arguments)
        found = rank(
            kind, _candidates(given), given.qualities, given.delta, given.triton, given.keep, Processes(given.group)
        )
        return tuple(found)

    operator = torch.library.custom_op(f"rankdet::{name}", forward, mutates_args=(), schema=_FORWARD)

    @operator.register_fake
    def _(*arguments: Any) -> tuple[Tensor, ...]:
        given = _Forward(*arguments)
        candidates = _candidates(given)
        first, num_own = given.logits[0], given.qualities.shape[0]
        # The positives of all processes are as many as the context finds out when it runs.
        num_all = num_own if given.group == "" else torch.library.get_ctx().new_dynamic_size()
        return (
            first.new_empty(kind.num_values, dtype=candidates.dtype),
            first.new_empty(kind.num_per_positive, num_own, dtype=torch.float64),
            first.new_empty(kind.num_values, num_own, dtype=torch.float64),
            first.new_empty(num_all, dtype=torch.float64),
            first.new_empty(kind.num_values, num_all, dtype=torch.float64),
            first.new_empty(candidates.num_logits if given.keep else 0, dtype=torch.int32),
        )

    operator.register_autograd(_backward, setup_context=_setup_context)
    return operator


def _candidates(given: _Forward | _Backward) -> RankedCandidates:
    return RankedCandidates(given.logits, given.marks, Roles(given.positives, given.ignored, given.width))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    given = _Forward(*inputs)
    _, _, positive_gradients, ascending, weights, kept = output
    ctx.save_for_backward(
        given.positives, given.ignored, positive_gradients, ascending, weights, *given.logits, *given.marks
    )
    ctx.num_levels, ctx.width, ctx.delta = len(given.logits), given.width, given.delta
    ctx.triton, ctx.group = given.triton, given.group
    # Not among the saved tensors: the first backward pass overwrites it, and a second one works without.
    ctx.kept = kept if given.keep else None
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    # One gradient for each argument; only the logits have any.
    nothing = ([None] * ctx.num_levels, *(None,) * (len(_Forward._fields) - 2))
    if upstream is None:
        return [None] * ctx.num_levels, *nothing
    positives, ignored, positive_gradients, ascending, weights, *rest = ctx.saved_tensors
    logits, marks = rest[: ctx.num_levels], rest[ctx.num_levels :]
    kept, ctx.kept = ctx.kept, None
    arguments = _Backward(
        logits, marks, positives, ignored, ctx.width, positive_gradients, ascending, weights, upstream,
        ctx.delta, ctx.triton, ctx.group,
    )  # fmt: skip
    with torch.autocast(logits[0].device.type, enabled=False):
        if kept is None:
            return torch.ops.rankdet.ranking_gradient(*arguments), *nothing
        torch.ops.rankdet.ranking_gradient_(kept, *arguments)
        return in_place_of(kept, logits), *nothing


def _gradients(given: _Backward, kept: Tensor | None) -> list[Tensor]:
    return gradients(
        _candidates(given),
        given.positive_gradients,
        given.ascending,
        given.weights,
        given.upstream,
        given.delta,
        given.triton,
        Processes(given.group),
        kept,
    )


def _ranking_gradient(*arguments: Any) -> list[Tensor]:
    return _gradients(_Backward(*arguments), None)


def _ranking_gradient_(kept: Tensor, *arguments: Any) -> None:
    """Write the gradients as float32 into the memory of the (N,) int32 cells ``kept``."""
    _gradients(_Backward(*arguments), kept)


_GRADIENT = torch.library.custom_op(
    "rankdet::ranking_gradient", _ranking_gradient, mutates_args=(), schema=f"({_BACKWARD}) -> Tensor[]"
)
torch.library.custom_op(
    "rankdet::ranking_gradient_",
    _ranking_gradient_,
    mutates_args=("kept",),
    schema=f"(Tensor(a!) kept, {_BACKWARD}) -> ()",
)


@_GRADIENT.register_fake
def _(*arguments: Any) -> list[Tensor]:
    given = _Backward(*arguments)
    return [torch.empty_like(level, memory_format=torch.contiguous_format) for level in given.logits]
