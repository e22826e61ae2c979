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


@pytest.mark.parametrize("half_pixel_shift", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2, 3])
@pytest.mark.parametrize("output_size", [1, 7])
def test_sums_of_cells_and_their_gradients_are_those_of_torchvision(
    output_size: int, sampling_ratio: int, half_pixel_shift: bool
) -> None:
    generator = torch.Generator().manual_seed(10 * output_size + sampling_ratio)
    maps = [torch.randn(2, 5, 24, 40, generator=generator), torch.randn(2, 5, 12, 20, generator=generator)]
    # Around the border, beyond it, without area, turned around, as large as the map, between whole cells and on them.
    corners = 200 * torch.rand(60, 2, generator=generator) - 20
    boxes = torch.cat([corners, corners + 120 * torch.rand(60, 2, generator=generator) ** 3], dim=1)
    boxes[:4] = torch.tensor([[8.0, 8, 8, 8], [0, 0, 160, 96], [-50, -50, -30, 300], [160, 96, 160, 120]])
    boxes[4] = boxes[5].flip(0)
    boxes[6:20] = (boxes[6:20] / 4).round() * 4
    pooling = RoIPooling(
        (4, 8),
        finest_scale=16,
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        half_pixel_shift=half_pixel_shift,
    )
    own, theirs = ([features.clone().requires_grad_() for features in maps] for _ in range(2))
    pooled = pooling(own, [boxes[:35], boxes[35:]])
    levels = pooling.levels(boxes)
    rois = torch.cat([(torch.arange(60) >= 35).float()[:, None], boxes], dim=1)
    expected = torch.zeros_like(pooled)
    for level, (features, stride) in enumerate(zip(theirs, (4, 8), strict=True)):
        read = roi_align(
            features, rois[levels == level], output_size, 1 / stride, sampling_ratio, aligned=half_pixel_shift
        )
        expected = expected.index_put((levels == level,), read)
    assert levels.unique().tolist() == [0, 1]
    torch.testing.assert_close(pooled, expected, rtol=1e-5, atol=2e-6)
    upstream = torch.randn(pooled.shape, generator=generator)
    for found, wanted in zip(
        torch.autograd.grad(pooled, own, upstream), torch.autograd.grad(expected, theirs, upstream), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_sums_of_cells_are_the_same_bits_for_any_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 16, 64, 64, generator=generator)
    corners = 200 * torch.rand(300, 2, generator=generator)
    boxes = torch.cat([corners, corners + 8 + 80 * torch.rand(300, 2, generator=generator)], dim=1)
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            leaf = features.clone().requires_grad_()
            pooled = RoIPooling((4,))([leaf], [boxes])
            pooled.square().sum().backward()
            found.append((pooled.detach(), leaf.grad))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("half_pixel_shift", [True, False])
@pytest.mark.parametrize(
    "box",
    [
        [-100.0, -100.0, -50.0, -50.0],
        [500.0, 500.0, 600.0, 600.0],
        [-20.0, -20.0, 100.0, 100.0],
        [10.0, 10.0, 5.0, 5.0],
        [3.0, 3.0, 3.0, 3.0],
        [64.0, 64.0, 64.0, 64.0],
    ],
)
def test_boxes_beyond_the_image_or_without_area_are_read_as_by_torchvision(
    box: list[float], half_pixel_shift: bool, sampling_ratio: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 8, side, side, generator=generator) for side in (16, 8)]
    pooling = RoIPooling((4, 8), sampling_ratio=sampling_ratio, half_pixel_shift=half_pixel_shift)
    boxes = torch.tensor([box])
    level = int(pooling.levels(boxes)[0])
    rois = torch.cat([torch.ones(1, 1), boxes], dim=1)
    expected = roi_align(maps[level], rois, 7, 1 / (4, 8)[level], sampling_ratio, half_pixel_shift)
    torch.testing.assert_close(pooling(maps, [torch.zeros(0, 4), boxes]), expected, rtol=0, atol=1e-5)
