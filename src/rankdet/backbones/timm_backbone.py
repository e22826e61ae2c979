"""Backbone from any network of timm that has feature maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import timm
import torch
from timm.layers.format import Format
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import Self

from rankdet.backbones.folding import fold_batch_norm
from rankdet.backbones.normalization import PixelNormalization
from rankdet.ranges import Ascending, CountOrZero, Finite, NotEmpty
from rankdet.structures import Images, InputError

if TYPE_CHECKING:
    from rankdet.backbones.weights import FileWeights, HubWeights, WheelWeights

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class TimmBackbone(nn.Module):
    """A network of timm without its classifier; nothing is downloaded (see :meth:`build`).

    In some networks timm keeps layers behind the last map. Weights that none of the chosen maps depends on are frozen,
    so that every trainable weight receives a gradient, as distributed training requires.

    Parameters
    ----------
    name
        timm's name of the architecture, with or without the tag of its weights: ``"resnet50.tv_in1k"``.
    out_indices
        Indices of timm's feature maps that are returned, ascending. Strides 4, 8, 16, 32 are (1, 2, 3, 4) in networks
        whose first map has stride 2 (ResNet, EfficientNet), and (0, 1, 2, 3) in those that start at stride 4 (Swin,
        ConvNeXt).
    mean, std
        Mean and standard deviation of the pixels, one number per channel (RGB) in 0 … 255; None: timm's for this name.
    frozen_stages
        0 trains everything; n freezes all up to and including the stage of stride 2^(n+1). 1 is the stem and ``layer1``
        of a ResNet, or the stem and blocks 0 and 1 of an EfficientNet.
    frozen_batch_norm
        True: batch normalization keeps its stored statistics in training, and is folded into convolutions (see
        :mod:`rankdet.backbones.folding`). Its scale and shift stay trainable outside of the frozen stages. Set False
        for training from scratch.
    options
        Further arguments of ``timm.create_model``. Some transformers take images of one size only, unless an option
        allows others: ``strict_img_size: false`` for a Swin.

    Raises
    ------
    InputError
        When timm does not know the name, its tag or an option, or the network has no such feature maps or stages.
    """

    def __init__(
        self,
        name: str,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        frozen_stages: int = 0,
        frozen_batch_norm: bool = True,
        options: Mapping[str, Any] = NO_OPTIONS,
    ) -> None:
        super().__init__()
        self.name = name
        self.out_indices = tuple(out_indices)
        self.options = dict(options)
        self.frozen_batch_norm = frozen_batch_norm
        self.network = create_network(name, self.out_indices, options, pretrained=False)
        stated: Any = timm.get_pretrained_cfg(name)
        self._only_size, tried = self._try(stated)
        freeze_unread(self.network, tried)
        if frozen_batch_norm:
            fold_batch_norm(self.network, tried)
        maps: Any = self.network.feature_info
        self.channels: tuple[int, ...] = tuple(maps.channels())
        self.strides: tuple[int, ...] = tuple(maps.reduction())
        if mean is None or std is None:
            # timm states mean and standard deviation for pixels in 0 … 1.
            mean = mean or [255 * value for value in stated.mean]
            std = std or [255 * value for value in stated.std]
        self.normalization = PixelNormalization(mean, std)
        self._channels_last = getattr(self.network, "output_fmt", Format.NCHW) == Format.NHWC
        self._frozen = frozen_modules(self.network, frozen_stages, name) if frozen_stages else []
        for module in self._frozen:
            module.requires_grad_(False)
        self.train()

    @classmethod
    def build(
        cls,
        pretrained: bool = True,
        *,
        name: str,
        weights: HubWeights | FileWeights | WheelWeights | None,
        out_indices: Annotated[tuple[CountOrZero, ...], NotEmpty(), Ascending(strictly=True)] = (1, 2, 3, 4),
        frozen_stages: CountOrZero = 1,
        frozen_batch_norm: bool = True,
        mean: tuple[Finite, Finite, Finite] | None = None,
        std: tuple[Finite, Finite, Finite] | None = None,
        deformable: bool = False,
        options: Mapping[str, bool | int | float | str] = NO_OPTIONS,
    ) -> Self:
        """Return a backbone with its weights; the other parameters are those of the class.

        Parameters
        ----------
        pretrained
            Whether ``weights`` are loaded; not where a checkpoint brings them all.
        weights
            Where pretrained weights come from; None: from scratch.
        deformable
            Whether the 3x3 convolutions of ``layer2`` to ``layer4`` of a ResNet or ResNeXt are deformable (DCNv2).
        """
        from rankdet.backbones.deformable import make_deformable

        backbone = cls(
            name,
            out_indices,
            mean=mean,
            std=std,
            frozen_stages=frozen_stages,
            frozen_batch_norm=frozen_batch_norm,
            options=options,
        )
        if pretrained and weights is not None:
            weights.load(backbone)
        if deformable:
            make_deformable(backbone)
        return backbone

    def forward(self, images: Images) -> list[Tensor]:
        """Return a map (B, channels, H / stride, W / stride) for each index, finest first.

        Raises InputError when the network takes images of one size only and these have another.
        """
        height, width = images.pixels.shape[-2:]
        if self._only_size not in (None, (height, width)):
            raise InputError(
                f"{self.name} takes images of {self._only_size} pixels only, not {(height, width)}; give the "
                "backbone options that allow others (strict_img_size: false for a Swin), or resize them to that size"
            )
        maps = self.network(self.normalization(images))
        return [features.permute(0, 3, 1, 2).contiguous() for features in maps] if self._channels_last else list(maps)

    def _try(self, stated: Any) -> tuple[tuple[int, int] | None, list[Tensor]]:
        """Return the one size of images that the network takes, or None for any, and its maps of some image."""
        self.network.eval()  # a dry run in training would change the statistics of batch normalization
        if stated.fixed_input_size:
            try:
                return None, dry_run(self.network, (64, 64))
            except (AssertionError, RuntimeError, ValueError):  # ways to refuse a size
                size = self.options.get("img_size", stated.input_size[-2:])
                only_size = (size, size) if isinstance(size, int) else (size[0], size[1])
                return only_size, dry_run(self.network, only_size)
        return None, dry_run(self.network, (64, 64))

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen stages and frozen batch normalization stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        if self.frozen_batch_norm:
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def create_network(name: str, out_indices: Sequence[int], options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    """Return timm's network of this name, in the form that returns a list of feature maps."""
    if not timm.is_model(name):
        raise InputError(f"timm knows no network named {name!r}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise InputError(f"timm knows no weights of this tag: {name!r}") from error
    indices = tuple(out_indices)
    # Heads rely on the order; timm returns maps in the order of its own layers, whatever the order of the indices.
    if not indices or list(indices) != sorted(set(indices)):
        raise InputError(f"out_indices of {name} must ascend, and name at least one map, not {indices}")
    try:
        return timm.create_model(name, features_only=True, out_indices=indices, pretrained=pretrained, **options)
    except (AssertionError, IndexError) as error:  # timm's ways to refuse an index
        raise InputError(f"{name} has no feature maps {indices}, or refuses {dict(options)}: {error}") from error
    # An argument that the network does not have, one of another type, a name of a layer that timm does not know.
    except (TypeError, KeyError) as error:
        raise InputError(f"{name} does not take the options {dict(options)}: {error}") from error


def dry_run(network: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    """Return the maps of one black image, with gradient even under ``no_grad``."""
    device = next(network.parameters()).device
    with torch.enable_grad():
        return list(network(torch.zeros(1, 3, *size, device=device)))


def freeze_unread(network: nn.Module, maps: Sequence[Tensor]) -> None:
    """Freeze the parameters that none of the network's maps depends on."""
    parameters = list(network.parameters())
    with torch.enable_grad():
        total = torch.stack([features.sum() for features in maps]).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def frozen_modules(network: nn.Module, stages: int, name: str) -> list[nn.Module]:
    """Return the modules of a timm feature network up to and including the stage of stride 2^(stages + 1)."""
    stride = 2 ** (stages + 1)
    maps: Any = network.feature_info
    ends = [info["module"] for info in maps.info if info["reduction"] == stride]
    # timm writes "layers.0" for a module that some of its wrappers hold as "layers_0".
    end = ends[-1].replace(".", "_") if ends else None
    chosen: list[nn.Module] = []
    for path, module in network.named_modules():
        flat = path.replace(".", "_")
        if flat == end:
            return [*chosen, module]
        holds_end = not path or (end or "").startswith(f"{flat}_")
        if not holds_end:
            chosen.append(module)
    # HRNet, for example, has a map of stride 4 that no single module of this name makes.
    raise InputError(
        f"frozen_stages={stages} does not fit {name}: timm names no module of it that ends a stage of stride {stride}; "
        "0 trains everything"
    )
