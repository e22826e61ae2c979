"""The strongest two-stage detectors of the RS Loss paper (tables 1, 3, 8 and A.20): "+", larger backbones, 36 epochs.

"+" is a feature pyramid that enlarges by CARAFE; weights, learning rates and padding (to 32) are those of the plain
form. "DCN" makes the 3x3 convolutions of layer2 to layer4 deformable, with four groups of offsets. "3x" is 36 epochs,
with the shorter side of each training image drawn from a list. Expected AP is on minival and, where the paper prints
it, on test-dev. The code of the paper drops scores up to 0.40 to save time; here the threshold is the usual 0.05, and
``detector.testing.score_threshold=0.4`` gives theirs.
"""

from rankdet.recipes.schema.data import KeepRatio
from rankdet.recipes.schema.detectors import HubWeights, Timm
from rankdet.recipes.schema.recipe import Recipe

from .coco import faster_rcnn_l1_r50_coco, rs_faster_rcnn_r50_coco
from .mask_rcnn import rs_mask_rcnn_r50_coco
from .ranking import two_stage_of

SHORT_SIDES = tuple(range(640, 801, 32))
WIDE_SHORT_SIDES = tuple(range(480, 961, 80))
"""Shorter sides of training images in pixels. The paper has ranges; these are the steps of its code."""


def with_carafe(recipe: Recipe) -> Recipe:
    """A recipe of Faster or Mask R-CNN whose pyramid enlarges by CARAFE; its name stays."""
    detector = two_stage_of(recipe).model_copy(update={"carafe": True})
    return recipe.model_copy(update={"detector": detector})


def long_form(base: Recipe, name: str, backbone: Timm, shorts: tuple[int, ...]) -> Recipe:
    """The recipe ``name``: ``base`` with another backbone, for 36 epochs, with shorter sides drawn from ``shorts``."""
    detector = two_stage_of(base).model_copy(update={"backbone": backbone})
    resize = KeepRatio(long=1333, shorts=shorts, test_short=800)
    schedule = base.schedule.model_copy(update={"epochs": 36, "milestones": (27 / 36, 33 / 36)})
    data = base.data.model_copy(update={"resize": resize})
    return base.model_copy(update={"name": name, "detector": detector, "data": data, "schedule": schedule})


def backbone_named(weights: str, *, deformable: bool = False) -> Timm:
    """The backbone of the recipes with ResNet-50, with another network of timm and its weights."""
    backbone = rs_faster_rcnn_r50_coco().detector.backbone
    changes = {"name": weights, "weights": HubWeights(name=weights), "deformable": deformable}
    return Timm.model_validate(dict(backbone) | changes)


def faster_rcnn_plus_r50_coco() -> Recipe:
    """Standard Faster R-CNN with CARAFE and L1 in both stages (row "Carafe FPN": 38.6 AP)."""
    return with_carafe(faster_rcnn_l1_r50_coco()).model_copy(update={"name": "faster_rcnn_plus_r50_coco"})


def rs_faster_rcnn_plus_r50_coco() -> Recipe:
    """RS Faster R-CNN+ (40.8 AP)."""
    return with_carafe(rs_faster_rcnn_r50_coco()).model_copy(update={"name": "rs_faster_rcnn_plus_r50_coco"})


def rs_mask_rcnn_plus_r50_coco() -> Recipe:
    """RS Mask R-CNN+ (41.1 box AP, 37.3 mask AP); its mask branch is the plain one."""
    return with_carafe(rs_mask_rcnn_r50_coco()).model_copy(update={"name": "rs_mask_rcnn_plus_r50_coco"})


def rs_faster_rcnn_r101_dcn_3x_coco() -> Recipe:
    """RS Faster R-CNN, deformable ResNet-101, 36 epochs (47.6 AP; test-dev: 47.8)."""
    backbone = backbone_named("resnet101.tv_in1k", deformable=True)
    return long_form(rs_faster_rcnn_r50_coco(), "rs_faster_rcnn_r101_dcn_3x_coco", backbone, WIDE_SHORT_SIDES)


def rs_faster_rcnn_plus_r101_dcn_3x_coco() -> Recipe:
    """RS Faster R-CNN+, deformable ResNet-101, 36 epochs (47.6 AP; test-dev: 48.2)."""
    recipe = with_carafe(rs_faster_rcnn_r101_dcn_3x_coco())
    return recipe.model_copy(update={"name": "rs_faster_rcnn_plus_r101_dcn_3x_coco"})


def rs_mask_rcnn_r101_3x_coco() -> Recipe:
    """RS Mask R-CNN, ResNet-101, 36 epochs (44.7 box AP, 40.3 mask AP; test-dev: 40.6 mask AP)."""
    backbone = backbone_named("resnet101.tv_in1k")
    return long_form(rs_mask_rcnn_r50_coco(), "rs_mask_rcnn_r101_3x_coco", backbone, SHORT_SIDES)


def rs_mask_rcnn_plus_r101_3x_coco() -> Recipe:
    """RS Mask R-CNN+, ResNet-101, 36 epochs (46.1 box AP, 41.4 mask AP; test-dev: 42.0 mask AP)."""
    backbone = backbone_named("resnet101.tv_in1k")
    return long_form(rs_mask_rcnn_plus_r50_coco(), "rs_mask_rcnn_plus_r101_3x_coco", backbone, WIDE_SHORT_SIDES)


def rs_mask_rcnn_plus_r101_dcn_3x_coco() -> Recipe:
    """RS Mask R-CNN+, deformable ResNet-101, 36 epochs (48.7 box AP, 43.5 mask AP; test-dev: 49.0, 43.9)."""
    backbone = backbone_named("resnet101.tv_in1k", deformable=True)
    return long_form(rs_mask_rcnn_plus_r50_coco(), "rs_mask_rcnn_plus_r101_dcn_3x_coco", backbone, WIDE_SHORT_SIDES)


def rs_mask_rcnn_plus_x101_dcn_3x_coco() -> Recipe:
    """RS Mask R-CNN+, deformable ResNeXt-101 64x4d, 36 epochs (test-dev: 50.2 box AP, 44.8 mask AP).

    The paper starts from weights that came with mmdetection; here they are timm's ``tv_in1k``, those of torchvision,
    which were trained with a newer recipe.
    """
    backbone = backbone_named("resnext101_64x4d.tv_in1k", deformable=True)
    return long_form(rs_mask_rcnn_plus_r50_coco(), "rs_mask_rcnn_plus_x101_dcn_3x_coco", backbone, WIDE_SHORT_SIDES)
