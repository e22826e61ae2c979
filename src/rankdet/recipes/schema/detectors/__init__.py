"""The detectors of recipes: one file per family, every number of their parts."""

from typing import Annotated

from pydantic import Field

from .backbones import Backbone, FileWeights, HubWeights, Timm, Tiny, WheelWeights
from .one_stage import ATSS, PAA, Dense
from .solov2 import Grids, MaskFeatures, MaskTesting, SOLOv2
from .testing import Testing
from .two_stage import RCNN, RPN, CascadeRCNN, FasterRCNN, Mask, MaskRCNN, Proposals, Sampler
from .yolact import YOLACT

Detector = Annotated[FasterRCNN | MaskRCNN | CascadeRCNN | ATSS | PAA | YOLACT | SOLOv2, Field(discriminator="type")]

__all__ = [
    "ATSS",
    "PAA",
    "RCNN",
    "RPN",
    "YOLACT",
    "Backbone",
    "CascadeRCNN",
    "Dense",
    "Detector",
    "FasterRCNN",
    "FileWeights",
    "Grids",
    "HubWeights",
    "Mask",
    "MaskFeatures",
    "MaskRCNN",
    "MaskTesting",
    "Proposals",
    "SOLOv2",
    "Sampler",
    "Testing",
    "Timm",
    "Tiny",
    "WheelWeights",
]
