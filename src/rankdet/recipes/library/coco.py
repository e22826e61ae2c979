"""Faster R-CNN on COCO, ResNet-50: the rows of Tables 1, A.12 and A.18 of the RS Loss paper (ICCV 2021).

12 epochs but for the heavy training of Table A.12.
"""

from typing import Any

from rankdet.recipes.schema.data import Data, Expansion, FixedSize, KeepRatio, MinIoUCrop, PhotometricDistortion
from rankdet.recipes.schema.detectors import FasterRCNN, HubWeights, Timm
from rankdet.recipes.schema.losses import ALRPLoss, FocalLoss, GIoULoss, L1Loss
from rankdet.recipes.schema.optimization import SGD, StepSchedule
from rankdet.recipes.schema.part import Part
from rankdet.recipes.schema.recipe import Evaluation, Recipe, Runtime

from .experiment import Experiment
from .ranking import STANDARD_LOSSES, ranking_form, stages_of

MEAN = (123.675, 116.28, 103.53)
"""Mean color of ImageNet."""
WITH_L1 = {"losses.rpn.box_loss": L1Loss(), "losses.rcnn.box_loss": L1Loss()}
WITH_GIOU = WITH_L1 | {"losses.rcnn.box_loss": GIoULoss(weight=10.0)}
WITH_ALRP = {"losses": {"rpn": ALRPLoss(tau=0.7), "rcnn": ALRPLoss()}}
"""aLRP Loss in both heads. A box of the RPN is as good as none from the IoU on at which its anchors are positives."""
FOCAL = FocalLoss(tasks={"box_loss": GIoULoss(weight=2.0)})
ON_COCO: dict[str, Any] = {
    "data": Data(
        batch_size=4,  # 4 processes × 4 images = 16
        workers=4,
        resize=KeepRatio(long=1333, shorts=(800,)),
    ),
    "optimizer": SGD(lr=0.02, reference_batch=16),
    "schedule": StepSchedule(epochs=12, milestones=(8 / 12, 11 / 12), warmup_iterations=500, warmup_factor=0.001),
    "evaluation": Evaluation(every=None),
    "runtime": Runtime(channels_last=True),
}
"""What all recipes on COCO have in common, or change."""


def resnet(name: str, **fields: Any) -> Part:
    """A ResNet or ResNeXt with the weights of this name, from torchvision."""
    std = (58.395, 57.12, 57.375)
    return Timm(name=name, weights=HubWeights(name=name), mean=MEAN, std=std, **fields)


@Experiment
def faster_rcnn_r50_coco() -> Recipe:
    """Standard Faster R-CNN with smooth L1 (row "FPN": 36.5 AP)."""
    return Recipe(
        detector=FasterRCNN(
            backbone=resnet("resnet50.tv_in1k"),
            rpn={"sampler": {"num": 256, "positive_fraction": 0.5}},
            rcnn={"softmax": True, "sampler": {"num": 512, "positive_fraction": 0.25}},
        ),
        losses=STANDARD_LOSSES,
        **ON_COCO,
    )


def with_focal(recipe: Recipe) -> Recipe:
    """A recipe of Faster R-CNN with focal loss and twice GIoU in both heads: sigmoids whose scores start at 0.01."""
    form = {stage: {"softmax": False, "prior": 0.01} for stage in stages_of(recipe)} | {"rpn": {"prior": 0.01}}
    return recipe.changed({"detector": form}, losses=dict.fromkeys(recipe.losses, FOCAL))


def augmented(side: int, fill: tuple[float, float, float]) -> dict[str, Any]:
    """The fields of data with the augmentation of SSD: colors, a canvas of this color, a crop, and one square size."""
    return {
        "resize": FixedSize(height=side, width=side),
        "distortion": PhotometricDistortion(),
        "expansion": Expansion(fill=fill),
        "crop": MinIoUCrop(),
    }


HEAVY = {
    # 4 processes × 8 images = 32
    "data": augmented(512, MEAN) | {"batch_size": 8, "test_resize": KeepRatio(long=833, shorts=(500,))},
    "optimizer.reference_batch": 32,
    "schedule": {"epochs": 100.0, "milestones": (0.75, 0.95)},
}
"""100 epochs of 32 augmented images of 512 × 512 pixels per iteration, as aLRP Loss was published with."""

faster_rcnn_l1_r50_coco = Experiment(faster_rcnn_r50_coco, WITH_L1).described(
    "Standard Faster R-CNN with L1 in both stages (mmdetection 2.x: 37.4 AP)."
)
faster_rcnn_giou_r50_coco = Experiment(faster_rcnn_l1_r50_coco, WITH_GIOU).described(
    'Standard Faster R-CNN with L1 in the RPN and ten times GIoU in the R-CNN (row "GIoU Loss": 37.6 AP).'
)
rs_faster_rcnn_r50_coco = Experiment(faster_rcnn_r50_coco, ranking_form, {"optimizer.lr": 0.012}).described(
    "RS Faster R-CNN (39.6 AP): no samplers, no background logit, one hand-set weight."
)
# The code of aLRP Loss starts the scores of the RPN at 0.01 and appends no objects to the proposals; this row is of
# the code of RS Loss, which does neither.
alrp_faster_rcnn_r50_coco = Experiment(rs_faster_rcnn_r50_coco, WITH_ALRP, {"optimizer.lr": 0.009}).described(
    "Faster R-CNN with aLRP Loss in the form of RS Faster R-CNN (37.4 AP)."
)
focal_faster_rcnn_r50_coco = Experiment(faster_rcnn_r50_coco, with_focal, {"optimizer.lr": 0.01}).described(
    "Faster R-CNN with focal loss and the samplers of the standard form (31.8 AP)."
)
heavy_alrp_faster_rcnn_r50_coco = Experiment(alrp_faster_rcnn_r50_coco, HEAVY, {"optimizer.lr": 0.012}).described(
    "Faster R-CNN with aLRP Loss in heavy training (40.7 AP)."
)
heavy_rs_faster_rcnn_r50_coco = Experiment(rs_faster_rcnn_r50_coco, HEAVY, {"optimizer.lr": 0.024}).described(
    "RS Faster R-CNN in heavy training (41.2 AP)."
)
