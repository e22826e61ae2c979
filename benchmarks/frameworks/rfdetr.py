"""RF-DETR of Roboflow's rfdetr, in the environment of docs/plugging-in.md.

Pretrained weights of DINOv2 have to be downloaded. The small detector has the backbone of the recipes on BCCD instead,
with three levels for the decoder; 64 channels, 60 queries in 3 groups and 3 decoder layers are from scratch. The large
one is RF-DETR Medium with random weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from rfdetr.config import RFDETRMediumConfig, RFDETRNanoConfig, TrainConfig
from rfdetr.models import build_criterion_from_config, build_model_from_config
from rfdetr.utilities.tensors import NestedTensor
from torch import Tensor, nn

from rankdet.adapters.calibration import find_calibration, rescale
from rankdet.adapters.rfdetr import rank_sort
from rankdet.structures import Batch, Detection, Images

from .interface import CLASSES, Family, lite0, matches, normalized, relative_boxes

CHANNELS = 64
THRESHOLD = 0.5
"""The default of ``predict``."""


class RFDETRDetector:
    """A detector of rfdetr in the form of `interface.Detector`."""

    threshold = THRESHOLD

    def __init__(self, config: Any) -> None:
        self._configs = config, TrainConfig(dataset_dir=".", output_dir=".")
        self.network: Any = build_model_from_config(*self._configs)
        self._criterion, self._postprocess = build_criterion_from_config(*self._configs)

    def use_rank_sort(self, boxes: Literal["theirs", "balanced"]) -> None:
        """Make another criterion."""
        with rank_sort(boxes=boxes):
            self._criterion, _ = build_criterion_from_config(*self._configs)

    def loss(self, batch: Batch) -> Tensor:
        """The sum of the terms that have a weight."""
        targets = [
            {"labels": target.labels, "boxes": boxes}
            for target, boxes in zip(batch.targets, relative_boxes(batch), strict=True)
        ]
        terms = self._criterion(self.network(nested(batch.images)), targets)
        weights = self._criterion.weight_dict
        return torch.stack([weights[name] * value for name, value in terms.items() if name in weights]).sum()

    def detect(self, images: Images) -> list[Detection]:
        """Detections by the postprocessing of the model, without those of its last column, which no class has."""
        outputs = self.network(nested(images))
        column = outputs["pred_logits"].shape[-1] - 1
        found = self._postprocess(outputs, torch.tensor(images.sizes))
        kept = [each["labels"] < column for each in found]
        return [
            Detection(each["boxes"][is_kept], each["scores"][is_kept], each["labels"][is_kept])
            for each, is_kept in zip(found, kept, strict=True)
        ]

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Store scale and shift in the classifier that all decoder layers share."""
        found = find_calibration(matches(self.detect, batches), self.threshold)
        rescale(self.network.class_embed.weight, self.network.class_embed.bias, found)


def nested(images: Images) -> NestedTensor:
    """Images without padding, as rfdetr takes them."""
    count, _, height, width = images.pixels.shape
    return NestedTensor(normalized(images), torch.zeros(count, height, width, dtype=torch.bool), no_padding=True)


class Levels(nn.Module):
    """EfficientNet-Lite0 in the place of the backbone: three maps with the channels of the decoder."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.body = lite0(pretrained)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(number, CHANNELS, 1), nn.GroupNorm(8, CHANNELS)) for number in self.body.channels
        )

    def forward(self, images: NestedTensor) -> list[NestedTensor]:
        """Maps of strides 8, 16 and 32."""
        maps = self.body.network(images.tensors.contiguous(memory_format=torch.channels_last))
        levels = [projection(each) for projection, each in zip(self.projections, maps, strict=True)]
        masks = [torch.zeros(each.shape[0], *each.shape[2:], dtype=torch.bool) for each in levels]
        return [NestedTensor(each, mask, no_padding=True) for each, mask in zip(levels, masks, strict=True)]


def rf_detr(num_classes: int, size: tuple[int, int], pretrained: bool) -> RFDETRDetector:
    """RF-DETR with another backbone."""
    config = RFDETRNanoConfig(
        pretrain_weights=None,
        num_classes=num_classes,
        resolution=64,
        positional_encoding_size=4,
        hidden_dim=CHANNELS,
        sa_nheads=4,
        ca_nheads=4,
        dec_n_points=4,
        dec_layers=3,
        num_queries=60,
        num_select=60,
        group_detr=3,
        projector_scale=["P3", "P4", "P5"],
        device="cpu",
    )
    detector = RFDETRDetector(config)
    detector.network.backbone[0] = Levels(pretrained)
    return detector


def large(size: tuple[int, int]) -> RFDETRDetector:
    """RF-DETR Medium: 300 queries in 13 groups, 4 layers."""
    return RFDETRDetector(RFDETRMediumConfig(pretrain_weights=None, num_classes=CLASSES, device="cpu"))


FAMILIES = {"rf_detr": Family(rf_detr, large, rates=(5e-4, 1e-3, 2e-3), clip=0.1)}
