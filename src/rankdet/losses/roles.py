"""Which of millions of logits are positives, which are ignored, and which are the negatives between them.

Legend: M candidates, C classes, P positives, I ignored rows, N logits of all levels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.losses.checks import Levels
from rankdet.structures import is_class


class RankedCandidates(NamedTuple):
    """Logits of all levels, and which of them are positives or ignored; all else is negative.

    logits
        L tensors: (M, C) each, or of any shape where ``marks`` are dense.
    marks
        L tensors: (M,) int64 labels (class, C background, −1 ignored), or targets of the shape of the logits
        (0 negative, below 0 ignored, else positive).
    positives
        (P,) int64 indices into the flat logits of all levels; −1 where P turned out to be wrong.
    ignored
        (I,) int64 indices of the ignored rows of ``width`` logits, ascending; empty for kernels that read labels.
    width
        Logits of a row.
    """

    logits: list[Tensor]
    marks: list[Tensor]
    positives: Tensor
    ignored: Tensor
    width: int

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
) -> RankedCandidates:
    """Candidates from class labels: positives are the logits (i, labels[i]) with a label below C.

    Arguments are those of :meth:`rankdet.losses.RankingOperator.of_labels`. Kernels find the negatives from the labels
    by themselves (``reads_labels``): then nothing is looked up where P is known, and a wrong P makes all positives −1.
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
    if rows is None:
        rows = torch.ops.rankdet.indices_of(is_class(flat, width))
    if num_positives is not None and not torch.compiler.is_compiling() and len(rows) != num_positives:
        raise ValueError(f"{len(rows)} positives among the labels but {num_positives} qualities")
    ignored = torch.ops.rankdet.indices_of(flat < 0)
    return RankedCandidates(levels, marks, rows * width + flat[rows], ignored, width)


def from_targets(logits: Levels, targets: Levels) -> tuple[RankedCandidates, Tensor]:
    """Candidates from dense targets, and the (P,) targets of the positives; raises ValueError when shapes differ.

    How many are positive has to be looked up: on a GPU this waits for the device (labels do not).
    """
    levels, marks = _paired(logits, targets, "targets")
    marks = [mark.detach() for mark in marks]
    for level, mark in zip(levels, marks, strict=True):
        if level.shape != mark.shape:
            raise ValueError(f"logits {tuple(level.shape)} and targets {tuple(mark.shape)} must have one shape")
    positives, ignored, qualities = torch.ops.rankdet.special_targets(marks)
    return RankedCandidates(levels, marks, positives, ignored, 1), qualities


def positive_logits(candidates: RankedCandidates) -> tuple[Tensor, Tensor]:
    """(P,) float64 logits of the positives, all finite, and a scalar that is NaN where one was not or P is wrong."""
    positives, parts, start = candidates.positives, [], 0
    for level in candidates.logits:
        flat = level.reshape(-1)
        if len(candidates.logits) == 1:
            parts.append(flat[positives.clamp(min=0)] if len(flat) else flat[:0])
        else:
            here = (positives >= start) & (positives < start + len(flat))
            index = (positives - start).clamp(0, max(len(flat) - 1, 0))
            parts.append(flat[index].where(here, 0) if len(flat) else flat.new_zeros(len(index)))
        start += len(flat)
    values = parts[0].double() if len(parts) == 1 else torch.stack(parts).double().sum(0)
    poison = torch.where((positives < 0).any(), torch.nan, (values - values).sum())
    return values.nan_to_num(0.0, 0.0, 0.0), poison


def _paired(logits: Levels, marks: Levels, name: str) -> tuple[list[Tensor], list[Tensor]]:
    """Both as lists of levels; raises ValueError unless they are as many, and at least one."""
    first, second = ([levels] if isinstance(levels, Tensor) else list(levels) for levels in (logits, marks))
    if len(first) != len(second) or not first:
        raise ValueError(f"{len(first)} levels of logits and {len(second)} of {name} must be as many, and at least one")
    return first, second


def indices_of(mask: Tensor) -> Tensor:
    """(n,) int64 indices of the few entries of a (N,) bool mask that are set: eight at a time are looked at.

    Examples
    --------
    >>> indices_of(torch.tensor(12 * [False] + [True, False, True]))
    tensor([12, 14])
    """
    whole = len(mask) // 8 * 8
    words = mask[:whole].view(torch.int64).nonzero().squeeze(1)
    word, byte = mask[:whole].view(-1, 8).index_select(0, words).nonzero().unbind(1)
    return torch.cat([words[word] * 8 + byte, mask[whole:].nonzero().squeeze(1) + whole])


torch.library.custom_op("rankdet::indices_of", indices_of, mutates_args=()).register_fake(
    lambda mask: mask.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
)


@torch.library.custom_op("rankdet::special_targets", mutates_args=())
def _special_targets(targets: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
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
