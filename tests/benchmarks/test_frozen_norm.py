"""The benchmark of frozen normalization: what folding keeps for the gradient, counted as there."""

from __future__ import annotations

import pytest
import torch

from rankdet.backbones import TimmBackbone
from rankdet.structures import Images


@pytest.mark.parametrize(("size", "bound"), [(32, 1.0), (256, 0.7)])
def test_folding_never_keeps_more_for_the_gradient(module, size: int, bound: float) -> None:
    image = Images(torch.zeros(1, 3, size, size, dtype=torch.uint8), ((size, size),))
    plain, folded = (TimmBackbone("resnet50", frozen_batch_norm=is_folded).eval() for is_folded in (False, True))
    kept_bytes = module("frozen_norm").kept_bytes
    assert kept_bytes(folded, image) < bound * kept_bytes(plain, image)
