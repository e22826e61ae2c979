"""Frozen normalization inside of convolutions: the same maps and gradients, names and tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rankdet.backbones import TimmBackbone, make_deformable
from rankdet.backbones.folding import FoldedConv2d
from rankdet.structures import Images

SIZE = (64, 96)
NETWORKS = {"resnet18": 0, "resnet50": 0, "tf_efficientnet_lite0": 5, "densenet121": 62, "resnetv2_50": 16}
"""Networks, and how many of their normalizations do not follow a plain convolution that they alone read: depthwise
convolutions with padding of their own, normalizations of sums and concatenations."""


def images() -> Images:
    """One image of noise."""
    generator = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (1, 3, *SIZE), dtype=torch.uint8, generator=generator), (SIZE,))


def plain_and_folded(name: str, *, deformable: bool = False) -> tuple[TimmBackbone, TimmBackbone]:
    """The same network with the same random statistics, as timm computes it and folded, in double precision."""
    torch.manual_seed(0)
    plain = TimmBackbone(name, frozen_batch_norm=False)
    folded = TimmBackbone(name)
    if deformable:
        for backbone in (plain, folded):
            make_deformable(backbone)
    with torch.no_grad():
        for module in plain.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.weight, module.bias):
                    assert tensor is not None
                    tensor.normal_()
                assert module.running_var is not None
                module.running_var.uniform_(0.5, 2)
    folded.load_state_dict(plain.state_dict())
    return plain.eval().double(), folded.double()


def maps_and_gradients(backbone: TimmBackbone) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Maps of an image, and the gradients of all parameters."""
    maps = backbone(images())
    torch.stack([features.square().mean() for features in maps]).sum().backward()
    return maps, {name: value.grad for name, value in backbone.named_parameters() if value.grad is not None}


def assert_equal(plain: TimmBackbone, folded: TimmBackbone) -> None:
    """Same maps and gradients, up to rounding."""
    expected, found = maps_and_gradients(plain), maps_and_gradients(folded)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 1e-8 * gradient.norm() + 1e-12, name


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_gradients_and_names_are_those_of_the_plain_network(name: str) -> None:
    plain, folded = plain_and_folded(name)
    assert list(folded.state_dict()) == list(plain.state_dict())
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert sum(isinstance(module, FoldedConv2d) for module in folded.modules()) == norms - NETWORKS[name]
    assert_equal(plain, folded)


def test_deformable_convolutions_normalize_too() -> None:
    plain, folded = plain_and_folded("resnet50", deformable=True)
    for backbone in (plain, folded):  # offsets between cells, where the bilinear reading has a gradient
        for name, parameter in backbone.named_parameters():
            if "offsets" in name:
                nn.init.constant_(parameter, 0.01)
    assert_equal(plain, folded)


def test_copies_and_trained_scales_are_followed() -> None:
    plain, folded = plain_and_folded("resnet18")
    copied = copy.deepcopy(folded)
    with torch.no_grad():
        for backbone in (plain, copied):
            for module in backbone.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.weight.mul_(1.5)
    assert_equal(plain, copied)
    assert not torch.equal(folded(images())[0], copied(images())[0])


def test_frozen_statistics_stay_in_training() -> None:
    _, folded = plain_and_folded("resnet18")
    before = {name: value.clone() for name, value in folded.named_buffers()}
    folded.train()
    folded(images())
    assert all(torch.equal(value, before[name]) for name, value in folded.named_buffers())
