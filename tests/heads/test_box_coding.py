"""Boxes to deltas and back."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankdet.heads import BoxCoder

CORNER, SIDE = st.floats(-100, 1000), st.floats(1, 60)
BOX = st.tuples(CORNER, CORNER, SIDE, SIDE).map(lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]])


@pytest.mark.parametrize("stds", [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2)])
@settings(deadline=None)
@given(box=BOX, anchor=BOX)
def test_decoding_inverts_encoding(
    stds: tuple[float, float, float, float], box: list[float], anchor: list[float]
) -> None:
    coder, boxes, anchors = BoxCoder(stds), torch.tensor([box]), torch.tensor([anchor])
    torch.testing.assert_close(coder.decode(coder.encode(boxes, anchors), anchors), boxes, rtol=1e-4, atol=1e-2)


def test_a_box_grows_at_most_by_a_factor_of_62_5() -> None:
    anchors = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    large, small = BoxCoder().decode(torch.tensor([[0.0, 0.0, 90.0, 90.0], [0.0, 0.0, -90.0, -90.0]]), anchors)
    torch.testing.assert_close(large, torch.tensor([-61.5, -61.5, 63.5, 63.5]))
    torch.testing.assert_close(small, torch.tensor([1 - 0.016, 1 - 0.016, 1 + 0.016, 1 + 0.016]))


def test_half_precision_deltas_are_decoded_in_single_precision() -> None:
    anchors = torch.tensor([[1000.0, 1000.0, 1003.0, 1003.0]])
    boxes = BoxCoder().decode(torch.zeros(1, 4, dtype=torch.bfloat16), anchors)
    assert torch.equal(boxes, anchors)


def test_boxes_are_limited_where_decoding_gives_a_side_no_gradient():
    coder = BoxCoder((0.1, 0.1, 0.2, 0.2))
    deltas = torch.tensor([[0.0, 0, 20, 20], [0, 0, 21, 0], [0, 0, 0, -21], [900, 900, 0, 0]], requires_grad=True)
    coder.decode(deltas, torch.tensor([[0.0, 0, 8, 8]]).expand(4, 4)).square().sum().backward()
    assert coder.limited(deltas).tolist() == (deltas.grad[:, 2:] == 0).any(dim=1).tolist() == [False, True, True, False]
