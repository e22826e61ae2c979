"""Faster R-CNN on COCO, ResNet-50: the rows of Tables 1, A.12 and A.18 of the RS Loss paper (ICCV 2021).

12 epochs but for the heavy training of Table A.12.
"""

from rankdet.recipes.schema.data import Data, Expansion, FixedSize, KeepRatio, MinIoUCrop, PhotometricDistortion
from rankdet.recipes.schema.detectors import RCNN, RPN, FasterRCNN, HubWeights, Sampler, Timm
from rankdet.recipes.schema.losses import (
    ALRP,
    L1,
    Focal,
    GIoU,
    Loss,
    SigmoidCrossEntropy,
    SmoothL1,
    SoftmaxCrossEntropy,
)
from rankdet.recipes.schema.optimization import SGD, StepSchedule
from rankdet.recipes.schema.recipe import Evaluation, Recipe, Runtime

from .ranking import ranking_form, two_stage_of

MEAN = (123.675, 116.28, 103.53)
"""Mean color of ImageNet."""
ALRP_LOSSES: dict[str, Loss] = {"rpn": ALRP(tau=0.7), "rcnn": ALRP()}
"""aLRP Loss in both heads. A box of the RPN is as good as none from the IoU on at which its anchors are positives."""


def faster_rcnn_r50_coco() -> Recipe:
    """Standard Faster R-CNN with smooth L1 (row "FPN": 36.5 AP)."""
    return Recipe(
        name="faster_rcnn_r50_coco",
        detector=FasterRCNN(
            backbone=Timm(
                name="resnet50.tv_in1k",
                weights=HubWeights(name="resnet50.tv_in1k"),
                mean=MEAN,
                std=(58.395, 57.12, 57.375),
            ),
            rpn=RPN(sampler=Sampler(num=256, positive_fraction=0.5)),
            rcnn=RCNN(softmax=True, sampler=Sampler(num=512, positive_fraction=0.25)),
        ),
        losses={
            "rpn": SigmoidCrossEntropy(box_loss=SmoothL1(beta=1 / 9)),
            "rcnn": SoftmaxCrossEntropy(box_loss=SmoothL1(beta=1.0)),
        },
        data=Data(
            batch_size=4,  # 4 processes × 4 images = 16
            workers=4,
            resize=KeepRatio(long=1333, shorts=(800,)),
            drop_degenerate=True,  # train2017 has two boxes without area
        ),
        optimizer=SGD(lr=0.02, reference_batch=16),
        schedule=StepSchedule(epochs=12, milestones=(8 / 12, 11 / 12), warmup_iterations=500, warmup_factor=0.001),
        evaluation=Evaluation(every=None),
        runtime=Runtime(channels_last=True),
    )


def faster_rcnn_l1_r50_coco() -> Recipe:
    """Standard Faster R-CNN with L1 in both stages (mmdetection 2.x: 37.4 AP)."""
    base = faster_rcnn_r50_coco()
    losses = {"rpn": SigmoidCrossEntropy(box_loss=L1()), "rcnn": SoftmaxCrossEntropy(box_loss=L1())}
    return base.model_copy(update={"name": "faster_rcnn_l1_r50_coco", "losses": losses})


def faster_rcnn_giou_r50_coco() -> Recipe:
    """Standard Faster R-CNN with L1 in the RPN and ten times GIoU in the R-CNN (row "GIoU Loss": 37.6 AP)."""
    base = faster_rcnn_r50_coco()
    losses = {"rpn": SigmoidCrossEntropy(box_loss=L1()), "rcnn": SoftmaxCrossEntropy(box_loss=GIoU(weight=10.0))}
    return base.model_copy(update={"name": "faster_rcnn_giou_r50_coco", "losses": losses})


def rs_faster_rcnn_r50_coco() -> Recipe:
    """RS Faster R-CNN (39.6 AP): no samplers, no background logit, one hand-set weight."""
    recipe = ranking_form(faster_rcnn_r50_coco(), "rs_faster_rcnn_r50_coco")
    return recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"lr": 0.012})})


def alrp_faster_rcnn_r50_coco() -> Recipe:
    """Faster R-CNN with aLRP Loss in the form of RS Faster R-CNN (37.4 AP).

    The code of aLRP Loss starts the scores of the RPN at 0.01 and appends no objects to the proposals; this row is of
    the code of RS Loss, which does neither.
    """
    recipe = rs_faster_rcnn_r50_coco()
    optimizer = recipe.optimizer.model_copy(update={"lr": 0.009})
    return recipe.model_copy(
        update={"name": "alrp_faster_rcnn_r50_coco", "losses": ALRP_LOSSES, "optimizer": optimizer}
    )


def with_focal(recipe: Recipe) -> Recipe:
    """A recipe of Faster R-CNN with focal loss and twice GIoU in both heads: sigmoids whose scores start at 0.01."""
    detector = two_stage_of(recipe)
    stages = {
        name: stage.model_copy(update={"softmax": False, "prior": 0.01}) for name, stage in detector.stages.items()
    }
    rpn = detector.rpn.model_copy(update={"prior": 0.01})
    losses = dict.fromkeys(detector.heads, Focal(box_loss=GIoU(weight=2.0)))
    return recipe.model_copy(update={"detector": detector.model_copy(update={"rpn": rpn, **stages}), "losses": losses})


def focal_faster_rcnn_r50_coco() -> Recipe:
    """Faster R-CNN with focal loss and the samplers of the standard form (31.8 AP)."""
    recipe = with_focal(faster_rcnn_r50_coco())
    optimizer = recipe.optimizer.model_copy(update={"lr": 0.01})
    return recipe.model_copy(update={"name": "focal_faster_rcnn_r50_coco", "optimizer": optimizer})


def augmented(data: Data, side: int, fill: tuple[float, float, float]) -> Data:
    """Data with the augmentation of SSD: colors, a canvas of this color, a crop, and images of one square size."""
    changes = {
        "resize": FixedSize(height=side, width=side),
        "distortion": PhotometricDistortion(),
        "expansion": Expansion(fill=fill),
        "crop": MinIoUCrop(),
    }
    return data.model_copy(update=changes)


def _heavy(recipe: Recipe, name: str, *, lr: float) -> Recipe:
    """100 epochs of 32 augmented images of 512 × 512 pixels per iteration, as aLRP Loss was published with."""
    changes = {"batch_size": 8, "test_resize": KeepRatio(long=833, shorts=(500,))}  # 4 processes × 8 images = 32
    data = augmented(recipe.data, 512, MEAN).model_copy(update=changes)
    optimizer = recipe.optimizer.model_copy(update={"lr": lr, "reference_batch": 32})
    schedule = recipe.schedule.model_copy(update={"epochs": 100.0, "milestones": (0.75, 0.95)})
    return recipe.model_copy(update={"name": name, "data": data, "optimizer": optimizer, "schedule": schedule})


def heavy_alrp_faster_rcnn_r50_coco() -> Recipe:
    """Faster R-CNN with aLRP Loss in heavy training (40.7 AP)."""
    return _heavy(alrp_faster_rcnn_r50_coco(), "heavy_alrp_faster_rcnn_r50_coco", lr=0.012)


def heavy_rs_faster_rcnn_r50_coco() -> Recipe:
    """RS Faster R-CNN in heavy training (41.2 AP)."""
    return _heavy(rs_faster_rcnn_r50_coco(), "heavy_rs_faster_rcnn_r50_coco", lr=0.024)
