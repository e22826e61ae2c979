"""The losses of a model on a batch: values of its own modules, positives by image and object."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from rankdet.data import CocoDataset, SampleKey, collate
from rankdet.explaining import explain_run
from rankdet.explaining.runs import SEED
from rankdet.inference.evaluation import dataset_for
from rankdet.inference.loading import build_losses, build_model
from rankdet.inference.model import Model
from rankdet.recipes import load_recipe
from rankdet.structures import InputError

RECIPES = {
    "faster_rcnn": ("rs_faster_rcnn_shapes", ("rpn", "rcnn")),
    "atss": ("rs_atss_shapes", ("dense",)),
    "AP": ("rs_atss_shapes losses.dense.type=average_precision", ("dense",)),
    "aLRP": ("rs_atss_shapes losses.dense.type=alrp", ("dense",)),
    "solov2": ("rs_solov2_shapes", ("grid",)),
}


@pytest.fixture(scope="module")
def model_of(shapes_folder: Path) -> Callable[[str], Model]:
    """A model that nobody trained."""

    @cache
    def build(name: str) -> Model:
        torch.manual_seed(0)
        name, *changes = name.split()
        recipe = load_recipe(name, [f"data.folder={shapes_folder}", "data.batch_size=2", *changes])
        probe = recipe.data.build_test_dataset()
        network = recipe.detector.build(len(probe.categories), pretrained=False)
        return build_model(recipe, network, probe.categories, torch.device("cpu"))

    return build


@pytest.mark.parametrize("name", RECIPES)
def test_values_are_those_of_the_losses_of_the_run(model_of: Callable[[str], Model], name: str) -> None:
    recipe_name, heads = RECIPES[name]
    model = model_of(recipe_name)
    found, notes = explain_run(model, [1, 3])
    assert [one.title for one in found] == [f"Head {head}" for head in heads]
    assert notes == []
    assert model.origin is not None
    dataset, _ = dataset_for(model, None, "val", candidates=True)
    batch = collate([dataset[SampleKey(place, 0)] for place in (1, 3)])
    losses = build_losses(model.origin.recipe, model.device, 1)
    torch.manual_seed(SEED)
    with torch.no_grad(), model.evaluating():
        outputs = {candidates.head: losses[candidates.head](candidates) for candidates in model.forward(batch)}
    for head, one in zip(heads, found, strict=True):
        terms = outputs[head].terms
        values = [part.value for part in one.parts]
        names = [part.name for part in one.parts]
        expected = [terms[name] for name in names] if names[0] != "precision" else [terms["classification"]]
        assert values == [pytest.approx(value.item(), rel=1e-6) for value in expected]
        assert len(one.positives) == outputs[head].stats["positives"]
        if one.localization is not None:
            assert one.localization.value == pytest.approx(outputs[head].stats["localization_error"].item(), rel=1e-6)


@pytest.mark.parametrize("name", ["faster_rcnn", "atss", "solov2"])
def test_positives_are_named_by_image_and_object(model_of: Callable[[str], Model], name: str) -> None:
    """Every positive learns an object of its own class, and all objects with a positive are named."""
    model = model_of(RECIPES[name][0])
    found, _ = explain_run(model, [0, 2, 4])
    dataset, _ = dataset_for(model, None, "val", candidates=True)
    targets = [dataset[SampleKey(place, 0)].target for place in (0, 2, 4)]
    objects = {
        f"image {image}, object {number} {model.names[label]}"
        for image, target in enumerate(targets)
        for number, label in enumerate(target.labels.tolist())
    }
    for one in found:
        called = {said.rpartition(", #")[0] for said in one.positive_names}
        assert called <= objects
        if one.title in ("Head rcnn", "Head dense"):  # their assignment leaves no object out
            assert called == objects
        classes = len(model.names) if one.title != "Head rpn" else 1
        for said, place in zip(one.positive_names, one.positives.tolist(), strict=True):
            assert said.endswith(f", #{place // classes}")
            if classes > 1:
                assert f" {model.names[place % classes]}, " in said


def test_heads_that_rank_nothing_are_noted(model_of: Callable[[str], Model]) -> None:
    model = model_of("faster_rcnn_shapes")
    with pytest.raises(InputError, match=r"nothing to explain: Head rpn has SigmoidCrossEntropyLoss, which ranks noth"):
        explain_run(model)


def test_what_cannot_be_explained_is_told(model_of: Callable[[str], Model]) -> None:
    model = model_of("rs_faster_rcnn_shapes")
    with pytest.raises(InputError, match=r"there is no image 99: .* has 6, counted from 0"):
        explain_run(model, [99])
    with pytest.raises(InputError, match="name at least one image"):
        explain_run(model, [])
    with pytest.raises(InputError, match="no head 'mask'; it has rpn, rcnn"):
        explain_run(model, heads=["mask"])


def test_without_images_it_is_a_batch_of_the_training(model_of: Callable[[str], Model]) -> None:
    (found,), _ = explain_run(model_of("rs_atss_shapes"))
    assert {said[:7] for said in found.positive_names} == {"image 0", "image 1"}


def test_another_split_is_another_batch(model_of: Callable[[str], Model]) -> None:
    model = model_of("rs_atss_shapes")
    (held,), _ = explain_run(model, [0])
    (learned,), _ = explain_run(model, [0], split="train")
    assert held.parts[0].value != learned.parts[0].value
    assert isinstance(dataset_for(model, None, "train")[0], CocoDataset)
