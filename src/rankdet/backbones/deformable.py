"""Modulated deformable convolutions (DCNv2; Zhu et al., CVPR 2019, arXiv:1811.11168) in networks of timm.

Legend: B images, H, W height and width of the input in cells, h, w those of the output, K cells of the kernel, G groups
of channels that move together.
"""

from __future__ import annotations

from typing import cast

from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from rankdet.backbones.folding import FoldedConv2d
from rankdet.backbones.timm_backbone import TimmBackbone
from rankdet.structures import InputError

STAGES = ("layer2", "layer3", "layer4")
OFFSET_GROUPS = 4

Pair = tuple[int, int]


class DeformableConv2d(nn.Module):
    r"""A convolution that reads each cell of its kernel at an offset, times a mask, both computed from its input.

    .. math:: y(p) = \sum_k w_k \cdot x(p + p_k + \Delta p_k) \cdot \Delta m_k

    (equation 1 of the paper). Offsets and masks are those of a convolution like this one; x between cells is bilinear,
    and 0 outside of the map. That convolution starts at 0, so that this one starts as the plain convolution times the
    mask σ(0) = 1/2.

    Weight, bias, their ``requires_grad``, the shape and a folded frozen normalization are those of the plain
    convolution that this one replaces. Raises ValueError when the input channels are no multiple of G =
    ``offset_groups``, or the plain convolution pads other than by zeros.

    Differs from the paper, which learns the offsets at a tenth of the learning rate and has one group of channels. The
    published code of Rank & Sort Loss has four groups, at the full rate.
    """

    def __init__(self, convolution: nn.Conv2d | FoldedConv2d, offset_groups: int = OFFSET_GROUPS) -> None:
        super().__init__()
        if convolution.in_channels % offset_groups:
            raise ValueError(f"{convolution.in_channels} channels do not divide into {offset_groups} groups of offsets")
        if isinstance(convolution.padding, str) or convolution.padding_mode != "zeros":
            raise ValueError(f"a deformable convolution pads by a number of zeros, unlike {convolution}")
        self.weight, self.bias = convolution.weight, convolution.bias
        self.norms = convolution.norms if isinstance(convolution, FoldedConv2d) else ()
        height, width = convolution.kernel_size
        self.num_masks = offset_groups * height * width
        self.stride = cast(Pair, convolution.stride)
        self.padding = cast(Pair, convolution.padding)
        self.dilation = cast(Pair, convolution.dilation)
        self.offsets = nn.Conv2d(
            convolution.in_channels,
            3 * self.num_masks,
            (height, width),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            device=convolution.weight.device,
            dtype=convolution.weight.dtype,
        )
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)
        # The offsets of a frozen stage are frozen with it.
        self.offsets.requires_grad_(convolution.weight.requires_grad)

    def forward(self, features: Tensor) -> Tensor:
        """Return the convolution (B, out_channels, h, w) of a map (B, in_channels, H, W)."""
        # Under autocast torchvision would compute in the precision of the weights on a GPU, and on a CPU not at all.
        precision = self.weight.dtype
        offsets, masks = self.offsets(features).to(precision).split([2 * self.num_masks, self.num_masks], dim=1)
        shape = self.stride, self.padding, self.dilation

        def convolve(weight: Tensor, bias: Tensor | None) -> Tensor:
            return deform_conv2d(features.to(precision), offsets, weight, bias, *shape, masks.sigmoid())

        if not self.norms:
            return convolve(self.weight, self.bias).to(features.dtype)
        places = offsets[:, 0].numel()
        return self.norms[0].follow(convolve, self.weight, self.bias, places).to(features.dtype)


def make_deformable(backbone: TimmBackbone) -> None:
    """Make the 3x3 convolution of every bottleneck of ``layer2`` to ``layer4`` deformable, in place, with its weights.

    The backbone is a ResNet or ResNeXt of timm with bottlenecks. Weights keep their names, and offsets are added. Load
    pretrained weights of the plain network before. Raises InputError when there are no such bottlenecks, or their
    channels are no multiple of 4.
    """
    stages = [getattr(backbone.network, stage) for stage in STAGES if hasattr(backbone.network, stage)]
    blocks = [block for stage in stages for block in stage.modules() if isinstance(block, Bottleneck)]
    if not blocks:
        raise InputError(
            f"{backbone.name} has no bottlenecks in layer2 to layer4 to be made deformable; a ResNet or ResNeXt of 50 "
            "or more layers has"
        )
    for block in blocks:
        try:
            block.register_module("conv2", DeformableConv2d(block.conv2))
        except ValueError as error:
            raise InputError(f"{backbone.name} cannot be made deformable: {error}") from error
