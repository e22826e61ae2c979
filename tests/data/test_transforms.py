"""Geometry of images, boxes and masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdet.data import FixedSize, KeepRatio, Placement, Transforms


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((500, 500), (800, 800)), ((300, 1000), (400, 1333))],
)
def test_ratio_is_kept_within_1333_by_800(size, expected):
    assert KeepRatio(1333, (800,)).size(size) == expected


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0, 0.999))
def test_resized_image_fits_and_has_pixels(height, width, choice):
    after = KeepRatio(1333, (480, 640, 800)).size((height, width), choice)
    assert min(after) >= 1
    assert max(after) <= 1333
    assert min(after) <= 800


def test_every_short_side_is_drawn():
    transforms = Transforms(KeepRatio(10_000, (480, 640, 800)))
    torch.manual_seed(0)
    assert {transforms.place((100, 100)).after[0] for _ in range(50)} == {480, 640, 800}


def test_flips_come_with_their_probability():
    transforms = Transforms(horizontal_flip=0.3, vertical_flip=0.6)
    torch.manual_seed(0)
    drawn = [transforms.place((10, 10)) for _ in range(2000)]
    assert sum(placement.horizontal_flip for placement in drawn) / 2000 == pytest.approx(0.3, abs=0.04)
    assert sum(placement.vertical_flip for placement in drawn) / 2000 == pytest.approx(0.6, abs=0.04)
    assert not Transforms().place((10, 10)).horizontal_flip
    assert Transforms(horizontal_flip=1.0).place((10, 10)).horizontal_flip


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="KeepRatio: shorts must have at least one entry"):
        KeepRatio(100, ())
    for broken in (lambda: KeepRatio(0, (1,)), lambda: KeepRatio(1, (0,)), lambda: FixedSize(0, 5)):
        with pytest.raises(ValueError, match="must be at least 1, got 0"):
            broken()
    with pytest.raises(ValueError, match="Transforms: horizontal_flip must be at most 1"):
        Transforms(horizontal_flip=1.5)


def test_detection_has_one_short_side():
    several = KeepRatio(1333, (640, 800))
    assert several.for_detection().shorts == (800,)
    assert KeepRatio(1333, (640, 800), test_short=700).for_detection().size((100, 100)) == (700, 700)
    assert FixedSize(5, 6).for_detection() == FixedSize(5, 6)


@settings(max_examples=30, deadline=None)
@given(st.booleans(), st.booleans(), st.integers(0, 20), st.integers(0, 15), st.integers(1, 9), st.integers(1, 9))
def test_box_stays_on_its_pixels(horizontal, vertical, x, y, w, h):
    before = (24, 32)
    image = torch.zeros(3, *before, dtype=torch.uint8)
    image[:, y : y + h, x : x + w] = 255
    placement = Placement(before, before, horizontal, vertical)
    (box,) = placement.boxes(torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32)).int().tolist()
    inside = placement.image(image)[:, box[1] : box[3], box[0] : box[2]]
    assert inside.numel() == 3 * w * h
    assert (inside == 255).all()
    mask = placement.masks(image[:1] > 0)
    assert torch.equal(mask[0], placement.image(image)[0] == 255)


def test_boxes_are_scaled_and_clipped():
    placement = Placement((100, 200), (50, 400))
    boxes = torch.tensor([[-10.0, 20.0, 50.0, 150.0], [300.0, 0.0, 400.0, 10.0]])
    placed = placement.boxes(boxes)
    assert type(placed) is torch.Tensor
    assert placed.tolist() == [[0, 10, 100, 50], [400, 0, 400, 5]]


def test_constant_image_stays_constant():
    image = torch.full((3, 40, 60), 137, dtype=torch.uint8)
    placed = Placement((40, 60), (57, 91), True, True).image(image)
    assert placed.shape == (3, 57, 91)
    assert placed.dtype == torch.uint8
    assert (placed == 137).all()
