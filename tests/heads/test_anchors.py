"""Anchors by hand."""

from __future__ import annotations

import copy
import math
import pickle

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rankdet.heads import AnchorGenerator, CenteredAnchors

CPU = torch.device("cpu")


def test_an_image_of_800_by_1344_has_268569_anchors() -> None:
    generator = AnchorGenerator((4, 8, 16, 32, 64))
    map_sizes = ((200, 336), (100, 168), (50, 84), (25, 42), (13, 21))
    assert generator.anchors(map_sizes, CPU).shape == (268_569, 4)
    assert sum(generator.num_per_level(map_sizes)) == 268_569


def test_anchors_stand_on_top_left_corners_with_ratios_outside_and_scales_inside() -> None:
    anchors = AnchorGenerator((16,), scales=(2.0, 4.0), ratios=(0.5, 4.0)).anchors(((2, 2),), CPU)
    root = math.sqrt(2)
    shapes = [(32 * root, 32 / root), (64 * root, 64 / root), (16, 64), (32, 128)]
    centers = [(0, 0), (16, 0), (0, 16), (16, 16)]
    expected = [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y in centers for w, h in shapes]
    torch.testing.assert_close(anchors, torch.tensor(expected))


def test_anchors_in_the_padding_of_a_batch_are_not_valid() -> None:
    generator = AnchorGenerator((8, 64), ratios=(1.0,))
    # 33 x 40 pixels are padded to 64 x 64 for themselves; the batch has 128 x 96.
    valid = generator.valid(((16, 12), (2, 2)), (33, 40), CPU)
    assert valid is not None
    assert valid[: 16 * 12].view(16, 12).nonzero().amax(dim=0).tolist() == [7, 7]
    assert valid[: 16 * 12].sum() == 64
    assert valid[16 * 12 :].tolist() == [True, False, False, False]
    assert generator.valid(((16, 12), (2, 2)), (97, 65), CPU) is None


def test_anchors_made_in_inference_mode_serve_training() -> None:
    generator = AnchorGenerator((4,), scales=(3.25,))
    with torch.inference_mode():
        generator.anchors(((3, 5),), CPU)
    deltas = torch.ones(45, 4, requires_grad=True)
    (deltas * generator.anchors(((3, 5),), CPU)).sum().backward()


def test_kept_anchors_are_those_of_one_generator_and_no_fake_ones() -> None:
    generator, equal = AnchorGenerator((4,)), AnchorGenerator((4,))
    with FakeTensorMode():
        generator.anchors(((2, 3),), CPU)
    real = generator.anchors(((2, 3),), CPU)
    assert type(real) is torch.Tensor
    assert generator.anchors(((2, 3),), CPU) is real
    for other in (equal, copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert other == generator
        assert hash(other) == hash(generator)
        assert other.anchors(((2, 3),), CPU) is not real
        assert torch.equal(other.anchors(((2, 3),), CPU), real)


def test_only_the_newest_anchors_are_kept() -> None:
    generator = AnchorGenerator((4,))
    first = generator.anchors(((1, 1),), CPU)
    for width in range(2, 18):
        generator.anchors(((1, width),), CPU)
    assert generator.anchors(((1, 1),), CPU) is not first


def test_cells_of_550_pixels_are_fractions_of_them_with_anchors_in_their_middle() -> None:
    sides = (24.0, 48.0, 96.0, 192.0, 384.0)
    cells = (69, 35, 18, 9, 5)
    anchors = CenteredAnchors(sides).anchors(tuple((n, n) for n in cells), (550, 550), CPU)
    assert anchors.shape == (19_248, 4)
    first = 0
    for side, count in zip(sides, cells, strict=True):
        level = anchors[first : first + 3 * count * count].view(count, count, 3, 4)
        first += 3 * count * count
        for row, column, (number, ratio) in ((0, 0, (0, 0.5)), (count - 1, 2, (1, 1.0)), (1, count - 1, (2, 2.0))):
            x, y = (column + 0.5) * 550 / count, (row + 0.5) * 550 / count
            w, h = side / math.sqrt(ratio), side * math.sqrt(ratio)
            expected = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            torch.testing.assert_close(level[row, column, number], expected)


def test_centered_anchors_of_the_padding_are_not_valid() -> None:
    generator = CenteredAnchors((8.0,), ratios=(1.0,))
    anchors = generator.anchors(((4, 6),), (32, 48), CPU)
    assert generator.valid(anchors, (32, 48), (32, 48)) is None
    valid = generator.valid(anchors, (32, 48), (21, 28))
    assert valid.view(4, 6).nonzero().amax(dim=0).tolist() == [2, 2]  # 20 < 21, and 28 is no center inside
    assert valid.sum() == 9


def test_kept_centered_anchors_are_those_of_their_canvas() -> None:
    generator = CenteredAnchors((8.0,))
    first = generator.anchors(((2, 3),), (16, 24), CPU)
    assert generator.anchors(((2, 3),), (16, 24), CPU) is first
    assert not torch.equal(generator.anchors(((2, 3),), (15, 24), CPU), first)
    other = pickle.loads(pickle.dumps(generator))
    assert other == generator
    assert torch.equal(other.anchors(((2, 3),), (16, 24), CPU), first)
