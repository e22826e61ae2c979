"""Cells of grids and the objects of images, by size and center of mass: the targets of SOLO.

Legend: B images, L levels, S cells per side of the grid of a level, M cells of an image, G objects of all images,
C classes, P' masks to be learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rankdet.ranges import Count, NonNegative, Positive, checked


class MaskShapes(NamedTuple):
    """The properties of the masks of G objects that the assignment of cells depends on.

    Centers of mass (G, 2) float64 are (x, y) in indices of pixels, 0 where a mask is empty. A mask that is empty, (G,)
    bool, has no pixel at all; one that is lost, (G,) bool, has none at the size at which masks are learned.
    """

    centers: Tensor
    is_empty: Tensor
    is_lost: Tensor


def mask_shapes(masks: Tensor, small_masks: Tensor) -> MaskShapes:
    """Return centers of mass of masks (G, H, W) bool, and which are empty, there and in their small size (G, h, w).

    Examples
    --------
    >>> mask = torch.tensor([[[True, True, False], [True, False, False]]])
    >>> mask_shapes(mask, mask).centers
    tensor([[0.3333, 0.3333]], dtype=torch.float64)
    """
    by_axis = masks.sum(dim=1), masks.sum(dim=2)  # pixels of each column, of each row
    area = by_axis[0].sum(dim=1)
    moments = [(pixels * torch.arange(pixels.shape[1], device=masks.device)).sum(dim=1) for pixels in by_axis]
    centers = torch.stack(moments, dim=1).double() / area.clamp(min=1)[:, None]
    return MaskShapes(centers, area == 0, ~small_masks.flatten(1).any(dim=1))


class GridAssignment(NamedTuple):
    """Labels of the cells of B images, and the masks that cells learn.

    Labels (B · M,) int64 go by image, level, row, column; positives (P,) int64 are the cells that have a class,
    ascending. Each mask has its cell and its object, (P',) int64, in the order of the cells; objects count through all
    images. ``rows`` (P',) has the positive of each mask, counted among all positives; None where every positive has
    exactly one. ``per_image`` has B numbers that add up to P'.
    """

    labels: Tensor
    positives: Tensor
    cells: Tensor
    objects: Tensor
    rows: Tensor | None
    per_image: list[int]


@checked
@dataclass(frozen=True)
class GridAssigner:
    """Assigner that makes the cells around an object's center of mass positives, on the levels that suit its size.

    The size of an object is √(width · height) of its box in pixels. Its positives lie on each level whose range in
    ``scale_ranges`` contains its size, both limits included; ranges may overlap. Its center region is ``center_size``
    times as wide and high as the box, around the center of mass of the mask. Positives are the cells that the region
    touches, at most one to each side of the cell of the center (3 × 3). All other cells are background, also those in
    the padding; none is ignored. (Wang et al., "SOLOv2", NeurIPS 2020, arXiv:2003.10152, and the published code of Rank
    & Sort Loss, Oksuz et al., ICCV 2021.) ``grids`` has the cells per side S of the grid of each level, the finest
    first.

    Parameters
    ----------
    one_mask_per_cell
        Decides about cells that several objects claim. True, in the form of Rank & Sort Loss: such a cell is a positive
        of the first object, and learns its mask alone, so that it has one quality. False, in the standard form: its
        class is that of the last object, but it learns the masks of all.

    Raises
    ------
    ValueError
        When there is not one range for each grid, or a range ends below its start.

    Notes
    -----
    The center of mass is measured in indices of pixels, half a pixel off the coordinates of boxes, as in published
    code. With ``one_mask_per_cell`` a cell whose object is lost at the size at which masks are learned is background:
    its quality would be 0, which makes it a negative in the paper. The host waits once, for the numbers P and P'.

    Examples
    --------
    An object of 16 × 16 pixels in the upper left quarter of an image of 32 × 32:

    >>> assigner = GridAssigner(grids=(4,), scale_ranges=((1, 64),), center_size=0.5, one_mask_per_cell=True)
    >>> shapes = MaskShapes(torch.tensor([[7.0, 7.0]]), torch.tensor([False]), torch.tensor([False]))
    >>> labels = [torch.tensor([2])]
    >>> found = assigner(labels, torch.tensor([[0.0, 0.0, 16.0, 16.0]]), shapes, (32, 32), num_classes=5)
    >>> found.labels.view(4, 4)
    tensor([[2, 2, 5, 5],
            [2, 2, 5, 5],
            [5, 5, 5, 5],
            [5, 5, 5, 5]])
    """

    grids: tuple[Count, ...]
    scale_ranges: tuple[tuple[NonNegative, Positive], ...]
    center_size: Positive = 0.2
    one_mask_per_cell: bool = True

    def __post_init__(self) -> None:
        if len(self.grids) != len(self.scale_ranges):
            raise ValueError(f"{len(self.grids)} grids but {len(self.scale_ranges)} ranges of scale")
        for smallest, largest in self.scale_ranges:
            if smallest > largest:
                raise ValueError(f"scale_ranges has a range from {smallest} to {largest}")

    @property
    def num_cells(self) -> int:
        """Number of cells of an image M."""
        return sum(size * size for size in self.grids)

    @torch.no_grad()
    def __call__(
        self, labels: Sequence[Tensor], boxes: Tensor, shapes: MaskShapes, canvas: tuple[int, int], num_classes: int
    ) -> GridAssignment:
        """Return labels and masks of the cells of B images.

        Labels are those of the objects of each image; boxes (G, 4) xyxy in pixels and shapes those of the objects of
        all. The grids cover the canvas, (height, width) in pixels: the size of the batch, padding included. C =
        ``num_classes`` is background.
        """
        # Which cells each object claims, then which object owns each cell.
        cells, is_claimed = self._claims(labels, boxes, shapes, canvas)  # (G, 9 L)
        num_objects, num_cells = len(boxes), len(labels) * self.num_cells
        objects = torch.arange(num_objects, device=boxes.device)[:, None].expand_as(cells)
        owners = cells.new_full((num_cells,), num_objects)
        if self.one_mask_per_cell:
            first = objects.where(is_claimed, num_objects)
            owners = owners.scatter_reduce(0, cells.flatten(), first.flatten(), "amin")
            is_claimed = is_claimed & (owners[cells] == objects) & ~shapes.is_lost[:, None]
        else:
            last = torch.full_like(owners, -1)
            last = last.scatter_reduce(0, cells.flatten(), objects.where(is_claimed, -1).flatten(), "amax")
            owners = last.where(last >= 0, num_objects)
        classes = torch.cat([*labels, owners.new_full((1,), num_classes)])  # cells without an owner are background
        if self.one_mask_per_cell:
            classes[:-1].masked_fill_(shapes.is_lost, num_classes)
        cell_labels = classes[owners]

        counts = [own.sum() for own in is_claimed.split([len(own) for own in labels])]
        is_positive = cell_labels < num_classes  # no cell is ignored
        num_positives: int
        *per_image, num_positives = torch.stack([*counts, is_positive.sum()]).tolist()  # the host waits here, once
        positives = torch.nonzero_static(is_positive, size=num_positives).squeeze(1)
        places = torch.nonzero_static(is_claimed.flatten(), size=sum(per_image)).squeeze(1)
        mask_cells = cells.flatten()[places]
        order = mask_cells.argsort(stable=True)
        mask_cells, places = mask_cells[order], places[order]
        rows = None
        if not self.one_mask_per_cell:
            rows = (is_positive.cumsum(0) - 1)[mask_cells]
        return GridAssignment(cell_labels, positives, mask_cells, objects.flatten()[places], rows, per_image)

    def _claims(
        self, labels: Sequence[Tensor], boxes: Tensor, shapes: MaskShapes, canvas: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return cells (G, 9 L) that each object claims, counted through B images, and whether it does; 0 if not."""
        boxes = boxes.double()
        sides = boxes[:, 2:] - boxes[:, :2]
        scales = sides.prod(dim=1).clamp(min=0).sqrt()
        start = torch.cat([torch.full_like(own, index * self.num_cells) for index, own in enumerate(labels)])
        neighbors = torch.arange(-1, 2, device=boxes.device)
        cells, is_claimed = [], []
        for size, (smallest, largest) in zip(self.grids, self.scale_ranges, strict=True):
            is_inside = []
            places = []
            for axis, length in enumerate((canvas[1], canvas[0])):  # x, y
                center, reach = shapes.centers[:, axis], self.center_size / 2 * sides[:, axis]
                place = _cell(center, length, size)[:, None] + neighbors  # (G, 3)
                first, last = (_cell(center + sign * reach, length, size)[:, None] for sign in (-1, 1))
                is_inside.append((place >= first.clamp(min=0)) & (place <= last.clamp(max=size - 1)))
                places.append(place)
            is_level = (scales >= smallest) & (scales <= largest) & ~shapes.is_empty
            claimed = (is_inside[1][:, :, None] & is_inside[0][:, None, :]).flatten(1) & is_level[:, None]
            level_cells = start[:, None] + (places[1][:, :, None] * size + places[0][:, None, :]).flatten(1)
            cells.append(level_cells.where(claimed, 0))
            is_claimed.append(claimed)
            start = start + size * size
        return torch.cat(cells, dim=1), torch.cat(is_claimed, dim=1)


def _cell(coordinates: Tensor, length: int, size: int) -> Tensor:
    """Return the row or column of a grid in which coordinates on a canvas of ``length`` pixels lie."""
    return torch.floor((coordinates / length) / (1 / size)).long()
