"""The detectors of recipes: one file per family, every number of their parts."""

from typing import Annotated

from pydantic import Field

from .backbones import Backbone, FileWeights, HubWeights, Timm, Tiny, WheelWeights
from .one_stage import ATSS, PAA, Dense
from .testing import Testing
from .two_stage import RCNN, RPN, CascadeRCNN, FasterRCNN, Mask, MaskRCNN, Proposals, Sampler
from .yolact import YOLACT

Detector = Annotated[FasterRCNN | MaskRCNN | CascadeRCNN | ATSS | PAA | YOLACT, Field(discriminator="type")]

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
    "HubWeights",
    "Mask",
    "MaskRCNN",
    "Proposals",
    "Sampler",
    "Testing",
    "Timm",
    "Tiny",
    "WheelWeights",
]
