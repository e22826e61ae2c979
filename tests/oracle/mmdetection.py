"""mmdetection 3.3.0 beside this package: the same network with the same random weights, on the same images.

Legend: B images, L levels, A anchors per cell, M anchors of an image.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rankdet.importing.origins import convert
from rankdet.recipes import RECIPES, Recipe
from rankdet.structures import Batch, LossOutput

from . import extension
from .comparing import assert_all_equal

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import mmcv

    extension.install()
    import mmdet
    from mmdet.models.dense_heads import paa_head
    from mmdet.models.task_modules.samplers import RandomSampler
    from mmdet.registry import MODELS, TASK_UTILS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmdet.utils import register_all_modules
    from mmengine.config import Config
    from mmengine.structures import InstanceData

    register_all_modules()

__all__ = ["TASK_UTILS", "RandomSampler", "mmcv", "paa_head"]  # for other modules
CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnext101_64x4d": 101}
"""Layers of backbones, by the architecture in timm's name."""
NOTHING: Mapping[str, Any] = MappingProxyType({})


class Both(NamedTuple):
    """A detector here and the same one there."""

    here: nn.Module
    there: nn.Module
    losses: dict[str, nn.Module]
    """Of the heads here."""
    recipe: Recipe
    """Of the detector here."""


class Inputs(NamedTuple):
    """What mmdetection's networks take: normalized images (B, 3, H, W), and the objects and sizes of each."""

    pixels: Tensor
    samples: list[Any]

    @property
    def objects(self) -> list[Any]:
        return [sample.gt_instances for sample in self.samples]

    @property
    def metas(self) -> list[dict[str, Any]]:
        return [sample.metainfo for sample in self.samples]


def build_there(config: str, backbone: str, changes: Mapping[str, Any]) -> nn.Module:
    """A network of one of mmdetection's configurations with a small backbone, and changes of it by dotted names."""
    depth = DEPTHS[backbone.partition(".")[0]]
    configuration = Config.fromfile(CONFIGS / config)
    configuration.merge_from_dict(
        {
            "model.backbone.init_cfg": None,
            "model.backbone.depth": depth,
            "model.neck.in_channels": [width * (1 if depth < 50 else 4) for width in (64, 128, 256, 512)],
        }
        | {f"model.{name}": value for name, value in changes.items()}
    )
    torch.manual_seed(0)
    return MODELS.build(configuration.model)


def build_here(
    recipe: str, backbone: str, num_classes: int, changes: Mapping[str, Any], *, folded: bool = False
) -> Both:
    """The detector and the losses of a recipe with a small backbone and further changes of its detector.

    In evaluation mode, so that batch normalization is frozen; it is not folded into convolutions unless ``folded``:
    both sides then round alike, and no unit or suppression is decided otherwise.
    """
    base = RECIPES[recipe]()
    small = {"backbone": base.detector.backbone.model_copy(update={"name": backbone, "frozen_batch_norm": folded})}
    recipe = base.model_copy(update={"detector": base.detector.model_copy(update=small | dict(changes))})
    losses = {head: loss.build() for head, loss in recipe.losses.items()}
    return Both(recipe.detector.build(num_classes, pretrained=False).eval(), nn.Identity(), losses, recipe)


def share_weights(both: Both, changed: Mapping[str, Tensor | None] = NOTHING) -> None:
    """Copy the weights there to the detector here, as ``rankdet import`` would.

    ``changed`` are weights that the form here does not have (None), or has in another shape.
    """
    tensors = both.there.state_dict() | dict(changed)
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    both.here.load_state_dict(convert(kept, both.recipe))


def prepare(there: nn.Module, batch: Batch, training: bool = True) -> Inputs:
    """The images and objects of a batch, by the preprocessing of the network there."""
    images, samples = [], []
    for pixels, size, target in zip(batch.images.pixels, batch.images.sizes, batch.targets, strict=True):
        images.append(pixels[:, : size[0], : size[1]].flip(0))  # BGR
        sample = DetDataSample(metainfo={"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)})
        sample.gt_instances = InstanceData(bboxes=target.boxes.clone(), labels=target.labels.clone())
        if isinstance(target.masks, Tensor):
            sample.gt_instances.masks = BitmapMasks(target.masks.numpy().astype("uint8"), *size)
        samples.append(sample)
    prepared = there.data_preprocessor({"inputs": images, "data_samples": samples}, training=training)
    return Inputs(prepared["inputs"], prepared["data_samples"])


def randomize(there: nn.Module, inputs: Inputs, outputs: Mapping[str, tuple[float, float]], seed: int = 0) -> None:
    """Weights that give every layer work and outputs of a useful spread.

    Convolutions start Kaiming-normal, norms and biases anyhow; the statistics of batch normalization become those of
    the images; then each layer named in ``outputs`` is scaled to the mean and standard deviation given there.
    """
    torch.manual_seed(seed)
    for module in there.modules():
        for name, parameter in module.named_parameters(recurse=False):
            with torch.no_grad():
                if parameter.ndim > 1:
                    nn.init.kaiming_normal_(parameter)
                elif name == "bias":
                    parameter.normal_(0, 0.1)
                else:
                    parameter.uniform_(0.7, 1.3)
    norms = [module for module in there.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        there.extract_feat(inputs.pixels)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
    for name, (mean, std) in outputs.items():
        _rescale(there, inputs, name, mean, std)
    there.eval()


@torch.no_grad()
def _rescale(there: nn.Module, inputs: Inputs, name: str, mean: float, std: float) -> None:
    layer = there.get_submodule(name)
    found: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, arguments, output: found.append(output.flatten()))
    there.loss(inputs.pixels, inputs.samples)
    handle.remove()
    values = torch.cat(found)
    factor = std / values.std()
    layer.weight *= factor
    layer.bias *= factor
    layer.bias += mean - values.mean() * factor


def by_anchor(levels: Sequence[Tensor], length: int) -> Tensor:
    """(B, M, length) of L maps (B, A · length, H, W)."""
    return torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, length) for level in levels], dim=1)


def total(losses: Mapping[str, Any]) -> dict[str, Tensor]:
    """mmdetection's loss terms, each summed over levels; numbers that are only logged are left out."""
    return {
        name: value.sum() if isinstance(value, Tensor) else torch.stack(value).sum()
        for name, value in losses.items()
        if "loss" in name
    }


def evaluate(both: Both, batch: Batch) -> dict[str, Tensor]:
    """The loss terms here, by ``head/name``."""
    weights = both.recipe.head_weights
    terms: dict[str, Tensor] = {}
    for candidates in both.here(batch):
        output: LossOutput = both.losses[candidates.head](candidates)
        for name, value in output.terms.items():
            terms[f"{candidates.head}/{name}"] = weights.get(candidates.head, 1.0) * value
    return terms


def check_losses(both: Both, batch: Batch, names: Mapping[str, str]) -> None:
    """Loss terms, by ``head/name`` from the names there, and their gradients in all trained weights."""
    inputs = prepare(both.there, batch)
    here, there = evaluate(both, batch), total(both.there.loss(inputs.pixels, inputs.samples))
    assert_all_equal(here, {names[name]: value for name, value in there.items()})
    assert_all_equal(*gradients(both, sum(here.values()), sum(there.values())))


def gradients(both: Both, here: Tensor, there: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients of two sums of loss terms in all trained weights, under the names here."""
    both.here.zero_grad()
    both.there.zero_grad()
    here.backward()
    there.backward()
    named = dict(both.there.named_parameters())
    found = {
        name: torch.zeros_like(tensor) if name not in named or named[name].grad is None else named[name].grad
        for name, tensor in both.there.state_dict().items()
    }
    own = {name: each.grad for name, each in both.here.named_parameters() if each.requires_grad}
    translated = convert(found, both.recipe)
    return {name: grad for name, grad in own.items() if grad is not None}, {name: translated[name] for name in own}


def mask_padding(head: nn.Module, levels: Sequence[Tensor], metas: Sequence[Mapping[str, Any]]) -> list[Tensor]:
    """Maps (B, channels, H, W) in which cells of the padding between images of different sizes say −10⁴."""
    masked = [level.detach().clone() for level in levels]
    for level, (stride, _) in zip(masked, head.prior_generator.strides, strict=True):
        for image, meta in zip(level, metas, strict=True):
            rows, columns = (math.ceil(side / stride) for side in meta["pad_shape"])
            image[:, rows:] = -1e4
            image[:, :, columns:] = -1e4
    return masked
