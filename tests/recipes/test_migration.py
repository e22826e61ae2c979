"""Recipes that version 0.1.0 wrote are today's recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rankdet.recipes import RECIPES, load_recipe, validated
from rankdet.recipes.migration import migrated
from rankdet.structures import InputError

WRITTEN = sorted((Path(__file__).parent / "recipes_of_0_1_0").glob("*.yaml"))


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: path.stem)
def test_recipe_of_version_0_1_0_is_that_of_today(path: Path) -> None:
    fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert load_recipe(path) == RECIPES[path.stem]()
    assert validated(fields, "a checkpoint") == RECIPES[path.stem]()


@pytest.mark.parametrize("name", ["rs_faster_rcnn_shapes", "yolact_shapes", "paa_r50_coco", "alrp_atss_r50_coco"])
def test_recipe_of_today_stays_as_it_is(name: str) -> None:
    fields = RECIPES[name]().model_dump(mode="json")
    assert migrated(fields) == fields


def test_old_fields_change_a_base_of_today(tmp_path: Path) -> None:
    """What the base has in its place, the type of the loss among it, decides where a field belongs."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "base: atss_shapes\n"
        "detector: {dense: {test_per_level: 7}}\n"
        "losses: {dense: {balancing: {type: value}, dice_epsilon: 0.5, normalizer: {type: or_pictures}}}\n"
    )
    recipe, base = load_recipe(path), load_recipe("atss_shapes")
    loss = recipe.losses["dense"]
    assert (loss.tasks.balancing.type, loss.tasks.dice_epsilon, loss.normalizer.type) == ("value", 0.5, "or_images")
    assert loss.tasks.auxiliary == base.losses["dense"].tasks.auxiliary
    assert (recipe.detector.test_per_level, recipe.detector.dense) == (7, base.detector.dense)


@pytest.mark.parametrize(
    "changes",
    [
        {"losses.dense.normalizer.type": []},
        {"losses.dense.normalizer": []},
        {"losses.dense": {"box_loss": {"type": "giou"}, "tasks": 5}},
        {"losses.dense": {"type": ["rank_sort"]}},
        {"detector.dense": 5},
        {"detector.dense": ["test_per_level"]},
    ],
    ids=str,
)
def test_fields_that_make_no_sense_are_named_whatever_older_versions_had_there(changes: dict[str, object]):
    with pytest.raises(InputError, match="dense"):
        load_recipe("rs_atss_shapes", changes)
