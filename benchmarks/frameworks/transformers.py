"""DETRs of Hugging Face's transformers.

The small ones have the pretrained backbone of the recipes on BCCD. 64 channels, 60 queries and 3 decoder layers are
from scratch. The large ones are those of the default configuration with a ResNet-50, with random weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DeformableDetrImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    TimmBackboneConfig,
)
from transformers.modeling_outputs import BackboneOutput

from rankdet.adapters.transformers import calibrate, use_rank_sort
from rankdet.structures import Batch, Detection, Images

from .interface import CLASSES, Family, lite0, normalized, relative_boxes

THRESHOLD = 0.5
"""The default of ``post_process_object_detection``."""
SMALL = {
    "d_model": 64,
    "num_queries": 60,
    "decoder_layers": 3,
    "decoder_ffn_dim": 128,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "auxiliary_loss": True,
}
"""What both small detectors have in common."""


class TransformersDetector:
    """A detector of transformers in the form of `interface.Detector`."""

    threshold = THRESHOLD

    def __init__(self, network: PreTrainedModel, processor: Any) -> None:
        self.network: Any = network
        self._processor = processor

    def use_rank_sort(self, boxes: Literal["theirs", "balanced"]) -> None:
        """Change the loss."""
        use_rank_sort(self.network, boxes=boxes)

    def loss(self, batch: Batch) -> Tensor:
        """The loss that a model returns where it gets labels."""
        loss: Tensor = self.network(**inputs(batch)).loss
        return loss

    def detect(self, images: Images) -> list[Detection]:
        """Detections by the processor of the model."""
        outputs = self.network(normalized(images))
        found = self._processor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=[list(size) for size in images.sizes]
        )
        return [Detection(each["boxes"], each["scores"], each["labels"]) for each in found]

    def calibrate(self, batches: Iterable[Batch]) -> None:
        """Store scale and shift."""
        calibrate(self.network, map(inputs, batches), self.threshold)


def inputs(batch: Batch) -> dict[str, Any]:
    """Images and objects as transformers takes them."""
    labels = [
        {"class_labels": target.labels, "boxes": boxes}
        for target, boxes in zip(batch.targets, relative_boxes(batch), strict=True)
    ]
    return {"pixel_values": normalized(batch.images), "labels": labels}


class Body(nn.Module):
    """EfficientNet-Lite0 as transformers asks for a backbone."""

    def __init__(self, pretrained: bool) -> None:
        super().__init__()
        self.body = lite0(pretrained)

    def forward(self, pixel_values: Tensor) -> BackboneOutput:
        """Three maps of normalized images (B, 3, H, W)."""
        maps = self.body.network(pixel_values.contiguous(memory_format=torch.channels_last))
        return BackboneOutput(feature_maps=tuple(maps))


def with_lite0(network: PreTrainedModel, pretrained: bool) -> PreTrainedModel:
    """The network with our backbone in the place of the same one by transformers.

    transformers replaces batch normalization, and with it the activations that timm has inside of it.
    """
    network.model.backbone.model = Body(pretrained)
    return network


def classes(number: int) -> dict[str, Any]:
    """Arguments of a configuration that has so many classes."""
    names = {label: f"class {label}" for label in range(number)}
    return {"id2label": names, "label2id": {name: label for label, name in names.items()}}


def shape_of_lite0() -> TimmBackboneConfig:
    """The configuration of the backbone, of which the channels of its maps are used."""
    return TimmBackboneConfig(backbone="tf_efficientnet_lite0", out_indices=[2, 3, 4])


def rt_detr(num_classes: int, size: tuple[int, int], pretrained: bool) -> TransformersDetector:
    """RT-DETR with three layers and 30 denoising queries."""
    config = RTDetrConfig(
        **SMALL,
        **classes(num_classes),
        backbone_config=shape_of_lite0(),
        encoder_in_channels=[40, 112, 320],
        encoder_hidden_dim=64,
        decoder_in_channels=[64, 64, 64],
        num_denoising=30,
    )
    return TransformersDetector(with_lite0(RTDetrForObjectDetection(config), pretrained), RTDetrImageProcessor())


def deformable_detr(num_classes: int, size: tuple[int, int], pretrained: bool) -> TransformersDetector:
    """Deformable DETR with refined boxes in two stages, and two encoder layers."""
    config = DeformableDetrConfig(
        **SMALL,
        **classes(num_classes),
        backbone_config=shape_of_lite0(),
        num_feature_levels=3,
        encoder_layers=2,
        with_box_refine=True,
        two_stage=True,
        two_stage_num_proposals=SMALL["num_queries"],
        dropout=0.0,
    )
    network = with_lite0(DeformableDetrForObjectDetection(config), pretrained)
    return TransformersDetector(network, DeformableDetrImageProcessor())


def usual(
    kind: Callable[[PreTrainedConfig], PreTrainedModel], config: Callable[[], PreTrainedConfig], processor: type
) -> Callable[[tuple[int, int]], TransformersDetector]:
    """Makes a detector of a configuration."""
    return lambda _: TransformersDetector(kind(config()), processor())


def large_rt_detr() -> RTDetrConfig:
    """The default, which has the numbers of RT-DETR R50: 300 queries, 6 layers."""
    return RTDetrConfig(
        **classes(CLASSES), backbone_config=RTDetrResNetConfig(out_features=["stage2", "stage3", "stage4"])
    )


def large_deformable_detr() -> DeformableDetrConfig:
    """The default with auxiliary losses, as it was published: 300 queries, 6 layers."""
    resnet = ResNetConfig(out_features=["stage2", "stage3", "stage4"])
    return DeformableDetrConfig(**classes(CLASSES), backbone_config=resnet, auxiliary_loss=True)


RATES = (5e-4, 1e-3, 2e-3)
FAMILIES = {
    "rt_detr": Family(rt_detr, usual(RTDetrForObjectDetection, large_rt_detr, RTDetrImageProcessor), RATES, clip=0.1),
    "deformable_detr": Family(
        deformable_detr,
        usual(DeformableDetrForObjectDetection, large_deformable_detr, DeformableDetrImageProcessor),
        RATES,
        clip=0.1,
    ),
}
