"""The detectors of recipes: one file per family, every number of their parts."""

from typing import Annotated

from pydantic import Field

from .backbones import Backbone, FileWeights, HubWeights, Timm, Tiny, WheelWeights
from .one_stage import ATSS, PAA, Dense
from .solov2 import Grids, MaskFeatures, MaskTesting, SOLOv2
from .testing import Testing
from .two_stage import RCNN, RPN, FasterRCNN, Mask, MaskRCNN, Proposals, Sampler

Detector = Annotated[FasterRCNN | MaskRCNN | ATSS | PAA | SOLOv2, Field(discriminator="type")]

__all__ = [
    "ATSS",
    "PAA",
    "RCNN",
    "RPN",
    "Backbone",
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
