"""Exact ranking losses as operators: what they share, from millions of logits to the gradient of each.

A loss of this family is a *rule*: what it says of P positives, once the soft number of negatives above each is known.
Who is who, the passes over the negatives, levels, processes, implementations and differentiation stand here, once:

    logits ──count──► N_FP(i) ──rule──► values; own gradient of each positive; weights w_i
    logits ──F(s) = Σ_i w_i H(s − p_i)──► gradient of each negative

The operators are registered with torch (``torch.ops.rankdet``), so that ``torch.compile(fullgraph=True)`` keeps them.

Legend: M candidates, C classes, P positives, N logits, K values of a loss, J numbers that it tells of each positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rankdet.losses.cells import Cells, PiecewiseLinear
from rankdet.losses.checks import Levels
from rankdet.losses.error_driven import check_delta
from rankdet.losses.negatives import Negatives, Roles, in_place_of, indices_of, not_finite
from rankdet.losses.processes import Processes
from rankdet.structures import is_class

Implementation = Literal["auto", "torch", "triton"]


class Ruling(NamedTuple):
    """What a rule says of P positives that stand in ascending order of their logits; all float64.

    values
        (K,): the values of the loss.
    own
        (K, P): gradient of each value at each positive.
    weights
        (K, P): w; the gradient of a value at a negative with logit s is Σ_i w_i H(s − p_i). No two differ in sign.
    told
        (J, P): numbers of each positive that others need: its rank first.
    """

    values: Tensor
    own: Tensor
    weights: Tensor
    told: Tensor


Rule = Callable[[Tensor, Tensor, Tensor, float], Ruling]
"""Maps (P,) ascending logits, (P,) numbers that come with the positives (their quality, say), (P,) N_FP and δ."""


class RankedCandidates(NamedTuple):
    """Logits and who is who among them, level by level.

    logits
        L tensors: (M, C) each, or of any shape where ``marks`` are dense.
    marks
        L tensors: (M,) int64 labels (class, C background, −1 ignored), or targets of the shape of the logits
        (0 negative, below 0 ignored, else positive).
    roles
        Indices of positives and, where the implementation works with lists, of ignored rows.
    """

    logits: list[Tensor]
    marks: list[Tensor]
    roles: Roles


class RankingOperator:
    """A loss of this family, called on candidates; made once for each rule and registered as ``rankdet::name``.

    Parameters
    ----------
    name
        Name of the operator.
    rule
        The rule.
    num_values, num_told
        K and J.
    """

    def __init__(self, name: str, rule: Rule, num_values: int, num_told: int) -> None:
        def forward(
            logits: list[Tensor],
            marks: list[Tensor],
            positives: Tensor,
            ignored: Tensor,
            width: int,
            numbers: Tensor,
            delta: float,
            triton: bool,
            keep: bool,
            group: str,
        ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
            candidates = RankedCandidates(logits, marks, Roles(positives, ignored, width))
            return _forward(rule, num_values, num_told, candidates, numbers, delta, triton, keep, Processes(group))

        self.operator: Any = torch.library.custom_op(f"rankdet::{name}", forward, mutates_args=())

        @self.operator.register_fake
        def fake(
            logits: list[Tensor],
            marks: list[Tensor],
            positives: Tensor,
            ignored: Tensor,
            width: int,
            numbers: Tensor,
            delta: float,
            triton: bool,
            keep: bool,
            group: str,
        ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
            first = logits[0]
            # All processes' positives are as many as the context finds out when it runs.
            of_all = numbers.shape[0] if group == "" else torch.library.get_ctx().new_dynamic_size()
            kept = sum(level.numel() for level in logits) if keep else 0
            return (
                first.new_empty(num_values, dtype=_dtype(logits)),
                first.new_empty(num_told, numbers.shape[0], dtype=torch.float64),
                first.new_empty(num_values, numbers.shape[0], dtype=torch.float64),
                first.new_empty(of_all, dtype=torch.float64),
                first.new_empty(num_values, of_all, dtype=torch.float64),
                first.new_empty(kept, dtype=torch.int32),
            )

        self.operator.register_autograd(_backward, setup_context=_setup_context)

    def __call__(
        self,
        candidates: RankedCandidates,
        numbers: Tensor,
        delta: float,
        implementation: Implementation = "auto",
        processes: Processes | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(K,) values, each with a gradient of its own, and (J, P) numbers of the positives, in their order.

        Parameters
        ----------
        candidates
            What :func:`from_labels` or :func:`from_targets` found.
        numbers
            (P,) numbers that come with the positives.
        delta
            δ, half the width of the soft step, in logits.
        implementation
            ``"torch"``, ``"triton"`` (CUDA only), or ``"auto"``.
        processes
            The processes whose candidates are ranked in one pool; None: this one alone.
        """
        check_delta(delta)
        group = "" if processes is None else processes.name
        # The cells of float32 logits are kept for the backward pass, in the memory that will hold their gradient. Not
        # in a compiled graph: there the backward pass may not change what was saved, for it may come twice.
        keep = (
            torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and any(level.requires_grad for level in candidates.logits)
            and all(level.dtype == torch.float32 and level.device.type == "cpu" for level in candidates.logits)
        )
        triton = uses_triton(implementation, candidates.logits)
        logits, marks, (positives, ignored, width) = candidates
        with torch.autocast(logits[0].device.type, enabled=False):
            values, told, *_ = self.operator(
                logits, marks, positives, ignored, width, numbers.detach(), float(delta), triton, keep, group
            )
        return values, told.detach()


def uses_triton(implementation: Implementation, logits: Sequence[Tensor]) -> bool:
    """Whether the kernels of Triton are to be used: for logits on CUDA, of less than double precision, if it imports.

    Raises
    ------
    ValueError
        When there is no such implementation, or Triton is asked for logits that it cannot rank.
    ImportError
        When Triton is asked for and not installed.
    """
    if implementation not in get_args(Implementation):
        raise ValueError(f"implementation must be one of {get_args(Implementation)}, got {implementation!r}")
    device, dtype = logits[0].device.type, _dtype(logits)
    is_possible = device == "cuda" and dtype == torch.float32
    if implementation == "triton" and not is_possible:
        raise ValueError(
            f"implementation 'triton' needs tensors on CUDA and float32 or less, these are on {device}, in {dtype}"
        )
    if implementation == "torch" or not is_possible:
        return False
    try:
        import rankdet.losses.kernels.negatives  # noqa: F401
    except ImportError:
        if implementation == "triton":
            raise
        return False
    return True


def from_labels(
    logits: Levels, labels: Levels, numbers: Tensor | None, implementation: Implementation = "auto"
) -> RankedCandidates:
    """Candidates from class labels: positives are the logits (i, labels[i]) with a label below C.

    Parameters
    ----------
    logits
        (M, C) raw scores, or one such tensor per level.
    labels
        (M,) int64, or one such tensor per level: class 0 … C − 1, C background, −1 ignored.
    numbers
        (P,) numbers that come with the positives, in the order in which they stand in ``labels``; None where nothing
        does, not even P: looking it up waits for a GPU.
    implementation
        As in :meth:`RankingOperator.__call__`.

    Raises
    ------
    ValueError
        When shapes do not fit.
    """
    levels, marks = _paired(logits, labels, "labels")
    width = levels[0].shape[-1]
    for level, mark in zip(levels, marks, strict=True):
        if level.ndim != 2 or mark.shape != level.shape[:1] or level.shape[1] != width:
            raise ValueError(
                f"logits {tuple(level.shape)} and labels {tuple(mark.shape)} must be (M, C) and (M,), C the same"
            )
    if numbers is not None and numbers.ndim != 1:
        raise ValueError(f"one number per positive must be of shape (P,), got {tuple(numbers.shape)}")
    flat = torch.cat(marks) if len(marks) > 1 else marks[0]
    if numbers is not None and uses_triton(implementation, levels):
        # Nothing waits for the device: the number of positives is known. What is too few or too many becomes NaN.
        is_positive = is_class(flat, width)
        rows = torch.nonzero_static(is_positive, size=len(numbers), fill_value=-1).squeeze(1)
        rows = torch.where((rows >= 0).all() & (is_positive.sum() == len(numbers)), rows, -1)
        positives = torch.where(rows >= 0, rows * width + flat[rows.clamp(min=0)], -1) if len(flat) else rows
        return RankedCandidates(levels, marks, Roles(positives, positives[:0], width))
    rows, ignored = torch.ops.rankdet.special_rows(flat, width)
    if numbers is not None and not torch.compiler.is_compiling() and len(rows) != len(numbers):
        raise ValueError(f"{len(rows)} positives among the labels but numbers of shape {tuple(numbers.shape)}")
    return RankedCandidates(levels, marks, Roles(rows * width + flat[rows], ignored, width))


def from_targets(logits: Levels, targets: Levels) -> tuple[RankedCandidates, Tensor]:
    """Candidates from dense targets, and the (P,) targets of the positives.

    Parameters
    ----------
    logits
        Raw scores of any shape, or one such tensor per level.
    targets
        Same shape: −1 ignored, 0 negative, else positive. How many are positive has to be looked up: on a GPU this
        waits for the device (labels do not).

    Raises
    ------
    ValueError
        When shapes differ.
    """
    levels, marks = _paired(logits, targets, "targets")
    marks = [mark.detach() for mark in marks]
    for level, mark in zip(levels, marks, strict=True):
        if level.shape != mark.shape:
            raise ValueError(f"logits {tuple(level.shape)} and targets {tuple(mark.shape)} must have one shape")
    positives, ignored, numbers = torch.ops.rankdet.special_targets(marks)
    return RankedCandidates(levels, marks, Roles(positives, ignored, 1)), numbers


def without(candidates: RankedCandidates, dropped: Tensor) -> RankedCandidates:
    """Labelled candidates with those of the positives that are ``dropped`` (P,) as negatives; waits for the device."""
    logits, labels, (positives, ignored, width) = candidates
    flat = torch.cat(labels).index_fill(0, positives[dropped] // width, width)
    labels = list(flat.split([len(level) for level in labels]))
    return RankedCandidates(logits, labels, Roles(positives[~dropped], ignored, width))


def _paired(logits: Levels, marks: Levels, name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Both as lists of levels; raises ValueError unless they are as many, and at least one."""
    first, second = ([levels] if isinstance(levels, Tensor) else list(levels) for levels in (logits, marks))
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} levels of logits and {len(second)} of {name} must be as many, and at least one")
    return first, second


def _dtype(logits: Sequence[Tensor]) -> torch.dtype:
    dtype = torch.float32
    for level in logits:
        dtype = torch.promote_types(dtype, level.dtype)
    return dtype


@torch.library.custom_op("rankdet::special_rows", mutates_args=())
def _special_rows(labels: Tensor, width: int) -> tuple[Tensor, Tensor]:
    special = indices_of(labels < width)
    is_ignored = labels[special] < 0
    return special[~is_ignored], special[is_ignored]


@_special_rows.register_fake
def _(labels: Tensor, width: int) -> tuple[Tensor, Tensor]:
    context = torch.library.get_ctx()
    sizes = context.new_dynamic_size(), context.new_dynamic_size()
    return labels.new_empty(sizes[0], dtype=torch.int64), labels.new_empty(sizes[1], dtype=torch.int64)


@torch.library.custom_op("rankdet::special_targets", mutates_args=())
def _special_targets(targets: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    positives, ignored, numbers, start = [], [], [], 0
    for level in targets:
        flat = level.reshape(-1)
        special = indices_of(flat != 0)
        values = flat[special]
        is_ignored = values < 0  # NaN is not: it stays a positive and makes the loss NaN
        positives.append(special[~is_ignored] + start)
        ignored.append(special[is_ignored] + start)
        numbers.append(values[~is_ignored])
        start += len(flat)
    return torch.cat(positives), torch.cat(ignored), torch.cat(numbers)


@_special_targets.register_fake
def _(targets: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    context = torch.library.get_ctx()
    num_positives, num_ignored = context.new_dynamic_size(), context.new_dynamic_size()
    first = targets[0]
    return (
        first.new_empty(num_positives, dtype=torch.int64),
        first.new_empty(num_ignored, dtype=torch.int64),
        first.new_empty(num_positives),
    )


def _forward(
    rule: Rule,
    num_values: int,
    num_told: int,
    candidates: RankedCandidates,
    numbers: Tensor,
    delta: float,
    triton: bool,
    keep: bool,
    processes: Processes,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(K,) values, (J, P) told, (K, P) own gradients; (P',) ascending logits and (K, P') weights of all processes'
    positives; (N,) int32 cells where kept."""
    logits, _, roles = candidates
    dtype = _dtype(logits)
    # A logit that is not finite makes the loss NaN, and is kept from the search.
    mine, poison = _positive_logits(logits, roles)
    everyone, first = processes.gather(torch.stack([mine, numbers.double()]))
    num_mine, num_all = len(mine), everyone.shape[1]
    found = torch.empty(sum(level.numel() for level in logits) if keep else 0, dtype=torch.int32, device=mine.device)
    if num_all == 0:
        none = mine.new_zeros(num_values, 0)
        return mine.new_zeros(num_values, dtype=dtype), mine.new_zeros(num_told, 0), none, mine, none.clone(), found
    ascending, order = everyone[0].sort(stable=True)
    cells = Cells(ascending, delta, dtype)
    if triton:
        counts, sums, broken = _count_by_triton(candidates, cells)
        poison = poison + broken
    else:
        poison = poison + not_finite(logits, roles)
        if bool(poison.isnan()):
            # NaN must not be searched for; all that is shared with other processes still is.
            counts = sums = mine.new_zeros(len(cells))
        else:
            counts, sums = Negatives(logits, roles, cells).count(mine, found if keep else None)
    false_positives = processes.sum(cells.steps_over(counts, sums).clamp(min=0) + poison)
    ruling = rule(ascending, everyone[1, order], false_positives, delta)
    values = ruling.values + 0 * false_positives.sum()  # NaN in every value where a logit was
    # From ascending order to that of the candidates, of which this process holds some.
    place = torch.empty_like(order).scatter_(0, order, torch.arange(num_all, device=order.device))
    place = place[first : first + num_mine]
    return (
        values.to(dtype),
        ruling.told[:, place],
        ruling.own[:, place],
        ascending,
        ruling.weights,
        found,
    )


def _positive_logits(logits: Sequence[Tensor], roles: Roles) -> tuple[Tensor, Tensor]:
    """(P,) float64 logits of the positives, finite, and a scalar that is NaN where they were not or are missing."""
    parts, start = [], 0
    for level in logits:
        flat = level.reshape(-1)
        if len(logits) == 1:
            parts.append(flat[roles.positives.clamp(min=0)] if len(flat) else flat[:0])
        else:
            here = (roles.positives >= start) & (roles.positives < start + len(flat))
            index = (roles.positives - start).clamp(0, max(len(flat) - 1, 0))
            parts.append(flat[index].where(here, 0) if len(flat) else flat.new_zeros(len(index)))
        start += len(flat)
    values = parts[0].double() if len(parts) == 1 else torch.stack(parts).double().sum(0)
    missing = (roles.positives < 0).any()
    poison = torch.where(missing, torch.nan, (values - values).sum())
    return values.nan_to_num(0.0, 0.0, 0.0), poison


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, marks, positives, ignored, width, _, delta, triton, keep, group = inputs
    _, _, own, ascending, weights, found = output
    ctx.save_for_backward(positives, ignored, own, ascending, weights, *logits, *marks)
    ctx.num_levels, ctx.width, ctx.delta, ctx.triton, ctx.group = len(logits), width, delta, triton, group
    # Not among the saved tensors: the first backward pass overwrites it, and a second one works without.
    ctx.found = found if keep else None
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, upstream: Tensor | None, *_: Tensor | None) -> tuple[Any, ...]:
    nothing = ([None] * ctx.num_levels, *(None,) * 8)
    if upstream is None:
        return [None] * ctx.num_levels, *nothing
    positives, ignored, own, ascending, weights, *rest = ctx.saved_tensors
    logits, marks = rest[: ctx.num_levels], rest[ctx.num_levels :]
    found, ctx.found = ctx.found, None
    arguments = (logits, marks, positives, ignored, ctx.width, own, ascending, weights, upstream)
    with torch.autocast(logits[0].device.type, enabled=False):
        if found is None:
            gradients = torch.ops.rankdet.ranking_gradient(*arguments, ctx.delta, ctx.triton, ctx.group)
        else:
            torch.ops.rankdet.ranking_gradient_(found, *arguments, ctx.delta, ctx.group)
            gradients = in_place_of(found, logits)
    return gradients, *nothing


@torch.library.custom_op("rankdet::ranking_gradient", mutates_args=())
def _ranking_gradient(
    logits: list[Tensor],
    marks: list[Tensor],
    positives: Tensor,
    ignored: Tensor,
    width: int,
    own: Tensor,
    ascending: Tensor,
    weights: Tensor,
    upstream: Tensor,
    delta: float,
    triton: bool,
    group: str,
) -> list[Tensor]:
    candidates = RankedCandidates(logits, marks, Roles(positives, ignored, width))
    return _gradients(candidates, own, ascending, weights, upstream, delta, triton, group, None)


@_ranking_gradient.register_fake
def _(
    logits: list[Tensor],
    marks: list[Tensor],
    positives: Tensor,
    ignored: Tensor,
    width: int,
    own: Tensor,
    ascending: Tensor,
    weights: Tensor,
    upstream: Tensor,
    delta: float,
    triton: bool,
    group: str,
) -> list[Tensor]:
    return [torch.empty_like(level, memory_format=torch.contiguous_format) for level in logits]


@torch.library.custom_op("rankdet::ranking_gradient_", mutates_args=("found",))
def _ranking_gradient_(
    found: Tensor,
    logits: list[Tensor],
    marks: list[Tensor],
    positives: Tensor,
    ignored: Tensor,
    width: int,
    own: Tensor,
    ascending: Tensor,
    weights: Tensor,
    upstream: Tensor,
    delta: float,
    group: str,
) -> None:
    """The same into the memory of the (N,) int32 cells ``found``, which holds the float32 gradients afterwards."""
    candidates = RankedCandidates(logits, marks, Roles(positives, ignored, width))
    _gradients(candidates, own, ascending, weights, upstream, delta, False, group, found)


def _gradients(
    candidates: RankedCandidates,
    own: Tensor,
    ascending: Tensor,
    weights: Tensor,
    upstream: Tensor,
    delta: float,
    triton: bool,
    group: str,
    found: Tensor | None,
) -> list[Tensor]:
    """The gradient of Σ_k upstream_k · value_k, level by level."""
    logits, _, roles = candidates
    upstream = upstream.double() * Processes(group).size
    if len(ascending) == 0:
        if found is not None:
            found.zero_()
        return [torch.zeros_like(level, memory_format=torch.contiguous_format) for level in logits]
    weights = upstream @ weights
    broken = weights.sum() + ascending.sum()
    if not triton and bool(broken.isnan()):
        gradients = [torch.full_like(level, torch.nan, memory_format=torch.contiguous_format) for level in logits]
        if found is not None:
            found.view(torch.float32).fill_(torch.nan)
        return gradients
    cells = Cells(ascending, delta, _dtype(logits))
    function = cells.weighted_steps(weights)
    if triton:
        gradients = _gradient_by_triton(candidates, cells, function)
    else:
        gradients = Negatives(logits, roles, cells).gradient(function, found)
    _write(gradients, roles.positives, upstream @ own, over_zeros=triton)
    return gradients


def _write(gradients: Sequence[Tensor], positives: Tensor, values: Tensor, over_zeros: bool) -> None:
    """Put one value at each of the positives, whose indices run over all levels."""
    start = 0
    for level in gradients:
        flat = level.view(-1)
        if len(gradients) == 1 and not over_zeros:
            flat[positives] = values.to(flat.dtype)
        elif len(flat):
            here = (positives >= start) & (positives < start + len(flat))
            index = (positives - start).clamp(0, len(flat) - 1)
            if over_zeros:  # of a known number of positives, so that nothing waits for the device
                flat.scatter_add_(0, index, values.where(here, 0.0).to(flat.dtype))
            else:
                flat[index[here]] = values[here].to(flat.dtype)
        start += len(flat)


def _count_by_triton(candidates: RankedCandidates, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Number of negatives and sum of their logits per cell, and NaN where a logit is not finite, else 0."""
    from rankdet.losses.kernels.negatives import count_negatives

    edges = cells.edges
    counts, offsets = (torch.zeros(len(cells), dtype=torch.int64, device=edges.device) for _ in range(2))
    broken = torch.zeros(1, dtype=torch.int32, device=edges.device)
    for logits, labels, targets in _by_level(candidates):
        count_negatives(logits, labels, targets, edges, _fixed_point(cells), counts, offsets, broken)
    sums = counts * cells.left + (offsets / _fixed_point(cells) if cells.per_width > 0 else 0.0)
    return counts.double(), sums, torch.where(broken[0] > 0, torch.nan, 0.0)


def _gradient_by_triton(candidates: RankedCandidates, cells: Cells, function: PiecewiseLinear) -> list[Tensor]:
    """F(s) at every negative and 0 elsewhere, level by level."""
    from rankdet.losses.kernels.negatives import write_gradient

    # Anchored at the left edge of each cell, so that no large numbers cancel in single precision.
    value = function.offset + function.slope * cells.left
    none = torch.zeros_like(function.total)
    value = value.clamp(torch.minimum(none, function.total), torch.maximum(none, function.total)).float()
    gradients = []
    for logits, labels, targets in _by_level(candidates):
        gradients.append(torch.empty_like(logits))
        write_gradient(logits, labels, targets, cells.edges, value, function.slope.float(), gradients[-1])
    return [part.view(level.shape) for part, level in zip(gradients, candidates.logits, strict=True)]


def _fixed_point(cells: Cells) -> float:
    """Units per logit in which the kernels add up offsets inside of a cell: 2²³ to the next power of two above 2δ."""
    return 0.0 if cells.per_width == 0 else 2.0 ** (23 - math.ceil(-math.log2(cells.per_width)))


def _by_level(candidates: RankedCandidates) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Contiguous logits of each level with their labels or their targets."""
    for level, marks in zip(candidates.logits, candidates.marks, strict=True):
        if marks.shape == level.shape:
            yield level.contiguous(), None, marks.contiguous()
        else:
            yield level.contiguous(), marks.contiguous(), None
