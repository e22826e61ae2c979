"""The detectors of recipes and the parts they are made of. What each takes is written where it is built.

Here are their types, their heads, and checks of fields that are right in themselves and do not fit together.
"""

from collections.abc import Callable
from typing import Annotated, Any

from .fit import DetectorPart, Head
from .part import Choice, Part, choose, part

PLACE = ("in_channels", "strides", "num_classes")
"""What a stage takes from the detector around it."""
STAGES = ("rcnn1", "rcnn2", "rcnn3")

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
    if len({getattr(cascade, stage).softmax for stage in STAGES}) > 1:
        raise ValueError("softmax must be the same in rcnn1, rcnn2 and rcnn3, for their logits are averaged")


def _check_multiple(name: str, value: int, of: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{name} = {value} is no multiple of {of} = {divisor}")


def _check_towers(detector: Any) -> None:
    if detector.dense.convolutions:
        _check_multiple("pyramid_channels", detector.pyramid_channels, "dense.groups", detector.dense.groups)


def _check_grids(grids: Any) -> None:
    if len(grids.sizes) != len(grids.scale_ranges):
        raise ValueError(f"{len(grids.sizes)} sizes but {len(grids.scale_ranges)} scale_ranges")
    if len(grids.sizes) < 3:
        raise ValueError(f"sizes must be those of at least three levels, not {len(grids.sizes)}")
    if grids.convolutions:
        _check_multiple("channels", grids.channels, "groups", grids.groups)


def _check_groups(features: Any) -> None:
    for name in ("channels", "out_channels"):
        _check_multiple(name, getattr(features, name), "groups", features.groups)


def _check_levels(detector: Any) -> None:
    backbone, sizes = detector.backbone, detector.grids.sizes
    maps = getattr(backbone, "out_indices", None) or getattr(backbone, "channels", None)
    if maps is not None and len(maps) + detector.extra_levels != len(sizes):
        raise ValueError(
            f"grids.sizes has {len(sizes)} grids, but the pyramid {len(maps)} levels of the backbone and "
            f"{detector.extra_levels} more"
        )


def _check_encoder(detector: Any) -> None:
    for name, divisor in (
        ("4", 4),
        ("encoder.heads", detector.encoder.heads),
        ("encoder.groups", detector.encoder.groups),
    ):
        _check_multiple("pyramid_channels", detector.pyramid_channels, name, divisor or 1)


def _check_decoder(decoder: Any) -> None:
    for name in ("heads", "groups"):
        _check_multiple("channels", decoder.channels, name, getattr(decoder, name) or 1)


part("rankdet.heads.rpn:RegionProposalNetwork", late=("in_channels", "strides"), check=_check_thresholds)
part("rankdet.heads.box_stage:BoxStage", late=(*PLACE, "class_agnostic"), check=_check_prior)
part("rankdet.heads.mask_stage:MaskStage", late=("in_channels", "num_classes", "boxes"))
part("rankdet.heads.dense:DenseStage", late=PLACE)
part("rankdet.heads.solo:GridStage", late=(*PLACE, "mask_features"), check=_check_grids)
part("rankdet.heads.solo:MaskFeatureSettings", check=_check_groups)
part("rankdet.backbones.hybrid_encoder:HybridEncoder", late=("in_channels", "channels"))
part(
    "rankdet.heads.query_decoder:QueryDecoder", late=("in_channels", "num_levels", "num_classes"), check=_check_decoder
)
part("rankdet.heads.denoising:Denoising", late=("num_classes", "channels"))


def _detector(
    name: str, module: str, heads: Callable[[Any], dict[str, Head]], check: Callable[[Any], None] | None = None
) -> type[Part]:
    """The model of a detector of rankdet, which recipes name by its module."""
    target = f"rankdet.detectors.{module}:{name}"
    return part(target, module, base=DetectorPart, late=("num_classes",), check=check, heads=heads)


def _dense(auxiliary: str) -> Callable[[Any], dict[str, Head]]:
    """The head of a dense detector, with this auxiliary head where it has one."""
    return lambda detector: {
        "dense": Head(centerness=True, per_image=True, auxiliary=(auxiliary,) * detector.dense.auxiliary)
    }


def _queries(detector: Any) -> dict[str, Head]:
    """The heads of RT-DETR: selected cells, then noised queries and queries behind each layer of the decoder."""
    layers = [str(number + 1) for number in range(detector.decoder.layers)]
    noised = [] if detector.denoising is None else [f"denoising{layer}" for layer in layers]
    names = ["encoder", *noised, *(f"decoder{layer}" for layer in layers)]
    return dict.fromkeys(names, Head(per_image=True))


FasterRCNN = _detector(
    "FasterRCNN", "faster_rcnn", lambda detector: {"rpn": Head(), "rcnn": Head(softmax=detector.rcnn.softmax)}
)
MaskRCNN = _detector(
    "MaskRCNN", "mask_rcnn", lambda detector: {"rpn": Head(), "rcnn": Head(softmax=detector.rcnn.softmax, masks=True)}
)
CascadeRCNN = _detector(
    "CascadeRCNN",
    "cascade_rcnn",
    lambda detector: {"rpn": Head()} | {stage: Head(softmax=getattr(detector, stage).softmax) for stage in STAGES},
    _check_stages,
)
ATSS = _detector("ATSS", "atss", _dense("centerness"), _check_towers)
PAA = _detector("PAA", "paa", _dense("iou"), _check_towers)
YOLACT = _detector(
    "YOLACT",
    "yolact",
    lambda detector: {
        "dense": Head(
            softmax=detector.softmax,
            masks=True,
            per_image=True,
            box_shares=True,
            auxiliary=("semantic",) * detector.semantic,
        )
    },
    _check_thresholds,
)
SOLOv2 = _detector("SOLOv2", "solov2", lambda detector: {"grid": Head(boxes=False, masks=True)}, _check_levels)
RTDETR = _detector("RTDETR", "rt_detr", _queries, _check_encoder)
DETECTORS = (FasterRCNN, MaskRCNN, CascadeRCNN, ATSS, PAA, YOLACT, SOLOv2, RTDETR)
Detector = Annotated[Part, Choice(DETECTORS, DetectorPart, ("num_classes",))]
