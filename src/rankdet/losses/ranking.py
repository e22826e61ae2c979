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

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rankdet.losses.negatives import Negatives, TorchNegatives
from rankdet.losses.pools import Runs, sort_in_pools
from rankdet.losses.processes import Processes
from rankdet.losses.roles import RankedCandidates, is_traced, pools_of, positive_logits, special_labels
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


class Backend(NamedTuple):
    """The functions of an implementation.

    Who finds positives among labels and fetches their logits, sorts them pool by pool, makes the passes over the
    negatives, and the sums among positives.
    """

    find: Callable[[Tensor, int], tuple[Tensor, Tensor]] = special_labels
    fetch: Callable[[RankedCandidates], tuple[Tensor, Tensor]] = positive_logits
    sort: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor]] = sort_in_pools
    negatives: Callable[[RankedCandidates, Tensor, Runs, float, Tensor | None], Negatives] = TorchNegatives
    window: type[Window] = Window


@cache
def backend(implementation: str, device: str) -> Backend:
    """What an implementation is on a type of device; those in Triton and numba are imported on demand."""
    if implementation == "triton":
        from rankdet.losses.kernels.negatives import TritonNegatives

        return Backend(negatives=TritonNegatives)
    if implementation == "numba" or (implementation == "auto" and device == "cpu" and _has_numba()):
        from rankdet.losses.kernels import cpu

        return Backend(cpu.special_labels, cpu.positive_logits, cpu.sort_in_pools, cpu.NumbaNegatives, cpu.NumbaWindow)
    return Backend()


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
    by = backend(settings.implementation, candidates.positives.device.type)
    # A logit that is not finite makes the loss of its pool NaN, and is kept from the search.
    own, poison = by.fetch(candidates)
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
    all_pools = None if pools is None else gathered[2].long()
    ascending, order = by.sort(gathered[0], all_pools)
    pool_of = order[:0] if all_pools is None else all_pools[order]
    runs = _runs(candidates, ascending, pool_of)
    steps, not_finite = by.negatives(candidates, ascending, runs, settings.delta, kept if keep else None).count(own)
    not_finite = not_finite + poison.sum() if pools is None else not_finite.index_add(0, pools, poison)
    false_positives = processes.sum(steps.clamp(min=0) + runs.of_each(not_finite))
    window = by.window(ascending, settings.delta, runs)
    ruling = kind.rule(window, gathered[1].index_select(0, order), false_positives)
    values = _by_pool(kind, ruling.values, candidates.num_pools)
    values = values + 0 * runs.totals(false_positives)  # NaN in every value of a pool where a logit was
    # From ascending order to that of the candidates, of which this process holds some.
    place = torch.empty_like(order).scatter_(0, order, torch.arange(num_all, device=order.device))
    place = place[first : first + num_own]
    of_own = ruling.per_positive.index_select(1, place), ruling.positive_gradients.index_select(1, place)
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


def ranked(operator: Any, kind: Kind, *arguments: Any) -> tuple[tuple[Tensor, ...], Tensor]:
    """V values, (K,) or scalars without pools, and (J, P) numbers: by the operator where someone traces.

    Otherwise the same functions are differentiated without it. Where a transform of ``torch.func`` is at work, in the
    form that it needs, which takes longer.
    """
    if is_traced(arguments[0]):
        values, per_positive, *_ = operator(*arguments)
        return _one_by_one(values, arguments), per_positive.detach()
    function = _TransformedRanking if torch._C._are_functorch_transforms_active() else _Ranking
    # Only tensors that are arguments themselves have a gradient, so that the levels come once more.
    found = function.apply(kind, arguments, *arguments[0])
    return found[: kind.num_values], found[kind.num_values]


def _one_by_one(values: Tensor, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The V rows of (V, K) values, scalars where there are no pools."""
    return (values if _given(arguments)[0].pools else values.squeeze(1)).unbind()


class _Ranking(torch.autograd.Function):
    """The operator of a kind without its machinery: V values, and then what the operator returns behind them."""

    @staticmethod
    def forward(ctx: Any, kind: Kind, arguments: tuple[Any, ...], *_: Tensor) -> tuple[Tensor, ...]:
        values, *found = rank(kind, *arguments)
        _keep(ctx, kind, arguments, found)
        # No views, which nobody might change in place.
        return *(value.clone() for value in _one_by_one(values, arguments)), *found

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [each for each in upstream[: ctx.num_values] if each is not None]
        if not given:
            return None, None, *(None,) * ctx.num_levels
        kept, arguments = _saved(ctx)
        none = given[0] if len(given) == ctx.num_values else torch.zeros_like(given[0])
        columns = [none if each is None else each for each in upstream[: ctx.num_values]]
        of_values = torch.stack(columns).view(ctx.num_values, -1)
        if torch.is_grad_enabled():  # a second derivative would come next, or a transform of torch.func is at work
            return None, None, *_Gradient.apply(kept, arguments, of_values, *arguments[0])
        return None, None, *_without_autocast(kept, arguments, of_values)


class _TransformedRanking(_Ranking):
    """The same as ``torch.func`` asks for it."""

    @staticmethod
    def forward(kind: Kind, arguments: tuple[Any, ...], *_: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        values, *found = rank(kind, *arguments)
        return *(value.clone() for value in _one_by_one(values, arguments)), *found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        kind, arguments, *_ = inputs
        _keep(ctx, kind, arguments, output[kind.num_values :])


def _keep(ctx: Any, kind: Kind, arguments: tuple[Any, ...], found: Sequence[Tensor]) -> None:
    _save(ctx, arguments, found)
    ctx.num_values = kind.num_values
    ctx.mark_non_differentiable(*found)


class _Gradient(torch.autograd.Function):
    """The gradient as a function of its own: it has none itself, and ``torch.func`` unwraps what it is given."""

    @staticmethod
    def forward(kept: Tensor | None, arguments: tuple[Any, ...], upstream: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(_without_autocast(kept, arguments, upstream))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        _refuse()


def _without_autocast(kept: Tensor | None, arguments: tuple[Any, ...], upstream: Tensor) -> list[Tensor]:
    with torch.autocast(upstream.device.type, enabled=False):
        return gradients(kept, *arguments, upstream)


def _refuse(*_: Any) -> Any:
    raise RuntimeError("ranking losses have no second derivative: their gradient is made of errors, not by derivation")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _save(ctx, inputs, output[1:])


def _save(ctx: Any, arguments: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    """Save for the backward pass what the operator was given, and what it returned behind the values."""
    candidates, settings, (_, keep) = _given(arguments)
    _, *found, kept = output
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
    upstream, num_processes = upstream.double(), Processes(settings.group).size
    if num_processes > 1:
        upstream = upstream * num_processes
    if len(ascending) == 0:
        if kept is not None:
            kept.zero_()
        return [torch.zeros_like(level, memory_format=torch.contiguous_format) for level in candidates.logits]
    runs = _runs(candidates, ascending, pool_of)
    weights = (runs.of_each(upstream) * weights).sum(0)
    pools = pools_of(candidates)
    of_own = upstream if pools is None else upstream[:, pools]
    passes = backend(settings.implementation, ascending.device.type).negatives
    negatives = passes(candidates, ascending, runs, settings.delta, kept)
    return negatives.gradient(weights, (of_own * positive_gradients).sum(0))


_GRADIENT = torch.library.custom_op(
    "rankdet::ranking_gradient", partial(gradients, None), mutates_args=(), schema=f"({_BACKWARD}) -> Tensor[]"
)
_GRADIENT.register_autograd(_refuse)


@_GRADIENT.register_fake
def _(*arguments: Any) -> list[Tensor]:
    logits: list[Tensor] = arguments[0]
    return [torch.empty_like(level, memory_format=torch.contiguous_format) for level in logits]
