"""What all exact ranking losses share: from the logits of all candidates to values and gradients, by a rule.

A rule knows the P positives of a loss and, of each, the soft number of negatives above it, N_FP. The rest is here:

    logits ──count──► N_FP(i) ──rule──► values; gradient of each positive; weights w_i
    logits ──F(s) = Σ_i w_i H(s − p_i)──► gradient of each negative

Both passes are operators of torch (``torch.ops.rankdet``), which ``torch.compile(fullgraph=True)`` keeps whole. Their
flat arguments begin with the fields of :class:`RankedCandidates` and :class:`Settings`. Where nobody traces, the same
functions are called directly: the machinery of an operator takes a sixth of the time of a call with few logits.

Legend: P positives of this process, P' those of all, N logits, V values of a loss, K pools, J numbers of each positive.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankdet.losses.negatives import Negatives, TorchNegatives
from rankdet.losses.pools import Runs, sort_in_pools
from rankdet.losses.processes import Processes
from rankdet.losses.roles import RankedCandidates, is_traced, pools_of, positive_logits
from rankdet.losses.sorting import Window


class Ruling(NamedTuple):
    """What a rule returns for P positives in ascending order of their logits, pool by pool; all float64.

    values
        (V, K): the values of the loss in each pool, 0 in one without positives; (V,) will do where there is one pool.
    positive_gradients
        (V, P): gradient of each value of its pool at each positive.
    weights
        (V, P): w; the gradient of a value at a negative with logit s is Σ_i w_i H(s − p_i). No two of a pool differ in
        sign.
    per_positive
        (J, P): numbers of each positive for use outside of the loss: its rank first.
    """

    values: Tensor
    positive_gradients: Tensor
    weights: Tensor
    per_positive: Tensor


Rule = Callable[[Window, Tensor, Tensor], Ruling]
"""Maps the P positives in ascending order, pool by pool, their (P,) qualities (or what else comes with them) and (P,)
N_FP. Means, sums and orders of the positives of each pool are those of the window."""


class Kind(NamedTuple):
    """A rule and the sizes of its answer: V values, J numbers for each positive."""

    rule: Rule
    num_values: int
    num_per_positive: int


class Settings(NamedTuple):
    """How candidates are ranked.

    delta
        δ, half the width of the soft step.
    implementation
        Who makes the passes over the negatives: ``"torch"``, ``"triton"``, ``"numba"``, or ``"auto"`` for numba where
        logits are on a CPU and it imports, else torch.
    group
        Name of the group of processes whose candidates are one pool, empty for this process alone.
    """

    delta: float
    implementation: str
    group: str


_ARGUMENTS = """Tensor[] logits, Tensor[] marks, Tensor positives, Tensor ignored, SymInt width, Tensor[] pools,
SymInt num_pools, float delta, str implementation, str group, """
_FORWARD = f"({_ARGUMENTS} Tensor qualities, bool keep) -> ({', '.join(7 * ['Tensor'])})"
_BACKWARD = f"{_ARGUMENTS} Tensor positive_gradients, Tensor ascending, Tensor pool_of, Tensor weights, Tensor upstream"
_NUM_CANDIDATES, _NUM_SETTINGS = len(RankedCandidates._fields), len(Settings._fields)
_NUM_FOUND = 4
"""Results of the forward pass that the backward pass needs: those between the values and the upstream gradient."""


def _given(arguments: tuple[Any, ...]) -> tuple[RankedCandidates, Settings, tuple[Any, ...]]:
    """The arguments of an operator: the candidates, the settings, and all others."""
    after = _NUM_CANDIDATES + _NUM_SETTINGS
    return (
        RankedCandidates(*arguments[:_NUM_CANDIDATES]),
        Settings(*arguments[_NUM_CANDIDATES:after]),
        arguments[after:],
    )


def _negatives(
    candidates: RankedCandidates, positives: Tensor, runs: Runs, settings: Settings, kept: Tensor | None
) -> Negatives:
    """The implementation of the passes over the negatives; those in Triton and numba are imported on demand."""
    arguments = candidates, positives, runs, settings.delta
    if settings.implementation == "triton":
        from rankdet.losses.kernels.negatives import TritonNegatives

        return TritonNegatives(*arguments)
    if _is_compiled(settings, positives):
        from rankdet.losses.kernels.cpu import NumbaNegatives

        return NumbaNegatives(*arguments, kept)
    return TorchNegatives(*arguments, kept)


def _window(ascending: Tensor, settings: Settings, runs: Runs) -> Window:
    """The positives in ascending order, and the implementation of sums among them."""
    if _is_compiled(settings, ascending):
        from rankdet.losses.kernels.cpu import NumbaWindow

        return NumbaWindow(ascending, settings.delta, runs)
    return Window(ascending, settings.delta, runs)


def _is_compiled(settings: Settings, like: Tensor) -> bool:
    """Whether numba is asked for, or fits."""
    fits = settings.implementation == "auto" and like.device.type == "cpu"
    return settings.implementation == "numba" or (fits and _has_numba())


@cache
def _has_numba() -> bool:
    """Whether numba is installed, and fit for the NumPy that is."""
    try:
        import rankdet.losses.kernels.cpu  # noqa: F401
    except ImportError:
        return False
    return True


def rank(kind: Kind, *arguments: Any) -> tuple[Tensor, ...]:
    """The values of a loss, and what its backward pass needs; P are the positives of this process, P' those of all.

    Returns
    -------
    values
        (V, K) in the dtype of the loss.
    per_positive, positive_gradients
        (J, P) and (V, P) float64, in the order of the candidates.
    ascending, pool_of, weights
        (P',) logits of all positives, float64, their pools, int64 (empty where there is one pool), and their (V, P')
        weights, float64: pool by pool, ascending in each.
    kept
        (N,) int32: the cell of each logit, in the memory in which the backward pass will write the gradient; empty
        where they are not kept.
    """
    candidates, settings, (qualities, keep) = _given(arguments)
    processes = Processes(settings.group)
    # A logit that is not finite makes the loss of its pool NaN, and is kept from the search.
    own, poison = positive_logits(candidates)
    pools = pools_of(candidates)
    columns = [own, qualities.double()] if pools is None else [own, qualities.double(), pools.double()]
    gathered, first = processes.gather(torch.stack(columns))
    num_own, num_all = len(own), gathered.shape[1]
    kept = torch.empty(candidates.num_logits if keep else 0, dtype=torch.int32, device=own.device)
    if num_all == 0:
        none = own.new_zeros(kind.num_values, 0)
        values = own.new_zeros(kind.num_values, candidates.num_pools, dtype=candidates.dtype)
        empty = torch.empty(0, dtype=torch.int64, device=own.device)
        return values, own.new_zeros(kind.num_per_positive, 0), none, own, empty, none.clone(), kept
    ascending, order = sort_in_pools(gathered[0], None if pools is None else gathered[2])
    pool_of = order[:0] if pools is None else gathered[2, order].long()
    runs = _runs(candidates, ascending, pool_of)
    steps, not_finite = _negatives(candidates, ascending, runs, settings, kept if keep else None).count(own)
    not_finite = not_finite + poison.sum() if pools is None else not_finite.index_add(0, pools, poison)
    false_positives = processes.sum(steps.clamp(min=0) + runs.of_each(not_finite))
    ruling = kind.rule(_window(ascending, settings, runs), gathered[1, order], false_positives)
    values = _by_pool(kind, ruling.values, candidates.num_pools)
    values = values + 0 * runs.totals(false_positives)  # NaN in every value of a pool where a logit was
    # From ascending order to that of the candidates, of which this process holds some.
    place = torch.empty_like(order).scatter_(0, order, torch.arange(num_all, device=order.device))
    place = place[first : first + num_own]
    of_own = ruling.per_positive[:, place], ruling.positive_gradients[:, place]
    return values.to(candidates.dtype), *of_own, ascending, pool_of, ruling.weights, kept


def _runs(candidates: RankedCandidates, ascending: Tensor, pool_of: Tensor) -> Runs:
    """The positives of all processes, pool by pool."""
    return Runs(pool_of if candidates.pools else None, candidates.num_pools, len(ascending))


def _by_pool(kind: Kind, values: Tensor, num_pools: int) -> Tensor:
    """(V, K) values, of which a rule for one pool returns (V,)."""
    if values.shape == (kind.num_values,) and num_pools == 1:
        return values[:, None]
    if values.shape != (kind.num_values, num_pools):
        raise ValueError(
            f"a rule returned values of shape {tuple(values.shape)}, not ({kind.num_values}, {num_pools}): with pools "
            "it must take means and sums of each from its window"
        )
    return values


def register(name: str, kind: Kind) -> Any:
    """The operator ``rankdet::name`` of a rule, differentiable; the name must be new."""
    operator = torch.library.custom_op(f"rankdet::{name}", partial(rank, kind), mutates_args=(), schema=_FORWARD)

    @operator.register_fake
    def _(*arguments: Any) -> tuple[Tensor, ...]:
        candidates, settings, (qualities, keep) = _given(arguments)
        first, num_own = candidates.logits[0], qualities.shape[0]
        # The positives of all processes are as many as the context finds out when it runs.
        num_all = num_own if settings.group == "" else torch.library.get_ctx().new_dynamic_size()
        return (
            first.new_empty(kind.num_values, candidates.num_pools, dtype=candidates.dtype),
            first.new_empty(kind.num_per_positive, num_own, dtype=torch.float64),
            first.new_empty(kind.num_values, num_own, dtype=torch.float64),
            first.new_empty(num_all, dtype=torch.float64),
            first.new_empty(num_all if candidates.pools else 0, dtype=torch.int64),
            first.new_empty(kind.num_values, num_all, dtype=torch.float64),
            first.new_empty(candidates.num_logits if keep else 0, dtype=torch.int32),
        )

    operator.register_autograd(_backward, setup_context=_setup_context)

    return operator


def ranked(operator: Any, kind: Kind, *arguments: Any) -> tuple[Tensor, ...]:
    """What the operator of a kind returns, with its gradient: by the operator where someone traces, else without it."""
    if is_traced(arguments[0]):
        found: tuple[Tensor, ...] = operator(*arguments)
    else:
        # Only tensors that are arguments themselves have a gradient, so that the levels come once more.
        found = _Ranking.apply(kind, arguments, *arguments[0])
    return found


class _Ranking(torch.autograd.Function):
    """The operator of a kind without its machinery."""

    @staticmethod
    def forward(kind: Kind, arguments: tuple[Any, ...], *_: Tensor) -> tuple[Tensor, ...]:
        return rank(kind, *arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _setup_context(ctx, inputs[1], output)
        ctx.mark_non_differentiable(*output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return None, None, *(None,) * ctx.num_levels
        kept, arguments = _saved(ctx)
        return None, None, *_Gradient.apply(kept, arguments, upstream, *arguments[0])


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own: it has none itself, and ``torch.func`` unwraps what it is given."""

    @staticmethod
    def forward(kept: Tensor | None, arguments: tuple[Any, ...], upstream: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        with torch.autocast(upstream.device.type, enabled=False):
            found = gradients(kept, *arguments, upstream)
        return tuple(found)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        _refuse()


def _refuse(*_: Any) -> Any:
    raise RuntimeError("ranking losses have no second derivative: their gradient is made of errors, not by derivation")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    candidates, settings, (_, keep) = _given(inputs)
    _, _, *found, kept = output
    levels = *candidates.logits, *candidates.marks, *candidates.pools
    ctx.save_for_backward(candidates.positives, candidates.ignored, *found, *levels)
    ctx.num_levels, ctx.num_marks, ctx.num_pools = len(candidates.logits), len(candidates.marks), len(candidates.pools)
    ctx.width, ctx.number, ctx.settings = candidates.width, candidates.num_pools, settings
    # Not among the saved tensors: the first backward pass overwrites it, and a second one works without.
    ctx.kept = kept if keep else None
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    # One gradient for each argument; only the logits have any.
    none_of_settings = (None,) * (_NUM_SETTINGS + 2)
    nothing = ([None] * ctx.num_marks, None, None, None, [None] * ctx.num_pools, None, *none_of_settings)
    if upstream is None:
        return [None] * ctx.num_levels, *nothing
    arguments = _saved(ctx)[1]
    with torch.autocast(upstream.device.type, enabled=False):
        return torch.ops.rankdet.ranking_gradient(*arguments, upstream), *nothing


def _saved(ctx: Any) -> tuple[Tensor | None, tuple[Any, ...]]:
    """The kept cells, once, and all arguments of the backward pass but the last."""
    positives, ignored, *saved = ctx.saved_tensors
    found, levels = saved[:_NUM_FOUND], saved[_NUM_FOUND:]
    marks, pools = ctx.num_levels, ctx.num_levels + ctx.num_marks
    candidates = levels[:marks], levels[marks:pools], positives, ignored, ctx.width, levels[pools:], ctx.number
    kept, ctx.kept = ctx.kept, None
    return kept, (*candidates, *ctx.settings, *found)


def gradients(kept: Tensor | None, *arguments: Any) -> list[Tensor]:
    """The gradient of Σ upstream · value, level by level; in the memory of ``kept`` where cells were kept."""
    candidates, settings, (positive_gradients, ascending, pool_of, weights, upstream) = _given(arguments)
    upstream = upstream.double() * Processes(settings.group).size
    if len(ascending) == 0:
        if kept is not None:
            kept.zero_()
        return [torch.zeros_like(level, memory_format=torch.contiguous_format) for level in candidates.logits]
    runs = _runs(candidates, ascending, pool_of)
    weights = (runs.of_each(upstream) * weights).sum(0)
    pools = pools_of(candidates)
    of_own = upstream if pools is None else upstream[:, pools]
    negatives = _negatives(candidates, ascending, runs, settings, kept)
    return negatives.gradient(weights, (of_own * positive_gradients).sum(0))


_GRADIENT = torch.library.custom_op(
    "rankdet::ranking_gradient", partial(gradients, None), mutates_args=(), schema=f"({_BACKWARD}) -> Tensor[]"
)
_GRADIENT.register_autograd(_refuse)


@_GRADIENT.register_fake
def _(*arguments: Any) -> list[Tensor]:
    logits: list[Tensor] = arguments[0]
    return [torch.empty_like(level, memory_format=torch.contiguous_format) for level in logits]
