"""Checks of inputs, which wait for the device, and the dense forms of inputs for references."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankdet.structures import is_class

Levels = Tensor | Sequence[Tensor]
"""One tensor, or the levels of a pyramid (or any chunks) one after another, which are never concatenated."""


def levels_of(given: Levels) -> list[Tensor]:
    """The levels as a list, of one where it is one tensor."""
    return [given] if isinstance(given, Tensor) else list(given)


def check_range(name: str, values: Tensor, low: float, high: float) -> None:
    """Raise ValueError unless all values lie in [low, high]."""
    if not bool(((values >= low) & (values <= high)).all()):
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got values from {values.min()} to {values.max()}")


def check_logits(logits: Levels) -> None:
    """Raise ValueError where a logit is NaN or infinite."""
    flat = whole(logits)
    finite = torch.isfinite(flat)
    if not bool(finite.all()):
        raise ValueError(f"{int((~finite).sum())} of {flat.numel()} logits are NaN or infinite")


def whole(levels: Levels) -> Tensor:
    """The levels in one tensor: as it is, or flat."""
    return levels if isinstance(levels, Tensor) else torch.cat([level.reshape(-1) for level in levels])


def dense(logits: Levels, labels: Levels, qualities: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Labels as dense targets, for references: (M, C) logits, targets −1, 0 or 1, and the (P,) qualities (or ones).

    Raises
    ------
    ValueError
        When there is not one quality per positive.
    """
    stacked, marks = torch.cat(levels_of(logits)), torch.cat(levels_of(labels))
    rows = is_class(marks, stacked.shape[1]).nonzero().squeeze(1)
    if qualities is None:
        qualities = stacked.new_ones(len(rows))
    if qualities.shape != rows.shape:
        raise ValueError(f"{len(rows)} positives among the labels but qualities of shape {tuple(qualities.shape)}")
    targets = torch.zeros_like(stacked, dtype=qualities.dtype)
    targets[marks < 0] = -1
    targets[rows, marks[rows]] = 1
    return stacked, targets, qualities
