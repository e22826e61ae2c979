"""Weights are found under whatever key and prefix a training script has put them, and beside averages of them."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rankdet.importing.checkpoint import import_checkpoint
from rankdet.importing.reading import read_foreign
from rankdet.importing.wrappings import unwrapped
from rankdet.runs.checkpoint import load_checkpoint
from rankdet.structures import InputError

from . import foreign


def network() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4)))
    return nn.Sequential(OrderedDict(backbone=body, head=nn.Linear(4, 2)))


PLAIN = {name: value.clone() for name, value in network().state_dict().items()}
AVERAGED = {name: value + 1 for name, value in PLAIN.items()}


def prefixed(prefix: str, tensors: dict[str, Tensor] = PLAIN) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in tensors.items()}


def is_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "network", "weights", "module"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.", "_orig_mod.", "model._orig_mod.", "module.model.", "net."])
def test_keys_and_prefixes_are_found_and_said(key: str, prefix: str):
    content = {"epoch": 3, key: prefixed(prefix), "optimizer": {"state": {0: {"step": torch.ones(1)}}, "lr": 0.1}}
    weights = unwrapped(content)
    assert is_same(weights.tensors, PLAIN)
    if prefix or key not in ("state_dict", "model"):
        (note,) = weights.notes
        assert repr(key) in note
        assert (f"without the prefix {prefix!r}" in note) == bool(prefix)
    else:
        assert weights.notes == []


@pytest.mark.parametrize(
    "wrapped",
    [
        nn.DataParallel(network()),
        torch.compile(network()),
        nn.DataParallel(torch.compile(network())),
        AveragedModel(network()),
        AveragedModel(nn.DataParallel(network()), multi_avg_fn=get_ema_multi_avg_fn(0.9)),
    ],
    ids=["parallel", "compiled", "both", "averaged", "averaged parallel"],
)
def test_what_wrappers_of_torch_save_is_unwrapped(wrapped: nn.Module):
    assert is_same(unwrapped(wrapped.state_dict()).tensors, PLAIN)
    assert is_same(unwrapped({"checkpoint": {"model": wrapped.state_dict()}}).tensors, PLAIN)


def test_a_part_that_was_compiled_is_unwrapped_in_the_middle_of_names():
    outer = network()
    outer.backbone = torch.compile(outer.backbone)
    weights = unwrapped(outer.state_dict())
    assert is_same(weights.tensors, PLAIN)
    assert "_orig_mod." in weights.notes[0]


@pytest.mark.parametrize("others", [{"criterion.weight": torch.ones(2)}, {"backbone.x": torch.ones(1)}])
def test_a_prefix_that_not_all_names_have_stays(others: dict[str, Tensor]):
    tensors = prefixed("model.") | others
    assert is_same(unwrapped(tensors).tensors, tensors)


WITH_AVERAGES: dict[str, Any] = {
    "torchvision": {"model": PLAIN, "model_ema": {"n_averaged": torch.tensor(4)} | prefixed("module.", AVERAGED)},
    "lightning": {"state_dict": prefixed("model.") | prefixed("ema_model.", AVERAGED)},
    "averaged inside": {"state_dict": prefixed("model.") | prefixed("ema_model.module.", AVERAGED)},
    "detr": {"model": PLAIN, "ema": {"module": AVERAGED, "updates": 5}},
    "timm": {"state_dict": PLAIN, "state_dict_ema": AVERAGED, "arch": "x"},
    "plain names": PLAIN | prefixed("ema_model.", AVERAGED),
}


@pytest.mark.parametrize("form", WITH_AVERAGES)
def test_averages_are_left_out_with_a_note_or_taken_on_demand(form: str, tmp_path: Path):
    torch.save(WITH_AVERAGES[form], tmp_path / "a.pth")
    plain = read_foreign(tmp_path / "a.pth")
    assert is_same(plain.tensors, PLAIN)
    assert is_same(read_foreign(tmp_path / "a.pth", ema=False).tensors, PLAIN)
    assert "taken are those as trained; left out are " in plain.notes[-1]
    assert plain.notes[-1].endswith("averaged (EMA), which --ema takes")
    averaged = read_foreign(tmp_path / "a.pth", ema=True)
    assert is_same(averaged.tensors, AVERAGED)
    assert "which --no-ema takes" in averaged.notes[-1]


def test_mmengine_saves_the_averages_under_the_plain_key(tmp_path: Path):
    """Its EMAHook exchanges both before a checkpoint is written."""
    own = {"steps": torch.tensor(3)} | prefixed("module.")
    content = {"meta": {"mmengine_version": "0.10.7"}, "state_dict": AVERAGED, "ema_state_dict": own}
    torch.save(content, tmp_path / "a.pth")
    for ema in (None, True):
        found = read_foreign(tmp_path / "a.pth", ema)
        assert is_same(found.tensors, AVERAGED)
        assert "taken are those averaged (EMA); left out are" in found.notes[-1]
    assert is_same(read_foreign(tmp_path / "a.pth", ema=False).tensors, PLAIN)


@pytest.mark.parametrize("names", ["parameters", "all"])
def test_hooks_of_mmcv_exchange_weights_and_averages_before_they_save(names: str):
    """Buffers beside the weights, with underscores for points; mmcv's are of parameters alone."""
    kept = list(PLAIN) if names == "all" else [name for name, _ in network().named_parameters()]
    content = {"state_dict": AVERAGED | {f"ema_{name.replace('.', '_')}": PLAIN[name] for name in kept}, "meta": {}}
    for averages in (None, True):
        weights = unwrapped(content, averages)
        assert is_same(weights.tensors, AVERAGED)
        assert weights.notes == [
            "the file has weights as trained and averaged ones (EMA): taken are those averaged (EMA); left out are "
            f"{len(kept)} tensors under names that begin with 'ema_', as trained, which --no-ema takes"
        ]
    assert is_same(unwrapped(content, averages=False).tensors, AVERAGED | {name: PLAIN[name] for name in kept})


@pytest.mark.parametrize(
    "content",
    [{"ema": {"module": PLAIN}}, {"ema_state_dict": PLAIN}, {"model": None, "model_ema": prefixed("module.")}],
)
def test_averages_alone_are_taken(content: dict[str, Any]):
    assert is_same(unwrapped(content).tensors, PLAIN)
    with pytest.raises(InputError, match="holds averaged weights"):
        unwrapped(content, averages=False)


def test_averages_that_are_not_there_are_missed():
    with pytest.raises(InputError, match=r"holds no averaged weights \(EMA\)"):
        unwrapped({"model": PLAIN}, averages=True)


def test_what_is_beside_the_weights_is_said():
    several = unwrapped({"state_dict": PLAIN, "net": AVERAGED})
    assert is_same(several.tensors, PLAIN)
    assert several.notes == [f"{len(PLAIN)} tensors under 'net' are left out"]
    mixed = unwrapped({"state_dict": {**PLAIN, "epoch": 3, "name": "x"}})
    assert is_same(mixed.tensors, PLAIN)
    assert mixed.notes == ["2 entries beside the weights are no tensors: epoch, name"]


def test_a_pickled_network_is_named(tmp_path: Path):
    """As ultralytics saves one."""
    torch.save({"epoch": 1, "model": network(), "ema": network()}, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"a\.pt holds no named tensors: under 'model', 'ema' it has pickled objects"):
        read_foreign(tmp_path / "a.pt")


def test_copies_of_mmdetection_do_not_hinder_an_import(small, tmp_path: Path):
    recipe = small("faster_rcnn_r50_coco")
    shapes = foreign.resnet18() | foreign.faster_rcnn(False, foreign.R18, 80, channels=16, width=8)
    tensors = {name: 0.02 * torch.randn(shape) + name.endswith("running_var") for name, shape in shapes.items()}
    copies = {f"ema_{name.replace('.', '_')}": value + 1 for name, value in tensors.items()}
    from rankdet.recipes import dump

    (tmp_path / "small.yaml").write_text(dump(recipe))
    for name, content in (("plain", tensors), ("both", tensors | copies)):
        torch.save({"state_dict": content, "meta": {"mmdet_version": "2.8.0"}}, tmp_path / f"{name}.pth")
        made = import_checkpoint(tmp_path / f"{name}.pth", tmp_path / f"{name}.pt", str(tmp_path / "small.yaml"))
    assert any(f"left out are {len(copies)} tensors under names that begin with 'ema_'" in note for note in made.notes)
    first, second = (load_checkpoint(tmp_path / f"{name}.pt")["detector"] for name in ("plain", "both"))
    assert is_same(second, first)
    import_checkpoint(tmp_path / "both.pth", tmp_path / "ema.pt", str(tmp_path / "small.yaml"), ema=False)
    trained = load_checkpoint(tmp_path / "ema.pt")["detector"]
    assert torch.allclose(trained["rpn.head.convolution.bias"], first["rpn.head.convolution.bias"] + 1)
