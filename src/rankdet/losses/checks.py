"""Checks of inputs, which wait for the device, and the dense forms of inputs for references."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankdet.structures import is_class

FARTHEST = 2e10
"""Logits, in multiples of δ, up to which sums of float64 tell differences of δ to about 1e-6."""
Levels = Tensor | Sequence[Tensor]
"""One tensor, or the levels of a pyramid (or any chunks) one after another, which are never concatenated."""


def levels_of(given: Levels) -> list[Tensor]:
    """The levels as a list, of one where it is one tensor."""
    return [given] if isinstance(given, Tensor) else list(given)


def check_range(name: str, values: Tensor, low: float, high: float) -> None:
    """Raise ValueError unless all values lie in [low, high]."""
    if not bool(((values >= low) & (values <= high)).all()):
        raise ValueError(f"{name} must lie in [{low:g}, {high:g}], got values from {values.min()} to {values.max()}")


def check_logits(logits: Levels, delta: float) -> None:
    """Raise ValueError where a logit is NaN or infinite, or so far from 0 that sums of logits lose differences of δ.

    Examples
    --------
    >>> check_logits(torch.tensor([1.0, -3e12]), delta=0.5)
    Traceback (most recent call last):
        ...
    ValueError: 1 of 2 logits, up to 3e+12, are beyond 1e+10, where δ = 0.5 is lost
    """
    flat = whole(logits).detach()
    finite = torch.isfinite(flat)
    if not bool(finite.all()):
        raise ValueError(f"{int((~finite).sum())} of {flat.numel()} logits are NaN or infinite")
    sizes, limit = flat.double().abs(), FARTHEST * delta
    if delta > 0 and bool((sizes > limit).any()):
        number, most = int((sizes > limit).sum()), float(sizes.max())
        raise ValueError(
            f"{number} of {flat.numel()} logits, up to {most:g}, are beyond {limit:g}, where δ = {delta:g} is lost"
        )


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
