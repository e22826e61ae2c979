"""Deformable convolutions: their definition, point by point, and where they stand in a network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from rankdet.backbones import DeformableConv2d, FileWeights, TimmBackbone, make_deformable
from rankdet.structures import Images, InputError

SMALL = {"layers": (1, 2, 1, 1), "channels": (4, 8, 16, 32)}
"""Options that make a small network of bottlenecks of ``resnet26``."""


def bilinear(plane: Tensor, y: float, x: float) -> float:
    """The value of (H, W) between its cells; 0 outside."""
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
                total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column].item()
    return total


def by_hand(module: DeformableConv2d, features: Tensor, groups: int, offset_groups: int) -> Tensor:
    """Output by output, cell of the kernel by cell: each reads its own place."""
    made = module.offsets(features)
    taps = 9 * offset_groups
    out_channels, in_share = module.weight.shape[:2]
    result = torch.zeros(features.shape[0], out_channels, *made.shape[2:], dtype=features.dtype)
    for image, channel, y, x in torch.cartesian_prod(*map(torch.arange, result.shape)).tolist():
        first = channel // (out_channels // groups) * in_share
        for share in range(in_share):
            source = first + share
            moving = source // (features.shape[1] // offset_groups)
            for tap in range(9):
                index = 9 * moving + tap
                dy, dx = made[image, 2 * index : 2 * index + 2, y, x].tolist()
                amount = made[image, 2 * taps + index, y, x].sigmoid().item()
                row, column = y * module.stride[0] - 1 + tap // 3 + dy, x * module.stride[1] - 1 + tap % 3 + dx
                weight = module.weight[channel, share, tap // 3, tap % 3].item()
                result[image, channel, y, x] += weight * amount * bilinear(features[image, source], row, column)
    return result if module.bias is None else result + module.bias.view(-1, 1, 1)


@pytest.mark.parametrize(("groups", "stride", "bias"), [(1, 1, True), (2, 2, False), (4, 1, False)])
@torch.no_grad()
def test_each_cell_of_the_kernel_reads_where_its_group_says(groups: int, stride: int, bias: bool):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 4, 3, stride=stride, padding=1, groups=groups, bias=bias, dtype=torch.float64)
    module = DeformableConv2d(plain, offset_groups=4)
    module.offsets.weight.normal_(std=0.3)
    module.offsets.bias.normal_()
    features = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(module(features), by_hand(module, features, groups, offset_groups=4))


@pytest.mark.parametrize("groups", [1, 4])
def test_without_offsets_it_is_the_plain_convolution_times_one_half(groups: int):
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=groups, bias=False)
    module, features = DeformableConv2d(plain), torch.randn(2, 8, 7, 9)
    assert module.offsets.out_channels == 108
    torch.testing.assert_close(module(features), plain(features) / 2)


def test_the_memory_format_changes_nothing():
    torch.manual_seed(0)
    module, features = DeformableConv2d(nn.Conv2d(8, 4, 3, padding=1)), torch.randn(2, 8, 5, 6)
    nn.init.normal_(module.offsets.weight, std=0.2)
    expected = module(features)
    laid_out = module.to(memory_format=torch.channels_last)(features.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(laid_out, expected)


def test_channels_that_do_not_divide_and_other_paddings_are_refused():
    with pytest.raises(ValueError, match="6 channels do not divide into 4 groups"):
        DeformableConv2d(nn.Conv2d(6, 8, 3, padding=1))
    for convolution in (nn.Conv2d(4, 4, 3, padding="same"), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")):
        with pytest.raises(ValueError, match="pads by a number of zeros"):
            DeformableConv2d(convolution)


def deformable_ones(backbone: TimmBackbone) -> dict[str, DeformableConv2d]:
    return {name: part for name, part in backbone.network.named_modules() if isinstance(part, DeformableConv2d)}


@pytest.mark.parametrize(
    ("name", "options"), [("resnet26", SMALL), ("resnext50_32x4d", {**SMALL, "cardinality": 4, "base_width": 64})]
)
def test_every_bottleneck_behind_the_first_stage_is_deformable(name: str, options: dict[str, Any]):
    backbone = TimmBackbone(name, frozen_stages=1, options=options)
    plain = {
        name: (part.weight, part.stride) for name, part in backbone.network.named_modules() if name[-5:] == "conv2"
    }
    before = set(backbone.network.state_dict())
    make_deformable(backbone)
    found = deformable_ones(backbone)
    assert set(found) == {"layer2.0.conv2", "layer2.1.conv2", "layer3.0.conv2", "layer4.0.conv2"}
    assert all(part.weight is plain[name][0] and part.stride == plain[name][1] for name, part in found.items())
    assert found["layer2.0.conv2"].stride == (2, 2)
    offsets = {f"{name}.offsets.{part}" for name in found for part in ("weight", "bias")}
    assert set(backbone.network.state_dict()) == before | offsets
    pixels = torch.randint(256, (2, 3, 64, 96), dtype=torch.uint8)
    sum(maps.sum() for maps in backbone(Images(pixels, ((64, 96), (50, 70))))).backward()
    trained = {name for name, weight in backbone.network.named_parameters() if weight.requires_grad}
    assert trained >= offsets
    assert all(weight.grad is not None for weight in backbone.network.parameters() if weight.requires_grad)


def test_offsets_of_frozen_stages_are_frozen():
    backbone = TimmBackbone("resnet26", frozen_stages=2, options=SMALL)
    make_deformable(backbone)
    trained = {name: part.offsets.weight.requires_grad for name, part in deformable_ones(backbone).items()}
    assert trained == {
        "layer2.0.conv2": False,
        "layer2.1.conv2": False,
        "layer3.0.conv2": True,
        "layer4.0.conv2": True,
    }


def test_weights_from_a_file_stay_when_the_network_becomes_deformable(tmp_path: Path):
    tensors = timm.create_model("resnet26", pretrained=False, **SMALL).state_dict()
    torch.save(tensors, tmp_path / "weights.pth")
    backbone = TimmBackbone("resnet26", options=SMALL)
    FileWeights(tmp_path / "weights.pth").load(backbone)
    make_deformable(backbone)
    own = backbone.network.state_dict()
    assert all(torch.equal(own[name], tensors[name]) for name in own if ".offsets." not in name)


def test_networks_without_bottlenecks_are_refused_by_name():
    with pytest.raises(InputError, match="resnet18 has no bottlenecks in layer2 to layer4"):
        make_deformable(TimmBackbone("resnet18"))
    odd = TimmBackbone("resnet26", options={"layers": (1, 1, 1, 1), "channels": (4, 6, 8, 8)})
    with pytest.raises(InputError, match="resnet26 cannot be made deformable: 6 channels"):
        make_deformable(odd)
