"""Recipes with odd fields, as mappings, overrides and YAML: a recipe that is written and read again, or one message."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hypothesis import strategies as st
from tests.coco.test_any_file import ODD as ODD_RECORDS

from rankdet.recipes import RECIPES, Recipe, dump, load_recipe
from rankdet.recipes.changes import flow
from rankdet.structures import InputError

from .fuzzing import Fuzz, Verdict, refused
from .mutations import EDITS_OF_TEXT, Edits, edited

NAMES = (
    "rs_mask_rcnn_r50_lvis",
    "yolact_r50_coco",
    "rs_solov2_light_r34_coco",
    "paa_r50_coco",
    "rs_faster_rcnn_shapes",
)
"""Recipes with all kinds of parts."""
ODD: list[Any] = [
    *ODD_RECORDS,
    *(-1e308, 1e-320, 2**31, 64, [0.5], [0.1, 0.1, 0.2, 0.2], [[0.5] * 4], ["a"] * 3, [1, "a"], [None]),
    *("step", "sgd", "no_such_module:Part", ":", "a:b:c", "auto", "float16", ".inf", "1e-4", "~", "a.b", "-", "[", "{"),
    *({"type": "focal"}, {"type": 5}, {"type": None}, {"type": ["a"]}, {"lr": 0.1}, {"": 0}, {"a": {"b": {}}}),
]
FORMS = ("mapping", "overrides", "file", "whole file")


class Case(NamedTuple):
    """Changes of a recipe by dotted fields, in which form they are made, and what happens to the text of the form."""

    name: str
    changes: list[tuple[str, Any]]
    form: str
    edits: Edits


def fields_of(fields: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """All dotted fields and what they hold."""
    for name, value in fields.items() if isinstance(fields, dict) else ():
        inner = f"{place}.{name}" if place else name
        yield inner, value
        yield from fields_of(value, inner)


FIELDS = {name: dict(fields_of(RECIPES[name]().model_dump(mode="json"))) for name in NAMES}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """One to three changes: what another recipe has there, an odd value, or a field that there is not."""
    name = draw(st.sampled_from(NAMES))
    known = st.sampled_from(sorted(FIELDS[name]))
    unknown = known.map(lambda place: f"{place}.more") | st.sampled_from(["", "x", "losses.x", "data..folder"])

    def change(place: str) -> st.SearchStrategy[tuple[str, Any]]:
        kin = [fields[place] for fields in FIELDS.values() if place in fields]
        alike = [value for value in [*ODD, *kin] if type(value) is type(FIELDS[name].get(place))]
        return st.tuples(st.just(place), st.sampled_from(kin or ODD) | st.sampled_from(alike or ODD))

    anything = st.tuples(known | unknown, st.sampled_from(ODD) | known.map(FIELDS[name].get))
    sensible = known.flatmap(change)
    changes = st.one_of(sensible, sensible, sensible, anything)
    return Case(
        name,
        draw(st.lists(changes, min_size=1, max_size=3)),
        draw(st.sampled_from(FORMS)),
        draw(EDITS_OF_TEXT) if draw(st.integers(0, 3)) == 0 else [],
    )


def check(folder: Path, case: Case) -> Verdict:
    """A recipe, or a message that names a field: one that was changed, or that does not fit to it."""
    path = folder / "recipe.yaml"
    names = {part for place, _ in case.changes for part in place.split(".")}
    try:
        if case.form == "mapping":
            recipe = load_recipe(case.name, dict(case.changes))
        elif case.form == "overrides":
            texts = [f"{place}={written(value)}" for place, value in case.changes]
            recipe = load_recipe(case.name, [edited(text.encode(), case.edits).decode("latin-1") for text in texts])
        else:
            fields = {"base": case.name} if case.form == "file" else RECIPES[case.name]().model_dump(mode="json")
            for place, value in case.changes:
                put(fields, place.split("."), value)
            path.write_bytes(edited(written(fields, lines=True).encode(), case.edits))
            recipe = load_recipe(path)
    except InputError as error:
        named = [name for name in sorted(names) + list(Recipe.model_fields) if name in str(error)]
        return refused(error, *([] if case.edits else named[:1] or ["a field"]))
    path.write_text(dump(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    return Verdict.ACCEPTED


def put(fields: dict[str, Any], place: list[str], value: Any) -> None:
    """Set a field, and make the mappings that it lies in."""
    *outer, last = place
    for name in outer:
        inner = fields.get(name)
        fields[name] = fields = dict(inner) if isinstance(inner, dict) else {}
    fields[last] = value


def written(value: Any, lines: bool = False) -> str:
    """YAML of a value; what YAML does not have is written as Python has it."""
    try:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True) if lines else flow(value)
    except (yaml.YAMLError, UnicodeError):
        return repr(value)


def prepare(folder: Path) -> Fuzz:
    """The target."""
    return Fuzz(cases(), partial(check, folder))
