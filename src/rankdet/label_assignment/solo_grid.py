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
    """What the assignment of cells asks of the masks of G objects.

    centers
        (G, 2) float64: center of mass (x, y), in indices of pixels; 0 where a mask is empty.
    is_empty
        (G,) bool: no pixel at all.
    is_lost
        (G,) bool: no pixel at the size at which masks are learned.
    """

    centers: Tensor
    is_empty: Tensor
    is_lost: Tensor


def mask_shapes(masks: Tensor, small_masks: Tensor) -> MaskShapes:
    """Centers of mass of (G, H, W) bool masks, and what is left of them in (G, h, w) bool, the small ones.

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
    """Labels of the cells of B images, and which object's mask which cell learns.

    labels
        (B · M,) int64: class, or C for background; by image, level, row, column.
    positives
        (P,) int64, ascending: the cells that are positives.
    cells
        (P',) int64, ascending: the cell of each mask.
    objects
        (P',) int64: the object of each mask, counted through all images.
    rows
        (P',) int64: the positive of each mask, counted among all positives; None where every positive has exactly one.
    per_image
        B numbers that add up to P'.
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
    """An object belongs to the cells around its center of mass, on the levels whose range its size is in.

    The size of an object is √(width · height) of its box. Its center region is ``center_size`` times as wide and high
    as the box, around the center of mass of the mask. On each level whose range holds the size, the positives of the
    object are the cells that the region touches, but at most one to each side of the cell of the center: 3 × 3. All
    other cells are background; none is ignored, also not in the padding (Wang et al., "SOLOv2", NeurIPS 2020,
    arXiv:2003.10152, and the published code of Rank & Sort Loss, Oksuz et al., ICCV 2021).

    Parameters
    ----------
    grids
        S of each level.
    scale_ranges
        Smallest and largest size of objects for each level, in pixels, both included; ranges may overlap.
    center_size
        σ, side of the center region in sides of the box.
    one_mask_per_cell
        Whose a cell is that several objects want. True, in the form of Rank & Sort Loss: the first object's, and the
        cell learns its mask alone, so that it has one quality. False, in the standard form: its class is that of the
        last object, but it learns the masks of all.

    Raises
    ------
    ValueError
        When there is not one range for each grid, or a range ends below its start.

    Notes
    -----
    The center of mass is measured in indices of pixels, half a pixel off what boxes are measured in, as in published
    code. With ``one_mask_per_cell`` a cell whose object is lost at the size at which masks are learned is background:
    its quality would be 0, which makes it a negative in the paper. Nothing but P' is looked at by the host.

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
        """M."""
        return sum(size * size for size in self.grids)

    @torch.no_grad()
    def __call__(
        self, labels: Sequence[Tensor], boxes: Tensor, shapes: MaskShapes, canvas: tuple[int, int], num_classes: int
    ) -> GridAssignment:
        """Labels and masks of the cells of B images.

        Parameters
        ----------
        labels
            For each image the classes of its objects.
        boxes
            (G, 4) xyxy in pixels, of the objects of all images.
        shapes
            Of their masks.
        canvas
            (height, width) in pixels that the grids cover: those of the batch, padding included.
        num_classes
            C, which is background.
        """
        cells, is_wanted = self._wanted(labels, boxes, shapes, canvas)  # (G, 9 L)
        num_objects, num_cells = len(boxes), len(labels) * self.num_cells
        objects = torch.arange(num_objects, device=boxes.device)[:, None].expand_as(cells)
        owners = cells.new_full((num_cells,), num_objects)
        if self.one_mask_per_cell:
            claims = objects.where(is_wanted, num_objects)
            owners = owners.scatter_reduce(0, cells.flatten(), claims.flatten(), "amin")
            is_wanted = is_wanted & (owners[cells] == objects) & ~shapes.is_lost[:, None]
        else:
            last = torch.full_like(owners, -1)
            last = last.scatter_reduce(0, cells.flatten(), objects.where(is_wanted, -1).flatten(), "amax")
            owners = last.where(last >= 0, num_objects)
        classes = torch.cat([*labels, owners.new_full((1,), num_classes)])  # an owner that there is not is background
        if self.one_mask_per_cell:
            classes[:-1].masked_fill_(shapes.is_lost, num_classes)
        cell_labels = classes[owners]

        counts = [own.sum() for own in is_wanted.split([len(own) for own in labels])]
        is_positive = cell_labels < num_classes  # no cell is ignored
        num_positives: int
        *per_image, num_positives = torch.stack([*counts, is_positive.sum()]).tolist()  # the host waits here, once
        positives = torch.nonzero_static(is_positive, size=num_positives).squeeze(1)
        places = torch.nonzero_static(is_wanted.flatten(), size=sum(per_image)).squeeze(1)
        chosen = cells.flatten()[places]
        order = chosen.argsort(stable=True)
        chosen, places = chosen[order], places[order]
        rows = None
        if not self.one_mask_per_cell:
            rows = (is_positive.cumsum(0) - 1)[chosen]
        return GridAssignment(cell_labels, positives, chosen, objects.flatten()[places], rows, per_image)

    def _wanted(
        self, labels: Sequence[Tensor], boxes: Tensor, shapes: MaskShapes, canvas: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """(G, 9 L) cells of B images that each object may want, and whether it does; 0 where it does not."""
        boxes = boxes.double()
        sides = boxes[:, 2:] - boxes[:, :2]
        scales = sides.prod(dim=1).clamp(min=0).sqrt()
        start = torch.cat([torch.full_like(own, index * self.num_cells) for index, own in enumerate(labels)])
        neighbors = torch.arange(-1, 2, device=boxes.device)
        cells, is_wanted = [], []
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
            wanted = (is_inside[1][:, :, None] & is_inside[0][:, None, :]).flatten(1) & is_level[:, None]
            found = start[:, None] + (places[1][:, :, None] * size + places[0][:, None, :]).flatten(1)
            cells.append(found.where(wanted, 0))
            is_wanted.append(wanted)
            start = start + size * size
        return torch.cat(cells, dim=1), torch.cat(is_wanted, dim=1)


def _cell(coordinates: Tensor, length: int, size: int) -> Tensor:
    """The row or column of a grid in which coordinates of a canvas of ``length`` pixels lie."""
    return torch.floor((coordinates / length) / (1 / size)).long()
