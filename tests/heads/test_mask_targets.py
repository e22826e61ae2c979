"""Targets of a mask head: what of an object's mask lies in a box."""

from __future__ import annotations

import pytest
import torch

from rankdet.heads import crop_masks


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


def test_a_box_is_clipped_to_the_picture() -> None:
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
