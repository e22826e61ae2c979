"""RT-DETR on COCO with ResNet-50, and small forms for ``shapes`` and BCCD: minutes on a laptop's CPU.

What the forms differ in is the loss of each head alone, and of RS-DETR there are two: with the box terms of DETRs, L1
and GIoU at their usual weights, and with each of the two balanced by value, as in BRS-DETR (ECCV 2024).
"""

from typing import Any

from rankdet.recipes.schema.detectors import RTDETR, Tiny
from rankdet.recipes.schema.losses import (
    ConstantBalance,
    GIoULoss,
    L1Loss,
    NoWeights,
    RankSortLoss,
    ValueBalance,
    VarifocalLoss,
)
from rankdet.recipes.schema.optimization import AdamW, StepSchedule
from rankdet.recipes.schema.part import Part
from rankdet.recipes.schema.recipe import Recipe

from .bccd import LITE0, ON_BCCD
from .coco import MEAN, ON_COCO, augmented, resnet
from .experiment import Experiment, require
from .shapes import ON_SHAPES

BOXES = {
    "box_loss": GIoULoss(weight=2.0),
    "delta_loss": L1Loss(weight=5.0),
    "weighting": NoWeights(),
    "balancing": ConstantBalance(),
}
"""The box terms of DETRs: five times L1 of boxes as parts of the image, and twice GIoU."""
STANDARD = VarifocalLoss(constant_weights=True, tasks=BOXES)
RANKING = RankSortLoss(tasks=BOXES)
BALANCED = RankSortLoss(tasks=BOXES | {"balancing": ValueBalance()})


def with_loss(recipe: Recipe, loss: Part) -> Recipe:
    """Return a recipe of RT-DETR with this loss in all heads; all else stays."""
    require(recipe, RTDETR)
    return recipe.changed(losses=dict.fromkeys(recipe.detector.heads, loss))


def rank_sort_form(standard: Recipe) -> Recipe:
    """Return ``standard``, a recipe of RT-DETR, with Rank & Sort Loss in all heads; boxes are learned as before."""
    return with_loss(standard, RANKING)


def balanced_form(standard: Recipe) -> Recipe:
    """Return ``standard`` with Rank & Sort Loss in all heads, and two box terms, each of its value."""
    return with_loss(standard, BALANCED)


def _small(backbone: Part) -> Part:
    """RT-DETR with 64 channels and three layers, without batch normalization, which a few images do not suit."""
    return RTDETR(
        backbone=backbone,
        pyramid_channels=64,
        encoder={"heads": 4, "feedforward": 128, "blocks": 1, "groups": 8},
        decoder={"channels": 64, "queries": 60, "layers": 3, "heads": 4, "feedforward": 128, "groups": 8},
        denoising={"queries": 30},
    )


def _standard(detector: Part, **fields: Any) -> Recipe:
    return Recipe(detector=detector, losses=dict.fromkeys(detector.heads, STANDARD), **fields)


# The published training also averages the weights, changes the size of images, and gives the backbone a tenth of the
# learning rate; none of these is here.
@Experiment
def detr_r50_coco() -> Recipe:
    """Standard RT-DETR on COCO, in 72 epochs (53.1 AP, with averaged weights and images of several sizes)."""
    backbone = resnet("resnet50d.ra2_in1k", out_indices=(2, 3, 4))  # three convolutions in the stem; C3–C5
    return _standard(RTDETR(backbone=backbone, testing={"per_image": 300}), **ON_COCO).changed(
        {
            "data": augmented(640, MEAN),
            "optimizer": AdamW(lr=1e-4, reference_batch=16, weight_decay=1e-4),
            "schedule": StepSchedule(epochs=72, milestones=(), warmup_iterations=2000, warmup_factor=0.001),
            "runtime.clip_gradient_norm": 0.1,
        }
    )


rs_detr_r50_coco = Experiment(detr_r50_coco, rank_sort_form).described(
    "RS-DETR on COCO: the same network, budget and learning rate; no published figure."
)


@Experiment
def detr_shapes() -> Recipe:
    """Standard RT-DETR on ``shapes``."""
    changes = {
        "detector.decoder.anchor_size": 0.1,  # objects have an eighth to three fifths of the image's sides
        "optimizer.lr": 1e-3,
        "runtime.clip_gradient_norm": 1.0,
        "schedule.iterations": 900,
    }
    return _standard(_small(Tiny()), **ON_SHAPES).changed(changes)


rs_detr_shapes = Experiment(detr_shapes, rank_sort_form).described(
    "RS-DETR on ``shapes``: the same network, budget and learning rate."
)
rs_balanced_detr_shapes = Experiment(detr_shapes, balanced_form).described(
    "RS-DETR on ``shapes`` with L1 and GIoU each balanced by value."
)


@Experiment
def detr_lite0_bccd() -> Recipe:
    """Standard RT-DETR with EfficientNet-Lite0 on BCCD."""
    return _standard(_small(LITE0), **ON_BCCD)


rs_detr_lite0_bccd = Experiment(detr_lite0_bccd, rank_sort_form).described(
    "RS-DETR with EfficientNet-Lite0 on BCCD: the same network, budget and learning rate."
)
rs_balanced_detr_lite0_bccd = Experiment(detr_lite0_bccd, balanced_form).described(
    "RS-DETR with EfficientNet-Lite0 on BCCD with L1 and GIoU each balanced by value."
)
