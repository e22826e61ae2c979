"""Which level a box is read from, and what is read."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from rankdet.heads import RoIPooling


def test_features_of_a_box_come_from_its_image_and_level() -> None:
    maps = [torch.rand(2, 3, 32, 32), torch.rand(2, 3, 16, 16), torch.rand(2, 3, 8, 8)]
    boxes = [torch.tensor([[3.0, 5.0, 90.0, 99.0], [8.0, 8.0, 20.0, 24.0]]), torch.tensor([[0.0, 0.0, 10.0, 14.0]])]
    pooled = RoIPooling((4, 8), finest_scale=16)(maps, boxes)
    large = roi_align(maps[1][:1], [boxes[0][:1]], 7, 1 / 8, aligned=True)
    small = roi_align(maps[0], [boxes[0][1:], boxes[1]], 7, 1 / 4, aligned=True)
    torch.testing.assert_close(pooled, torch.cat([large, small]))


def test_without_boxes_the_maps_still_belong_to_the_graph() -> None:
    maps = [torch.rand(1, 3, 8, 8, requires_grad=True), torch.rand(1, 3, 4, 4, requires_grad=True)]
    RoIPooling((4, 8))(maps, [torch.zeros(0, 4)]).sum().backward()
    assert all(torch.equal(features.grad, torch.zeros_like(features)) for features in maps)


def test_a_box_that_is_not_a_number_keeps_its_row() -> None:
    maps = [torch.rand(1, 3, 8, 8), torch.rand(1, 3, 4, 4)]
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [torch.nan] * 4, [0.0, 0.0, 9.0, 9.0]])
    pooling = RoIPooling((4, 8))
    pooled = pooling(maps, [boxes])
    assert pooled.shape == (3, 3, 7, 7)
    torch.testing.assert_close(pooled[[0, 2]], pooling(maps, [boxes[[0, 2]]]))


def test_too_few_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        RoIPooling((4, 8))([torch.rand(1, 3, 8, 8)], [torch.zeros(1, 4)])


def test_without_the_shift_features_are_read_half_a_cell_further() -> None:
    maps = [torch.rand(1, 3, 32, 32)]
    boxes = torch.tensor([[8.0, 12.0, 70.0, 90.0]])
    with_shift, without = (RoIPooling((4,), half_pixel_shift=shift) for shift in (True, False))
    torch.testing.assert_close(without(maps, [boxes]), with_shift(maps, [boxes + 2]))
    torch.testing.assert_close(without(maps, [boxes]), roi_align(maps[0], [boxes], 7, 1 / 4, aligned=False))
