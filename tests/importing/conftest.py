"""Small detectors with the networks of mmdetection and torchvision, in all else like the recipes on COCO."""

from collections.abc import Callable

import pytest

from rankdet.recipes import Recipe, load_recipe

SMALL = [
    "detector.backbone.name=resnet18.tv_in1k", "detector.backbone.weights=null", "detector.pyramid_channels=16",
]  # fmt: skip


@pytest.fixture
def small() -> Callable[..., Recipe]:
    """A recipe on COCO with a ResNet-18, 16 channels behind it, and a box head 8 wide; and overrides."""

    def load(name: str, *overrides: str) -> Recipe:
        recipe = load_recipe(name, SMALL[:2])
        parts = {
            "faster_rcnn": ["detector.rcnn.channels=8"],
            "mask_rcnn": ["detector.rcnn.channels=8", "detector.mask.channels=16"],
            "cascade_rcnn": [f"detector.rcnn{stage}.channels=8" for stage in (1, 2, 3)],
            "yolact": ["detector.mask_channels=16"],
            "solov2": ["detector.grids.channels=32", "detector.grids.convolutions=2", "detector.mask_features.groups=8",
                       "detector.mask_features.channels=8", "detector.mask_features.out_channels=16"],
            "atss": ["detector.dense.groups=8"],
            "paa": ["detector.dense.groups=8"],
        }  # fmt: skip
        return load_recipe(name, [*SMALL, *parts[recipe.detector.type], *overrides])

    return load
