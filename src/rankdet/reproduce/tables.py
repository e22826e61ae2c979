"""Rows of the paper's tables that can be trained: built-in recipes and changes of them, from ``table_recipes.yaml``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from rankdet.recipes import RECIPES, Recipe
from rankdet.recipes.library.ranking import stages_of
from rankdet.recipes.schema.losses import LOSSES
from rankdet.recipes.schema.part import type_of

from .experiments import BCCD, COCO, LONG_TAILED_SHAPES, NUCLEI, SHAPES, Experiment, Scale, unchanged

Change = Callable[[Recipe], Recipe]
SCALES = {scale.name: scale for scale in (SHAPES, LONG_TAILED_SHAPES, BCCD, NUCLEI, COCO)}


@dataclass(frozen=True)
class Row:
    """The experiments of one row of a table, by its name in ``paper_tables.yaml``."""

    name: str
    experiments: Mapping[Scale, Experiment]
    """At a missing scale the row has published figures only."""
    is_of_masks: bool = False
    """True if AP and oLRP of the row are those of masks."""


@dataclass(frozen=True)
class Family:
    """One method at all scales, by its built-in recipes."""

    experiments: Mapping[Scale, Experiment]

    @classmethod
    def of(cls, recipes: Mapping[str, str]) -> Family:
        """Create a family from the names of its scales and of their recipes."""
        return cls({SCALES[scale]: Experiment(RECIPES[recipe]) for scale, recipe in recipes.items()})

    def changed(self, change: Change) -> Family:
        """Return the same recipes with a further change."""
        return self.changed_at(lambda scale: change)

    def changed_at(self, change_at: Callable[[Scale], Change]) -> Family:
        """Return the same recipes, each with the change of its scale."""
        return Family(
            {
                scale: Experiment(experiment.base, _then(experiment.change, change_at(scale)))
                for scale, experiment in self.experiments.items()
            }
        )

    def row(self, name: str, *, is_of_masks: bool = False) -> Row:
        """Return a row of this method."""
        return Row(name, self.experiments, is_of_masks)


def _then(first: Change, second: Change) -> Change:
    return second if first is unchanged else lambda recipe: second(first(recipe))


def sampled(family: Family, standard: Family, drawn: Collection[str]) -> Family:
    """Return a family with the samplers of ``standard`` in the heads ``drawn``, and without in the others.

    It fits any loss and number of stages. Its recipes raise ValueError for a head that does not exist.
    """

    def change_at(scale: Scale) -> Change:
        def change(recipe: Recipe) -> Recipe:
            heads, source = ["rpn", *stages_of(recipe)], standard.experiments[scale].base().detector
            unknown = set(drawn) - set(heads)
            if unknown:
                raise ValueError(f"recipe {recipe.name} has no heads {sorted(unknown)}; it has {sorted(heads)}")
            samplers = {head: getattr(source, head).sampler if head in drawn else None for head in heads}
            return recipe.changed({f"detector.{head}.sampler": sampler for head, sampler in samplers.items()})

        return change

    return family.changed_at(change_at)


class _Method(BaseModel):
    """A method of the file, which documents the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str | None = None
    at: tuple[str, ...] = tuple(SCALES)
    takes: tuple[str, ...] = ()
    change: dict[str, Any] = {}
    at_most: dict[str, float] = {}
    loss: str | None = None
    samplers: tuple[str, ...] | None = None
    recipes: dict[str, str] = {}
    masks: bool = False

    def family(self) -> Family:
        own = Family.of(self.recipes)
        if self.of is None:
            return own
        source = method(self.of).experiments
        changed = Family({scale: source[scale] for scale in source if scale.name in self.at})
        if self.takes or self.change or self.at_most:
            changed = changed.changed(self._changed)
        if self.loss is not None:
            changed = changed.changed(functools.partial(_with_loss, type=self.loss))
        if self.samplers is not None:
            changed = sampled(changed, method("faster_rcnn"), self.samplers)
        return Family({**changed.experiments, **own.experiments})

    def _changed(self, recipe: Recipe) -> Recipe:
        taken = {name: _field(RECIPES[self.recipes[COCO.name]](), name) for name in self.takes}
        lowered = {name: min(most, _field(recipe, name)) for name, most in self.at_most.items()}
        return recipe.changed(taken | self.change | lowered)


def _with_loss(recipe: Recipe, type: str) -> Recipe:
    """Return the recipe with losses of another type, which keep all fields that they have."""
    model = next(loss for loss in LOSSES if type_of(loss) == type)
    losses = {
        head: {name: value for name, value in loss.model_dump(mode="json").items() if name in model.own}
        for head, loss in recipe.losses.items()
    }
    return recipe.changed(losses={head: {"type": type, **fields} for head, fields in losses.items()})


def _field(recipe: Recipe, name: str) -> Any:
    return functools.reduce(lambda value, part: value[part], name.split("."), recipe.model_dump(mode="json"))


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    methods: dict[str, _Method]
    tables: dict[str, dict[str, str | _Method]]


@functools.cache
def _file() -> _File:
    text = resources.files("rankdet.reproduce").joinpath("table_recipes.yaml").read_text(encoding="utf-8")
    return _File.model_validate(yaml.safe_load(text))


def method(name: str) -> Family:
    """Return a method of the file; raises KeyError if there is none."""
    return _file().methods[name].family()


def table_rows(table: str) -> list[Row]:
    """Return the rows of a table that can be trained, which may be none.

    Examples
    --------
    >>> [row.name for row in table_rows("4")], table_rows("sorting")
    (['mask_rcnn', 'rs'], [])
    """
    listed = _file().tables.get(table, {})
    methods = {name: _Method(of=given) if isinstance(given, str) else given for name, given in listed.items()}
    return [given.family().row(name, is_of_masks=given.masks) for name, given in methods.items()]
