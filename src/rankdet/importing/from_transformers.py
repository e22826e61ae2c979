"""Older and newer names of RT-DETR in transformers, without the prefix ``model.`` that all of them have.

Files have the older names whatever version wrote them, and a network of transformers 5 has the newer ones. Backbones
are ResNets with three convolutions in the stem and averages in their shortcuts; those of basic blocks have one more
shortcut than timm's, and are not imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rankdet.detectors import RTDETR
from rankdet.recipes import Recipe
from rankdet.recipes.schema.part import Part

from .adapting import Adaptation
from .layout import Layout
from .rules import Rule, rule

BACKBONE = "backbone.model"
NOTES = (
    "pixels go from 0 to 1 without further normalization, as the image processor of RT-DETR makes them",
    "images are resized to the size of the recipe, 640 × 640 in the published ones",
)
"""Notes that the command prints."""
RESNETS = {6: "resnet50d.ra2_in1k", 23: "resnet101d.ra2_in1k"}
"""timm's networks by the blocks of their third stage."""
CLASSIFIER = "enc_score_head"
STEM = (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))
"""timm's names of the convolutions of the stem and of their normalizations."""


@dataclass(frozen=True)
class Names:
    """Names that transformers 5 changed."""

    encoder: str
    feedforward: str
    output: str


OLDER = Names(encoder="encoder.encoder.0", feedforward="", output="out_proj")
NEWER = Names(encoder="encoder.aifi.0", feedforward="mlp.", output="o_proj")


def rt_detr(detector: RTDETR, names: Names) -> Iterator[Rule]:
    """Yield the rules of RT-DETR."""
    yield from backbone(detector.backbone)
    encoder, decoder = detector.encoder, detector.decoder
    for level in range(len(encoder.projections)):
        yield rule(f"encoder.projections.{level}", f"encoder_input_proj.{level}")
        yield rule(f"decoder.projections.{level}", f"decoder_input_proj.{level}")
    for number in range(len(encoder.layers)):
        yield from transformer_layer(f"encoder.layers.{number}", f"{names.encoder}.layers.{number}", names)
    for number in range(len(encoder.top_down)):
        yield from convolution(f"encoder.laterals.{number}", f"encoder.lateral_convs.{number}")
        yield from fusion(f"encoder.top_down.{number}", f"encoder.fpn_blocks.{number}", encoder.num_blocks)
        yield from convolution(f"encoder.downsampling.{number}", f"encoder.downsample_convs.{number}")
        yield from fusion(f"encoder.bottom_up.{number}", f"encoder.pan_blocks.{number}", encoder.num_blocks)
    yield rule("decoder.selection", "enc_output")
    yield rule("decoder.selector.classifier", CLASSIFIER)
    yield from perceptron("decoder.selector.regressor", "enc_bbox_head", 3)
    yield from perceptron("decoder.positions", "decoder.query_pos_head", 2)
    for number in range(len(decoder.layers)):
        own = f"decoder.layers.{number}"
        yield from transformer_layer(own, own, names)
        yield rule(f"{own}.map_attention.offsets", f"{own}.encoder_attn.sampling_offsets")
        yield rule(f"{own}.map_attention.weights", f"{own}.encoder_attn.attention_weights")
        yield rule(f"{own}.map_attention.values", f"{own}.encoder_attn.value_proj")
        yield rule(f"{own}.map_attention.output", f"{own}.encoder_attn.output_proj")
        yield rule(f"{own}.map_attention_norm", f"{own}.encoder_attn_layer_norm")
        yield rule(f"decoder.predictors.{number}.classifier", f"decoder.class_embed.{number}")
        yield from perceptron(f"decoder.predictors.{number}.regressor", f"decoder.bbox_embed.{number}", 3)
    yield rule("denoising.embedding", "denoising_class_embed")


def backbone(network: Any) -> Iterator[Rule]:
    """Yield the rules of a ResNet, which a backbone holds as ``network``."""
    stem = f"{BACKBONE}.embedder.embedder"
    for layer, (convolved, normalized) in enumerate(STEM):
        yield rule(f"backbone.network.{convolved}", f"{stem}.{layer}.convolution")
        yield rule(f"backbone.network.{normalized}", f"{stem}.{layer}.normalization")
    for stage in range(4):
        for place, block in enumerate(getattr(network.network, f"layer{stage + 1}", ())):
            own = f"backbone.network.layer{stage + 1}.{place}"
            foreign = f"{BACKBONE}.encoder.stages.{stage}.layers.{place}"
            for number in range(3 if hasattr(block, "conv3") else 2):
                yield rule(f"{own}.conv{number + 1}", f"{foreign}.layer.{number}.convolution")
                yield rule(f"{own}.bn{number + 1}", f"{foreign}.layer.{number}.normalization")
            # Where a stage strides, an average comes first.
            shortcut = f"{foreign}.shortcut.1" if stage else f"{foreign}.shortcut"
            yield rule(f"{own}.downsample.1", f"{shortcut}.convolution")
            yield rule(f"{own}.downsample.2", f"{shortcut}.normalization")


def transformer_layer(own: str, foreign: str, names: Names) -> Iterator[Rule]:
    """Yield the rules of self-attention and of a feed-forward part."""
    projections = [f"{foreign}.self_attn.{name}_proj" for name in ("q", "k", "v")]
    for kind in ("weight", "bias"):
        joined = [f"{name}.{kind}" for name in projections]
        yield rule(f"{own}.attention.in_proj_{kind}", *joined, convert=lambda *parts: torch.cat(parts))
    yield rule(f"{own}.attention.out_proj", f"{foreign}.self_attn.{names.output}")
    yield rule(f"{own}.attention_norm", f"{foreign}.self_attn_layer_norm")
    yield rule(f"{own}.feedforward.0", f"{foreign}.{names.feedforward}fc1")
    yield rule(f"{own}.feedforward.2", f"{foreign}.{names.feedforward}fc2")
    yield rule(f"{own}.feedforward_norm", f"{foreign}.final_layer_norm")


def convolution(own: str, foreign: str) -> Iterator[Rule]:
    """Yield the rules of a convolution and its normalization."""
    yield rule(f"{own}.0", f"{foreign}.conv")
    yield rule(f"{own}.1", f"{foreign}.norm")


def fusion(own: str, foreign: str, blocks: int) -> Iterator[Rule]:
    """Yield the rules of a fusion of two maps."""
    for name, theirs in (("refined", "conv1"), ("plain", "conv2"), ("last", "conv3")):
        yield from convolution(f"{own}.{name}", f"{foreign}.{theirs}")
    for number in range(blocks):
        yield from convolution(f"{own}.blocks.{number}.wide", f"{foreign}.bottlenecks.{number}.conv1")
        yield from convolution(f"{own}.blocks.{number}.narrow", f"{foreign}.bottlenecks.{number}.conv2")


def perceptron(own: str, foreign: str, layers: int) -> Iterator[Rule]:
    """Yield the rules of linear layers with activations between them."""
    for number in range(layers):
        yield rule(f"{own}.{2 * number}", f"{foreign}.layers.{number}")


def num_classes(tensors: Mapping[str, Tensor], detector: Part, num_categories: int | None) -> int:
    """Return C, from a logit for each class."""
    return len(tensors[f"{CLASSIFIER}.bias"])


def adapt(adaptation: Adaptation, recipe: Recipe, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Record what tensors show of the network: its backbone and numbers of channels."""
    adaptation.notes += NOTES
    adaptation.change("detector.backbone.mean", (0.0, 0.0, 0.0))
    adaptation.change("detector.backbone.std", (255.0, 255.0, 255.0))
    blocks = {name.split(".")[6] for name in tensors if name.startswith(f"{BACKBONE}.encoder.stages.2.layers.")}
    name = RESNETS.get(len(blocks), recipe.detector.backbone.name)
    adaptation.change("detector.backbone.name", name)
    adaptation.change("detector.backbone.weights", {"type": "hub", "name": name})
    names = NEWER if mark(NEWER) in tensors else OLDER
    channels = len(tensors["encoder_input_proj.0.0.weight"])
    found = {
        "detector.pyramid_channels": channels,
        "detector.encoder.feedforward": len(tensors[mark(names)]),
        "detector.encoder.expansion": len(tensors["encoder.fpn_blocks.0.conv1.conv.weight"]) / channels,
        "detector.decoder.channels": len(tensors["enc_output.0.weight"]),
        "detector.decoder.feedforward": len(tensors[f"decoder.layers.0.{names.feedforward}fc1.bias"]),
    }
    for field, value in found.items():
        adaptation.change(field, value)


def mark(names: Names) -> str:
    """Return the name of a tensor that only these names have."""
    return f"{names.encoder}.layers.0.{names.feedforward}fc1.bias"


LAYOUTS = tuple(
    Layout(
        family="rt_detr",
        marks=(mark(names), f"{CLASSIFIER}.bias"),
        rules=partial(rt_detr, names=names),
        num_classes=num_classes,
        recipes=("detr_r50_coco",),
    )
    for names in (NEWER, OLDER)
)
