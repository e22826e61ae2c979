"""The benchmark of mask starts measures masks, and only detectors that have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankdet.data import make_shapes
from rankdet.recipes import load_recipe
from rankdet.structures import InputError


def test_slope_of_mask_logits_at_the_start(module, tmp_path: Path) -> None:
    folder = make_shapes(tmp_path / "shapes", train=8, val=1, size=64)
    benchmark = module("mask_start")
    size, slope = benchmark.mask_start(load_recipe("rs_yolact_shapes", {"data.folder": str(folder)}))
    assert 0 <= size < 1
    assert 0.1 < slope <= 0.25
    with pytest.raises(InputError, match="has a detector without masks"):
        benchmark.mask_start(load_recipe("rs_faster_rcnn_shapes", {"data.folder": str(folder)}))
