"""The hybrid encoder: maps of any size, attention inside of images alone, normalization by groups or batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rankdet.backbones import HybridEncoder
from rankdet.backbones.hybrid_encoder import cell_positions


def encoder(groups: int | None = 4, layers: int = 1) -> HybridEncoder:
    torch.manual_seed(0)
    return HybridEncoder((8, 12, 16), 16, layers=layers, heads=2, feedforward=24, blocks=1, groups=groups)


def maps(height: int = 16, width: int = 24) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(-(-height // 2**level), -(-width // 2**level)) for level in range(3)]
    return [
        torch.randn(2, channels, *shape, generator=generator)
        for channels, shape in zip((8, 12, 16), shapes, strict=True)
    ]


@pytest.mark.parametrize("size", [(16, 24), (13, 9), (5, 5), (4, 4)])
def test_every_map_keeps_its_size(size: tuple[int, int]) -> None:
    inputs = maps(*size)
    outputs = encoder()(inputs)
    assert [output.shape for output in outputs] == [(2, 16, *each.shape[2:]) for each in inputs]


def test_cells_outside_of_their_image_are_not_attended_to() -> None:
    pyramid, coarsest = encoder(), torch.randn(2, 16, 4, 6)
    inside = torch.zeros(2, 4, 6, dtype=torch.bool)
    inside[0, :2, :3] = True
    inside[1] = True
    others = torch.where(inside[:, None], coarsest, torch.randn(2, 16, 4, 6))
    found, expected = pyramid._attended(others, inside), pyramid._attended(coarsest, inside)
    torch.testing.assert_close(found[0, :, :2, :3], expected[0, :, :2, :3])
    torch.testing.assert_close(found[1], expected[1])
    alone = pyramid._attended(coarsest[:1, :, :2, :3], None)
    torch.testing.assert_close(expected[:1, :, :2, :3], alone)


def test_without_layers_the_coarsest_map_is_left_as_it_is() -> None:
    coarsest = torch.randn(2, 16, 4, 6)
    assert torch.equal(encoder(layers=0)._attended(coarsest, None), coarsest)


def test_batch_normalization_depends_on_the_mode_and_groups_do_not() -> None:
    for groups, is_same in ((4, True), (None, False)):
        pyramid = encoder(groups)
        training, evaluation = pyramid.train()(maps())[0], pyramid.eval()(maps())[0]
        assert torch.equal(training, evaluation) == is_same


def test_positions_are_sines_and_cosines_of_rows_and_columns() -> None:
    positions = cell_positions(3, 5, 8, torch.zeros(0, dtype=torch.float64)).view(3, 5, 8)
    for row in range(3):
        for column in range(5):
            frequencies = torch.tensor([1.0, 0.01], dtype=torch.float64)
            of_row, of_column = row * frequencies, column * frequencies
            expected = torch.cat([of_row.sin(), of_row.cos(), of_column.sin(), of_column.cos()])
            torch.testing.assert_close(positions[row, column], expected)


@pytest.mark.parametrize(
    ("channels", "heads", "groups", "name"),
    [(6, 2, None, "4"), (16, 3, None, "heads = 3"), (16, 2, 5, "groups = 5")],
)
def test_channels_that_do_not_divide_are_refused(channels: int, heads: int, groups: int | None, name: str) -> None:
    with pytest.raises(ValueError, match=f"channels = {channels} is no multiple of {name}"):
        HybridEncoder((8,), channels, heads=heads, groups=groups)
