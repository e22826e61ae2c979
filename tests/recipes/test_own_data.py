"""Recipes for own data: their networks, a step and a detection of each, and what training takes where none is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch

from rankdet.inference.loading import build_losses, build_model
from rankdet.recipes import RECIPES, load_recipe
from rankdet.recipes.default import BOXES, MASKS, said_of_default
from rankdet.recipes.library import own_data
from rankdet.recipes.schema.data import Data
from rankdet.structures import Batch, Images, Source, Target
from rankdet.training.step import training_step

CHANNELS = {
    "lite0": (24, 40, 112, 320),
    "mobilenetv4_m": (48, 80, 160, 960),
    "r50": (256, 512, 1024, 2048),
    "convnext_t": (96, 192, 384, 768),
}
"""Channels of the maps of strides 4 to 32 of each backbone."""
BOX = torch.tensor([[8.0, 8.0, 72.0, 56.0]])


def batch() -> Batch:
    """Two images, one of them with an object and one without."""
    pixels = torch.randint(256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    masks = torch.zeros(1, 64, 96, dtype=torch.bool)
    masks[:, 8:56, 8:72] = True
    none = Target(BOX[:0], torch.zeros(0, dtype=torch.int64), masks[:0])
    images = Images(pixels, ((64, 96), (64, 90)))
    sources = tuple(Source(index, f"{index}.png", size) for index, size in enumerate(images.sizes))
    return Batch(images, (Target(BOX, torch.tensor([1]), masks), none), sources)


@pytest.mark.parametrize("backbone", CHANNELS)
@pytest.mark.parametrize("form", ["faster_rcnn", "rs_mask_rcnn"])
def test_network_of_a_recipe_has_levels_from_4_to_128_and_takes_a_step_and_detects(form: str, backbone: str) -> None:
    torch.manual_seed(0)
    narrow = {"detector.pyramid_channels": 16, "detector.rcnn.channels": 16}
    recipe = load_recipe(f"{form}_{backbone}", narrow)
    network = recipe.detector.build(3, pretrained=False)
    assert network.rpn.anchors.strides == (4, 8, 16, 32, 64, 128)
    assert network.rcnn.pooling.strides == network.backbone.strides == (4, 8, 16, 32)
    assert network.backbone.channels == CHANNELS[backbone]
    frozen = [name for name, parameter in network.backbone.named_parameters() if not parameter.requires_grad]
    assert 0 < len(frozen) < len(list(network.backbone.parameters())) / 2
    model = build_model(recipe, network, [(1, "a"), (2, "b"), (3, "c")], torch.device("cpu"))
    losses = build_losses(recipe, torch.device("cpu"), 1)
    total, _, _ = training_step(model.forward, losses, batch(), recipe.head_weights)
    total.backward()
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in learned)
    network.eval()
    assert [len(found.boxes) <= 300 for found in network.detect(batch().images)] == [True, True]


@pytest.mark.parametrize("name", [name for name in RECIPES if name in vars(own_data)])
def test_recipe_has_what_own_data_need(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.data.keep_empty
    assert len(recipe.data.resize.shorts) > 1
    assert recipe.data.resize.test_short == recipe.data.resize.shorts[len(recipe.data.resize.shorts) // 2]
    assert recipe.detector.testing.per_image == 300
    assert recipe.detector.rpn.test_proposals.per_image >= 300
    assert recipe.runtime.clip_gradient_norm == 1.0
    assert recipe.schedule.epochs is not None
    standard = load_recipe(name.removeprefix("rs_"))
    for part in ("data", "optimizer", "schedule", "evaluation", "runtime"):
        assert getattr(recipe, part) == getattr(standard, part)
    assert recipe.detector.backbone == standard.detector.backbone
    weights = recipe.detector.backbone.weights
    assert weights.type == "wheel" or weights.name in timm.list_pretrained()


def test_there_is_each_backbone_in_each_form() -> None:
    names = {
        f"{rs}{form}_rcnn_{backbone}" for rs in ("", "rs_") for form in ("faster", "mask") for backbone in CHANNELS
    }
    assert names == {name for name in RECIPES if name in vars(own_data)}
    assert {BOXES, MASKS} <= names


@pytest.mark.parametrize(
    ("annotations", "has_masks"),
    [
        ([{"segmentation": []}, {"segmentation": [[0, 0, 9, 0, 9, 9]]}], True),
        ([{"segmentation": {"counts": "0", "size": [1, 1]}}], True),
        ([{"segmentation": []}, {"segmentation": None}, {}, 3], False),
        (None, False),
    ],
)
def test_the_recipe_for_masks_is_named_where_annotations_have_some(
    annotations: object, has_masks: bool, tmp_path: Path
) -> None:
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"images": [], "annotations": annotations, "categories": []}))
    said = said_of_default(Data(train_annotations=path, batch_size=1))
    assert BOXES in said
    assert (MASKS in said) == has_masks
    assert MASKS not in said_of_default(Data(folder=tmp_path / "nowhere", batch_size=1))
    assert MASKS not in said_of_default(None)
