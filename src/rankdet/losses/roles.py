"""Which of millions of logits are positives, which are ignored, and which are the negatives between them.

Legend: M candidates, C classes, P positives, I ignored rows, N logits of all levels, K pools.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.checks import Levels, levels_of
from rankdet.losses.pools import Cycle, Pools
from rankdet.structures import is_class

MANY = 1 << 16
"""Entries of a mask of which few are looked for in words of eight, which takes more operations."""

Index = Tensor | Sequence[Tensor]
"""Places of P positives, (P,) int64: in the flat logits, or one tensor for each dimension as in ``logits[index]``."""


class RankedCandidates(NamedTuple):
    """Logits of all levels, and which of them are positives or ignored; all else is negative.

    logits
        L tensors: (M, C) each, or of any shape where ``marks`` are dense.
    marks
        L tensors: (M,) int64 labels (class, C background, −1 ignored), or targets of the shape of the logits
        (0 negative, below 0 ignored, else positive). None at all where positives came by index and no kernel needs any.
    positives
        (P,) int64 indices into the flat logits of all levels; −1 where P turned out to be wrong.
    ignored
        (I,) int64 indices of the ignored rows of ``width`` logits, ascending; empty for kernels that read labels.
    width
        Logits of a row.
    pools
        L int64 tensors with as many dimensions as the logits, which broadcast to their shapes; none: all are in one.
    num_pools
        K.
    """

    logits: list[Tensor]
    marks: list[Tensor]
    positives: Tensor
    ignored: Tensor
    width: int
    pools: Sequence[Tensor] = ()
    num_pools: int = 1

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the loss."""
        return loss_dtype(self.logits)

    @property
    def num_logits(self) -> int:
        """Return N, the number of logits of all levels."""
        return sum(level.numel() for level in self.logits)


def loss_dtype(logits: Iterable[Tensor]) -> torch.dtype:
    """The dtype of a loss: float32, or float64 where a level has it."""
    return functools.reduce(torch.promote_types, (level.dtype for level in logits), torch.float32)


def from_labels(
    logits: Levels,
    labels: Levels,
    num_positives: int | None = None,
    *,
    rows: Tensor | None = None,
    reads_labels: bool = False,
    find: Callable[[Tensor, int], tuple[Tensor, Tensor]] | None = None,
) -> RankedCandidates:
    """Candidates from class labels: positives are the logits (i, labels[i]) with a label below C.

    Arguments are those of :meth:`rankdet.losses.RankingOperator.of_labels`. Kernels find the negatives from the labels
    by themselves (``reads_labels``): then nothing is looked up where P is known, and a wrong P makes all positives −1.
    ``find`` takes the place of :func:`special_labels` where nobody traces.
    Raises ValueError when shapes do not fit, or P is looked up and differs from ``num_positives``.
    """
    levels, marks = _paired(logits, labels, "labels")
    width = levels[0].shape[-1]
    for level, mark in zip(levels, marks, strict=True):
        if level.ndim != 2 or mark.shape != level.shape[:1] or level.shape[1] != width:
            raise ValueError(
                f"logits {tuple(level.shape)} and labels {tuple(mark.shape)} must be (M, C) and (M,), C the same"
            )
    flat = torch.cat(marks) if len(marks) > 1 else marks[0]
    if reads_labels and num_positives is not None:
        is_positive = is_class(flat, width)
        if rows is None:
            rows = torch.nonzero_static(is_positive, size=num_positives, fill_value=-1).squeeze(1)
        is_right = (rows >= 0).all() & (is_positive.sum() == num_positives)
        positives = rows * width + flat[rows.clamp(min=0)] if len(flat) else rows
        return RankedCandidates(levels, marks, torch.where(is_right, positives, -1), rows[:0], width)
    looks = torch.ops.rankdet.special_labels if is_traced([flat]) else find or special_labels
    found, ignored = looks(flat, width)
    rows = found if rows is None else rows
    if num_positives is not None and not is_traced(levels) and len(rows) != num_positives:
        raise ValueError(f"{len(rows)} positives among the labels but {num_positives} qualities")
    return RankedCandidates(levels, marks, rows * width + flat.index_select(0, rows), ignored, width)


def from_targets(logits: Levels, targets: Levels) -> tuple[RankedCandidates, Tensor]:
    """Candidates from dense targets, and the (P,) targets of the positives; raises ValueError when shapes differ.

    How many are positive has to be looked up: on a GPU this waits for the device (labels do not).
    """
    levels, marks = _paired(logits, targets, "targets")
    marks = [mark.detach() for mark in marks]
    for level, mark in zip(levels, marks, strict=True):
        if level.shape != mark.shape:
            raise ValueError(f"logits {tuple(level.shape)} and targets {tuple(mark.shape)} must have one shape")
    # An operator takes longer, and at its first call imports the compiler of torch, which takes a second.
    find = torch.ops.rankdet.special_targets if is_traced([*levels, *marks]) else special_targets
    positives, ignored, qualities = find(marks)
    return RankedCandidates(levels, marks, positives, ignored, 1), qualities


def from_index(
    logits: Levels, index: Index, *, ignored: Levels | None = None, check: bool = False, makes_targets: bool = False
) -> tuple[RankedCandidates, Tensor]:
    """Candidates from the places of their positives, which are sorted, and the (P,) int64 order that sorts them.

    Sorted positives make the order of ``index`` irrelevant also among equal logits, and show what is there twice.
    Arguments are those of :meth:`rankdet.losses.RankingOperator.at_index`. ``makes_targets`` is for kernels and
    references: the marks are int8 targets then, a byte for each logit. Nothing is looked up otherwise, but for
    ``ignored``. Raises ValueError when shapes do not fit, or ``index`` is wrong. Where looking would wait for a device
    and ``check`` does not ask for it, and where someone traces, a wrong index makes all positives −1.
    """
    levels = levels_of(logits)
    device, num_logits = levels[0].device, sum(level.numel() for level in levels)
    places, is_outside = _places(levels, index, device)
    positives, order = places.sort()
    is_twice, is_ignored = positives.diff() == 0, torch.zeros_like(is_outside)
    mask, width = None, 1
    if ignored is not None:
        mask, width = _ignored_rows(levels, ignored)
        if num_logits:
            is_ignored = mask[positives.clamp(0, num_logits - 1) // width]
    wrongs = torch.stack([is_outside.any(), is_twice.any(), is_ignored.any()])
    if not is_traced(levels) and (check or device.type == "cpu") and bool(wrongs.any()):
        reasons = ("outside of them", "more than once", "that are ignored")
        found = " and ".join(reason for reason, is_so in zip(reasons, wrongs.tolist(), strict=True) if is_so)
        shapes = ", ".join(str(tuple(level.shape)) for level in levels)
        raise ValueError(f"index names logits {found}: it must name positives among logits {shapes}, each once")
    positives = torch.where(wrongs.any(), -1, positives)
    if not makes_targets:
        rows = positives[:0] if mask is None else _found(mask)
        return RankedCandidates(levels, [], positives, rows, width), order
    targets = torch.zeros(num_logits, dtype=torch.int8, device=device)
    if mask is not None:
        targets.view(-1, width).masked_fill_(mask[:, None], -1)
    if num_logits:
        targets.index_fill_(0, positives.clamp(min=0), 1)
    parts = targets.split([level.numel() for level in levels])
    marks = [part.view(level.shape) for part, level in zip(parts, levels, strict=True)]
    return RankedCandidates(levels, marks, positives, positives[:0], width), order


def _places(levels: Sequence[Tensor], index: Index, device: torch.device) -> tuple[Tensor, Tensor]:
    """(P,) places in the flat logits of all levels, and which of them are outside, bool."""
    parts = [index] if isinstance(index, Tensor) else list(index)
    for part in parts:
        if part.dtype != torch.int64 or part.ndim != 1 or part.shape != parts[0].shape:
            found = ", ".join(f"{tuple(part.shape)} of {part.dtype}" for part in parts)
            raise ValueError(f"index must be (P,) int64, or a tuple of such for each dimension of the logits: {found}")
    if isinstance(index, Tensor):
        sizes = [sum(level.numel() for level in levels)]
    elif len(levels) == 1 and len(parts) == levels[0].ndim:
        sizes = list(levels[0].shape)
    else:
        shapes = ", ".join(str(tuple(level.shape)) for level in levels)
        raise ValueError(f"a tuple of {len(parts)} indices needs one tensor of as many dimensions, logits are {shapes}")
    # To a GPU without waiting: what is not pinned is copied before the call returns. To the host that would be unsafe.
    parts = [part.to(device, non_blocking=device.type != "cpu") for part in parts]
    places, is_outside = torch.zeros_like(parts[0]), torch.zeros_like(parts[0], dtype=torch.bool)
    for part, size in zip(parts, sizes, strict=True):
        places = places * size + part
        is_outside = is_outside | (part < 0) | (part >= size)
    return places, is_outside


def _ignored_rows(levels: Sequence[Tensor], ignored: Levels) -> tuple[Tensor, int]:
    """Which rows of all levels are ignored, bool, and the width of a row; 1 where ``ignored`` are single logits."""
    _, masks = _paired(levels, ignored, "ignored")
    widths = {1 if mask.shape == level.shape else level.shape[-1] for level, mask in zip(levels, masks, strict=True)}
    for level, mask in zip(levels, masks, strict=True):
        if mask.dtype != torch.bool or mask.shape not in (level.shape, level.shape[:-1]) or len(widths) > 1:
            raise ValueError(
                f"ignored {tuple(mask.shape)} of {mask.dtype} must be bool, of the shape of the logits "
                f"{tuple(level.shape)} or without their last dimension, alike in all levels"
            )
    return torch.cat([mask.reshape(-1) for mask in masks]), widths.pop()


def in_pools(candidates: RankedCandidates, pools: Pools | None) -> RankedCandidates:
    """The candidates, in pools.

    Raises ValueError when the pools do not fit to the logits. A number outside of 0 … K − 1 raises where looking does
    not wait for a device, unless someone traces; else it makes all positives −1.
    """
    if pools is None:
        return candidates
    levels, indices = _paired(candidates.logits, pools.of, "pools")
    fitted, positives = [], candidates.positives
    for level, index in zip(levels, indices, strict=True):
        if index.dtype != torch.int64 or pools.number < 1:
            raise ValueError(f"pools must be int64, and at least one: {index.dtype}, {pools.number} pools")
        sizes = (1,) * (level.ndim - index.ndim) + tuple(index.shape)
        # Not `size not in (1, of)`, which the compiler of torch 2.4 takes for true.
        if len(sizes) != level.ndim or any(s != 1 and s != of for s, of in zip(sizes, level.shape, strict=True)):
            raise ValueError(f"pools {tuple(index.shape)} do not broadcast to logits {tuple(level.shape)}")
        is_wrong = ((index < 0) | (index >= pools.number)).any()
        if index.device.type == "cpu" and not is_traced([index]):
            if bool(is_wrong):
                raise ValueError(f"pools must lie in 0 … {pools.number - 1}, got {index.min()} to {index.max()}")
        else:
            positives = positives.masked_fill(is_wrong.to(positives.device), -1)
        index = index.clamp(0, pools.number - 1)
        fitted.append(index.view(sizes).to(level.device, non_blocking=level.device.type != "cpu"))
    logits, marks, _, ignored, width, *_ = candidates  # the compiler of torch 2.4 knows no _replace
    return RankedCandidates(logits, marks, positives, ignored, width, fitted, pools.number)


def pools_of(candidates: RankedCandidates) -> Tensor | None:
    """(P,) int64 pools of the positives; None where all are in one."""
    if not candidates.pools:
        return None
    places, start = candidates.positives.clamp(min=0), 0
    pools = torch.zeros_like(places)
    for level, index in zip(candidates.logits, candidates.pools, strict=True):
        if level.numel():
            inside = (places - start).clamp(0, level.numel() - 1)
            is_here = (places >= start) & (places < start + level.numel())
            pools = torch.where(is_here, Cycle.of(index, level.shape).at(inside), pools)
        start += level.numel()
    return pools


def positive_logits(candidates: RankedCandidates) -> tuple[Tensor, Tensor]:
    """(P,) float64 logits of the positives, all finite, and (P,) numbers: NaN where one was not, or if P is wrong."""
    positives, parts, start = candidates.positives, [], 0
    for level in candidates.logits:
        flat = level.reshape(-1)
        if len(candidates.logits) == 1:
            parts.append(flat[positives] if len(flat) else flat[:0])
        else:
            here = (positives >= start) & (positives < start + len(flat))
            index = (positives - start).clamp(0, max(len(flat) - 1, 0))
            parts.append(flat[index].where(here, 0) if len(flat) else flat.new_zeros(len(index)))
        start += len(flat)
    values = parts[0].double() if len(parts) == 1 else torch.stack(parts).double().sum(0)
    # All places are −1 where P is wrong.
    poison = (values - values).masked_fill_(positives < 0, torch.nan)
    return values.nan_to_num(0.0, 0.0, 0.0), poison


def _paired(logits: Levels, marks: Levels, name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Both as lists of levels; raises ValueError unless they are as many, and at least one."""
    first, second = levels_of(logits), levels_of(marks)
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} levels of logits and {len(second)} of {name} must be as many, and at least one")
    return first, second


def is_traced(tensors: Sequence[Tensor]) -> bool:
    """Whether operators must be seen: where torch compiles, and for tensors of other classes, as those without data.

    Where ``make_fx`` or ``torch.jit.trace`` write down what is done with ordinary tensors, too: their numbers may not
    be read, for they are those of an example.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors)
    )


def _found(mask: Tensor) -> Tensor:
    """The indices of a mask that are set, by the operator where someone traces."""
    found: Tensor = torch.ops.rankdet.indices_of(mask) if is_traced([mask]) else indices_of(mask)
    return found


def indices_of(mask: Tensor) -> Tensor:
    """(n,) int64 indices of the few entries of a (N,) bool mask that are set: of many, eight at a time are looked at.

    Examples
    --------
    >>> indices_of(torch.tensor(12 * [False] + [True, False, True]))
    tensor([12, 14])
    """
    if len(mask) < MANY:
        return mask.nonzero().view(-1)
    whole = len(mask) // 8 * 8
    words = mask[:whole].view(torch.int64).nonzero().squeeze(1)
    word, byte = mask[:whole].view(-1, 8).index_select(0, words).nonzero().unbind(1)
    return torch.cat([words[word] * 8 + byte, mask[whole:].nonzero().squeeze(1) + whole])


# The schemas are written out: torch 2.4 reads them off no annotation that is a string.
torch.library.custom_op(
    "rankdet::indices_of", indices_of, mutates_args=(), schema="(Tensor mask) -> Tensor"
).register_fake(lambda mask: mask.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64))


def special_labels(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(P,) int64 places of the (M,) labels that are a class, and (I,) of those that are ignored.

    Nobody looks twice at the many that are background.
    """
    special = indices_of(labels != num_classes)
    found = labels.index_select(0, special)
    return special[is_class(found, num_classes)], special[found < 0]


_special_labels = torch.library.custom_op(
    "rankdet::special_labels",
    special_labels,
    mutates_args=(),
    schema="(Tensor labels, SymInt num_classes) -> (Tensor, Tensor)",
)


@_special_labels.register_fake
def _(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    context = torch.library.get_ctx()
    sizes = context.new_dynamic_size(), context.new_dynamic_size()
    return labels.new_empty(sizes[0], dtype=torch.int64), labels.new_empty(sizes[1], dtype=torch.int64)


def special_targets(targets: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of positives, indices of ignored logits, and the targets of the positives, over all levels."""
    positives, ignored, qualities, start = [], [], [], 0
    for level in targets:
        flat = level.reshape(-1)
        special = indices_of(flat != 0)
        values = flat[special]
        is_ignored = values < 0  # NaN is not: it stays a positive and makes the loss NaN
        positives.append(special[~is_ignored] + start)
        ignored.append(special[is_ignored] + start)
        qualities.append(values[~is_ignored])
        start += len(flat)
    return torch.cat(positives), torch.cat(ignored), torch.cat(qualities)


_special_targets = torch.library.custom_op(
    "rankdet::special_targets",
    special_targets,
    mutates_args=(),
    schema="(Tensor[] targets) -> (Tensor, Tensor, Tensor)",
)


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
