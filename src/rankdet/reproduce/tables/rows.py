"""Rows of a table: one method at all scales, by its built-in recipes and a change of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rankdet.recipes import Recipe

from ..experiments import BCCD, COCO, LONG_TAILED_SHAPES, NUCLEI, SHAPES, Experiment, Scale, unchanged

Change = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Row:
    """The experiments of one row of a table.

    Parameters
    ----------
    name
        Name of the row in ``paper_tables.yaml``.
    experiments
        For each scale its experiment; at a missing scale the row has published figures only.
    is_of_masks
        True if AP and oLRP of the row are those of masks.
    """

    name: str
    experiments: Mapping[Scale, Experiment]
    is_of_masks: bool = False


@dataclass(frozen=True)
class Family:
    """One method at all scales, by its built-in recipes."""

    experiments: Mapping[Scale, Experiment]

    @classmethod
    def of(
        cls,
        *,
        shapes: Callable[[], Recipe] | None = None,
        long_tailed_shapes: Callable[[], Recipe] | None = None,
        bccd: Callable[[], Recipe] | None = None,
        nuclei: Callable[[], Recipe] | None = None,
        coco: Callable[[], Recipe] | None = None,
    ) -> Family:
        """Create a family from the recipes of its scales."""
        recipes = {
            SHAPES: shapes,
            LONG_TAILED_SHAPES: long_tailed_shapes,
            BCCD: bccd,
            NUCLEI: nuclei,
            COCO: coco,
        }
        return cls({scale: Experiment(recipe) for scale, recipe in recipes.items() if recipe is not None})

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

    def without(self, scale: Scale) -> Family:
        """Return the same recipes without those of one scale."""
        return Family({other: experiment for other, experiment in self.experiments.items() if other is not scale})

    def row(self, name: str, *, is_of_masks: bool = False) -> Row:
        """Return a row of this method."""
        return Row(name, self.experiments, is_of_masks)


def _then(first: Change, second: Change) -> Change:
    return second if first is unchanged else lambda recipe: second(first(recipe))
