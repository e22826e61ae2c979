"""Targets of a mask head: what of an object's mask lies in a box."""

from __future__ import annotations

import pytest
import torch
from matplotlib.path import Path

from rankdet.heads import crop_masks, crop_outlines, fill_outlines, resize_masks, shrink_masks
from rankdet.structures import Outlines


def disk(height: int, width: int, row: float, column: float, radius: float) -> torch.Tensor:
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    return (y - row) ** 2 + (x - column) ** 2 < radius**2


MASKS = torch.stack([disk(60, 80, 20, 30, 14), disk(60, 80, 40, 60, 19), torch.zeros(60, 80, dtype=torch.bool)])


def test_a_box_of_whole_cells_holds_the_mean_of_their_pixels() -> None:
    """Cells of 2 × 3 pixels: RoIAlign takes one sample per pixel, in its center."""
    target = crop_masks(MASKS, torch.tensor([[12.0, 6.0, 54.0, 34.0]]), torch.tensor([0]), 14)
    cells = MASKS[0, 6:34, 12:54].float().reshape(14, 2, 14, 3).mean(dim=(1, 3))
    assert torch.equal(target[0], cells >= 0.5)


def test_each_box_looks_at_its_own_object() -> None:
    box = torch.tensor([[20.0, 10.0, 70.0, 55.0]])
    objects = torch.tensor([1, 0, 2, 1])
    targets = crop_masks(MASKS, box.expand(4, 4), objects, 28)
    for target, chosen in zip(targets, objects, strict=True):
        assert torch.equal(target, crop_masks(MASKS[chosen : chosen + 1], box, torch.tensor([0]), 28)[0])
    assert not torch.equal(targets[0], targets[1])
    assert targets[0].any()
    assert not targets[2].any()


def test_a_box_is_clipped_to_the_image() -> None:
    outside, clipped = torch.tensor([[-9.0, 8.0, 40.0, 99.0]]), torch.tensor([[0.0, 8.0, 40.0, 60.0]])
    chosen = torch.tensor([0])
    assert torch.equal(crop_masks(MASKS, outside, chosen, 28), crop_masks(MASKS, clipped, chosen, 28))


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    corners = torch.rand(9, 2) * 40
    boxes, objects = torch.cat([corners, corners + 5 + 30 * torch.rand(9, 2)], dim=1), torch.randint(3, (9,))
    whole = crop_masks(MASKS, boxes, objects, 28)
    monkeypatch.setattr("rankdet.heads.mask_targets.MAX_PIXELS", 2 * 60 * 80)
    assert torch.equal(crop_masks(MASKS, boxes, objects, 28), whole)


@pytest.mark.parametrize("number", [0, 3])
def test_no_boxes_have_no_targets(number: int) -> None:
    targets = crop_masks(MASKS[:number], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 28)
    assert targets.shape == (0, 28, 28)
    assert targets.dtype == torch.bool


def star(points: int, inner: float, outer: float, x: float, y: float) -> torch.Tensor:
    angles = torch.arange(2 * points) * torch.pi / points + 0.3
    radii = torch.tensor([outer, inner]).repeat(points)
    return torch.stack([x + radii * angles.cos(), y + radii * angles.sin()], dim=1)


def edges_of(*polygons: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.cat([polygon, polygon.roll(-1, 0)], dim=1) for polygon in polygons])


def test_outlines_hold_the_centers_of_cells_that_they_enclose() -> None:
    shapes = [star(5, 8.0, 22.0, 30, 25), star(9, 12.0, 15.0, 50, 40)]
    edges = torch.nn.utils.rnn.pad_sequence([edges_of(shape) for shape in shapes], batch_first=True)
    boxes = torch.tensor([[10.0, 5, 55, 48], [33, 22, 66, 61], [20, 20, 70, 30], [-9, -9, 90, 90]])
    objects = torch.tensor([0, 1, 1, 0])
    found = crop_outlines(Outlines(edges), boxes, objects, 28)
    cells = (torch.arange(28) + 0.5) / 28
    for mask, (left, top, right, bottom), chosen in zip(found, boxes.tolist(), objects, strict=True):
        x, y = torch.meshgrid(left + cells * (right - left), top + cells * (bottom - top), indexing="xy")
        points = torch.stack([x, y], dim=-1).reshape(-1, 2)
        expected = Path(shapes[chosen].numpy()).contains_points(points.numpy()).reshape(28, 28)
        assert mask.any()
        assert (mask.numpy() != expected).sum() <= 1  # a center on an edge is on either side of it


def test_parts_of_an_object_are_united_where_they_overlap() -> None:
    first = torch.tensor([[10.0, 10], [40, 10], [40, 40], [10, 40]])
    second = first + 15
    both, box, chosen = Outlines(edges_of(first, second)[None]), torch.tensor([[0.0, 0, 60, 60]]), torch.tensor([0])
    parts = [crop_outlines(Outlines(edges_of(part)[None]), box, chosen, 30) for part in (first, second)]
    assert torch.equal(crop_outlines(both, box, chosen, 30), parts[0] | parts[1])


def test_pieces_of_outlines_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    outlines = Outlines(torch.stack([edges_of(star(5, 5.0, 20.0, 30 + i, 30)) for i in range(3)]))
    boxes, objects = torch.tensor([[10.0, 10, 50, 50]]).expand(7, 4), torch.arange(7) % 3
    whole = crop_outlines(outlines, boxes, objects, 28)
    monkeypatch.setattr("rankdet.heads.mask_targets.MAX_PIXELS", 600)
    assert torch.equal(crop_outlines(outlines, boxes, objects, 28), whole)


@pytest.mark.parametrize("edges", [torch.zeros(0, 0, 4), torch.zeros(2, 0, 4), torch.zeros(2, 3, 4)])
def test_no_boxes_have_no_outlines(edges: torch.Tensor) -> None:
    assert crop_outlines(Outlines(edges), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 28).shape == (0, 28, 28)


@pytest.mark.parametrize("pieces", [2**24, 2 * 64 * 96])
def test_masks_of_a_whole_image_are_interpolated_with_its_padding(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rankdet.heads.mask_targets.MAX_PIXELS", pieces)
    fine, coarse = resize_masks(MASKS, (64, 96), [(16, 24), (7, 11)])
    padded = torch.zeros(3, 64, 96)
    padded[:, :60, :80] = MASKS.float()
    for found, size in ((fine, (16, 24)), (coarse, (7, 11))):
        assert torch.equal(found, torch.nn.functional.interpolate(padded[None], size, mode="bilinear")[0] > 0.5)
        assert found[:2].any(dim=(1, 2)).all()
    assert not fine[2].any()


def test_one_pixel_has_no_mask_and_no_objects_have_none() -> None:
    one = torch.zeros(1, 60, 80, dtype=torch.bool)
    one[0, 30, 40] = True
    assert not resize_masks(one, (60, 80), [(15, 20)])[0].any()
    assert [masks.shape for masks in resize_masks(MASKS[:0], (60, 80), [(15, 20), (8, 10)])] == [
        (0, 15, 20),
        (0, 8, 10),
    ]
    assert resize_masks(Outlines(torch.zeros(0, 0, 4)), (60, 80), [(15, 20)])[0].shape == (0, 15, 20)


def test_outlines_of_a_whole_image_agree_with_their_bitmaps() -> None:
    shapes = [star(5, 9.0, 22.0, 30, 25), star(9, 12.0, 18.0, 60, 40)]
    outlines = Outlines(torch.nn.utils.rnn.pad_sequence([edges_of(shape) for shape in shapes], batch_first=True))
    (bitmaps,) = resize_masks(outlines, (60, 80), [(60, 80)])
    for size in ((20, 20), (30, 40)):
        (found,), (expected,) = (resize_masks(masks, (60, 80), [size]) for masks in (outlines, bitmaps))
        assert found.shape == (2, *size)
        assert (found != expected).float().mean() < 0.03


@pytest.mark.parametrize("stride", [2, 4, 8])
@pytest.mark.parametrize("size", [(64, 96), (61, 83), (3, 2)])
def test_shrunk_masks_are_interpolated_and_rounded(stride: int, size: tuple[int, int]) -> None:
    """As if the image were padded with nothing to whole cells, and beyond."""
    masks = torch.rand(5, *size, generator=torch.Generator().manual_seed(0)) < 0.5
    cells = (-(-size[0] // stride) + 2, -(-size[1] // stride) + 1)
    padded = torch.zeros(5, stride * cells[0], stride * cells[1])
    padded[:, : size[0], : size[1]] = masks.float()
    expected = torch.nn.functional.interpolate(padded[:, None], size=cells, mode="bilinear")[:, 0] >= 0.5
    found = shrink_masks(masks, stride, cells)
    assert found.dtype == torch.bool
    assert torch.equal(found, expected)
    assert torch.equal(shrink_masks(masks, stride, (1, 1)), expected[:, :1, :1])
    assert shrink_masks(masks[:0], stride, cells).shape == (0, *cells)


def test_masks_are_shrunk_by_even_strides_alone() -> None:
    with pytest.raises(ValueError, match="even stride, not by 3"):
        shrink_masks(torch.zeros(1, 6, 6, dtype=torch.bool), 3, (2, 2))


def test_filled_outlines_are_the_pixels_whose_centers_are_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(4, 5, 2, generator=generator) * torch.tensor([70.0, 50.0]) - 5  # some lie outside
    corners = corners.gather(1, _by_angle(corners)[..., None].expand(-1, -1, 2))
    edges = torch.cat([corners, corners.roll(-1, dims=1)], dim=2)
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(60) + 0.5, indexing="ij")
    centers = torch.stack([x, y], dim=-1).reshape(-1, 2).numpy()
    expected = torch.stack([torch.from_numpy(Path(each.numpy()).contains_points(centers)) for each in corners])
    found = fill_outlines(Outlines(edges), (40, 60))
    assert torch.equal(found, expected.view(4, 40, 60))
    monkeypatch.setattr("rankdet.heads.mask_targets.MAX_PIXELS", 1)
    assert torch.equal(fill_outlines(Outlines(edges), (40, 60)), found)
    assert fill_outlines(Outlines(torch.zeros(0, 0, 4)), (40, 60)).shape == (0, 40, 60)


def _by_angle(corners: torch.Tensor) -> torch.Tensor:
    """Order of corners around their middle, so that the polygon does not cross itself."""
    x, y = (corners - corners.mean(dim=1, keepdim=True)).unbind(dim=2)
    return torch.atan2(y, x).argsort(dim=1)
