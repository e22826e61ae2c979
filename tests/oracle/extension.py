"""What mmdetection needs of mmcv's compiled extension, by torchvision: its wheel without compiled code lacks it.

Suppression and RoIAlign; whatever else is called raises. A compiled extension, where there is one, is left alone.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms
from torchvision.ops import roi_align

NAME = "mmcv._ext"


class Extension(ModuleType):
    """Stands for the compiled module."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*arguments: object, **options: object) -> None:
            raise NotImplementedError(f"{name} of mmcv's compiled extension has no stand-in here")

        return missing


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Rows that remain, best score first."""
    if offset:
        raise NotImplementedError("boxes whose width is x2 − x1 + 1")
    return torchvision_nms(boxes, scores, float(iou_threshold))


def roi_align_forward(
    features: Tensor, rois: Tensor, output: Tensor, *rows_and_columns_of_maxima: Tensor, **settings: Any
) -> None:
    """RoIAlign by means, written into ``output``."""
    output.copy_(_pool(features, rois, **settings))


def roi_align_backward(
    gradient: Tensor, rois: Tensor, rows: Tensor, columns: Tensor, features_gradient: Tensor, **settings: Any
) -> None:
    """The gradient in the features, written into ``features_gradient``; pooling is linear, whatever the features."""
    with torch.enable_grad():
        features = torch.zeros_like(features_gradient, requires_grad=True)
        (found,) = torch.autograd.grad(_pool(features, rois, **settings), features, gradient)
    features_gradient.copy_(found)


def _pool(
    features: Tensor,
    rois: Tensor,
    *,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> Tensor:
    if pool_mode != 1:
        raise NotImplementedError("RoIAlign by maxima")
    return roi_align(features, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)


def install() -> None:
    """Put the stand-in where mmcv looks for its extension."""
    if NAME in sys.modules or importlib.util.find_spec(NAME) is not None:
        return
    extension = Extension(NAME)
    extension.__spec__ = importlib.util.spec_from_loader(NAME, loader=None)
    for function in (nms, roi_align_forward, roi_align_backward):
        setattr(extension, function.__name__, function)
    sys.modules[NAME] = extension
