"""The strongest two-stage detectors of the RS Loss paper (tables 1, 3, 8 and A.20): "+", larger backbones, 36 epochs.

"+" is a feature pyramid that enlarges by CARAFE; weights, learning rates and padding (to 32) are those of the plain
form. "DCN" makes the 3x3 convolutions of layer2 to layer4 deformable, with four groups of offsets. "3x" is 36 epochs,
with the shorter side of each training image drawn from a list. Expected AP is on minival and, where the paper prints
it, on test-dev. The code of the paper drops scores up to 0.40 to save time; here the threshold is the usual 0.05, and
``detector.testing.score_threshold=0.4`` gives theirs.
"""

from collections.abc import Mapping
from typing import Any

from rankdet.recipes.schema.part import Part
from rankdet.recipes.schema.recipe import Recipe

from .coco import faster_rcnn_l1_r50_coco, resnet, rs_faster_rcnn_r50_coco
from .experiment import Experiment
from .mask_rcnn import rs_mask_rcnn_r50_coco
from .ranking import stages_of

SHORT_SIDES = tuple(range(640, 801, 32))
WIDE_SHORT_SIDES = tuple(range(480, 961, 80))
"""Shorter sides of training images in pixels. The paper has ranges; these are the steps of its code."""


def with_carafe(recipe: Recipe) -> Recipe:
    """A recipe of Faster or Mask R-CNN whose pyramid enlarges by CARAFE."""
    stages_of(recipe)
    return recipe.changed({"detector.carafe": True})


def long_form(backbone: Part, shorts: tuple[int, ...]) -> Mapping[str, Any]:
    """Return changes to another backbone, for 36 epochs, with shorter sides drawn from ``shorts``."""
    return {
        "detector.backbone": backbone,
        "data.resize": {"shorts": shorts, "test_short": 800},
        "schedule": {"epochs": 36, "milestones": (27 / 36, 33 / 36)},
    }


RESNET_101 = resnet("resnet101.tv_in1k")
DEFORMABLE_RESNET_101 = resnet("resnet101.tv_in1k", deformable=True)
DEFORMABLE_LONG = long_form(DEFORMABLE_RESNET_101, WIDE_SHORT_SIDES)

faster_rcnn_plus_r50_coco = Experiment(faster_rcnn_l1_r50_coco, with_carafe).described(
    'Standard Faster R-CNN with CARAFE and L1 in both stages (row "Carafe FPN": 38.6 AP).'
)
rs_faster_rcnn_plus_r50_coco = Experiment(rs_faster_rcnn_r50_coco, with_carafe).described("RS Faster R-CNN+ (40.8 AP).")
rs_mask_rcnn_plus_r50_coco = Experiment(rs_mask_rcnn_r50_coco, with_carafe).described(
    "RS Mask R-CNN+ (41.1 box AP, 37.3 mask AP); its mask branch is the plain one."
)
rs_faster_rcnn_r101_dcn_3x_coco = Experiment(rs_faster_rcnn_r50_coco, DEFORMABLE_LONG).described(
    "RS Faster R-CNN, deformable ResNet-101, 36 epochs (47.6 AP; test-dev: 47.8)."
)
rs_faster_rcnn_plus_r101_dcn_3x_coco = Experiment(rs_faster_rcnn_r101_dcn_3x_coco, with_carafe).described(
    "RS Faster R-CNN+, deformable ResNet-101, 36 epochs (47.6 AP; test-dev: 48.2)."
)
rs_mask_rcnn_r101_3x_coco = Experiment(rs_mask_rcnn_r50_coco, long_form(RESNET_101, SHORT_SIDES)).described(
    "RS Mask R-CNN, ResNet-101, 36 epochs (44.7 box AP, 40.3 mask AP; test-dev: 40.6 mask AP)."
)
rs_mask_rcnn_plus_r101_3x_coco = Experiment(
    rs_mask_rcnn_plus_r50_coco, long_form(RESNET_101, WIDE_SHORT_SIDES)
).described("RS Mask R-CNN+, ResNet-101, 36 epochs (46.1 box AP, 41.4 mask AP; test-dev: 42.0 mask AP).")
rs_mask_rcnn_plus_r101_dcn_3x_coco = Experiment(rs_mask_rcnn_plus_r50_coco, DEFORMABLE_LONG).described(
    "RS Mask R-CNN+, deformable ResNet-101, 36 epochs (48.7 box AP, 43.5 mask AP; test-dev: 49.0, 43.9)."
)
# The paper starts from weights that came with mmdetection; here they are timm's ``tv_in1k``, those of torchvision,
# which were trained with a newer recipe.
rs_mask_rcnn_plus_x101_dcn_3x_coco = Experiment(
    rs_mask_rcnn_plus_r50_coco, long_form(resnet("resnext101_64x4d.tv_in1k", deformable=True), WIDE_SHORT_SIDES)
).described("RS Mask R-CNN+, deformable ResNeXt-101 64x4d, 36 epochs (test-dev: 50.2 box AP, 44.8 mask AP).")
