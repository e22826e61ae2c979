"""Segmentations → masks."""

import numpy as np
import pytest
import torch
from pycocotools import mask as oracle

from rankdet.data.masks import outline, rasterize
from rankdet.data.transforms import Placement

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")

UNCHANGED = Placement((12, 17), (12, 17))
MASK = np.zeros((12, 17), dtype=bool)
MASK[3:9, 2:7] = MASK[5:11, 9:15] = True


def test_polygon_agrees_with_pycocotools():
    polygons = [[1.5, 2.2, 14.1, 3.3, 8.7, 11.0], [0.0, 0.0, 3.0, 0.0, 3.0, 5.0, 0.0, 5.0]]
    expected = oracle.decode(oracle.merge(oracle.frPyObjects(polygons, 12, 17))).astype(bool)
    assert np.array_equal(rasterize(polygons, UNCHANGED).numpy(), expected)


def test_polygon_is_scaled_before_it_is_rasterized():
    polygon = [1.5, 2.2, 14.1, 3.3, 8.7, 11.0]
    scaled = [value * (2 if place % 2 == 0 else 3) for place, value in enumerate(polygon)]
    expected = rasterize([scaled], Placement((36, 34), (36, 34)))
    assert torch.equal(rasterize([polygon], Placement((12, 17), (36, 34))), expected)


@pytest.mark.parametrize("compressed", [True, False])
def test_both_forms_of_rle_give_the_mask(compressed):
    if compressed:
        counts = oracle.encode(np.asfortranarray(MASK.astype(np.uint8)))["counts"].decode()
    else:
        flat = MASK.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
        counts = np.diff([0, *edges, flat.size]).tolist()  # begins with background: the corner is empty
    mask = rasterize({"size": [12, 17], "counts": counts}, UNCHANGED)
    assert mask.dtype == torch.bool
    assert np.array_equal(mask.numpy(), MASK)


def test_polygon_of_two_points_adds_nothing():
    square = [0, 0, 4, 0, 4, 4, 0, 4]
    both = rasterize([square, [5, 5, 9, 9]], UNCHANGED)
    assert torch.equal(both, rasterize([square], UNCHANGED))
    assert both.sum() == 16


def area(edges: torch.Tensor) -> float:
    return float((edges[:, 0] * edges[:, 3] - edges[:, 2] * edges[:, 1]).sum() / 2)


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_outlines_follow_their_image_and_turn_the_same_way(flips):
    square, triangle = [2, 1, 6, 1, 6, 5, 2, 5], [8, 8, 8, 4, 11, 8]
    placement = Placement((10, 12), (20, 36), *flips)
    found = outline([[square, triangle, [0, 0, 1, 1]], [triangle]], placement).edges
    assert found.shape == (2, 7, 4)
    assert area(found[0]) == pytest.approx(6 * (16 + 6))
    corners = found[0, :4, :2]
    expected = torch.tensor([[6.0, 2.0], [18.0, 10.0]])
    expected[:, 0] = (36 - expected[:, 0]).sort().values if flips[0] else expected[:, 0]
    expected[:, 1] = (20 - expected[:, 1]).sort().values if flips[1] else expected[:, 1]
    assert torch.equal(torch.stack([corners.amin(0), corners.amax(0)]), expected)


def test_no_objects_have_no_outlines():
    assert len(outline([], Placement((10, 12), (10, 12)))) == 0
