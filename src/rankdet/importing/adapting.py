"""Changes of a recipe that a foreign checkpoint requires, by its backbone and by the configuration in the file."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rankdet.recipes import Recipe
from rankdet.recipes.changes import merged, nested
from rankdet.recipes.schema.detectors import Timm
from rankdet.structures import InputError

from .config_text import found

Fields = dict[str, Any]
"""Nested fields of a recipe."""
Reader = Callable[[Any], Any]
"""Function from a configuration's model to a value, or None."""

RESNETS: dict[tuple[tuple[int, ...], int, tuple[int, int]], str] = {
    # (blocks of each stage, convolutions of a block, channels and channels per group of its 3x3 convolution)
    ((2, 2, 2, 2), 2, (64, 64)): "resnet18.tv_in1k",
    ((3, 4, 6, 3), 2, (64, 64)): "resnet34.tv_in1k",
    ((3, 4, 6, 3), 3, (64, 64)): "resnet50.tv_in1k",
    ((3, 4, 23, 3), 3, (64, 64)): "resnet101.tv_in1k",
    ((3, 8, 36, 3), 3, (64, 64)): "resnet152.tv_in1k",
    ((3, 4, 6, 3), 3, (128, 4)): "resnext50_32x4d.tv_in1k",
    ((3, 4, 23, 3), 3, (128, 4)): "resnext101_32x4d.gluon_in1k",
    ((3, 4, 23, 3), 3, (256, 8)): "resnext101_32x8d.tv_in1k",
    ((3, 4, 23, 3), 3, (256, 4)): "resnext101_64x4d.tv_in1k",
}
"""timm's networks that mmdetection and torchvision also have, by the shapes of their weights."""
BLOCK = re.compile(r"layer(\d)\.(\d+)\.conv(\d)\.weight")


@dataclass
class Adaptation:
    """Changes of a recipe, and what a user should know about them."""

    fields: Fields = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_bgr: bool = False
    """True if the network reads blue, green, red."""

    def change(self, name: str, value: Any) -> None:
        """Set a field of the recipe by its dotted name."""
        self.fields = merged(self.fields, nested({name: value}))


def backbone_name(tensors: Mapping[str, Tensor], prefix: str) -> str | None:
    """Return timm's name of the ResNet under a prefix, or None if it is not known."""
    blocks: dict[int, set[int]] = {}
    convolutions = set()
    for name in tensors:
        match = BLOCK.fullmatch(name.removeprefix(f"{prefix}."))
        if match and name.startswith(f"{prefix}."):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
            convolutions.add(int(match[3]))
    if sorted(blocks) != [1, 2, 3, 4]:
        return None
    inner = tensors.get(f"{prefix}.layer1.0.conv2.weight")
    width = (0, 0) if inner is None else (inner.shape[0], inner.shape[1])
    return RESNETS.get((tuple(len(blocks[stage]) for stage in (1, 2, 3, 4)), max(convolutions), width))


def take_backbone(adaptation: Adaptation, recipe: Recipe, name: str | None) -> None:
    """Record a change to the backbone of the file, with timm's weights of that name for a training from the start."""
    own = recipe.detector.backbone
    if name is not None and isinstance(own, Timm) and own.name.partition(".")[0] != name.partition(".")[0]:
        adaptation.change("detector.backbone.name", name)
        adaptation.change("detector.backbone.weights", {"type": "hub", "name": name})


def adapted(recipe: Recipe, adaptation: Adaptation) -> Recipe:
    """Return the recipe with the changes."""
    return recipe.changed(adaptation.fields)


def adapt_to_config(adaptation: Adaptation, recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Record the changes that the configuration in a file of mmdetection requires.

    Raises
    ------
    InputError
        When the network has a form that no recipe has.
    """
    model = config.get("model")
    if not isinstance(model, dict):
        adaptation.notes.append(
            "the file holds no configuration: pixels are taken to be RGB, ResNets to stride in their 3x3 convolutions, "
            f"box coding and anchors to be those of the recipe {recipe.name}"
        )
        return
    _check(model)
    _take_pixels(adaptation, recipe, config)
    for name, read in CARRIED.get(recipe.detector.type, {}).items():
        value, own = read(model), _field(recipe, name)
        # Another number of anchors is another network, which the shapes show.
        if value is not None and _length(value) == _length(own) and not _is_same(value, own):
            adaptation.change(name, value)


REFUSED: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (
        ("neck", "add_extra_convs"),
        lambda value: value == "on_lateral",
        "makes coarser levels of laterals, and pyramids here make them of outputs",
    ),
    (("neck", "relu_before_extra_convs"), bool, "has a ReLU between coarser levels, and pyramids here have none"),
    *(
        ((head, "anchor_generator", "center_offset"), bool, "shifts anchors, which here stand at corners of cells")
        for head in ("rpn_head", "bbox_head")
    ),
)
"""Values of a configuration that no tensor shows and no recipe has, and their effect."""


def _check(model: Mapping[str, Any]) -> None:
    backbone = found(model, "backbone")
    if found(backbone, "style") == "caffe" and found(backbone, "depth") not in (18, 34):
        raise InputError(
            "its backbone is of caffe style: it strides in the first 1x1 convolution of a block, and the ResNets here "
            "in the 3x3 one, which with these weights would find next to nothing"
        )
    for path, is_refused, reason in REFUSED:
        value = found(model, *path)
        if is_refused(value):
            raise InputError(f"its configuration ({'.'.join(path)} = {value}) {reason}")


def _take_pixels(adaptation: Adaptation, recipe: Recipe, config: Mapping[str, Any]) -> None:
    preprocessor, normalization = found(config, "model", "data_preprocessor"), found(config, "img_norm_cfg")
    source, key = (preprocessor, "bgr_to_rgb") if preprocessor else (normalization, "to_rgb")
    mean, std = found(source, "mean"), found(source, "std")
    if not _are_numbers(mean, 3) or not _are_numbers(std, 3):
        adaptation.notes.append("the configuration in the file says nothing of the pixels: they are taken to be RGB")
        return
    # By default the preprocessor of 3.x leaves images as OpenCV reads them, and normalization does not.
    adaptation.is_bgr = not found(source, key) if preprocessor else found(source, key) is False
    if adaptation.is_bgr:
        mean, std = mean[::-1], std[::-1]
    for name, value in (("mean", mean), ("std", std)):
        if not _is_same(value, _field(recipe, f"detector.backbone.{name}")):
            adaptation.change(f"detector.backbone.{name}", value)


def _coder(*path: str | int) -> Reader:
    """Return a reader of a box coder's stds, which raises InputError unless its means are 0."""

    def read(model: Any) -> Any:
        head = found(model, *path)
        if head is None and path[0] == "roi_head":  # in 1.x heads are part of the model, and stds of the head
            head = found(model, *path[1:])
        coder = found(head, "bbox_coder") or head
        means = found(coder, "target_means")
        if _are_numbers(means, 4) and any(means):
            raise InputError(f"its {'.'.join(map(str, path))} codes boxes with means {means}; here they are 0")
        stds = found(coder, "target_stds")
        return stds if _are_numbers(stds, 4) else None

    return read


def _number(*path: str) -> Reader:
    """Return a reader of one number."""

    def read(model: Any) -> Any:
        value = found(model, *path)
        return value if isinstance(value, int | float) else None

    return read


def _numbers(*paths: tuple[str, ...]) -> Reader:
    """Return a reader of the numbers at the first of these paths that is there: names differ between versions."""

    def read(model: Any) -> Any:
        values = next((value for path in paths if (value := found(model, *path))), None)
        return values if _are_numbers(values, None) else None

    return read


def _anchor_scale(model: Any) -> Any:
    scales = _numbers(("rpn_head", "anchor_generator", "scales"), ("rpn_head", "anchor_scales"))(model)
    return scales[0] if _are_numbers(scales, 1) else None


def _octaves(model: Any) -> Any:
    base, number = _base_scale(model), found(model, "bbox_head", "anchor_generator", "scales_per_octave")
    if base is None or not isinstance(number, int):
        return None
    return [base * 2 ** (octave / number) for octave in range(number)]


def _stage(name: str, *head: str | int) -> dict[str, Reader]:
    """Return the fields of a stage behind the RPN, and their readers."""
    pooling = ("roi_head", "bbox_roi_extractor")
    return {
        f"detector.{name}.delta_stds": _coder("roi_head", "bbox_head", *head),
        f"detector.{name}.finest_scale": _number(*pooling, "finest_scale"),
        f"detector.{name}.sampling_ratio": _number(*pooling, "roi_layer", "sampling_ratio"),
        f"detector.{name}.half_pixel_shift": _number(*pooling, "roi_layer", "aligned"),
    }


_base_scale = _number("bbox_head", "anchor_generator", "octave_base_scale")
RPN: dict[str, Reader] = {
    "detector.rpn.delta_stds": _coder("rpn_head"),
    "detector.rpn.anchor_scale": _anchor_scale,
    "detector.rpn.anchor_ratios": _numbers(("rpn_head", "anchor_generator", "ratios"), ("rpn_head", "anchor_ratios")),
}
RCNN = RPN | _stage("rcnn")
DENSE: dict[str, Reader] = {"detector.dense.delta_stds": _coder("bbox_head"), "detector.dense.anchor_scales": _octaves}
YOLACT: dict[str, Reader] = {
    "detector.delta_stds": _coder("bbox_head"),
    "detector.anchor_scale": _base_scale,
    "detector.anchor_ratios": _numbers(("bbox_head", "anchor_generator", "ratios")),
}
CARRIED = {
    "faster_rcnn": RCNN,
    "mask_rcnn": RCNN,
    "cascade_rcnn": RPN | _stage("rcnn1", 0) | _stage("rcnn2", 1) | _stage("rcnn3", 2),
    "atss": DENSE,
    "paa": DENSE,
    "yolact": YOLACT,
    "solov2": {"detector.grids.sizes": _numbers(("mask_head", "num_grids"), ("bbox_head", "num_grids"))},
}
"""For each type of detector the fields of the recipe, and the functions that read them from a configuration's model."""


def _field(recipe: Recipe, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), recipe)


def _are_numbers(value: Any, count: int | None) -> bool:
    is_list = isinstance(value, list) and len(value) > 0 and count in (None, len(value))
    return is_list and all(isinstance(entry, int | float) for entry in value)


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list | tuple) else None


def _is_same(value: Any, own: Any) -> bool:
    """Return True if two numbers, or rows of numbers, are equal up to rounding."""
    if own is None:
        return False
    values, owns = ([entry] if isinstance(entry, int | float) else list(entry) for entry in (value, own))
    return len(values) == len(owns) and all(map(math.isclose, values, owns))
