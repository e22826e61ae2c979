"""Everything that travels between the rooms of the house: files → Batch → Candidates → LossOutput; Batch → Detection.

Legend: B images, M candidates (anchors, proposals, grid cells), P positives, G objects of an image, C classes,
D detections of an image, H, W height and width of an image in pixels.

Boxes are ``(x1, y1, x2, y2)`` in pixels, width = x2 − x1. Labels are ``0 … C−1``, background ``C``, ignored ``−1``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

IGNORED = -1
"""The label of a candidate that takes part in nothing."""


def is_class(labels: Tensor, num_classes: int) -> Tensor:
    """Whether each label is a class 0 … C−1, so neither background nor ignored; bool of the shape of ``labels``."""
    return (labels >= 0) & (labels < num_classes)


class InputError(ValueError):
    """Bad input of a user: one clear message that names the file, record or field."""

    exit_status: ClassVar[int] = 2
    """Of the command line that it ends."""


class DivergenceError(InputError):
    """A loss or weight is no longer finite: the recipe asks for more than its training can bear."""

    exit_status = 3


@dataclass(frozen=True)
class Images:
    """Images of different sizes in one tensor, each in the top-left corner, zeros elsewhere.

    Parameters
    ----------
    pixels
        (B, 3, H, W) uint8 RGB.
    sizes
        B pairs (height, width) in pixels: the part of each image that is not padding.
    """

    pixels: Tensor
    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if self.pixels.ndim != 4 or self.pixels.shape[0] != len(self.sizes):
            raise ValueError(
                f"pixels of shape {tuple(self.pixels.shape)} do not hold {len(self.sizes)} images (B, 3, H, W)"
            )

    def to(self, device: torch.device | str) -> Self:
        """A copy on ``device``; the transfer does not block where the memory is pinned."""
        return replace(self, pixels=self.pixels.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass(frozen=True)
class Outlines:
    """The masks of G objects as polygons: a few kB where bitmaps of an image take megabytes.

    Parameters
    ----------
    edges
        (G, E, 4) float32, from (x1, y1) to (x2, y2) in pixels: the edges of all polygons of an object, each polygon
        closed and all turning the same way; an edge without length fills up. Inside is what any polygon encloses.
    """

    edges: Tensor

    def __post_init__(self) -> None:
        if self.edges.ndim != 3 or self.edges.shape[2] != 4:
            raise ValueError(f"edges of shape {tuple(self.edges.shape)} must be (G, E, 4)")

    def __len__(self) -> int:
        return len(self.edges)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """A copy on ``device``."""
        return replace(self, edges=self.edges.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory."""
        return replace(self, edges=self.edges.pin_memory())


@dataclass(frozen=True)
class Target:
    """The objects of one image that a detector shall find (crowd regions are not among them).

    Parameters
    ----------
    boxes
        (G, 4) float32, xyxy, in pixels of the image as it enters the detector.
    labels
        (G,) int64 in 0 … C−1.
    masks
        (G, height, width) bool, or outlines where these were asked for; None where the data set has no masks or they
        were not asked for.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | Outlines | None = None

    def __post_init__(self) -> None:
        if self.boxes.ndim != 2 or self.boxes.shape[1] != 4 or len(self.boxes) != len(self.labels):
            raise ValueError(
                f"boxes of shape {tuple(self.boxes.shape)} and labels of shape {tuple(self.labels.shape)} do not pair"
            )
        if self.masks is not None and len(self.masks) != len(self.boxes):
            raise ValueError(f"{len(self.boxes)} boxes and {len(self.masks)} masks do not pair")

    def to(self, device: torch.device | str) -> Self:
        """A copy on ``device``."""
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        return replace(
            self,
            boxes=self.boxes.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            masks=masks,
        )


class Source(NamedTuple):
    """Where an image of a batch comes from, so that a message can name it and a detection can return to it."""

    image_id: int
    path: str
    size: tuple[int, int]
    """(height, width) of the file in pixels, before any transform."""


@dataclass(frozen=True)
class Batch:
    """What a detector is trained or evaluated on: images with their targets.

    Parameters
    ----------
    images, targets, sources
        B images, the objects of each, and where each comes from.
    skipped
        Paths of files that could not be decoded, and in whose place other images are in the batch.
    """

    images: Images
    targets: tuple[Target, ...]
    sources: tuple[Source, ...]
    skipped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.targets) == len(self.sources):
            raise ValueError(
                f"{len(self.images)} images, {len(self.targets)} targets and {len(self.sources)} sources do not pair"
            )

    def to(self, device: torch.device | str) -> Self:
        """A copy on ``device``."""
        return replace(self, images=self.images.to(device), targets=tuple(target.to(device) for target in self.targets))

    def pin_memory(self) -> Self:
        """A copy in page-locked memory; a data loader calls this by its name."""
        return replace(
            self,
            images=replace(self.images, pixels=self.images.pixels.pin_memory()),
            targets=tuple(
                replace(
                    target,
                    boxes=target.boxes.pin_memory(),
                    labels=target.labels.pin_memory(),
                    masks=None if target.masks is None else target.masks.pin_memory(),
                )
                for target in self.targets
            ),
        )


class MaskWindow(NamedTuple):
    """A mask, without the rows and columns of its image in which it cannot have pixels.

    top, left
        Row and column of the image where the window starts.
    pixels
        (h, w) bool; the rest of the image is outside of the mask.
    """

    top: int
    left: int
    pixels: Tensor


@dataclass(frozen=True)
class MaskScores:
    """The masks of D detections in a compact form: a small grid of scores over a rectangle of the image for each.

    A bool mask of an image of 800 × 1333 pixels takes 1 MB, so a hundred take 100 MB per image; 28 × 28 scores take
    3 kB. They fit an image of any size without loss, where a mask in pixels would have to be resampled, and become
    pixels one after the other, each only inside of its rectangle.

    Parameters
    ----------
    scores
        (D, h, w) in [0, 1].
    regions
        (D, 4) xyxy in pixels: what each grid covers. The box of a detection, or the whole image.
    """

    scores: Tensor
    regions: Tensor

    def __post_init__(self) -> None:
        if self.scores.ndim != 3 or self.regions.shape != (len(self.scores), 4):
            raise ValueError(
                f"scores of shape {tuple(self.scores.shape)} and regions of shape {tuple(self.regions.shape)} "
                "must be (D, h, w) and (D, 4)"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> Self:
        """A copy on ``device``, in float32."""
        return replace(self, scores=self.scores.float().to(device), regions=self.regions.float().to(device))

    def select(self, rows: Tensor) -> Self:
        """Some of the masks, by index or bool mask."""
        return replace(self, scores=self.scores[rows], regions=self.regions[rows])

    def windows(self, size: tuple[int, int], threshold: float = 0.5) -> Iterator[MaskWindow]:
        """Each mask in pixels of an image of ``size`` (H, W): where its score reaches ``threshold``.

        Scores are interpolated linearly between the centers of the grid's cells and fall to zero beyond its border, as
        in published code. No more than one mask is held at a time. On a GPU this waits for the device.
        """
        is_hit = self.scores >= threshold
        spans = (_spans(is_hit.any(dim=2)), _spans(is_hit.any(dim=1)))
        for grid, (left, top, right, bottom), rows, columns in zip(
            self.scores, self.regions.tolist(), *spans, strict=True
        ):
            padded = pad(grid.float(), (1, 1, 1, 1))
            first_row, place = _places(top, bottom, size[0], grid.shape[0], rows, grid.device)
            pixels = _interpolated(padded, place)
            first_column, place = _places(left, right, size[1], grid.shape[1], columns, grid.device)
            pixels = _interpolated(pixels.T, place).T
            yield MaskWindow(first_row, first_column, pixels >= threshold)

    def bitmaps(self, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
        """(D, H, W) bool: all masks in pixels of an image of ``size`` at once. For a few masks, or small images.

        Examples
        --------
        >>> masks = MaskScores(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), torch.tensor([[1.0, 0.0, 3.0, 2.0]]))
        >>> masks.bitmaps((2, 4)).int()
        tensor([[[0, 1, 0, 0],
                 [0, 1, 1, 0]]], dtype=torch.int32)
        """
        pixels = self.scores.new_zeros((len(self), *size), dtype=torch.bool)
        for mask, (top, left, inside) in zip(pixels, self.windows(size, threshold), strict=True):
            mask[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
        return pixels


def _spans(is_hit: Tensor) -> list[tuple[int, int]]:
    """The first and last of the (D, cells) that are hit, for each of D; (0, −1) where none is."""
    length = is_hit.shape[1]
    if not length:
        return [(0, -1)] * len(is_hit)
    first, last = is_hit.byte().argmax(dim=1), length - 1 - is_hit.flip(1).byte().argmax(dim=1)
    is_any = is_hit.any(dim=1)
    return list(zip(first.where(is_any, 0).tolist(), last.where(is_any, -1).tolist(), strict=True))


def _places(
    start: float, end: float, size: int, cells: int, span: tuple[int, int], device: torch.device
) -> tuple[int, Tensor]:
    """The first pixel inside of ``size`` that cells of ``span`` reach, and from there on the place of each in cells.

    ``cells`` lie over [start, end); a pixel between the centers of two of them sees both.
    """
    cell = max(end - start, 1e-6) / cells
    reach = start + (span[0] - 0.5) * cell, start + (span[1] + 1.5) * cell
    first = min(max(math.floor(max(start, reach[0])), 0), size)
    last = min(max(math.ceil(min(end, reach[1])), first), size) if span[0] <= span[1] else first
    pixels = torch.arange(first, last, device=device) + 0.5
    return first, ((pixels - start) / cell - 0.5).clamp(-1, cells)


def _interpolated(padded: Tensor, place: Tensor) -> Tensor:
    """(n, …) rows at (n,) places between those of (cells + 2, …), whose first and last lie beyond the border."""
    below = place.floor().clamp(max=len(padded) - 3)
    rows = below.long() + 1
    return padded[rows].lerp(padded[rows + 1], (place - below)[(...,) + (None,) * (padded.ndim - 1)])


@dataclass(frozen=True)
class Detection:
    """What a detector finds in one image, best score first.

    Parameters
    ----------
    boxes
        (D, 4) xyxy in pixels of the image as it entered the detector, clipped to it.
    scores
        (D,) in [0, 1]. Scores of a ranking loss order detections; they are no probabilities.
    labels
        (D,) int64 in 0 … C−1.
    masks
        Of the D detections, or None from a detector of boxes alone.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: MaskScores | None = None

    def select(self, rows: Tensor) -> Self:
        """Some of the detections, by index or bool mask."""
        masks = None if self.masks is None else self.masks.select(rows)
        return replace(self, boxes=self.boxes[rows], scores=self.scores[rows], labels=self.labels[rows], masks=masks)

    def scaled(self, from_size: tuple[int, int], to_size: tuple[int, int]) -> Self:
        """The same detections in an image of another size; sizes are (height, width).

        Examples
        --------
        >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
        >>> found = Detection(boxes, torch.tensor([0.9]), torch.tensor([1]))
        >>> found.scaled((20, 10), (40, 30)).boxes
        tensor([[ 0.,  0., 30., 40.]])
        """
        height, width = to_size[0] / from_size[0], to_size[1] / from_size[1]
        factors = self.boxes.new_tensor([width, height, width, height])
        masks = None if self.masks is None else replace(self.masks, regions=self.masks.regions * factors)
        return replace(self, boxes=self.boxes * factors, masks=masks)


class Assignment(NamedTuple):
    """What a label assigner says of the M candidates of one image.

    labels
        (M,) int64: class, or C for background, or −1 for ignored.
    matched
        (M,) int64: index of the object a positive is matched with; 0 where the candidate is no positive.
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
    """What one head hands to its loss.

    Parameters
    ----------
    head
        The head's name in terms, statistics and recipes: ``"rpn"``, ``"rcnn"``, …
    logits
        (M, C) raw scores; (M, C + 1) with the background last where a head classifies by softmax.
    labels
        (M,) int64: class of a positive, C (``num_classes``) for background, −1 for ignored.
    num_classes
        C.
    boxes
        (P, 4) decoded boxes and their objects, xyxy in pixels; their IoU is the localization quality.
    deltas
        (P, 4) the same pairs as encoded regression values, for losses that work on these (L1, smooth L1).
    masks
        (P', H, W) mask logits (−∞ where a mask is cropped) and target masks, bool or in [0, 1]; of all positives, or of
        those in its ``rows`` where a head makes masks for a part of them, or several for one. Where a head hands no
        boxes, their Dice coefficient is the localization quality.
    auxiliary
        Outputs of auxiliary heads by name (a baseline's centerness of positives, its semantic maps of images);
        ranking losses never look at them.
    centerness
        (P,) in [0, 1], detached: how central the anchor of a positive lies in its object, for losses that weight by it.
    box_shares
        (P,) in (0, 1], detached: the part of its image that the box of a positive's object covers, for losses of
        masks that are divided by it.
    per_image
        B numbers that add up to M: the candidates of each image, in their order, for losses that choose among those
        of an image.
    rows
        (P,) int64, ascending: which candidates are positives, from a head that knows; None has the loss look for them.

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
    per_image: tuple[int, ...] | None = None
    rows: Tensor | None = None

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
        for name, values in (("centerness", self.centerness), ("box_shares", self.box_shares)):
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
        """(M,) bool: which candidates are positives, by their labels."""
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
    """What a loss returns: the sum of ``terms`` is minimized, ``stats`` are only logged (all detached scalars)."""

    terms: dict[str, Tensor]
    stats: dict[str, Tensor]
