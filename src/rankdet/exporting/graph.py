"""A model as one module of tensors alone: what is written to a file."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from rankdet.backbones import PixelNormalization
from rankdet.backbones.folding import FoldedConv2d
from rankdet.detectors import ATSS, PAA, RTDETR, YOLACT, CascadeRCNN, FasterRCNN, SOLOv2
from rankdet.exporting.calibrated import CalibratedScores
from rankdet.exporting.dense import detect_densely
from rankdet.exporting.fixed import FixedDetections, FixedImages, FixedNormalization
from rankdet.exporting.queries import detect_by_queries
from rankdet.exporting.solov2 import detect_on_grids
from rankdet.exporting.two_stage import detect_in_cascade, detect_in_two_stages
from rankdet.exporting.yolact import detect_with_prototypes
from rankdet.inference.score_maps import Calibration
from rankdet.structures import InputError

NAMES = FixedDetections._fields
"""What the outputs of a file are called; the last two are those of detectors with masks alone."""


class Graph(nn.Module):
    """A copy of a network in float32 on the CPU, without what only training needs, that detects in fixed shapes.

    The network itself stays as it is. With a ``calibration`` scores are calibrated.

    Examples
    --------
    >>> from rankdet.recipes import load_recipe
    >>> graph = Graph(load_recipe("rs_atss_shapes").detector.build(3, pretrained=False))
    >>> boxes, scores, labels = graph(torch.zeros(1, 3, 40, 60, dtype=torch.uint8), torch.tensor([[40, 60]]))
    >>> boxes.shape
    torch.Size([1, 100, 4])
    """

    def __init__(self, network: nn.Module, calibration: Calibration | None = None) -> None:
        super().__init__()
        self.network = plain(network)
        self.calibrated = None if calibration is None else CalibratedScores(calibration.maps)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors of `FixedDetections` from pixels (B, 3, H, W) uint8 and sizes (B, 2) int64.

        Rows of score 0 are zeros. Raises InputError where the network is no detector of ours.
        """
        found = detect(self.network, FixedImages(images, sizes))
        if self.calibrated is not None:
            found = self.calibrated(found)
        is_any = found.scores > 0
        boxes, labels = found.boxes.where(is_any[..., None], 0), found.labels.where(is_any, 0)
        return tuple(part for part in found._replace(boxes=boxes, labels=labels) if part is not None)


def detect(network: nn.Module, images: FixedImages) -> FixedDetections:
    """Return what a network finds, by the graph of its kind; raises InputError where it has none."""
    own = next((kind for kind in type(network).__mro__ if kind.__module__.startswith("rankdet.detectors")), None)
    if own is not None and type(network).detect is not own.detect:  # type: ignore[attr-defined]
        raise InputError(
            f"{type(network).__name__} cannot be exported: it has a detect of its own, and a file has that of "
            f"{own.__name__}"
        )
    match network:
        case ATSS() | PAA():
            return detect_densely(network, images)
        case FasterRCNN():
            return detect_in_two_stages(network, images)
        case CascadeRCNN():
            return detect_in_cascade(network, images)
        case YOLACT():
            return detect_with_prototypes(network, images)
        case SOLOv2():
            return detect_on_grids(network, images)
        case RTDETR():
            return detect_by_queries(network, images)
    raise InputError(f"{type(network).__name__} cannot be exported: only the detectors of rankdet can")


def plain(network: nn.Module) -> nn.Module:
    """Return a copy for detection: float32, on the CPU, with folded normalization as ordinary convolutions."""
    own = copy.deepcopy(network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    own.requires_grad_(False)
    for name, module in list(own.named_modules()):
        parent, _, attribute = name.rpartition(".")
        if isinstance(module, PixelNormalization):
            setattr(own.get_submodule(parent), attribute, FixedNormalization(module))
        elif isinstance(module, FoldedConv2d):
            setattr(own.get_submodule(parent), attribute, module.merged())
    return own
