"""ATSS and PAA: the rows of Table 2 of the RS Loss paper (ICCV 2021) on COCO, varifocal loss beside them, and small
forms for ``shapes`` and BCCD.

What the rows of one detector differ in: the loss, the anchors of a cell, whether there is an auxiliary head, and the
learning rate; in PAA also the cost by which it assigns labels.
"""

from collections.abc import Mapping

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
    VarifocalLoss,
)
from rankdet.recipes.schema.part import Part
from rankdet.recipes.schema.recipe import Recipe

from .bccd import LITE0, ON_BCCD
from .coco import ON_COCO, resnet
from .experiment import Experiment
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
AP_CENTERNESS = APLoss(tasks={"weighting": CenternessWeights(), "auxiliary": (CenternessCrossEntropyLoss(),)})
AP_IOU = APLoss(
    tasks={
        "weighting": IoUWeights(),
        "balancing": ConstantBalance(weight=1.3),
        "auxiliary": (IoUCrossEntropyLoss(),),
    }
)
PAA_COST = {"cost_giou_weight": 1.3, "added_variance": 1e-6}
RS_PAA_COST = {"cost_giou_weight": 1.0, "added_variance": 1e-5}
"""The cost in the authors' code of RS Loss; their paper says nothing of a change from the standard one."""


def _on_coco(detector: type[Part], loss: Part, lr: float, cost: Mapping[str, float]) -> Experiment:
    """12 epochs on COCO with 16 images per iteration, as Faster R-CNN."""
    ranks = isinstance(loss, APLoss | ALRPLoss | RankSortLoss)
    has_auxiliary = not isinstance(loss, ALRPLoss) and bool(loss.tasks.auxiliary)
    dense = {"anchor_scales": THREE_ANCHORS if ranks else ONE_ANCHOR, "auxiliary": has_auxiliary}
    made = detector(backbone=RESNET_50, dense=dense, **cost)
    return Experiment(lambda: Recipe(detector=made, losses={"dense": loss}, **ON_COCO), {"optimizer.lr": lr})


def _atss(loss: Part, lr: float) -> Experiment:
    return _on_coco(ATSS, loss, lr, {})


def _paa(loss: Part, lr: float, cost: Mapping[str, float] = PAA_COST) -> Experiment:
    return _on_coco(PAA, loss, lr, cost)


atss_r50_coco = _atss(STANDARD_ATSS, 0.01).described("Standard ATSS: focal loss and centerness (39.3 AP).")
focal_atss_r50_coco = _atss(FocalLoss(normalizer=CountPerImage()), 0.01).described(
    "ATSS with focal loss, without centerness (38.7 AP)."
)
ap_atss_r50_coco = _atss(APLoss(), 0.008).described(
    "ATSS with AP Loss, without centerness (38.1 AP); the paper gives no learning rate."
)
ap_centerness_atss_r50_coco = _atss(AP_CENTERNESS, 0.008).described(
    "ATSS with AP Loss and centerness (37.2 AP); the paper gives no learning rate."
)
qfl_atss_r50_coco = _atss(QualityFocalLoss(normalizer=CountPerImage()), 0.01).described(
    "ATSS with quality focal loss, without centerness (39.7 AP)."
)
vfl_atss_r50_coco = _atss(VarifocalLoss(), 0.01).described(
    "ATSS with varifocal loss, without centerness; no row of the paper."
)
alrp_atss_r50_coco = _atss(ALRPLoss(), 0.005).described("ATSS with aLRP Loss, without centerness (37.7 AP).")
rs_atss_r50_coco = _atss(RankSortLoss(), 0.008).described(
    "RS ATSS (39.9 AP): no centerness, nothing to tune but the learning rate."
)
paa_r50_coco = _paa(STANDARD_PAA, 0.01).described("Standard PAA: focal loss and an IoU head (40.4 AP).")
focal_paa_r50_coco = _paa(FocalLoss(normalizer=CountOrImages()), 0.01).described(
    "PAA with focal loss, without an IoU head (39.9 AP)."
)
ap_paa_r50_coco = _paa(APLoss(), 0.008).described(
    "PAA with AP Loss, without an IoU head (35.3 AP); the paper gives no learning rate."
)
ap_iou_paa_r50_coco = _paa(AP_IOU, 0.008).described(
    "PAA with AP Loss and an IoU head (37.3 AP); the paper gives no learning rate."
)
qfl_paa_r50_coco = _paa(QualityFocalLoss(normalizer=CountOrImages()), 0.01).described(
    "PAA with quality focal loss, without an IoU head (40.2 AP, the better of two weightings of the boxes)."
)
alrp_paa_r50_coco = _paa(ALRPLoss(), 0.005).described("PAA with aLRP Loss, without an IoU head (37.7 AP).")
rs_paa_r50_coco = _paa(RankSortLoss(), 0.008, RS_PAA_COST).described(
    "RS PAA (41.0 AP): no IoU head, nothing to tune but the learning rate."
)

SMALL = {
    "detector": {
        "backbone": Tiny(),
        "pyramid_channels": 32,
        "extra_levels": 1,
        "dense": {"convolutions": 2, "groups": 8},
        "test_per_level": 200,
        # In so few iterations scores leave their start, 0.01, but not all of them pass the usual threshold of 0.05. A
        # ranking loss is blind to where they all are.
        "testing": {"score_threshold": 0.01},
    },
    "data.resize": KeepRatio(long=96, shorts=(96,)),
}
"""A minute on one core: a tiny backbone, a thin head and smaller images than those of Faster R-CNN on ``shapes``."""
atss_shapes = Experiment(atss_r50_coco, ON_SHAPES, SMALL).described("Standard ATSS on ``shapes``.")
rs_atss_shapes = Experiment(rs_atss_r50_coco, ON_SHAPES, SMALL).described(
    "RS ATSS on ``shapes``: the same network, budget and learning rate."
)
paa_shapes = Experiment(paa_r50_coco, ON_SHAPES, SMALL).described("Standard PAA on ``shapes``.")
rs_paa_shapes = Experiment(rs_paa_r50_coco, ON_SHAPES, SMALL).described(
    "RS PAA on ``shapes``: the same network, budget and learning rate."
)

ON_CELLS = {
    "detector": {
        "backbone": LITE0,
        "pyramid_channels": 64,
        "extra_levels": 1,
        "dense": {"convolutions": 2, "groups": 8},
        "testing": {"score_threshold": 0.01},  # as on ``shapes``
    },
}
"""About the time of Faster R-CNN on BCCD."""
atss_lite0_bccd = Experiment(atss_r50_coco, ON_BCCD, ON_CELLS).described("Standard ATSS on BCCD.")
rs_atss_lite0_bccd = Experiment(rs_atss_r50_coco, ON_BCCD, ON_CELLS).described(
    "RS ATSS on BCCD: the same network, budget and learning rate."
)
