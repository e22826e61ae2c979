"""Large images in overlapping tiles: where these lie, and how what is found in them is put together.

A detector sees each tile as an image. An object is found in every tile that shows it, and found in part by a tile whose
border cuts it. Of all that, one detection of each object is kept.

Legend: D detections, H, W height and width of the image in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from rankdet.data.augmentation import Window
from rankdet.ranges import Count, Range, checked
from rankdet.structures import Detection, MaskScores

_MARGIN = 1 / 64
"""Share of a tile's side: a box that ends closer to a border is taken for cut, as detectors miss borders by pixels."""
_SAME = 0.5
"""IoU from which boxes of two tiles are one object, and share of a cut box from which it is a part of another."""


@checked
@dataclass(frozen=True)
class Tiles:
    """Overlapping tiles of one size that cover an image.

    Parameters
    ----------
    size
        Side in pixels. An image that is smaller is narrower or lower than a tile, or is one tile. Each tile is resized
        as an image of its size, so objects look as large as in training where tiles are as large as its images.
    overlap
        Share of its side, from 0 to 0.9, that a tile has in common with the next one, at least. Objects up to nearly
        this long are seen whole by some tile; longer ones may be found in pieces.

    Raises
    ------
    ValueError
        When a number is out of its range.

    Examples
    --------
    >>> for window in Tiles(60, overlap=0.2).windows((60, 150)):
    ...     print(window)
    Window(left=0, top=0, right=60, bottom=60)
    Window(left=45, top=0, right=105, bottom=60)
    Window(left=90, top=0, right=150, bottom=60)
    """

    size: Count
    overlap: Annotated[float, Range(ge=0, le=0.9)] = 0.25

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """The tiles of an image of ``size`` (H, W), all of one size, evenly spread, row by row."""
        rows, columns = (self._starts(length) for length in size)
        height, width = (min(self.size, length) for length in size)
        return [Window(left, top, left + width, top + height) for top, left in product(rows, columns)]

    def _starts(self, length: int) -> list[int]:
        free = max(0, length - self.size)
        steps = math.ceil(free / max(1, math.floor(self.size * (1 - self.overlap))))
        return [round(free * step / max(1, steps)) for step in range(steps + 1)]


class Merged(NamedTuple):
    """What all tiles of an image have found.

    detection
        In pixels of the image, best score first.
    is_cut
        (D,) bool: which detections end at a border of their tile while no other tile holds them whole.
    """

    detection: Detection
    is_cut: Tensor


def merged(found: Iterable[tuple[int, Detection]], windows: Sequence[Window], size: tuple[int, int]) -> Merged:
    """Put the detections of the tiles of an image together.

    A detection that ends at a border inside of the image is dropped where another tile holds it whole, for that one
    sees all of the object. Of the others, in the order of their scores, one is dropped where a better one of its class
    in another tile has an IoU of more than 0.5 with it. Detections that no tile holds whole come after all others,
    the larger ones first, and are dropped where more than half of their box lies in a better one. Detections of one
    tile never drop each other: that is their detector's own decision.

    Memory is that of the detections; the masks of a tile are cut to their pixels when it comes.

    Parameters
    ----------
    found
        For each tile its place among the windows, and its detections in its own pixels.
    windows
        The tiles.
    size
        (H, W) of the image.
    """
    borders = _inner_borders(windows, size)
    parts: list[tuple[int, Detection, Tensor]] = []
    for place, detection in found:
        left, top, _, _ = windows[place]
        moved = detection.shifted(left, top)
        is_cut = ~_is_inside(moved.boxes, borders[place])
        is_held = _is_inside(moved.boxes[:, None], borders).any(dim=1)
        kept = (~(is_cut & is_held)).nonzero().squeeze(1)
        moved = moved.select(kept)
        if moved.masks is not None:
            moved = replace(moved, masks=moved.masks.cropped())
        parts.append((place, moved, is_cut[kept]))
    parts.sort(key=lambda part: part[0])
    detection = _joined([detection for _, detection, _ in parts])
    is_cut = torch.cat([cut for _, _, cut in parts])
    tiles = torch.cat([torch.full((len(cut),), place) for place, _, cut in parts])
    kept = _best(detection, tiles, is_cut, windows)
    return Merged(detection.select(kept), is_cut[kept])


def _inner_borders(windows: Sequence[Window], size: tuple[int, int]) -> Tensor:
    """(T, 4) xyxy: what lies inside is not cut by the tile; borders of the image cut nothing."""
    window = torch.tensor(windows, dtype=torch.float32)
    margin = (window[:, 2:] - window[:, :2]) * _MARGIN
    is_inner = torch.cat([window[:, :2] > 0, window[:, 2:] < torch.tensor(size[::-1])], dim=1)
    outside = torch.tensor([-math.inf, -math.inf, math.inf, math.inf])
    return torch.cat([window[:, :2] + margin, window[:, 2:] - margin], dim=1).where(is_inner, outside)


def _is_inside(boxes: Tensor, borders: Tensor) -> Tensor:
    """(…) bool: which boxes (…, 4) lie inside of borders (…, 4)."""
    return ((boxes[..., :2] >= borders[..., :2]) & (boxes[..., 2:] <= borders[..., 2:])).all(dim=-1)


def _joined(parts: Sequence[Detection]) -> Detection:
    """The detections of all parts; the smaller grids of masks get cells of score 0 on the right and below."""
    masks = [part.masks for part in parts if part.masks is not None]
    height, width = (max((mask.scores.shape[axis] for mask in masks), default=0) for axis in (1, 2))
    masks = [mask.extended(height, width) for mask in masks]
    return Detection(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.labels for part in parts]),
        MaskScores(torch.cat([mask.scores for mask in masks]), torch.cat([mask.regions for mask in masks]))
        if masks
        else None,
    )


def _best(detection: Detection, tiles: Tensor, is_cut: Tensor, windows: Sequence[Window]) -> Tensor:
    """The rows that remain of D detections, which were found in the tiles (D,), best score first."""
    areas = (detection.boxes[:, 2:] - detection.boxes[:, :2]).clamp(min=0).double().prod(dim=1)
    order = torch.where(is_cut, areas, detection.scores.double()).argsort(descending=True, stable=True)
    order = order[is_cut[order].byte().argsort(stable=True)]
    boxes, labels = detection.boxes[order].double(), detection.labels[order]
    areas, tiles, is_cut = areas[order], tiles[order], is_cut[order]
    is_kept = [True] * len(order)
    for better, worse in sorted(_same(boxes, areas, labels, tiles, is_cut, windows)):
        if is_kept[better]:
            is_kept[worse] = False
    kept = order[torch.tensor(is_kept, dtype=torch.bool)]
    return kept[detection.scores[kept].argsort(descending=True, stable=True)]


def _same(
    boxes: Tensor, areas: Tensor, labels: Tensor, tiles: Tensor, is_cut: Tensor, windows: Sequence[Window]
) -> Iterator[list[int]]:
    """Pairs of rows, the better one first, that are one object in two tiles; rows come in the order of their worth."""
    corners = torch.tensor(windows)
    for place in tiles.unique().tolist():
        left, top, right, bottom = windows[place]
        is_beside = (corners[:, 0] < right) & (corners[:, 2] > left) & (corners[:, 1] < bottom) & (corners[:, 3] > top)
        is_beside[: place + 1] = False  # each pair of tiles once
        rows = (tiles == place).nonzero()
        others = is_beside[tiles].nonzero().T
        shared = torch.minimum(boxes[rows, 2:], boxes[others, 2:]) - torch.maximum(boxes[rows, :2], boxes[others, :2])
        shared = shared.clamp(min=0).prod(dim=2)
        worse = torch.maximum(rows, others)
        whole = areas[worse].where(is_cut[worse], areas[rows] + areas[others] - shared)
        is_same = (shared > _SAME * whole) & (labels[rows] == labels[others])
        yield from torch.stack([torch.minimum(rows, others), worse], dim=2)[is_same].tolist()
