"""Segmentations → masks."""

import numpy as np
import pytest
import torch
from pycocotools import mask as oracle

from rankdet.data.masks import rasterize

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")

MASK = np.zeros((12, 17), dtype=bool)
MASK[3:9, 2:7] = MASK[5:11, 9:15] = True


def test_polygon_agrees_with_pycocotools():
    polygons = [[1.5, 2.2, 14.1, 3.3, 8.7, 11.0], [0.0, 0.0, 3.0, 0.0, 3.0, 5.0, 0.0, 5.0]]
    expected = oracle.decode(oracle.merge(oracle.frPyObjects(polygons, 12, 17))).astype(bool)
    assert np.array_equal(rasterize(polygons, (12, 17), (12, 17)).numpy(), expected)


def test_polygon_is_scaled_before_it_is_rasterized():
    polygon = [1.5, 2.2, 14.1, 3.3, 8.7, 11.0]
    scaled = [value * (2 if place % 2 == 0 else 3) for place, value in enumerate(polygon)]
    expected = rasterize([scaled], (36, 34), (36, 34))
    assert torch.equal(rasterize([polygon], (12, 17), (36, 34)), expected)


@pytest.mark.parametrize("compressed", [True, False])
def test_both_forms_of_rle_give_the_mask(compressed):
    if compressed:
        counts = oracle.encode(np.asfortranarray(MASK.astype(np.uint8)))["counts"].decode()
    else:
        flat = MASK.ravel(order="F")
        edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
        counts = np.diff([0, *edges, flat.size]).tolist()  # begins with background: the corner is empty
    mask = rasterize({"size": [12, 17], "counts": counts}, (12, 17), (99, 99))
    assert mask.dtype == torch.bool
    assert np.array_equal(mask.numpy(), MASK)


def test_polygon_of_two_points_adds_nothing():
    square = [0, 0, 4, 0, 4, 4, 0, 4]
    both = rasterize([square, [5, 5, 9, 9]], (12, 17), (12, 17))
    assert torch.equal(both, rasterize([square], (12, 17), (12, 17)))
    assert both.sum() == 16
