"""What a model finds in an image: boxes, scores, classes and masks, to be filtered, drawn and written down.

Legend: D detections of an image, C classes, H, W height and width of the image in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from rankdet.coco import Results
from rankdet.data.pixels import ImageLike, to_pixels
from rankdet.heads import grouped_nms
from rankdet.structures import Detection, InputError, MaskScores, Source

if TYPE_CHECKING:
    from supervision import Detections as SupervisionDetections

_MOST_SHOWN = 10
"""Detections that the text of `Detections` lists; it counts the others."""


class Found(NamedTuple):
    """One detection as plain values."""

    name: str
    """Name of the class."""
    score: float
    """In [0, 1]; scores of a ranking loss order detections and are no probabilities."""
    box: tuple[float, float, float, float]
    """(x1, y1, x2, y2) in pixels of the image."""
    label: int
    """0 … C−1."""


@dataclass(frozen=True, repr=False, eq=False)
class Detections:
    """What a model found in one image, best score first.

    Indexing by a slice, a bool mask or indices gives some of the detections; by a number, and in iteration, `Found`.

    Parameters
    ----------
    detection
        Boxes, scores, labels and masks on the CPU, in pixels of the image.
    size
        (H, W) of the image.
    categories
        C pairs (id, name): label → category.
    thresholds
        C scores from which each class is drawn.
    significant_bits
        Of files and PIL images of 16 bits, how many are used, as the model that found the objects uses them.
    is_cut
        (D,) bool of detections in tiles: which end at a border of their tile while no other tile holds them whole. None
        where the image was seen as a whole.

    Examples
    --------
    >>> detection = Detection(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([0.75]), torch.tensor([1]))
    >>> found = Detections(detection, (10, 20), [(3, "cat"), (9, "dog")], [0.5, 0.5])
    >>> found
    1 detection in 10 × 20 pixels
      0.750 dog (1, 2, 4, 8)
    >>> len(found), found.names, len(found[found.scores > 0.8])
    (1, ['dog'], 0)
    >>> found.to_coco(image_id=7)
    [{'image_id': 7, 'category_id': 9, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.75}]
    """

    detection: Detection
    size: tuple[int, int]
    categories: Sequence[tuple[int, str]]
    thresholds: Sequence[float]
    significant_bits: int = 16
    is_cut: Tensor | None = None

    @property
    def boxes(self) -> Tensor:
        """(D, 4) float32, (x1, y1, x2, y2) in pixels of the image."""
        return self.detection.boxes

    @property
    def scores(self) -> Tensor:
        """(D,) float32 in [0, 1], descending; those of a ranking loss order detections and are no probabilities.

        Calibrated scores are float64.
        """
        return self.detection.scores

    @property
    def labels(self) -> Tensor:
        """(D,) int64 in 0 … C−1."""
        return self.detection.labels

    @property
    def names(self) -> list[str]:
        """D names of classes."""
        return [self.categories[label][1] for label in self.labels.tolist()]

    @property
    def masks(self) -> Tensor | None:
        """(D, H, W) bool, or None from a detector of boxes alone.

        The masks are kept as small grids of scores and are made into pixels here, anew each time, in D · H · W bytes:
        107 MB for a hundred masks of 800 × 1333 pixels. ``mask_scores.windows(size)`` makes one at a time.
        """
        return None if self.mask_scores is None else self.mask_scores.bitmaps(self.size)

    @property
    def mask_scores(self) -> MaskScores | None:
        """The masks in their compact form, or None from a detector of boxes alone."""
        return self.detection.masks

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Found]:
        values = (self.names, self.scores.tolist(), self.boxes.tolist(), self.labels.tolist())
        for name, score, (x1, y1, x2, y2), label in zip(*values, strict=True):
            yield Found(name, score, (x1, y1, x2, y2), label)

    @overload
    def __getitem__(self, rows: int) -> Found: ...

    @overload
    def __getitem__(self, rows: slice | Tensor | NDArray[Any] | Sequence[int] | Sequence[bool]) -> Detections: ...

    def __getitem__(
        self, rows: int | slice | Tensor | NDArray[Any] | Sequence[int] | Sequence[bool]
    ) -> Found | Detections:
        if isinstance(rows, int):
            place = range(len(self))[rows]
            return next(iter(self[place : place + 1]))
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        chosen = torch.as_tensor(rows)
        if not len(chosen):
            chosen = chosen.long()  # an empty list has no type of its own
        is_cut = None if self.is_cut is None else self.is_cut[chosen]
        return replace(self, detection=self.detection.select(chosen), is_cut=is_cut)

    def __repr__(self) -> str:
        height, width = self.size
        lines = [f"{len(self)} detection{'' if len(self) == 1 else 's'} in {height} × {width} pixels"]
        for found in self[:_MOST_SHOWN]:
            lines.append(f"  {found.score:.3f} {found.name} ({', '.join(f'{value:.4g}' for value in found.box)})")
        if len(self) > _MOST_SHOWN:
            lines.append(f"  and {len(self) - _MOST_SHOWN} more")
        return "\n".join(lines)

    def above(self, threshold: float | None = None) -> Detections:
        """The detections whose score reaches ``threshold``, or that of its class in ``thresholds``."""
        values = self.thresholds if threshold is None else [threshold] * len(self.categories)
        thresholds = torch.tensor(values, dtype=self.scores.dtype)
        return self[self.scores >= thresholds[self.labels]]

    def without_overlaps(self, iou: float) -> Detections:
        """The detections that no better one, of whatever class, overlaps by more than ``iou`` in [0, 1].

        A detector suppresses overlapping boxes within each class at most, so that one object may be found as two
        classes. Of these the better one remains here. Masks are compared by their boxes.

        Examples
        --------
        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0], [6.0, 6.0, 9.0, 9.0]])
        >>> detection = Detection(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1]))
        >>> Detections(detection, (10, 10), [(3, "cat"), (9, "dog")], [0.5, 0.5]).without_overlaps(0.5).names
        ['cat', 'dog']
        """
        group = torch.zeros_like(self.labels)
        return self[grouped_nms(self.boxes, self.scores, group, iou=iou, limit=len(self))]

    def draw(self, image: ImageLike, threshold: float | None = None) -> Image.Image:
        """The image with boxes, classes, scores and masks on it; a small image is enlarged for its labels.

        Parameters
        ----------
        image
            The image in which the detections were found, in any form that `Model.detect` takes.
        threshold
            Score from which detections are drawn; None: from the threshold of each class on.

        Raises
        ------
        InputError
            When the image has another size.
        """
        from rankdet.report import draw_detections  # takes a second to import

        pixels = to_pixels(image, bits=self.significant_bits)
        if tuple(pixels.shape[1:]) != self.size:
            raise InputError(
                f"the image is {pixels.shape[1]} × {pixels.shape[2]} pixels, and these detections are of one of "
                f"{self.size[0]} × {self.size[1]}"
            )
        drawn = draw_detections(pixels, self.above(threshold).detection, [name for _, name in self.categories])
        return Image.fromarray(np.ascontiguousarray(drawn.permute(1, 2, 0).numpy()))

    def to_coco(self, image_id: int = 0) -> list[dict[str, Any]]:
        """One record of COCO results per detection, with a run-length mask where there are masks."""
        source = Source(image_id, "", self.size)
        return Results.of_image(source, self.detection, [category for category, _ in self.categories]).records()

    def to_supervision(self) -> SupervisionDetections:
        """The same as ``supervision.Detections``, for annotators, zones, trackers and videos.

        It has ``xyxy``, ``confidence``, ``class_id`` (labels), ``data["class_name"]``, and ``mask`` (D, H, W) bool of a
        detector that finds masks, in D · H · W bytes.

        Raises
        ------
        ImportError
            When supervision is not installed.

        Examples
        --------
        >>> found = model.detect(frame).above()  # doctest: +SKIP
        >>> supervision.BoxAnnotator().annotate(frame, found.to_supervision())  # doctest: +SKIP
        """
        try:
            from supervision import Detections as Supervision
        except ModuleNotFoundError as error:
            raise ImportError("supervision is not installed: pip install 'rankdet[supervision]'") from error
        masks = self.masks
        return Supervision(
            xyxy=self.boxes.numpy(),
            confidence=self.scores.numpy(),
            class_id=self.labels.numpy(),
            mask=None if masks is None else masks.numpy(),
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )
