"""Matrix NMS and IoU of masks against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rankdet.heads import mask_iou, matrix_nms


def looped_iou(masks: Tensor) -> Tensor:
    iou = torch.zeros(len(masks), len(masks))
    for i, one in enumerate(masks):
        for j, other in enumerate(masks):
            union = int((one | other).sum())
            iou[i, j] = int((one & other).sum()) / union if union else 0.0
    return iou


def looped_decay(iou: Tensor, labels: list[int], sigma: float) -> list[float]:
    """Return the factors of equation 5, written out, over masks of one class."""
    decays = []
    for j, label in enumerate(labels):
        above = [i for i in range(j) if labels[i] == label]
        quotients = []
        for i in above:
            worst = max((float(iou[k, i]) for k in range(i) if labels[k] == label), default=0.0)
            quotients.append(math.exp(-sigma * float(iou[i, j]) ** 2) / math.exp(-sigma * worst**2))
        decays.append(min(quotients, default=1.0))
    return decays


def make_masks(count: int, seed: int) -> Tensor:
    """Blocks, many of them nearly the same, one empty, two equal."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, 9, 13, dtype=torch.bool)
    for mask in masks:
        y, x = int(torch.randint(5, (1,), generator=generator)), int(torch.randint(8, (1,), generator=generator))
        mask[y : y + 4, x : x + 5] = True
    if count > 3:
        masks[1], masks[3] = False, masks[0]
    return masks


@pytest.mark.parametrize("count", [0, 1, 4, 25])
def test_overlaps_are_those_of_a_loop_whatever_the_pieces(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = make_masks(count, seed=count)
    expected = looped_iou(masks)
    torch.testing.assert_close(mask_iou(masks), expected, rtol=0, atol=1e-7)
    monkeypatch.setattr("rankdet.heads.mask_nms.CHUNK", 7 * max(1, count))
    torch.testing.assert_close(mask_iou(masks), expected, rtol=0, atol=1e-7)


def test_pixels_are_counted_exactly_under_autocast() -> None:
    masks = torch.ones(2, 300, 301, dtype=torch.bool)
    masks[1, 0, 0] = False
    with torch.autocast("cpu", torch.bfloat16):
        iou = mask_iou(masks)
    assert iou.dtype == torch.float32
    assert iou[0, 1].item() == pytest.approx(1 - 1 / 90300, abs=1e-7)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 30])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_decays_are_those_of_a_loop(count: int, num_classes: int, sigma: float) -> None:
    for seed in range(3):
        iou = mask_iou(make_masks(count, seed))
        labels = torch.randint(num_classes, (count,), generator=torch.Generator().manual_seed(seed))
        found = matrix_nms(iou, labels, sigma)
        assert found.tolist() == pytest.approx(looped_decay(iou, labels.tolist(), sigma), rel=1e-5)
        assert ((found > 0) & (found <= 1)).all()
