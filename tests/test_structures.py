"""Data that travel between packages are checked at construction."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import grid_sample

from rankdet.structures import Candidates, Detection, MaskScores, Matched, Outlines, Target


def test_auxiliary_outputs_must_pair_like_all_others() -> None:
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 2, -1])
    good = Matched(torch.zeros(1, 1), torch.zeros(1, 1))
    assert Candidates("dense", logits, labels, 2, auxiliary={"centerness": good}).auxiliary == {"centerness": good}
    with pytest.raises(ValueError, match="head 'dense': auxiliary 'centerness': predicted"):
        Candidates("dense", logits, labels, 2, auxiliary={"centerness": good._replace(target=torch.zeros(2, 1))})
    with pytest.raises(ValueError, match="1 pairs but 2 rows"):
        Candidates("dense", logits, labels, 2, auxiliary={"centerness": good._replace(rows=torch.zeros(2))})


def test_every_object_of_a_target_has_its_mask() -> None:
    boxes, labels = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    assert Target(boxes, labels, torch.zeros(2, 5, 6, dtype=torch.bool)).masks is not None
    with pytest.raises(ValueError, match="2 boxes and 3 masks do not pair"):
        Target(boxes, labels, torch.zeros(3, 5, 6, dtype=torch.bool))


def test_outlines_pair_with_boxes_and_travel_like_masks() -> None:
    boxes, labels = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
    target = Target(boxes, labels, Outlines(torch.zeros(2, 5, 4))).to("cpu")
    assert target.masks.edges.shape == (2, 5, 4)
    with pytest.raises(ValueError, match="2 boxes and 3 masks do not pair"):
        Target(boxes, labels, Outlines(torch.zeros(3, 5, 4)))
    with pytest.raises(ValueError, match="must be"):
        Outlines(torch.zeros(3, 4))


def random_masks(number: int, grid: tuple[int, int] = (28, 28)) -> MaskScores:
    """Smooth grids, most of them over a box that an image of 50 × 70 pixels holds, some over its border."""
    generator = torch.Generator().manual_seed(number)
    corners = torch.rand(number, 2, generator=generator) * torch.tensor([70.0, 50.0]) - 8
    sides = 3 + 40 * torch.rand(number, 2, generator=generator)
    return MaskScores(torch.rand(number, *grid, generator=generator), torch.cat([corners, corners + sides], dim=1))


@pytest.mark.parametrize("grid", [(28, 28), (5, 9)])
def test_masks_in_pixels_are_what_sampling_the_whole_image_gives(grid: tuple[int, int]) -> None:
    masks, size = random_masks(12, grid), (50, 70)
    rows, columns = torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5
    for scores, region, found in zip(masks.scores, masks.regions, masks.bitmaps(size), strict=True):
        left, top, right, bottom = region.tolist()
        y, x = 2 * (rows - top) / (bottom - top) - 1, 2 * (columns - left) / (right - left) - 1
        points = torch.stack(torch.broadcast_tensors(x[None], y[:, None]), dim=-1)
        sampled = grid_sample(scores[None, None], points[None], align_corners=False)[0, 0]
        is_sure = (sampled - 0.5).abs() > 1e-5
        assert torch.equal(found[is_sure], (sampled >= 0.5)[is_sure])


def test_a_mask_that_is_sure_of_everything_is_its_box_but_for_the_corners() -> None:
    """Two half cells meet in a corner, and beyond the border of the grid there is nothing."""
    masks = MaskScores(torch.ones(2, 4, 4), torch.tensor([[2.0, 1.0, 10.0, 9.0], [-8.0, 1.0, 8.0, 17.0]]))
    first, second = masks.bitmaps((12, 12))
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[1:9, 2:10] = True
    expected[[1, 1, 8, 8], [2, 9, 2, 9]] = 0.75 * 0.75 >= 0.5
    assert torch.equal(first, expected)
    assert second[3:, :6].all()
    assert not second[:, 8:].any()
    assert not second[1, 7]


@pytest.mark.parametrize("region", [[3.0, 3, 3, 3], [20.0, 2, 30, 5], [-9.0, 2, -4, 5], [2.0, 3, 6, 3]])
def test_a_region_without_pixels_has_none(region: list[float]) -> None:
    assert not MaskScores(torch.ones(1, 4, 4), torch.tensor([region])).bitmaps((10, 12)).any()


def test_detections_take_their_masks_along() -> None:
    masks = random_masks(3)
    found = Detection(masks.regions, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), masks)
    chosen = found.select(torch.tensor([True, False, True]))
    assert torch.equal(chosen.masks.scores, masks.scores[[0, 2]])
    assert torch.equal(chosen.labels, torch.tensor([0, 0]))
    larger = found.scaled((50, 70), (100, 210))
    assert torch.equal(larger.masks.regions, larger.boxes)
    assert torch.equal(larger.masks.scores, masks.scores)


def test_grids_and_regions_must_pair() -> None:
    with pytest.raises(ValueError, match="must be \\(D, h, w\\) and \\(D, 4\\)"):
        MaskScores(torch.zeros(2, 4, 4), torch.zeros(3, 4))


def test_a_mask_that_is_cropped_has_the_pixels_of_its_whole_grid():
    torch.manual_seed(0)
    scores = 0.5 + torch.rand(6, 9, 12) / 2
    for grid, (top, bottom, left, right) in zip(
        scores, [(2, 5, 3, 7), (0, 1, 0, 12), (8, 9, 11, 12), (0, 9, 4, 5)], strict=False
    ):
        is_inside = torch.zeros(9, 12, dtype=torch.bool)
        is_inside[top:bottom, left:right] = True
        grid[~is_inside] = 0
    scores[4] = 0
    regions = torch.tensor([[-2.0, -1.5, 51.0, 41.0]]).expand(6, 4)
    found, expected = (MaskScores(values, regions).bitmaps((40, 50)) for values in (scores, scores.clamp(min=1e-30)))
    assert torch.equal(found, expected)
    assert found[:4].any(dim=(1, 2)).all()
    assert not found[4].any()
    windows = [window.pixels.numel() for window in MaskScores(scores, regions).windows((40, 50))]
    assert windows[0] < 40 * 50 / 2
    assert windows[5] == 40 * 50
