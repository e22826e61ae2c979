"""Recipes and fields that the pages name exist."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rankdet.recipes import RECIPES, load_recipe
from rankdet.structures import InputError

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - set((ROOT / "docs").glob("adding-*.md")))]
"""Walks through a loss or detector of one's own are left out: they name fields that they make."""
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
FIELD = r"(?:detector|losses|data|evaluation|runtime|optimizer|schedule)(?:\.[a-z]\w*)+"
CHANGES = sorted(set(re.findall(rf"`({FIELD}=[^`]+)`", TEXT)) | set(re.findall(rf" ({FIELD}=[^\s`]+)", TEXT)))
FIELDS = sorted(field for field in set(re.findall(rf"`({FIELD})`", TEXT)) if not field.endswith((".json", ".yaml")))
DETECTORS = r"(?:faster_rcnn|mask_rcnn|cascade_rcnn|atss|paa|yolact|solov2|detr)"
ENDS = r"(?:coco|lvis|shapes|bccd|nuclei|lite0|mobilenetv4_m|r50|convnext_t)"
NAMES = sorted(set(re.findall(rf"\b(?:[a-z]+_)*{DETECTORS}_(?:\w+_)?{ENDS}\b(?!\.py)", TEXT)))
"""A name with .py is a config of mmdetection."""


@cache
def built_in() -> list[dict[str, Any]]:
    return [recipe().model_dump(mode="json") for recipe in RECIPES.values()]


def accepts(name: str, changes: list[str]) -> bool:
    try:
        load_recipe(name, changes)
    except InputError:
        return False
    return True


def has(recipe: Any, path: list[str]) -> bool:
    return not path or (isinstance(recipe, dict) and path[0] in recipe and has(recipe[path[0]], path[1:]))


@pytest.mark.parametrize("change", CHANGES)
def test_some_recipe_accepts_the_change_that_a_page_shows(change: str) -> None:
    assert any(accepts(name, change.split("\n")) for name in RECIPES)


@pytest.mark.parametrize("field", FIELDS)
def test_some_recipe_has_the_field_that_a_page_names(field: str) -> None:
    assert any(has(recipe, field.split(".")) for recipe in built_in())


def test_the_recipes_that_the_pages_name_exist() -> None:
    assert len(NAMES) > 20
    assert set(NAMES) <= set(RECIPES)
