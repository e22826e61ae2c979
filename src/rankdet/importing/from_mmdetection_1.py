"""Names of mmdetection 1.x: no ``roi_head`` before the heads, and the background is class 0.

Classifiers begin with the background there. Class-specific regressors and mask heads also have an entry for the
background, which nothing reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from rankdet.recipes import Recipe
from rankdet.recipes.schema.part import Part

from . import from_mmdetection
from .adapting import Adaptation
from .from_mmdetection import GridNames
from .layout import Layout
from .rules import Rule, background_last, picked

NOTE = (
    "mmdetection 1.x takes boxes to be one pixel wider and higher than x2 − x1, and anchors to lie elsewhere by half a "
    "pixel: detections move by as much; its authors state less than 1 AP for the step to 2.x"
)
"""Note that the command prints."""


GRIDS = GridNames(
    classification="bbox_head.cate_convs",
    kernel="bbox_head.kernel_convs",
    classifier="bbox_head.solo_cate",
    kernels="bbox_head.solo_kernel",
    levels="mask_feat_head.convs_all_levels",
    last="mask_feat_head.conv_pred.0",
)
"""Names of SOLOv2, also in the authors' fork for Rank & Sort Loss; it has no logit of the background."""


def adapt(adaptation: Adaptation, recipe: Recipe, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Record changes of the RoIs, which have no shift of half a pixel and two points per cell and direction."""
    from_mmdetection.adapt(adaptation, recipe, tensors, config)
    heads = recipe.detector.heads
    if "rpn" not in heads:
        return
    adaptation.notes.append(NOTE)
    for stage in heads.keys() - {"rpn"}:
        adaptation.change(f"detector.{stage}.half_pixel_shift", False)
        adaptation.change(f"detector.{stage}.sampling_ratio", 2)


def older(detector: Any, newer: Callable[[Any], Iterator[Rule]]) -> Iterator[Rule]:
    """Yield the rules of 2.x for a detector with the names and class order of 1.x."""
    for each in newer(detector):
        foreign = tuple(name.removeprefix("roi_head.") for name in each.foreign)
        change = CHANGES.get(foreign[0].rpartition(".")[2])
        convert = each.convert if change is None else _both(change, each.convert)
        yield replace(each, foreign=foreign, convert=convert)


def without_background(tensor: Tensor) -> Tensor:
    """Drop the background, the first row: (1 + C, …) → (C, …)."""
    return picked(tensor, range(1, len(tensor)))


def boxes_without_background(tensor: Tensor) -> Tensor:
    """Drop the background, (4 + 4 · C, …) → (4 · C, …); four deltas for all classes are unchanged."""
    return tensor if len(tensor) == 4 else picked(tensor, range(1, len(tensor) // 4), per_row=4)


CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "fc_cls": background_last,
    "fc_reg": boxes_without_background,
    "conv_logits": without_background,
}
"""Conversions of a layer, by the last part of its name."""


def _both(first: Callable[[Tensor], Tensor], second: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda tensor: second(first(tensor))


def _layout(family: str, newer: Callable[[Any], Iterator[Rule]], logits: str, *marks: str) -> Layout:
    """Return the layout of a family whose ``logits`` are those of the background and of each class."""

    def num_classes(tensors: Mapping[str, Tensor], detector: Part, num_categories: int | None) -> int:
        return len(tensors[logits]) - 1

    return Layout(family, (logits, *marks), partial(older, newer=newer), num_classes, (f"{family}_r50_coco",))


LAYOUTS = (
    _layout("mask_rcnn", from_mmdetection.mask_rcnn, "bbox_head.fc_cls.bias", "mask_head.conv_logits.bias"),
    _layout("faster_rcnn", from_mmdetection.faster_rcnn, "bbox_head.fc_cls.bias"),
    from_mmdetection.grid_layout(GRIDS),
    _layout("cascade_rcnn", from_mmdetection.cascade_rcnn, "bbox_head.0.fc_cls.bias"),
)
