"""The detectors of recipes and the parts they are made of. What each takes is written where it is built.

Here are their types, their heads, and checks of fields that are right in themselves and do not fit together.
"""

from typing import Annotated, Any

from .fit import DetectorPart, Head
from .part import Choice, Part, choose, part

PLACE = ("in_channels", "strides", "num_classes")
"""What a stage takes from the detector around it."""

HubWeights = part("rankdet.backbones.weights:HubWeights", "hub")
FileWeights = part("rankdet.backbones.weights:FileWeights", "file")
WheelWeights = part("rankdet.backbones.weights:WheelWeights", "wheel")
Timm = part("rankdet.backbones.timm_backbone:TimmBackbone", "timm")
Tiny = part("rankdet.backbones.tiny:TinyBackbone", "tiny")
choose("rankdet.backbones:Backbone", Timm, Tiny)


def _check_thresholds(stage: Any) -> None:
    if stage.positive_iou < stage.negative_iou:
        raise ValueError(f"positive_iou = {stage.positive_iou} is below negative_iou = {stage.negative_iou}")


def _check_prior(stage: Any) -> None:
    if stage.softmax and stage.prior != 0.5:
        raise ValueError(f"prior = {stage.prior} is that of a sigmoid, but softmax is true")


def _check_stages(cascade: Any) -> None:
    if len({stage.softmax for stage in (cascade.rcnn1, cascade.rcnn2, cascade.rcnn3)}) > 1:
        raise ValueError("softmax must be the same in rcnn1, rcnn2 and rcnn3, for their logits are averaged")


def _check_towers(detector: Any) -> None:
    groups = detector.dense.groups
    if detector.dense.convolutions and detector.pyramid_channels % groups:
        raise ValueError(f"pyramid_channels = {detector.pyramid_channels} is no multiple of dense.groups = {groups}")


def _check_grids(grids: Any) -> None:
    if len(grids.sizes) != len(grids.scale_ranges):
        raise ValueError(f"{len(grids.sizes)} sizes but {len(grids.scale_ranges)} scale_ranges")
    if len(grids.sizes) < 3:
        raise ValueError(f"sizes must be those of at least three levels, not {len(grids.sizes)}")
    if grids.convolutions and grids.channels % grids.groups:
        raise ValueError(f"channels = {grids.channels} is no multiple of groups = {grids.groups}")


def _check_groups(features: Any) -> None:
    for name in ("channels", "out_channels"):
        if getattr(features, name) % features.groups:
            raise ValueError(f"{name} = {getattr(features, name)} is no multiple of groups = {features.groups}")


def _check_levels(detector: Any) -> None:
    backbone, sizes = detector.backbone, detector.grids.sizes
    maps = getattr(backbone, "out_indices", None) or getattr(backbone, "channels", None)
    if maps is not None and len(maps) + detector.extra_levels != len(sizes):
        raise ValueError(
            f"grids.sizes has {len(sizes)} grids, but the pyramid {len(maps)} levels of the backbone and "
            f"{detector.extra_levels} more"
        )


part("rankdet.heads.rpn:RegionProposalNetwork", late=("in_channels", "strides"), check=_check_thresholds)
part("rankdet.heads.box_stage:BoxStage", late=(*PLACE, "class_agnostic"), check=_check_prior)
part("rankdet.heads.mask_stage:MaskStage", late=("in_channels", "num_classes", "boxes"))
part("rankdet.heads.dense:DenseStage", late=PLACE)
part("rankdet.heads.solo:GridStage", late=(*PLACE, "mask_features"), check=_check_grids)
part("rankdet.heads.solo:MaskFeatureSettings", check=_check_groups)

FasterRCNN = part(
    "rankdet.detectors.faster_rcnn:FasterRCNN",
    "faster_rcnn",
    base=DetectorPart,
    late=("num_classes",),
    heads=lambda detector: {"rpn": Head(), "rcnn": Head(softmax=detector.rcnn.softmax)},
)
MaskRCNN = part(
    "rankdet.detectors.mask_rcnn:MaskRCNN",
    "mask_rcnn",
    base=DetectorPart,
    late=("num_classes",),
    heads=lambda detector: {"rpn": Head(), "rcnn": Head(softmax=detector.rcnn.softmax, masks=True)},
)
CascadeRCNN = part(
    "rankdet.detectors.cascade_rcnn:CascadeRCNN",
    "cascade_rcnn",
    base=DetectorPart,
    late=("num_classes",),
    check=_check_stages,
    heads=lambda detector: (
        {"rpn": Head()} | {name: Head(softmax=getattr(detector, name).softmax) for name in ("rcnn1", "rcnn2", "rcnn3")}
    ),
)
ATSS = part(
    "rankdet.detectors.atss:ATSS",
    "atss",
    base=DetectorPart,
    late=("num_classes",),
    check=_check_towers,
    heads=lambda detector: {
        "dense": Head(centerness=True, per_image=True, auxiliary=("centerness",) * detector.dense.auxiliary)
    },
)
PAA = part(
    "rankdet.detectors.paa:PAA",
    "paa",
    base=DetectorPart,
    late=("num_classes",),
    check=_check_towers,
    heads=lambda detector: {
        "dense": Head(centerness=True, per_image=True, auxiliary=("iou",) * detector.dense.auxiliary)
    },
)
YOLACT = part(
    "rankdet.detectors.yolact:YOLACT",
    "yolact",
    base=DetectorPart,
    late=("num_classes",),
    check=_check_thresholds,
    heads=lambda detector: {
        "dense": Head(
            softmax=detector.softmax,
            masks=True,
            per_image=True,
            box_shares=True,
            auxiliary=("semantic",) * detector.semantic,
        )
    },
)
SOLOv2 = part(
    "rankdet.detectors.solov2:SOLOv2",
    "solov2",
    base=DetectorPart,
    late=("num_classes",),
    check=_check_levels,
    heads=lambda detector: {"grid": Head(boxes=False, masks=True)},
)
Detector = Annotated[
    Part, Choice((FasterRCNN, MaskRCNN, CascadeRCNN, ATSS, PAA, YOLACT, SOLOv2), DetectorPart, ("num_classes",))
]
