"""Cells as places of queries, in images that share a canvas."""

from __future__ import annotations

import pytest
import torch

from rankdet.heads import QueryDecoder, padding_of
from rankdet.heads.queries import cell_anchors

CPU = torch.device("cpu")
MAPS = ((8, 12), (4, 6), (2, 3))
CANVAS = (64, 96)


def test_images_that_fill_their_canvas_have_no_padding() -> None:
    assert padding_of(MAPS, CANVAS, [CANVAS, CANVAS], CPU) is None
    assert padding_of(MAPS, CANVAS, [CANVAS, (64, 95)], CPU) is not None


@pytest.mark.parametrize("size", [(64, 96), (33, 50), (1, 1), (64, 8), (9, 96)])
def test_a_cell_is_inside_where_it_begins_in_its_image(size: tuple[int, int]) -> None:
    padding = padding_of(MAPS, CANVAS, [size, (64, 32)], CPU)
    torch.testing.assert_close(padding.ratios[0, 0], torch.tensor([size[1] / 96, size[0] / 64] * 2))
    for inside, (height, width) in zip(padding.inside, MAPS, strict=True):
        stride = 64 // height
        for row in range(height):
            for column in range(width):
                assert inside[0, row, column] == (row * stride < size[0] and column * stride < size[1])
        assert inside[0, 0, 0]


def test_anchors_lie_in_the_middle_of_cells_in_parts_of_their_own_image() -> None:
    size = (40, 60)
    padding = padding_of(MAPS, CANVAS, [CANVAS, size], CPU)
    anchors, is_valid = cell_anchors(MAPS, 0.1, padding, torch.zeros(0))
    boxes = anchors.sigmoid()
    row = 0
    for level, (height, width) in enumerate(MAPS):
        stride = 64 // height
        for y in range(height):
            for x in range(width):
                for image, (rows, columns) in enumerate((CANVAS, size)):
                    center = ((x + 0.5) * stride / columns, (y + 0.5) * stride / rows)
                    assert is_valid[image, row] == all(0.01 < value < 0.99 for value in center)
                    if is_valid[image, row]:
                        expected = torch.tensor([*center, 0.1 * 2**level, 0.1 * 2**level])
                        torch.testing.assert_close(boxes[image, row], expected)
                row += 1
    assert row == anchors.shape[1]
    assert is_valid[0].all()
    assert anchors.isfinite().all()


def test_anchors_of_large_maps_leave_the_border_out() -> None:
    _, is_valid = cell_anchors(((80, 80),), 0.05, None, torch.zeros(0))
    assert is_valid.shape == (1, 6400)
    assert is_valid.sum() == 78 * 78


@pytest.mark.parametrize("change", [{"heads": 3}, {"groups": 3}])
def test_channels_that_do_not_divide_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="channels = 16 is no multiple of"):
        QueryDecoder(8, 3, 2, channels=16, **change)
