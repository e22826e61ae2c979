"""Ranking losses as functions of logits: an operator has a rule and a reference, and takes targets or labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rankdet.losses.checks import Levels, check_logits, check_range, dense, levels_of, whole
from rankdet.losses.pools import Pools
from rankdet.losses.processes import Processes, Sync
from rankdet.losses.ranking import Kind, Rule, Settings, backend, ranked, register
from rankdet.losses.roles import (
    Index,
    RankedCandidates,
    from_index,
    from_labels,
    from_targets,
    in_pools,
    is_traced,
    loss_dtype,
    pools_of,
)
from rankdet.losses.steps import check_delta

Implementation = Literal["auto", "torch", "numba", "triton", "reference"]
_IMPLEMENTATIONS = get_args(Implementation)  # here, because torch 2.4 cannot compile the call

Reference = Callable[[Tensor, Tensor, Tensor, float], Sequence[Tensor]]
"""Maps logits and targets of one shape, the (P,) qualities of the positives in their order, and δ to V values."""


class Values(NamedTuple):
    """What a ranking loss returns.

    values
        V scalars, each with a gradient of its own; with pools V tensors of shape (K,).
    per_positive
        (J, P) float64 numbers of the positives, in their order, detached: their ranks first; None from a reference.
    pools
        (P,) int64 pools of the positives, in their order; None without pools.
    """

    values: tuple[Tensor, ...]
    per_positive: Tensor | None
    pools: Tensor | None = None


class RankingOperator:
    """A ranking loss: a rule, which makes it fast, beside a reference, which has the shape of its equations.

    It is made once for each loss, where its file is imported, and registered with torch as ``rankdet::name``.

    Parameters
    ----------
    name
        Name of the operator; it must be new.
    rule
        What the loss is, once the soft number of negatives above each positive is known.
    reference
        The same from all pairs, usually by :func:`error_driven_loss`.
    num_values
        V, the number of values that the rule returns.
    num_per_positive
        J, the numbers that it returns for each positive.
    quality_range
        Lowest and highest quality that ``check`` accepts.
    """

    def __init__(
        self,
        name: str,
        rule: Rule,
        reference: Reference,
        *,
        num_values: int = 1,
        num_per_positive: int = 1,
        quality_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self.kind = Kind(rule, num_values, num_per_positive)
        self.operator = register(name, self.kind)
        self.reference = reference
        self.quality_range = quality_range

    def of_targets(
        self,
        logits: Levels,
        targets: Levels,
        delta: float,
        qualities: Tensor | None = None,
        *,
        pools: Pools | None = None,
        sync: Sync = False,
        check: bool = False,
        implementation: Implementation = "auto",
    ) -> Values:
        """The loss of logits against dense targets.

        Parameters
        ----------
        targets
            Shapes of the logits: −1 ignored, 0 negative, above 0 positive.
        qualities
            (P,) numbers for the rule, in the order of the positives in ``targets``; None: their targets.
        logits, delta, pools, sync, check, implementation
            See :func:`rank_sort_loss`; ``check`` looks at the qualities, too.

        Raises
        ------
        ValueError
            When shapes do not fit, δ is negative, there is no such implementation, or ``check`` finds a mistake.
        """
        if check:
            check_logits(logits, delta)
            check_range("targets", whole(targets), -1, 1)
        self._check(qualities, check, sync, implementation)
        if implementation == "reference":
            flat = whole(targets).reshape(-1)
            found = flat[(flat != 0) & ~(flat < 0)]
            _check_number(found, qualities, "targets")
            return self._referred(logits, whole(targets), found if qualities is None else qualities, delta, pools)
        candidates, found = from_targets(logits, targets)
        _check_number(found, qualities, "targets")
        by = chosen(implementation, candidates.logits)
        return self._ranked(in_pools(candidates, pools), found if qualities is None else qualities, delta, by, sync)

    def of_labels(
        self,
        logits: Levels,
        labels: Levels,
        delta: float,
        qualities: Tensor | None = None,
        *,
        num_positives: int | None = None,
        rows: Tensor | None = None,
        pools: Pools | None = None,
        sync: Sync = False,
        check: bool = False,
        implementation: Implementation = "auto",
    ) -> Values:
        """The loss of classifiers: the same as of dense targets, which are not built.

        Parameters
        ----------
        qualities
            (P,) numbers for the rule, in the order of the positives in ``labels``; None: 1 for each.
        num_positives
            P, where it is known without qualities: looking it up would wait for a GPU.
        rows
            (P,) int64: which candidates of all levels are positives, where that is known.
        logits, labels, delta, pools, sync, check, implementation
            See :func:`rank_sort_loss_of_labels`.

        Raises
        ------
        ValueError
            In the cases of :meth:`of_targets`, or when P is wrong. On a GPU a wrong P makes the loss NaN.
        """
        levels = levels_of(logits)
        if check:
            check_logits(logits, delta)
            check_range("labels", whole(labels), -1, levels[0].shape[-1])
        self._check(qualities, check, sync, implementation)
        for each in (rows, qualities):
            num_positives = num_positives if each is None else len(each)
        if qualities is None and num_positives is not None:
            qualities = levels[0].new_ones(num_positives, dtype=torch.float32)
        if implementation == "reference":
            _, targets, qualities = dense(logits, labels, qualities)
            return self._referred(logits, targets, qualities, delta, pools)
        by = chosen(implementation, levels)
        find = None if is_traced(levels) else backend(by, levels[0].device.type).find
        candidates = from_labels(levels, labels, num_positives, rows=rows, reads_labels=by == "triton", find=find)
        if qualities is None:
            qualities = torch.ones_like(candidates.positives, dtype=torch.float32)
        return self._ranked(in_pools(candidates, pools), qualities, delta, by, sync)

    def at_index(
        self,
        logits: Levels,
        index: Index,
        delta: float,
        qualities: Tensor | None = None,
        *,
        ignored: Levels | None = None,
        pools: Pools | None = None,
        sync: Sync = False,
        check: bool = False,
        implementation: Implementation = "auto",
    ) -> Values:
        """The loss of logits of which the positives are named; nobody has to look for them.

        Parameters
        ----------
        qualities
            (P,) numbers for the rule, row by row those of ``index``; None: 1 for each.
        logits, index, delta, ignored, pools, sync, check, implementation
            See :func:`rank_sort_loss_at`.

        Raises
        ------
        ValueError
            When shapes do not fit, ``index`` is wrong, δ is negative, there is no such implementation, or ``check``
            finds a mistake.
        """
        levels = levels_of(logits)
        if check:
            check_logits(logits, delta)
        self._check(qualities, check, sync, implementation)
        by = chosen(implementation, levels)
        is_reference = by == "reference"
        candidates, order = from_index(
            levels,
            index,
            ignored=ignored,
            check=check or is_reference,
            makes_targets=by in ("triton", "reference"),
        )
        _check_number(order, qualities, "index")
        qualities = levels[0].new_ones(len(order), dtype=torch.float32) if qualities is None else qualities[order]
        if is_reference:
            return self._referred(levels, whole(candidates.marks), qualities, delta, pools)
        found = self._ranked(in_pools(candidates, pools), qualities, delta, by, sync)
        back = order.argsort()
        of_positives = None if found.pools is None else found.pools[back]
        return Values(found.values, None if found.per_positive is None else found.per_positive[:, back], of_positives)

    def _check(self, qualities: Tensor | None, check: bool, sync: Sync, implementation: Implementation) -> None:
        if qualities is not None and qualities.ndim != 1:
            raise ValueError(f"one quality per positive must be of shape (P,), got {tuple(qualities.shape)}")
        if check and qualities is not None:
            check_range("quality", qualities, *self.quality_range)
        if implementation == "reference" and Processes(sync).size > 1:
            raise ValueError("implementation 'reference' ranks the candidates of one process: sync must be False")

    def _referred(
        self, logits: Levels, targets: Tensor, qualities: Tensor, delta: float, pools: Pools | None
    ) -> Values:
        """The reference of dense targets; of pools one after another, where the logits of the others are ignored."""
        flat = whole(logits)
        if pools is None:
            return Values(tuple(self.reference(flat, targets.view(flat.shape), qualities, delta)), None)
        levels = levels_of(logits)
        fitted = in_pools(RankedCandidates(levels, [], targets.new_zeros(0, dtype=torch.int64), flat, 1), pools).pools
        parts = [index.expand(level.shape).reshape(-1) for index, level in zip(fitted, levels, strict=True)]
        flat, targets, pool_of = flat.reshape(-1), targets.reshape(-1), torch.cat(parts)
        own = pool_of[(targets != 0) & ~(targets < 0)]
        values = [
            self.reference(flat, targets.masked_fill(pool_of != pool, -1), qualities[own == pool], delta)
            for pool in range(pools.number)
        ]
        return Values(tuple(torch.stack(each) for each in zip(*values, strict=True)), None, own)

    def _ranked(
        self, candidates: RankedCandidates, qualities: Tensor, delta: float, by: Implementation, sync: Sync
    ) -> Values:
        check_delta(delta)
        # The cells of float32 logits are kept for the backward pass, in the memory that will hold their gradient. Not
        # by an operator: its backward pass may not change what was saved, for it may come twice.
        keep = (
            torch.is_grad_enabled()
            and not is_traced(candidates.logits)
            and any(level.requires_grad for level in candidates.logits)
            and all(level.dtype == torch.float32 and level.device.type == "cpu" for level in candidates.logits)
        )
        settings = Settings(float(delta), by, Processes(sync).name)
        with torch.autocast(candidates.logits[0].device.type, enabled=False):
            arguments = (*candidates, *settings, qualities.detach(), keep)
            values, per_positive = ranked(self.operator, self.kind, *arguments)
        return Values(values, per_positive, pools_of(candidates))


def chosen(implementation: Implementation, logits: Sequence[Tensor]) -> Implementation:
    """The implementation for these logits: ``"auto"`` is Triton on CUDA, for less than double precision, if it imports.

    On a CPU ``"auto"`` stays: the operator, into which no compiler looks, finds out whether there is numba. Raises
    ValueError when there is no such implementation, or one is asked for logits that it cannot rank, and ImportError
    when numba or Triton is asked for and does not import: Triton must be 3.4 or newer.
    """
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {_IMPLEMENTATIONS}, got {implementation!r}")
    device, dtype = logits[0].device.type, loss_dtype(logits)
    fits_triton = device == "cuda" and dtype == torch.float32
    if implementation == "triton" and not fits_triton:
        raise ValueError(
            f"implementation 'triton' needs tensors on CUDA and float32 or less, these are on {device}, in {dtype}"
        )
    if implementation == "numba" and device != "cpu":
        raise ValueError(f"implementation 'numba' needs tensors on CPU, these are on {device}")
    if implementation == "numba":
        try:
            import rankdet.losses.kernels.cpu
        except ImportError as error:
            raise ImportError(f"implementation 'numba': {error}: pip install 'rankdet[cpu]'") from error
    if implementation == "triton" or (implementation == "auto" and fits_triton):
        try:
            import rankdet.losses.kernels.negatives  # noqa: F401
        except ImportError:
            if implementation == "triton":
                raise
            return "torch"
        return "triton"
    return implementation


def _check_number(found: Tensor, qualities: Tensor | None, where: str) -> None:
    if qualities is not None and not torch.compiler.is_compiling() and qualities.shape != found.shape:
        raise ValueError(f"{len(found)} positives among the {where} but qualities of shape {tuple(qualities.shape)}")
