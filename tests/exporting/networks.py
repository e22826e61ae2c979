"""Networks with random weights whose scores differ, images, and how what two programs find is compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rankdet.data import KeepRatio, Transforms
from rankdet.inference.model import Model
from rankdet.inference.score_maps import Calibration, Isotonic, Platt, Unchanged
from rankdet.recipes import load_recipe
from rankdet.structures import Detection, Images

CLASSES = [(1, "circle"), (2, "square"), (5, "star")]
CALIBRATION = Calibration((Isotonic((0.2, 0.5, 0.8), (0.3, 0.3, 0.7)), Platt(1.4, -0.5), Unchanged()), "iou", "segm")
"""A map of each kind."""
SIZES = (96, 128), (70, 100)
"""(height, width) of two images that share a canvas."""


def network(recipe: str, spread: float = 30.0) -> nn.Module:
    """A detector whose classifiers have larger weights than at the start."""
    torch.manual_seed(0)
    built: nn.Module = load_recipe(recipe).detector.build(len(CLASSES), pretrained=False)
    for name, weights in built.named_parameters():
        if name.endswith("classifier.weight"):
            weights.data.mul_(spread)
    return built.eval()


def model(recipe: str, transforms: Transforms = Transforms(KeepRatio(128, (96,)))) -> Model:
    """A model of such a detector."""
    return Model(network(recipe), CLASSES, transforms, thresholds=[0.25, float("nan"), 0.75])


def two_images() -> Images:
    """Soft patches of color on one canvas."""
    torch.manual_seed(1)
    pixels = nn.functional.interpolate(torch.rand(2, 3, 12, 16) * 255, size=SIZES[0], mode="bilinear").byte()
    pixels[1, :, SIZES[1][0] :] = 0
    pixels[1, :, :, SIZES[1][1] :] = 0
    return Images(pixels, SIZES)


def assert_same(expected: Detection, found: Sequence[Tensor | NDArray[np.generic]], pixels: float = 1e-2) -> None:
    """The same detections, best first, where outputs of one image of a file end with rows of score 0.

    Scores that differ by less than their tolerance may change places.
    """
    boxes, scores, labels, *masks = (torch.as_tensor(part) for part in found)
    number = len(expected.scores)
    assert int((scores > 0).sum()) == number
    assert not scores[number:].any()
    assert not boxes[number:].any()
    assert (scores[:number] - expected.scores).abs().max() < 1e-4
    is_free = torch.ones(number, dtype=torch.bool)
    for row in range(number):
        distance = (boxes[:number] - expected.boxes[row]).abs().amax(dim=1)
        fits = is_free & (labels[:number] == expected.labels[row]) & (distance < pixels)
        fits &= (scores[:number] - expected.scores[row]).abs() < 1e-4
        assert fits.any(), f"detection {row} is missing"
        place = int(fits.long().argmax())
        is_free[place] = False
        if expected.masks is not None:
            assert masks[0].shape[1:] == expected.masks.scores.shape[1:]
            assert (masks[0][place] - expected.masks.scores[row]).abs().max() < 1e-3
            assert (masks[1][place] - expected.masks.regions[row]).abs().max() < pixels
