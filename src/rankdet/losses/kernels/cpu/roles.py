"""Who is a positive or ignored, and the logits of positives, each in one look."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rankdet.losses import roles
from rankdet.losses.kernels.cpu.compiling import Array, compiled


@compiled
def _find(labels: Array, num_classes: int) -> tuple[Array, Array]:
    num_positives, num_ignored = 0, 0
    for i in range(len(labels)):
        num_positives += (labels[i] >= 0) & (labels[i] < num_classes)
        num_ignored += labels[i] < 0
    positives, ignored = np.empty(num_positives, np.int64), np.empty(num_ignored, np.int64)
    num_positives, num_ignored = 0, 0
    for i in range(len(labels)):
        if labels[i] < 0:
            ignored[num_ignored] = i
            num_ignored += 1
        elif labels[i] < num_classes:
            positives[num_positives] = i
            num_positives += 1
    return positives, ignored


@compiled
def _gather(values: Array, places: Array, found: Array) -> None:
    for i in range(len(places)):
        value = np.float64(values[places[i]])
        found[0, i] = value if abs(value) < np.inf else 0.0
        found[1, i] = value - value if places[i] >= 0 else np.nan


def special_labels(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return what :func:`rankdet.losses.roles.special_labels` does."""
    if torch._C._are_functorch_transforms_active():  # tensors without memory that NumPy could see
        return roles.special_labels(labels, num_classes)
    positives, ignored = _find(labels.long().contiguous().numpy(), num_classes)
    return torch.from_numpy(positives), torch.from_numpy(ignored)


def positive_logits(candidates: roles.RankedCandidates) -> tuple[Tensor, Tensor]:
    """Return what :func:`rankdet.losses.roles.positive_logits` does."""
    level, *others = candidates.logits
    if others or level.dtype != candidates.dtype or not level.numel():
        return roles.positive_logits(candidates)
    found = torch.empty(2, len(candidates.positives), dtype=torch.float64)
    _gather(level.detach().reshape(-1).numpy(), candidates.positives.contiguous().numpy(), found.numpy())
    values, poison = found
    return values, poison
