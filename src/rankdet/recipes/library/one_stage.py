"""ATSS and PAA: the rows of Table 2 of the RS Loss paper (ICCV 2021) on COCO, and small forms for ``shapes``.

What the rows of one detector differ in: the loss, the anchors of a cell, whether there is an auxiliary head, and the
learning rate; in PAA also the cost by which it assigns labels.
"""

from rankdet.recipes.schema.data import KeepRatio
from rankdet.recipes.schema.detectors import ATSS, PAA, Dense, Timm
from rankdet.recipes.schema.losses import (
    ALRP,
    AveragePrecision,
    CenternessCrossEntropy,
    CenternessWeights,
    ConstantBalance,
    CountOrImages,
    CountPerImage,
    Focal,
    GIoU,
    IoUCrossEntropy,
    IoUWeights,
    Loss,
    QualityFocal,
    RankSort,
)
from rankdet.recipes.schema.optimization import SGD, StepSchedule
from rankdet.recipes.schema.recipe import Recipe

from .coco import faster_rcnn_r50_coco
from .shapes import faster_rcnn_shapes

ONE_ANCHOR = (8.0,)
THREE_ANCHORS = (4.0, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))
"""Ranking losses have three anchors per cell; the paper finds that this does not change the result of standard ATSS."""
STANDARD_ATSS = Focal(
    box_loss=GIoU(weight=2.0),
    weighting=CenternessWeights(),
    auxiliary=(CenternessCrossEntropy(weight=1.0),),
    normalizer=CountPerImage(),
)
STANDARD_PAA = Focal(
    box_loss=GIoU(weight=1.3),
    weighting=IoUWeights(),
    auxiliary=(IoUCrossEntropy(weight=0.5),),
    normalizer=CountOrImages(),
)


def atss_r50_coco() -> Recipe:
    """Standard ATSS: focal loss and centerness (39.3 AP)."""
    return _on_coco("atss_r50_coco", _atss(ONE_ANCHOR, auxiliary=True), STANDARD_ATSS, lr=0.01)


def focal_atss_r50_coco() -> Recipe:
    """ATSS with focal loss, without centerness (38.7 AP)."""
    return _on_coco("focal_atss_r50_coco", _atss(ONE_ANCHOR), Focal(normalizer=CountPerImage()), lr=0.01)


def ap_atss_r50_coco() -> Recipe:
    """ATSS with AP Loss, without centerness (38.1 AP); the paper gives no learning rate."""
    return _on_coco("ap_atss_r50_coco", _atss(THREE_ANCHORS), AveragePrecision(), lr=0.008)


def ap_centerness_atss_r50_coco() -> Recipe:
    """ATSS with AP Loss and centerness (37.2 AP); the paper gives no learning rate."""
    loss = AveragePrecision(weighting=CenternessWeights(), auxiliary=(CenternessCrossEntropy(),))
    return _on_coco("ap_centerness_atss_r50_coco", _atss(THREE_ANCHORS, auxiliary=True), loss, lr=0.008)


def qfl_atss_r50_coco() -> Recipe:
    """ATSS with quality focal loss, without centerness (39.7 AP)."""
    return _on_coco("qfl_atss_r50_coco", _atss(ONE_ANCHOR), QualityFocal(normalizer=CountPerImage()), lr=0.01)


def alrp_atss_r50_coco() -> Recipe:
    """ATSS with aLRP Loss, without centerness (37.7 AP)."""
    return _on_coco("alrp_atss_r50_coco", _atss(THREE_ANCHORS), ALRP(), lr=0.005)


def rs_atss_r50_coco() -> Recipe:
    """RS ATSS (39.9 AP): no centerness, nothing to tune but the learning rate."""
    return _on_coco("rs_atss_r50_coco", _atss(THREE_ANCHORS), RankSort(), lr=0.008)


def paa_r50_coco() -> Recipe:
    """Standard PAA: focal loss and an IoU head (40.4 AP)."""
    return _on_coco("paa_r50_coco", _paa(ONE_ANCHOR, auxiliary=True), STANDARD_PAA, lr=0.01)


def focal_paa_r50_coco() -> Recipe:
    """PAA with focal loss, without an IoU head (39.9 AP)."""
    return _on_coco("focal_paa_r50_coco", _paa(ONE_ANCHOR), Focal(normalizer=CountOrImages()), lr=0.01)


def ap_paa_r50_coco() -> Recipe:
    """PAA with AP Loss, without an IoU head (35.3 AP); the paper gives no learning rate."""
    return _on_coco("ap_paa_r50_coco", _paa(THREE_ANCHORS), AveragePrecision(), lr=0.008)


def ap_iou_paa_r50_coco() -> Recipe:
    """PAA with AP Loss and an IoU head (37.3 AP); the paper gives no learning rate."""
    loss = AveragePrecision(
        weighting=IoUWeights(), balancing=ConstantBalance(weight=1.3), auxiliary=(IoUCrossEntropy(),)
    )
    return _on_coco("ap_iou_paa_r50_coco", _paa(THREE_ANCHORS, auxiliary=True), loss, lr=0.008)


def qfl_paa_r50_coco() -> Recipe:
    """PAA with quality focal loss, without an IoU head (40.2 AP, the better of two weightings of the boxes)."""
    return _on_coco("qfl_paa_r50_coco", _paa(ONE_ANCHOR), QualityFocal(normalizer=CountOrImages()), lr=0.01)


def alrp_paa_r50_coco() -> Recipe:
    """PAA with aLRP Loss, without an IoU head (37.7 AP)."""
    return _on_coco("alrp_paa_r50_coco", _paa(THREE_ANCHORS), ALRP(), lr=0.005)


def rs_paa_r50_coco() -> Recipe:
    """RS PAA (41.0 AP): no IoU head, nothing to tune but the learning rate."""
    return _on_coco("rs_paa_r50_coco", _rs_paa(), RankSort(), lr=0.008)


def atss_shapes() -> Recipe:
    """Standard ATSS on ``shapes``."""
    return _on_shapes("atss_shapes", _atss(ONE_ANCHOR, auxiliary=True), STANDARD_ATSS)


def rs_atss_shapes() -> Recipe:
    """RS ATSS on ``shapes``: the same network, budget and learning rate."""
    return _on_shapes("rs_atss_shapes", _atss(THREE_ANCHORS), RankSort())


def paa_shapes() -> Recipe:
    """Standard PAA on ``shapes``."""
    return _on_shapes("paa_shapes", _paa(ONE_ANCHOR, auxiliary=True), STANDARD_PAA)


def rs_paa_shapes() -> Recipe:
    """RS PAA on ``shapes``: the same network, budget and learning rate."""
    return _on_shapes("rs_paa_shapes", _rs_paa(), RankSort())


def _atss(anchor_scales: tuple[float, ...], *, auxiliary: bool = False) -> ATSS:
    return ATSS(backbone=_resnet_50(), dense=Dense(anchor_scales=anchor_scales, auxiliary=auxiliary))


def _paa(anchor_scales: tuple[float, ...], *, auxiliary: bool = False) -> PAA:
    """PAA with the cost of its standard form, whatever the loss."""
    dense = Dense(anchor_scales=anchor_scales, auxiliary=auxiliary)
    return PAA(backbone=_resnet_50(), dense=dense, cost_giou_weight=1.3, added_variance=1e-6)


def _rs_paa() -> PAA:
    """PAA with the cost of the authors' code of RS Loss; their paper says nothing of a change."""
    return _paa(THREE_ANCHORS).model_copy(update={"cost_giou_weight": 1.0, "added_variance": 1e-5})


def _resnet_50() -> Timm:
    backbone = faster_rcnn_r50_coco().detector.backbone
    assert isinstance(backbone, Timm)
    return backbone.model_copy(update={"out_indices": (2, 3, 4)})  # C3–C5


def _on_coco(name: str, detector: ATSS | PAA, loss: Loss, *, lr: float) -> Recipe:
    """12 epochs on COCO with 16 images per iteration, as Faster R-CNN."""
    base = faster_rcnn_r50_coco()
    return Recipe(
        name=name,
        detector=detector,
        losses={"dense": loss},
        data=base.data,
        optimizer=SGD(lr=lr, reference_batch=16),
        schedule=base.schedule,
        evaluation=base.evaluation,
        runtime=base.runtime,
    )


def _on_shapes(name: str, detector: ATSS | PAA, loss: Loss) -> Recipe:
    """A minute on one core: the backbone, data and optimizer of Faster R-CNN there, smaller images, a thin head."""
    base = faster_rcnn_shapes()
    small = {
        "backbone": base.detector.backbone,
        "pyramid_channels": 32,
        "extra_levels": 1,
        "dense": detector.dense.model_copy(update={"convolutions": 2, "groups": 8, "test_per_level": 200}),
        # In so few iterations scores leave their start, 0.01, but not all of them pass the usual threshold of 0.05. A
        # ranking loss is blind to where they all are.
        "testing": detector.testing.model_copy(update={"score_threshold": 0.01}),
    }
    return Recipe(
        name=name,
        detector=detector.model_copy(update=small),
        losses={"dense": loss},
        data=base.data.model_copy(update={"resize": KeepRatio(long=96, shorts=(96,))}),
        optimizer=base.optimizer,
        schedule=StepSchedule(iterations=450, milestones=(0.7, 0.92), warmup_iterations=50, warmup_factor=0.02),
        evaluation=base.evaluation,
        runtime=base.runtime,
    )
