"""Candidates and their labels: everything that a loss sees of a detector.

Legend: B images, M candidates (anchors, proposals, grid cells), P positives, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -1
"""Label of a candidate that no loss looks at."""


def is_class(labels: Tensor, num_classes: int) -> Tensor:
    """Return whether each label is a class 0 … C−1, neither background nor ignored: bool, shaped as ``labels``."""
    return (labels >= 0) & (labels < num_classes)


class Assignment(NamedTuple):
    """Labels of the M candidates of one image, and their objects.

    Labels (M,) int64 are a class, C for background, or −1 for ignored. ``matched`` (M,) int64 is the index of the
    object of a positive; 0 where the candidate is no positive.
    """

    labels: Tensor
    matched: Tensor


class Matched(NamedTuple):
    """P aligned pairs of predicted and target boxes (P, 4) or masks (P, H, W).

    Row i belongs to the i-th positive of ``Candidates.labels``, or to positive ``rows[i]`` where rows is given. The
    output of an auxiliary head may be of images instead (B, …), one row for each.
    """

    predicted: Tensor
    target: Tensor
    rows: Tensor | None = None


@dataclass(frozen=True)
class Candidates:
    """Everything that the loss of one head sees.

    Parameters
    ----------
    head
        The head's name in terms, statistics and recipes: ``"rpn"``, ``"rcnn"``, …
    logits
        (M, C) raw scores; (M, C + 1) with the background last where a head classifies by softmax.
    labels
        (M,) int64: class of a positive, C for background, −1 for ignored.
    num_classes
        Number of classes C, without background.
    boxes
        (P, 4) decoded boxes and their objects, xyxy in pixels, or both in parts of the image; their IoU is the
        localization quality.
    deltas
        (P, 4) the same pairs as encoded regression values, for losses that work on these (L1, smooth L1).
    masks
        (P', H, W) mask logits (−∞ where a mask is cropped) and target masks, bool or in [0, 1]. They belong to all
        positives, or to those in its ``rows`` where a head makes masks for some of them only, or several for one. For
        heads without boxes their Dice coefficient is the localization quality.
    auxiliary
        Outputs of auxiliary heads by name: a baseline's centerness of positives, its semantic maps of images. Ranking
        losses never look at them.
    centerness
        (P,) in [0, 1], detached: how central the anchor of a positive lies in its object, for losses that weight by it.
    box_shares
        (P,) in (0, 1], detached: the part of its image that the box of a positive's object covers, for losses of masks
        that are divided by it.
    limited
        (P,) bool: which boxes are as large or as small as the head can make them, for a warning.
    per_image
        B numbers that add up to M: the candidates of each image, in order, for losses that choose among those of an
        image.
    rows
        (P,) int64, ascending: which candidates are positives. None has the loss look for them.
    quality
        (P,) in [0, 1], detached: the localization quality of the positives, where a head knows it better than the IoU
        of boxes or the Dice coefficient of masks; for losses that are told to look at it.

    Raises
    ------
    ValueError
        When shapes do not fit together.
    """

    head: str
    logits: Tensor
    labels: Tensor
    num_classes: int
    boxes: Matched | None = None
    deltas: Matched | None = None
    masks: Matched | None = None
    auxiliary: Mapping[str, Matched] | None = None
    centerness: Tensor | None = None
    box_shares: Tensor | None = None
    limited: Tensor | None = None
    per_image: tuple[int, ...] | None = None
    rows: Tensor | None = None
    quality: Tensor | None = None

    def __post_init__(self) -> None:
        if self.logits.ndim != 2 or self.labels.shape != self.logits.shape[:1]:
            raise ValueError(
                f"head {self.head!r}: logits {tuple(self.logits.shape)} and labels {tuple(self.labels.shape)} "
                "must be (M, C) and (M,)"
            )
        if self.logits.shape[1] not in (self.num_classes, self.num_classes + 1):
            raise ValueError(
                f"head {self.head!r}: {self.logits.shape[1]} logits per candidate for {self.num_classes} classes"
            )
        for field in fields(self):
            pairs = getattr(self, field.name)
            if isinstance(pairs, Matched):
                check_matched(f"head {self.head!r}: {field.name}", pairs)
        for name, pairs in (self.auxiliary or {}).items():
            check_matched(f"head {self.head!r}: auxiliary {name!r}", pairs)
        for name, values in (
            ("centerness", self.centerness),
            ("box_shares", self.box_shares),
            ("limited", self.limited),
            ("quality", self.quality),
        ):
            if values is not None:
                pairs_of_all = self.boxes or self.deltas
                shape = tuple(values.shape)
                expected = shape[:1] if pairs_of_all is None else tuple(pairs_of_all.predicted.shape[:1])
                if shape != expected:
                    raise ValueError(f"head {self.head!r}: {name} {shape} must be one per positive, {expected}")
        if self.per_image is not None and sum(self.per_image) != len(self.labels):
            raise ValueError(
                f"head {self.head!r}: per_image {self.per_image} does not add up to {len(self.labels)} candidates"
            )
        if self.rows is not None and (self.rows.ndim != 1 or self.rows.dtype != torch.int64):
            raise ValueError(
                f"head {self.head!r}: rows {tuple(self.rows.shape)} of {self.rows.dtype} must be (P,) int64"
            )

    @property
    def is_positive(self) -> Tensor:
        """Mask (M,) bool of the candidates that are positives, by their labels."""
        # Not cached: torch.compile cannot trace functools.cached_property, and two comparisons of M labels are cheap.
        return is_class(self.labels, self.num_classes)


def check_matched(name: str, pairs: Matched) -> None:
    """Raise ValueError unless predicted, target and rows of ``pairs`` have one length."""
    if pairs.predicted.shape != pairs.target.shape:
        raise ValueError(
            f"{name}: predicted {tuple(pairs.predicted.shape)} and target {tuple(pairs.target.shape)} differ"
        )
    if pairs.rows is not None and pairs.rows.shape != pairs.predicted.shape[:1]:
        raise ValueError(f"{name}: {len(pairs.predicted)} pairs but {len(pairs.rows)} rows")


class LossOutput(NamedTuple):
    """Result of a loss: the sum of ``terms`` is minimized, ``stats`` are only logged (all detached scalars)."""

    terms: dict[str, Tensor]
    stats: dict[str, Tensor]
