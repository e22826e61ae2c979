"""A row of a table: one method at all scales, by its built-in recipes and a change of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rankdet.recipes import Recipe

from ..experiments import BCCD, COCO, LONG_TAILED_SHAPES, NUCLEI, SHAPES, Experiment, Scale, unchanged

Change = Callable[[Recipe], Recipe]


@dataclass(frozen=True)
class Row:
    """What is trained for one row of a table.

    Parameters
    ----------
    name
        Of the row in ``paper_tables.yaml``.
    experiments
        Scale → experiment; at a scale that is missing the row has published figures only.
    is_of_masks
        Whether AP and oLRP of the row are those of masks.
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
        """From the recipes of the scales that there are."""
        recipes = {
            SHAPES: shapes,
            LONG_TAILED_SHAPES: long_tailed_shapes,
            BCCD: bccd,
            NUCLEI: nuclei,
            COCO: coco,
        }
        return cls({scale: Experiment(recipe) for scale, recipe in recipes.items() if recipe is not None})

    def changed(self, change: Change) -> Family:
        """The same recipes with a change on top of theirs."""
        return self.changed_at(lambda scale: change)

    def changed_at(self, change_at: Callable[[Scale], Change]) -> Family:
        """The same recipes, each with the change of its scale."""
        return Family(
            {
                scale: Experiment(experiment.base, _then(experiment.change, change_at(scale)))
                for scale, experiment in self.experiments.items()
            }
        )

    def without(self, scale: Scale) -> Family:
        """The same recipes but those of one scale."""
        return Family({other: experiment for other, experiment in self.experiments.items() if other is not scale})

    def row(self, name: str, *, is_of_masks: bool = False) -> Row:
        """A row of this method."""
        return Row(name, self.experiments, is_of_masks)


def _then(first: Change, second: Change) -> Change:
    return second if first is unchanged else lambda recipe: second(first(recipe))
