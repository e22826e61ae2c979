"""Detectors of transformers, from configs alone, so tiny that all of them make a step within seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    ConditionalDetrForSegmentation,
    DabDetrConfig,
    DabDetrForObjectDetection,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    Deimv2Config,
    Deimv2ForObjectDetection,
    DFineConfig,
    DFineForObjectDetection,
    HGNetV2Config,
    LwDetrConfig,
    LwDetrForObjectDetection,
    LwDetrViTConfig,
    PreTrainedModel,
    ResNetConfig,
    RfDetrConfig,
    RfDetrDinov2Config,
    RfDetrForInstanceSegmentation,
    RfDetrForObjectDetection,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

SIZE, CLASSES, QUERIES = 64, 3, 12
LABELS = {"id2label": {i: f"class {i}" for i in range(CLASSES)}, "label2id": {f"class {i}": i for i in range(CLASSES)}}
COMMON = {"d_model": 16, "num_queries": QUERIES, "decoder_layers": 2, **LABELS}
OLDER = {
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "decoder_attention_heads": 2,
    "auxiliary_loss": True,
    "dropout": 0.0,
}
NEWER = {
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 8, 8],
    "decoder_in_channels": [16, 16, 16],
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "decoder_ffn_dim": 16,
    "decoder_attention_heads": 2,
    "decoder_n_points": 2,
    "num_denoising": 8,
    "hidden_expansion": 0.5,
}
GROUPED = {
    "decoder_ffn_dim": 16,
    "decoder_n_points": 2,
    "decoder_self_attention_heads": 2,
    "group_detr": 3,
    "decoder_cross_attention_heads": 2,
    "c2f_num_blocks": 1,
    "dropout": 0.0,
}


def resnet(kind: type = ResNetConfig, **changes: object) -> object:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    return kind(**sizes, **changes)


def hgnet() -> HGNetV2Config:
    stages = {"stage_in_channels": [8] * 4, "stage_mid_channels": [4] * 4, "stage_out_channels": [8] * 4}
    return HGNetV2Config(
        **stages,
        embedding_size=4,
        hidden_sizes=[8] * 4,
        depths=[1] * 4,
        stem_channels=[3, 4, 8],
        stage_num_blocks=[1] * 4,
        stage_numb_of_layers=[1] * 4,
        out_indices=[2, 3, 4],
    )


def deformable() -> PreTrainedModel:
    backbone = resnet(out_indices=[2, 3, 4])
    config = DeformableDetrConfig(
        **COMMON | {"d_model": 32},
        **OLDER,
        backbone_config=backbone,
        num_feature_levels=3,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    return DeformableDetrForObjectDetection(config)


def conditional() -> PreTrainedModel:
    return ConditionalDetrForObjectDetection(
        ConditionalDetrConfig(**COMMON, **OLDER, backbone_config=resnet(out_indices=[4]))
    )


def conditional_masks() -> PreTrainedModel:
    sizes = COMMON | OLDER | {"d_model": 128, "encoder_attention_heads": 8, "decoder_attention_heads": 8}
    backbone = resnet(out_indices=[1, 2, 3, 4])
    return ConditionalDetrForSegmentation(ConditionalDetrConfig(**sizes, backbone_config=backbone))


def dab() -> PreTrainedModel:
    sizes = {name: value for name, value in COMMON.items() if name != "d_model"}
    return DabDetrForObjectDetection(
        DabDetrConfig(**sizes, **OLDER, hidden_size=16, backbone_config=resnet(out_indices=[4]))
    )


def rt_detr() -> PreTrainedModel:
    backbone = resnet(RTDetrResNetConfig, out_indices=[2, 3, 4])
    return RTDetrForObjectDetection(RTDetrConfig(**COMMON, **NEWER, backbone_config=backbone))


def rt_detr_v2() -> PreTrainedModel:
    backbone = resnet(RTDetrResNetConfig, out_indices=[2, 3, 4])
    return RTDetrV2ForObjectDetection(RTDetrV2Config(**COMMON, **NEWER, backbone_config=backbone))


def d_fine() -> PreTrainedModel:
    return DFineForObjectDetection(
        DFineConfig(**COMMON, **NEWER, backbone_config=hgnet(), depth_mult=0.34, lqe_hidden_dim=8, max_num_bins=8)
    )


def deimv2() -> PreTrainedModel:
    return Deimv2ForObjectDetection(
        Deimv2Config(**COMMON, **NEWER, backbone_config=hgnet(), depth_mult=0.34, lqe_hidden_dim=8, max_num_bins=8)
    )


def lw_detr() -> PreTrainedModel:
    backbone = LwDetrViTConfig(
        image_size=SIZE,
        pretrain_image_size=SIZE,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        window_block_indices=[0],
        num_windows=4,
        out_indices=[1, 2],
    )
    return LwDetrForObjectDetection(
        LwDetrConfig(**COMMON, **GROUPED, backbone_config=backbone, projector_scale_factors=[1.0])
    )


def rf_backbone() -> RfDetrDinov2Config:
    return RfDetrDinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=16,
        num_windows=2,
        out_indices=[1, 2],
    )


def rf_detr() -> PreTrainedModel:
    return RfDetrForObjectDetection(RfDetrConfig(**COMMON, **GROUPED, backbone_config=rf_backbone()))


def rf_detr_masks() -> PreTrainedModel:
    return RfDetrForInstanceSegmentation(RfDetrConfig(**COMMON, **GROUPED, backbone_config=rf_backbone()))


DETECTORS: dict[str, Callable[[], PreTrainedModel]] = {
    "RT-DETR": rt_detr,
    "RT-DETR v2": rt_detr_v2,
    "D-FINE": d_fine,
    "DEIMv2": deimv2,
    "LW-DETR": lw_detr,
    "RF-DETR": rf_detr,
    "RF-DETR masks": rf_detr_masks,
    "Deformable DETR": deformable,
    "Conditional DETR": conditional,
    "Conditional DETR masks": conditional_masks,
    "DAB-DETR": dab,
}


def build(name: str) -> PreTrainedModel:
    """A detector of random weights, the same in each call."""
    torch.manual_seed(0)
    return DETECTORS[name]().train()


def batch(counts: Sequence[int] = (3, 2)) -> dict[str, Tensor | list[dict[str, Tensor]]]:
    """Images of noise with so many objects each, whose masks are their boxes."""
    generator = torch.Generator().manual_seed(1)
    labels = []
    for count in counts:
        centers = 0.3 + 0.4 * torch.rand(count, 2, generator=generator)
        boxes = torch.cat([centers, 0.1 + 0.4 * torch.rand(count, 2, generator=generator)], dim=1)
        grid = (torch.arange(SIZE) + 0.5) / SIZE
        across, down = ((grid - boxes[:, i : i + 1]).abs() < boxes[:, i + 2 : i + 3] / 2 for i in (0, 1))
        classes = torch.randint(0, CLASSES, (count,), generator=generator)
        masks = down[:, :, None] & across[:, None, :]
        labels.append({"class_labels": classes, "boxes": boxes, "masks": masks})
    return {"pixel_values": torch.randn(len(counts), 3, SIZE, SIZE, generator=generator), "labels": labels}
