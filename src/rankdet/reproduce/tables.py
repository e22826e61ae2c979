"""Which recipes stand behind the rows of the tables. A table is one function that lists its rows.

A row of the paper that is not listed has published figures only. To add one: a `Family`, or a change of one, under the
name that the row has in ``paper_tables.yaml``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rankdet.recipes import Recipe
from rankdet.recipes.bccd import faster_rcnn_lite0_bccd, rs_faster_rcnn_lite0_bccd
from rankdet.recipes.coco import faster_rcnn_giou_r50_coco, faster_rcnn_r50_coco, rs_faster_rcnn_r50_coco
from rankdet.recipes.detector import FasterRCNN, MaskRCNN
from rankdet.recipes.losses import L1, GIoU, SigmoidCrossEntropy, SoftmaxCrossEntropy
from rankdet.recipes.mask_rcnn import (
    mask_rcnn_r50_coco,
    mask_rcnn_shapes,
    rs_mask_rcnn_r50_coco,
    rs_mask_rcnn_shapes,
)
from rankdet.recipes.shapes import faster_rcnn_shapes, rs_faster_rcnn_shapes

from .experiments import BCCD, COCO, SHAPES, Experiment, Scale, unchanged

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
        bccd: Callable[[], Recipe] | None = None,
        coco: Callable[[], Recipe] | None = None,
    ) -> Family:
        """From the recipes of the scales that there are."""
        recipes = {SHAPES: shapes, BCCD: bccd, COCO: coco}
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

    def row(self, name: str, *, is_of_masks: bool = False) -> Row:
        """A row of this method."""
        return Row(name, self.experiments, is_of_masks)


def _then(first: Change, second: Change) -> Change:
    return second if first is unchanged else lambda recipe: second(first(recipe))


def with_giou(recipe: Recipe) -> Recipe:
    """L1 in the RPN and ten times GIoU in the R-CNN, as in ``faster_rcnn_giou_r50_coco``."""
    losses = {"rpn": SigmoidCrossEntropy(box_loss=L1()), "rcnn": SoftmaxCrossEntropy(box_loss=GIoU(weight=10.0))}
    return recipe.model_copy(update={"losses": losses})


def two_stage(recipe: Recipe) -> FasterRCNN | MaskRCNN:
    """The detector of a recipe of Faster or Mask R-CNN; TypeError for another."""
    if not isinstance(recipe.detector, FasterRCNN | MaskRCNN):
        raise TypeError(f"recipe {recipe.name!r} is none of Faster or Mask R-CNN")
    return recipe.detector


def with_samplers_of(standard: Callable[[], Recipe], *, rpn: bool, rcnn: bool) -> Change:
    """A change that draws candidates as ``standard`` does, in the RPN, the R-CNN, both or neither."""

    def change(recipe: Recipe) -> Recipe:
        detector, drawn = two_stage(recipe), two_stage(standard())
        stages = {
            "rpn": detector.rpn.model_copy(update={"sampler": drawn.rpn.sampler if rpn else None}),
            "rcnn": detector.rcnn.model_copy(update={"sampler": drawn.rcnn.sampler if rcnn else None}),
        }
        return recipe.model_copy(update={"detector": detector.model_copy(update=stages)})

    return change


FASTER_RCNN = Family.of(shapes=faster_rcnn_shapes, bccd=faster_rcnn_lite0_bccd, coco=faster_rcnn_r50_coco)
RS_FASTER_RCNN = Family.of(shapes=rs_faster_rcnn_shapes, bccd=rs_faster_rcnn_lite0_bccd, coco=rs_faster_rcnn_r50_coco)
MASK_RCNN = Family.of(shapes=mask_rcnn_shapes, coco=mask_rcnn_r50_coco)
RS_MASK_RCNN = Family.of(shapes=rs_mask_rcnn_shapes, coco=rs_mask_rcnn_r50_coco)
GIOU_FASTER_RCNN = Family(
    {**FASTER_RCNN.changed(with_giou).experiments, COCO: Experiment(faster_rcnn_giou_r50_coco)},
)


def sampled(family: Family, *, rpn: bool, rcnn: bool) -> Family:
    """A Faster R-CNN with the samplers of the standard one in the RPN, the R-CNN, both or neither."""
    return family.changed_at(
        lambda scale: with_samplers_of(FASTER_RCNN.experiments[scale].base, rpn=rpn, rcnn=rcnn),
    )


def table_1() -> list[Row]:
    """Faster R-CNN."""
    return [FASTER_RCNN.row("fpn"), GIOU_FASTER_RCNN.row("giou"), RS_FASTER_RCNN.row("rs")]


def table_4() -> list[Row]:
    """Mask R-CNN."""
    return [MASK_RCNN.row("mask_rcnn"), RS_MASK_RCNN.row("rs")]


def table_10() -> list[Row]:
    """Samplers of RS Faster R-CNN, also those of Table A.17."""
    return [
        sampled(RS_FASTER_RCNN, rpn=True, rcnn=True).row("random-random"),
        sampled(RS_FASTER_RCNN, rpn=False, rcnn=True).row("none-random"),
        RS_FASTER_RCNN.row("none-none"),
    ]


def table_a12() -> list[Row]:
    """Standard training only; AP after the first epoch is not measured."""
    return [RS_FASTER_RCNN.row("rs-standard")]


def table_a18() -> list[Row]:
    """Samplers of Faster R-CNN under three losses."""
    return [
        GIOU_FASTER_RCNN.row("ce-random-random"),
        sampled(GIOU_FASTER_RCNN, rpn=False, rcnn=True).row("ce-none-random"),
        sampled(GIOU_FASTER_RCNN, rpn=False, rcnn=False).row("ce-none-none"),
        *(Row(f"rs-{row.name}", row.experiments) for row in table_10()),
    ]


def table_a19() -> list[Row]:
    """Standard and ranking form of each detector."""
    return [
        FASTER_RCNN.row("faster_rcnn-standard"),
        RS_FASTER_RCNN.row("faster_rcnn-rs"),
        MASK_RCNN.row("mask_rcnn-standard"),
        RS_MASK_RCNN.row("mask_rcnn-rs"),
    ]


def table_a20() -> list[Row]:
    """The ranking form of each detector."""
    return [
        RS_FASTER_RCNN.row("box-faster_rcnn-r_50"),
        RS_MASK_RCNN.row("box-mask_rcnn-r_50"),
        RS_MASK_RCNN.row("mask-mask_rcnn-r_50", is_of_masks=True),
    ]


def nothing_yet() -> list[Row]:
    """Published figures only."""
    return []


TABLES: dict[str, Callable[[], list[Row]]] = {
    "1": table_1,
    "2": nothing_yet,
    "3": nothing_yet,
    "4": table_4,
    "5": nothing_yet,
    "6": nothing_yet,
    "7": nothing_yet,
    "8": nothing_yet,
    "9": nothing_yet,
    "10": table_10,
    "A.11": nothing_yet,
    "A.12": table_a12,
    "A.13": nothing_yet,
    "A.14": nothing_yet,
    "A.15": nothing_yet,
    "A.16": nothing_yet,
    "A.17": table_10,
    "A.18": table_a18,
    "A.19": table_a19,
    "A.20": table_a20,
    "sorting": nothing_yet,
}
"""Table → its rows that can be trained. The names are those of ``paper_tables.yaml``."""
