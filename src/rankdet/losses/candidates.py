"""The positives among the candidates of a head, and their counts."""

from __future__ import annotations

import torch
from torch import Tensor

from rankdet.losses.localization import DICE_EPSILON, Overlap, box_overlap, dice_coefficient
from rankdet.structures import Candidates, Matched


class Positives:
    """The positives of a head and how well each is localized now.

    Parameters
    ----------
    candidates
        What the head passes to its loss.
    rows
        (P,) int64: which candidates are positives, ascending; an attribute, too.
    dice_epsilon
        Added to the denominator of the Dice coefficient; see :func:`rankdet.losses.dice_coefficient`.
    is_wrong
        Scalar bool on the device: whether ``rows`` are not the positives, which makes scores and overlaps NaN; None
        where the host has looked.

    Attributes
    ----------
    logits
        (P, C) raw scores of the positives, detached: they serve only as weights.
    """

    def __init__(
        self, candidates: Candidates, rows: Tensor, dice_epsilon: float = DICE_EPSILON, is_wrong: Tensor | None = None
    ) -> None:
        self.rows = rows
        self.logits = candidates.logits.detach()[rows]
        if is_wrong is not None:
            self.logits = self.logits.masked_fill(is_wrong, torch.nan)
        self._boxes, self._masks = candidates.boxes, candidates.masks
        self._dice_epsilon = dice_epsilon
        self._is_wrong = is_wrong
        # Computed when first asked for. Not functools.cached_property, whose lock torch.compile cannot trace.
        self._overlap: Overlap | None = None
        self._dice: Tensor | None = None

    @property
    def overlap(self) -> Overlap | None:
        """IoU and GIoU of the predicted boxes with their objects, each (P,), with gradient; None without boxes."""
        if self._overlap is None and self._boxes is not None:
            overlap = box_overlap(self._boxes.predicted, self._boxes.target)
            if self._is_wrong is not None:
                overlap = Overlap(*(values.masked_fill(self._is_wrong, torch.nan) for values in overlap))
            self._overlap = overlap
        return self._overlap

    @property
    def dice(self) -> Tensor | None:
        """(P',) Dice coefficient of each of ``Candidates.masks``, with gradient; None without masks."""
        if self._dice is None and self._masks is not None:
            self._dice = dice_coefficient(self._masks.predicted, self._masks.target, self._dice_epsilon)
        return self._dice


def find_positives(candidates: Candidates, dice_epsilon: float = DICE_EPSILON) -> Positives:
    """The positives of a head.

    Raises
    ------
    ValueError
        When there is not one pair of boxes (or deltas, or masks without rows) per positive, or ``candidates.rows`` are
        not its positives. On a GPU, where counting would wait for the device, and where torch compiles, their logits
        and overlaps are NaN instead, and so is a loss made of either.

    Examples
    --------
    >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    >>> candidates = Candidates(
    ...     head="rcnn", num_classes=2, labels=torch.tensor([2, 1]), logits=torch.tensor([[3.0, -3.0], [-3.0, 0.0]]),
    ...     boxes=Matched(boxes, torch.tensor([[0.0, 0.0, 4.0, 2.0]])),
    ... )
    >>> positives = find_positives(candidates)
    >>> positives.rows, positives.logits, positives.overlap.iou
    (tensor([1]), tensor([[-3.,  0.]]), tensor([0.5000]))
    """
    num_positives, is_wrong = _num_positives(candidates), None
    waits = not (candidates.labels.is_cuda or torch.compiler.is_compiling())
    if candidates.rows is not None:
        rows, is_wrong = checked_rows(candidates, candidates.rows)
        if waits and bool(is_wrong):
            raise ValueError(f"head {candidates.head!r}: rows are not those of the positives among its labels")
        is_wrong = None if waits else is_wrong
    elif num_positives is not None and not waits:
        rows, is_wrong = static_rows(candidates, num_positives)
    else:
        rows = candidates.is_positive.nonzero().squeeze(1)
    boxes, masks = candidates.boxes, candidates.masks
    for field, pairs in (("boxes", boxes), ("deltas", candidates.deltas)):
        if pairs is not None:
            matched_pairs(candidates, field, pairs, len(rows))
    if masks is not None and masks.rows is None:
        matched_pairs(candidates, "masks", masks, len(rows))
    return Positives(candidates, rows, dice_epsilon, is_wrong)


def checked_rows(candidates: Candidates, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The (P,) rows, kept inside of the candidates, and whether they are not the positives (bool): without waiting."""
    inside = rows.clamp(0, max(len(candidates.labels) - 1, 0))
    found = candidates.is_positive
    are_all = found.sum() == len(rows)
    is_right = found[inside].all() & (rows == inside).all() & (rows.diff() > 0).all() & are_all
    return inside, ~is_right


def static_rows(candidates: Candidates, num_positives: int) -> tuple[Tensor, Tensor]:
    """The (P,) rows of the positives, where P is known, and whether P was wrong (bool): without waiting."""
    found = torch.nonzero_static(candidates.is_positive, size=num_positives + 1, fill_value=-1).squeeze(1)
    # One row too many is asked for: it must be missing, and the one before it must not.
    is_wrong = (found[-1] >= 0) | (found[:-1] < 0).any()
    return found[:-1].clamp(min=0), is_wrong


def matched_pairs(candidates: Candidates, field: str, pairs: Matched | None, num_positives: int) -> Matched:
    """The pairs of ``field``; raises ValueError when the head passes none, or not one per positive."""
    if pairs is None:
        raise ValueError(f"head {candidates.head!r} passes no {field}, which its loss needs")
    if pairs.rows is not None or len(pairs.predicted) != num_positives:
        raise ValueError(
            f"head {candidates.head!r}: {num_positives} positives but {len(pairs.predicted)} pairs of {field}"
            + (" for a part of them" if pairs.rows is not None else "")
        )
    return pairs


def check_sigmoid(candidates: Candidates) -> None:
    """Raise ValueError unless the head has one logit per class, as a classifier of sigmoids has."""
    if candidates.logits.shape[1] != candidates.num_classes:
        raise ValueError(f"head {candidates.head!r} classifies by softmax: its logits have a background column")


def task_counts(candidates: Candidates, num_positives: int, is_used: Tensor | None = None) -> dict[str, Tensor]:
    """The sizes of the problem of a loss, in candidates and in logits: statistics of every loss.

    ``positives`` and ``background`` are candidates, and their ratio is the imbalance of instances. ``negatives`` are
    logits, as a classifier of C sigmoids has them: a positive comes with C − 1 of them, background with C. Their ratio
    to the positives, of which each is one logit, is the imbalance of tasks (tables 10 and A.17 of the paper).

    ``is_used`` is (M,) bool: which candidates a loss learns from; None: all that are not ignored.

    Examples
    --------
    >>> candidates = Candidates("rcnn", torch.zeros(4, 3), torch.tensor([1, 3, 3, -1]), num_classes=3)
    >>> task_counts(candidates, 1)
    {'positives': tensor(1), 'background': tensor(2), 'negatives': tensor(8)}
    """
    used = (candidates.labels >= 0 if is_used is None else is_used).sum()
    positives = torch.full_like(used, num_positives)
    return {
        "positives": positives,
        "background": used - positives,
        "negatives": used * candidates.num_classes - positives,
    }


def _num_positives(candidates: Candidates) -> int | None:
    """P, where the head passes something for every positive: the host then need not ask the device."""
    for pairs in (candidates.boxes, candidates.deltas, candidates.masks):
        if pairs is not None and pairs.rows is None:
            return len(pairs.predicted)
    return None if candidates.quality is None else len(candidates.quality)
