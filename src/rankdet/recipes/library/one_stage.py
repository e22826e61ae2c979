"""ATSS and PAA: the rows of Table 2 of the RS Loss paper (ICCV 2021) on COCO, and small forms for ``shapes``.

What the rows of one detector differ in: the loss, the anchors of a cell, whether there is an auxiliary head, and the
learning rate; in PAA also the cost by which it assigns labels.
"""

from rankdet.recipes.schema.data import KeepRatio
from rankdet.recipes.schema.detectors import ATSS, PAA, Tiny
from rankdet.recipes.schema.losses import (
    ALRPLoss,
    APLoss,
    CenternessCrossEntropyLoss,
    CenternessWeights,
    ConstantBalance,
    CountOrImages,
    CountPerImage,
    FocalLoss,
    GIoULoss,
    IoUCrossEntropyLoss,
    IoUWeights,
    QualityFocalLoss,
    RankSortLoss,
)
from rankdet.recipes.schema.part import Part
from rankdet.recipes.schema.recipe import Recipe

from .coco import ON_COCO, resnet
from .experiment import experiment
from .shapes import ON_SHAPES

ONE_ANCHOR = (8.0,)
THREE_ANCHORS = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
"""Ranking losses have three anchors per cell; the paper finds that this does not change the result of standard ATSS."""
STANDARD_ATSS = FocalLoss(
    tasks={
        "box_loss": GIoULoss(weight=2.0),
        "weighting": CenternessWeights(),
        "auxiliary": (CenternessCrossEntropyLoss(weight=1.0),),
    },
    normalizer=CountPerImage(),
)
STANDARD_PAA = FocalLoss(
    tasks={
        "box_loss": GIoULoss(weight=1.3),
        "weighting": IoUWeights(),
        "auxiliary": (IoUCrossEntropyLoss(weight=0.5),),
    },
    normalizer=CountOrImages(),
)
RESNET_50 = resnet("resnet50.tv_in1k", out_indices=(2, 3, 4))  # C3–C5


@experiment
def atss_r50_coco() -> Recipe:
    """Standard ATSS: focal loss and centerness (39.3 AP)."""
    return _on_coco(_atss(ONE_ANCHOR, auxiliary=True), STANDARD_ATSS, lr=0.01)


@experiment
def focal_atss_r50_coco() -> Recipe:
    """ATSS with focal loss, without centerness (38.7 AP)."""
    return _on_coco(_atss(ONE_ANCHOR), FocalLoss(normalizer=CountPerImage()), lr=0.01)


@experiment
def ap_atss_r50_coco() -> Recipe:
    """ATSS with AP Loss, without centerness (38.1 AP); the paper gives no learning rate."""
    return _on_coco(_atss(THREE_ANCHORS), APLoss(), lr=0.008)


@experiment
def ap_centerness_atss_r50_coco() -> Recipe:
    """ATSS with AP Loss and centerness (37.2 AP); the paper gives no learning rate."""
    loss = APLoss(tasks={"weighting": CenternessWeights(), "auxiliary": (CenternessCrossEntropyLoss(),)})
    return _on_coco(_atss(THREE_ANCHORS, auxiliary=True), loss, lr=0.008)


@experiment
def qfl_atss_r50_coco() -> Recipe:
    """ATSS with quality focal loss, without centerness (39.7 AP)."""
    return _on_coco(_atss(ONE_ANCHOR), QualityFocalLoss(normalizer=CountPerImage()), lr=0.01)


@experiment
def alrp_atss_r50_coco() -> Recipe:
    """ATSS with aLRP Loss, without centerness (37.7 AP)."""
    return _on_coco(_atss(THREE_ANCHORS), ALRPLoss(), lr=0.005)


@experiment
def rs_atss_r50_coco() -> Recipe:
    """RS ATSS (39.9 AP): no centerness, nothing to tune but the learning rate."""
    return _on_coco(_atss(THREE_ANCHORS), RankSortLoss(), lr=0.008)


@experiment
def paa_r50_coco() -> Recipe:
    """Standard PAA: focal loss and an IoU head (40.4 AP)."""
    return _on_coco(_paa(ONE_ANCHOR, auxiliary=True), STANDARD_PAA, lr=0.01)


@experiment
def focal_paa_r50_coco() -> Recipe:
    """PAA with focal loss, without an IoU head (39.9 AP)."""
    return _on_coco(_paa(ONE_ANCHOR), FocalLoss(normalizer=CountOrImages()), lr=0.01)


@experiment
def ap_paa_r50_coco() -> Recipe:
    """PAA with AP Loss, without an IoU head (35.3 AP); the paper gives no learning rate."""
    return _on_coco(_paa(THREE_ANCHORS), APLoss(), lr=0.008)


@experiment
def ap_iou_paa_r50_coco() -> Recipe:
    """PAA with AP Loss and an IoU head (37.3 AP); the paper gives no learning rate."""
    auxiliary = (IoUCrossEntropyLoss(),)
    tasks = {"weighting": IoUWeights(), "balancing": ConstantBalance(weight=1.3), "auxiliary": auxiliary}
    return _on_coco(_paa(THREE_ANCHORS, auxiliary=True), APLoss(tasks=tasks), lr=0.008)


@experiment
def qfl_paa_r50_coco() -> Recipe:
    """PAA with quality focal loss, without an IoU head (40.2 AP, the better of two weightings of the boxes)."""
    return _on_coco(_paa(ONE_ANCHOR), QualityFocalLoss(normalizer=CountOrImages()), lr=0.01)


@experiment
def alrp_paa_r50_coco() -> Recipe:
    """PAA with aLRP Loss, without an IoU head (37.7 AP)."""
    return _on_coco(_paa(THREE_ANCHORS), ALRPLoss(), lr=0.005)


@experiment
def rs_paa_r50_coco() -> Recipe:
    """RS PAA (41.0 AP): no IoU head, nothing to tune but the learning rate."""
    return _on_coco(_rs_paa(), RankSortLoss(), lr=0.008)


@experiment
def atss_shapes() -> Recipe:
    """Standard ATSS on ``shapes``."""
    return _on_shapes(_atss(ONE_ANCHOR, auxiliary=True), STANDARD_ATSS)


@experiment
def rs_atss_shapes() -> Recipe:
    """RS ATSS on ``shapes``: the same network, budget and learning rate."""
    return _on_shapes(_atss(THREE_ANCHORS), RankSortLoss())


@experiment
def paa_shapes() -> Recipe:
    """Standard PAA on ``shapes``."""
    return _on_shapes(_paa(ONE_ANCHOR, auxiliary=True), STANDARD_PAA)


@experiment
def rs_paa_shapes() -> Recipe:
    """RS PAA on ``shapes``: the same network, budget and learning rate."""
    return _on_shapes(_rs_paa(), RankSortLoss())


def _atss(anchor_scales: tuple[float, ...], *, auxiliary: bool = False) -> Part:
    return ATSS(backbone=RESNET_50, dense={"anchor_scales": anchor_scales, "auxiliary": auxiliary})


def _paa(anchor_scales: tuple[float, ...], *, auxiliary: bool = False) -> Part:
    """PAA with the cost of its standard form, whatever the loss."""
    dense = {"anchor_scales": anchor_scales, "auxiliary": auxiliary}
    return PAA(backbone=RESNET_50, dense=dense, cost_giou_weight=1.3, added_variance=1e-6)


def _rs_paa() -> Part:
    """PAA with the cost of the authors' code of RS Loss; their paper says nothing of a change."""
    return PAA(**dict(_paa(THREE_ANCHORS)) | {"cost_giou_weight": 1.0, "added_variance": 1e-5})


def _on_coco(detector: Part, loss: Part, *, lr: float) -> Recipe:
    """12 epochs on COCO with 16 images per iteration, as Faster R-CNN."""
    return Recipe(detector=detector, losses={"dense": loss}, **ON_COCO).changed({"optimizer.lr": lr})


def _on_shapes(detector: Part, loss: Part) -> Recipe:
    """A minute on one core: the backbone, data and optimizer of Faster R-CNN there, smaller images, a thin head."""
    small = {
        "backbone": Tiny(),
        "pyramid_channels": 32,
        "extra_levels": 1,
        "dense": {"convolutions": 2, "groups": 8},
        "test_per_level": 200,
        # In so few iterations scores leave their start, 0.01, but not all of them pass the usual threshold of 0.05. A
        # ranking loss is blind to where they all are.
        "testing": {"score_threshold": 0.01},
    }
    recipe = Recipe(detector=detector, losses={"dense": loss}, **ON_SHAPES)
    return recipe.changed({"detector": small, "data.resize": KeepRatio(long=96, shorts=(96,))})
