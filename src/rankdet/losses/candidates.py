"""What every loss asks of Candidates before it starts.

Legend: M candidates, C classes, P positives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rankdet.structures import Candidates, Matched


def positive_rows(candidates: Candidates) -> Tensor:
    """(P,) int64: the rows of the positives, ascending."""
    labels = candidates.labels
    return ((labels >= 0) & (labels < candidates.num_classes)).nonzero().squeeze(1)


def matched_pairs(candidates: Candidates, field: str, pairs: Matched | None, num_positives: int) -> Matched:
    """The pairs of ``field``, one per positive.

    Raises
    ------
    ValueError
        When the head hands none, or not one per positive.
    """
    if pairs is None:
        raise ValueError(f"head {candidates.head!r} hands no {field}, which its loss needs")
    if pairs.rows is not None or len(pairs.predicted) != num_positives:
        raise ValueError(
            f"head {candidates.head!r}: {num_positives} positives but {len(pairs.predicted)} pairs of {field}"
            + (" for a part of them" if pairs.rows is not None else "")
        )
    return pairs


def task_counts(candidates: Candidates, num_positives: int) -> dict[str, Tensor]:
    """Positives and negatives as a classifier of C sigmoids sees them: a positive row holds C − 1 negatives, any
    background row C. The ratio of the two is the imbalance of the paper's table 10 (task level)."""
    used = (candidates.labels >= 0).sum()
    positives = torch.as_tensor(num_positives, device=used.device)
    return {"positives": positives, "negatives": used * candidates.num_classes - positives}
