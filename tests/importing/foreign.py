"""Names and shapes of foreign state dicts, written as their programs have them, and weights in these layouts.

They were compared with the models that mmdetection 3.3.0 builds from its own configurations; :data:`DIGESTS` are of
these models, so that a change here is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from rankdet.importing.rules import Rule

Shapes = dict[str, tuple[int, ...]]
Inverse = Callable[[Tensor], Tensor]

DIGESTS = {
    "faster-rcnn_r50_fpn_1x_coco": "d8a4738e6bb33acd",
    "mask-rcnn_r50_fpn_1x_coco": "aecbb8d6d0c2e483",
    "cascade-rcnn_r50_fpn_1x_coco": "eb7daffe53f79932",
    "atss_r50_fpn_1x_coco": "585b02e042707d0e",
    "paa_r50_fpn_1x_coco": "585b02e042707d0e",
    "yolact_r50_1xb8-55e_coco": "e0df8346f4ee933f",
    "faster-rcnn_r50_fpn-carafe_1x_coco": "4bd5f67d38594559",
    "faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco": "059c6b401eb34921",
    "solov2_r50_fpn_1x_coco": "b0330cc47e5c0720",
    "solov2-light_r34_fpn_ms-3x_coco": "3c8f507df1e00624",
    "mask-rcnn_x101-64x4d_fpn_1x_coco": "274d77ef3558d8bd",
}
"""Of the lines ``name shape``, sorted, of the models of these configurations of mmdetection 3.3.0."""
CLASSES = 80
R50 = (256, 512, 1024, 2048)
R18 = (64, 128, 256, 512)
"""Channels of the maps of a ResNet."""


def digest(shapes: Mapping[str, Sequence[int]]) -> str:
    """Sixteen digits that tell two tables apart."""
    lines = sorted(f"{name} {list(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def convolution(name: str, out: int, into: int, size: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into, size, size)} | ({f"{name}.bias": (out,)} if bias else {})


def linear(name: str, out: int, into: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def batch_norm(name: str, channels: int, counted: bool = True) -> Shapes:
    shapes = {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}
    return shapes | ({f"{name}.num_batches_tracked": ()} if counted else {})


def resnet(
    name: str, blocks: Sequence[int], bottleneck: bool, counted: bool = True, groups: int = 1, group_width: int = 64
) -> Shapes:
    """torchvision's ResNet or ResNeXt without its classifier; mmdetection has the same."""
    shapes = convolution(f"{name}.conv1", 64, 3, 7, bias=False) | batch_norm(f"{name}.bn1", 64, counted)
    into = 64
    for stage, count in enumerate(blocks):
        width = groups * group_width * 2**stage
        out = 64 * 2**stage * (4 if bottleneck else 1)
        for block in range(count):
            prefix = f"{name}.layer{stage + 1}.{block}"
            sizes = (
                ((into, width, 1), (width // groups, width, 3), (width, out, 1))
                if bottleneck
                else ((into, width, 3), (width, width, 3))
            )
            for number, (before, after, size) in enumerate(sizes, start=1):
                shapes |= convolution(f"{prefix}.conv{number}", after, before, size, bias=False)
                shapes |= batch_norm(f"{prefix}.bn{number}", after, counted)
            if block == 0 and into != out:
                shapes |= convolution(f"{prefix}.downsample.0", out, into, 1, bias=False)
                shapes |= batch_norm(f"{prefix}.downsample.1", out, counted)
            into = out
    return shapes


def deformable(shapes: Shapes, groups: int = 4) -> Shapes:
    """mmdetection's deformable convolutions in the stages that have them."""
    offsets: Shapes = {}
    for name, shape in shapes.items():
        if name.endswith(".conv2.weight") and ".layer1." not in name:
            prefix = name.removesuffix(".weight")
            offsets |= convolution(f"{prefix}.conv_offset", groups * 27, shape[0], 3)
    return shapes | offsets


def resnet50(name: str = "backbone", counted: bool = True) -> Shapes:
    return resnet(name, (3, 4, 6, 3), True, counted)


def resnet18(name: str = "backbone", counted: bool = True) -> Shapes:
    return resnet(name, (2, 2, 2, 2), False, counted)


def pyramid(into: Sequence[int], channels: int, extra: int = 0) -> Shapes:
    """mmdetection's, with further convolutions for coarser levels."""
    shapes: Shapes = {}
    for level, before in enumerate(into):
        shapes |= convolution(f"neck.lateral_convs.{level}.conv", channels, before, 1)
    for level in range(len(into) + extra):
        shapes |= convolution(f"neck.fpn_convs.{level}.conv", channels, channels, 3)
    return shapes


def carafe_pyramid(into: Sequence[int], channels: int) -> Shapes:
    """mmdetection's, with P6 as a lateral."""
    shapes = pyramid(into, channels, extra=1) | convolution(
        f"neck.lateral_convs.{len(into)}.conv", channels, into[-1], 3
    )
    for level in range(len(into)):
        name = f"neck.upsample_modules.{level}"
        shapes |= convolution(f"{name}.channel_compressor", 64, channels, 1)
        shapes |= convolution(f"{name}.content_encoder", 100, 64, 3)
    return shapes


def rpn(channels: int) -> Shapes:
    return (
        convolution("rpn_head.rpn_conv", channels, channels, 3)
        | convolution("rpn_head.rpn_cls", 3, channels, 1)
        | convolution("rpn_head.rpn_reg", 12, channels, 1)
    )


def box_head(name: str, channels: int, width: int, logits: int, deltas: int) -> Shapes:
    return (
        linear(f"{name}.shared_fcs.0", width, channels * 49)
        | linear(f"{name}.shared_fcs.1", width, width)
        | linear(f"{name}.fc_cls", logits, width)
        | linear(f"{name}.fc_reg", deltas, width)
    )


def mask_head(name: str, channels: int, classes: int) -> Shapes:
    shapes = convolution(f"{name}.conv_logits", classes, channels, 1) | convolution(
        f"{name}.upsample", channels, channels, 2
    )
    for number in range(4):
        shapes |= convolution(f"{name}.convs.{number}.conv", channels, channels, 3)
    return shapes


def normalized(name: str, out: int, into: int, size: int) -> Shapes:
    """A convolution with group normalization."""
    norm: Shapes = {f"{name}.gn.weight": (out,), f"{name}.gn.bias": (out,)}
    return convolution(f"{name}.conv", out, into, size, bias=False) | norm


def tower(name: str, channels: int, count: int = 4, into: int | None = None) -> Shapes:
    shapes: Shapes = {}
    for number in range(count):
        before = into if into is not None and number == 0 else channels
        shapes |= normalized(f"{name}.{number}", channels, before, 3)
    return shapes


def faster_rcnn(
    sigmoid: bool = False,
    into: Sequence[int] = R50,
    classes: int = CLASSES,
    channels: int = 256,
    width: int = 1024,
) -> Shapes:
    """mmdetection 2.x and 3.x; with a sigmoid the authors' fork."""
    head = box_head("roi_head.bbox_head", channels, width, classes + (not sigmoid), 4 * classes)
    return pyramid(into, channels) | rpn(channels) | head


def mask_rcnn(
    sigmoid: bool = False,
    into: Sequence[int] = R50,
    classes: int = CLASSES,
    channels: int = 256,
    width: int = 1024,
) -> Shapes:
    boxes = faster_rcnn(sigmoid, into, classes, channels, width)
    return boxes | mask_head("roi_head.mask_head", channels, classes)


def cascade_rcnn(
    sigmoid: bool = False,
    into: Sequence[int] = R50,
    classes: int = CLASSES,
    channels: int = 256,
    width: int = 1024,
) -> Shapes:
    shapes = pyramid(into, channels) | rpn(channels)
    for stage in range(3):
        shapes |= box_head(f"roi_head.bbox_head.{stage}", channels, width, classes + (not sigmoid), 4)
    return shapes


def yolact(
    semantic: str | None = None, into: Sequence[int] = R50, classes: int = CLASSES, channels: int = 256
) -> Shapes:
    """With a semantic head under this name and a softmax; without one and with a sigmoid in the authors' fork."""
    shapes = pyramid(into[1:], channels)
    for level, before in ((3, into[-1]), (4, channels)):
        shapes |= convolution(f"neck.fpn_convs.{level}.conv", channels, before, 3)
    shapes |= convolution("bbox_head.head_convs.0.conv", channels, channels, 3)
    shapes |= convolution("bbox_head.conv_cls", 3 * (classes + (semantic is not None)), channels, 3)
    shapes |= convolution("bbox_head.conv_reg", 12, channels, 3)
    shapes |= convolution("bbox_head.conv_coeff", 3 * 32, channels, 3)
    for layer in (0, 2, 4, 8):
        shapes |= convolution(f"mask_head.protonet.{layer}", channels, channels, 3)
    shapes |= convolution("mask_head.protonet.10", 32, channels, 1)
    return shapes | (convolution(semantic, classes, channels, 1) if semantic else {})


def dense(
    anchors: int, auxiliary: bool, into: Sequence[int] = R50, classes: int = CLASSES, channels: int = 256
) -> Shapes:
    """ATSS and PAA."""
    shapes = pyramid(into[1:], channels, extra=2)
    shapes |= tower("bbox_head.cls_convs", channels) | tower("bbox_head.reg_convs", channels)
    shapes |= convolution("bbox_head.atss_cls", anchors * classes, channels, 3)
    shapes |= convolution("bbox_head.atss_reg", anchors * 4, channels, 3)
    if auxiliary:
        shapes |= convolution("bbox_head.atss_centerness", anchors, channels, 3)
    return shapes | {f"bbox_head.scales.{level}.scale": () for level in range(5)}


def solov2(
    older: bool,
    into: Sequence[int] = R50,
    classes: int = CLASSES,
    channels: int = 256,
    width: int = 512,
    layers: int = 4,
    kernel: int = 256,
    features: int = 128,
) -> Shapes:
    """By the names of mmdetection 1.x (its authors' code, and the fork for Rank & Sort Loss), or of 2.x and 3.x."""
    head, towers = ("bbox_head", "cate_convs") if older else ("mask_head", "cls_convs")
    scores, kernels = ("solo_cate", "solo_kernel") if older else ("conv_cls", "conv_kernel")
    mask_features = "mask_feat_head" if older else "mask_head.mask_feature_head"
    shapes = pyramid(into, channels)
    shapes |= tower(f"{head}.{towers}", width, layers, channels)
    shapes |= tower(f"{head}.kernel_convs", width, layers, channels + 2)
    shapes |= convolution(f"{head}.{scores}", classes, width, 3) | convolution(f"{head}.{kernels}", kernel, width, 3)
    for level in range(4):
        for step in range(max(level, 1)):
            before = features if step else channels + 2 * (level == 3)
            shapes |= normalized(f"{mask_features}.convs_all_levels.{level}.conv{step}", features, before, 3)
    return shapes | normalized(f"{mask_features}.conv_pred{'.0' if older else ''}", kernel, features, 1)


def torchvision_mask_rcnn(
    older: bool, into: Sequence[int] = R50, rows: int = 91, channels: int = 256, width: int = 1024
) -> Shapes:
    """By the names of torchvision before 0.13, or since."""
    end = "" if older else ".0"
    shapes: Shapes = {}
    for level, before in enumerate(into):
        shapes |= convolution(f"backbone.fpn.inner_blocks.{level}{end}", channels, before, 1)
        shapes |= convolution(f"backbone.fpn.layer_blocks.{level}{end}", channels, channels, 3)
    shapes |= convolution("rpn.head.conv" if older else "rpn.head.conv.0.0", channels, channels, 3)
    shapes |= convolution("rpn.head.cls_logits", 3, channels, 1) | convolution("rpn.head.bbox_pred", 12, channels, 1)
    shapes |= linear("roi_heads.box_head.fc6", width, channels * 49) | linear("roi_heads.box_head.fc7", width, width)
    shapes |= linear("roi_heads.box_predictor.cls_score", rows, width)
    shapes |= linear("roi_heads.box_predictor.bbox_pred", 4 * rows, width)
    for number in range(4):
        name = f"roi_heads.mask_head.mask_fcn{number + 1}" if older else f"roi_heads.mask_head.{number}.0"
        shapes |= convolution(name, channels, channels, 3)
    shapes |= convolution("roi_heads.mask_predictor.conv5_mask", channels, channels, 2)
    return shapes | convolution("roi_heads.mask_predictor.mask_fcn_logits", rows, channels, 1)


def older_of(shapes: Shapes) -> Shapes:
    """The same detector in mmdetection 1.x: other prefixes, one class more."""
    changed = {name.removeprefix("roi_head."): shape for name, shape in shapes.items()}
    for name, shape in changed.items():
        is_of_class = ".fc_reg." in name and shape[0] > 4
        extra = 4 if is_of_class else 1 if ".conv_logits." in name else 0
        changed[name] = (shape[0] + extra, *shape[1:]) if extra else shape
    return changed


def numbered(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Tensors that take no memory, each filled with a number of its own."""
    return {name: torch.tensor(float(place)).expand(tuple(shape)) for place, (name, shape) in enumerate(shapes.items())}


def written(weights: Mapping[str, Tensor], rules: Iterable[Rule], inverses: Mapping[str, Inverse]) -> dict[str, Tensor]:
    """Weights of a detector here in a foreign layout; what is not only renamed needs an inverse by its own prefix."""
    foreign: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        rule = max((each for each in rules_of(name, rules)), key=lambda each: len(each.own))
        suffix, sources = name[len(rule.own) :], rule.foreign
        if len(sources) > 1:
            foreign |= dict(zip(sources, tensor, strict=True))
        else:
            foreign[sources[0] + suffix] = inverses.get(rule.own, lambda same: same)(tensor)
    return foreign


def rules_of(name: str, rules: Iterable[Rule]) -> Iterator[Rule]:
    return (each for each in rules if name == each.own or name.startswith(f"{each.own}."))
