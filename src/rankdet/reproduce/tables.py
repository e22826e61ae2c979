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
from rankdet.recipes.detector import ATSS, PAA
from rankdet.recipes.losses import (
    L1,
    Balancing,
    CenternessWeights,
    ConstantBalance,
    GIoU,
    IoUWeights,
    MagnitudeBalance,
    NoWeights,
    RankingWeights,
    RankSort,
    ScoreWeights,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    ValueBalance,
    Weighting,
)
from rankdet.recipes.mask_rcnn import (
    mask_rcnn_r50_coco,
    mask_rcnn_shapes,
    rs_mask_rcnn_r50_coco,
    rs_mask_rcnn_shapes,
)
from rankdet.recipes.one_stage import (
    alrp_atss_r50_coco,
    alrp_paa_r50_coco,
    ap_atss_r50_coco,
    ap_centerness_atss_r50_coco,
    ap_iou_paa_r50_coco,
    ap_paa_r50_coco,
    atss_r50_coco,
    atss_shapes,
    focal_atss_r50_coco,
    focal_paa_r50_coco,
    paa_r50_coco,
    paa_shapes,
    qfl_atss_r50_coco,
    qfl_paa_r50_coco,
    rs_atss_r50_coco,
    rs_atss_shapes,
    rs_paa_r50_coco,
    rs_paa_shapes,
)
from rankdet.recipes.ranking import faster_rcnn_of
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


def with_samplers_of(standard: Callable[[], Recipe], *, rpn: bool, rcnn: bool) -> Change:
    """A change that draws candidates as ``standard`` does, in the RPN, the R-CNN, both or neither."""

    def change(recipe: Recipe) -> Recipe:
        detector, drawn = faster_rcnn_of(recipe), faster_rcnn_of(standard())
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


def one_stage(recipe: Recipe) -> ATSS | PAA:
    """The detector of a recipe of ATSS or PAA; TypeError for another."""
    if not isinstance(recipe.detector, ATSS | PAA):
        raise TypeError(f"recipe {recipe.name!r} is none of ATSS or PAA")
    return recipe.detector


def as_in(full: Callable[[], Recipe]) -> Change:
    """A change that takes from ``full`` all that the rows of Table 2 differ in: loss, anchors, auxiliary head, cost."""

    def change(recipe: Recipe) -> Recipe:
        detector, source = one_stage(recipe), one_stage(full())
        fields = {"anchor_scales": source.dense.anchor_scales, "auxiliary": source.dense.auxiliary}
        changed: dict[str, object] = {"dense": detector.dense.model_copy(update=fields)}
        if isinstance(source, PAA):
            changed |= {"cost_giou_weight": source.cost_giou_weight, "added_variance": source.added_variance}
        return recipe.model_copy(
            update={"detector": detector.model_copy(update=changed), "losses": full().losses},
        )

    return change


def one_stage_family(full: Callable[[], Recipe], small: Callable[[], Recipe]) -> Family:
    """A row of Table 2 on COCO, and what distinguishes it put on the small recipe of its detector."""
    return Family({COCO: Experiment(full), SHAPES: Experiment(small, as_in(full))})


ATSS_STANDARD = Family.of(shapes=atss_shapes, coco=atss_r50_coco)
PAA_STANDARD = Family.of(shapes=paa_shapes, coco=paa_r50_coco)
RS_ATSS = Family.of(shapes=rs_atss_shapes, coco=rs_atss_r50_coco)
RS_PAA = Family.of(shapes=rs_paa_shapes, coco=rs_paa_r50_coco)
FOCAL_ATSS = one_stage_family(focal_atss_r50_coco, atss_shapes)
WEIGHTINGS: dict[str, Weighting] = {
    "none": NoWeights(),
    "centerness": CenternessWeights(),
    "score": ScoreWeights(),
    "iou": IoUWeights(),
    "ranking": RankingWeights(),
}
BALANCINGS: dict[str, Balancing] = {
    "constant_1": ConstantBalance(weight=1.0),
    "constant_2": ConstantBalance(weight=2.0),
    "constant_3": ConstantBalance(weight=3.0),
    "value": ValueBalance(),
    "magnitude": MagnitudeBalance(),
}


def rs_atss_with(loss: RankSort) -> Family:
    """RS ATSS with another form of the loss; the recipe itself where it is the same."""
    if loss == RankSort():
        return RS_ATSS
    return RS_ATSS.changed(lambda recipe: recipe.model_copy(update={"losses": {"dense": loss}}))


def table_1() -> list[Row]:
    """Faster R-CNN."""
    return [FASTER_RCNN.row("fpn"), GIOU_FASTER_RCNN.row("giou"), RS_FASTER_RCNN.row("rs")]


def table_2() -> list[Row]:
    """Losses on ATSS and PAA."""
    return [
        FOCAL_ATSS.row("atss-focal"),
        one_stage_family(focal_paa_r50_coco, paa_shapes).row("paa-focal"),
        ATSS_STANDARD.row("atss-focal-aux"),
        PAA_STANDARD.row("paa-focal-aux"),
        one_stage_family(ap_atss_r50_coco, atss_shapes).row("atss-ap"),
        one_stage_family(ap_paa_r50_coco, paa_shapes).row("paa-ap"),
        one_stage_family(ap_centerness_atss_r50_coco, atss_shapes).row("atss-ap-aux"),
        one_stage_family(ap_iou_paa_r50_coco, paa_shapes).row("paa-ap-aux"),
        one_stage_family(qfl_atss_r50_coco, atss_shapes).row("atss-qfl"),
        one_stage_family(qfl_paa_r50_coco, paa_shapes).row("paa-qfl"),
        one_stage_family(alrp_atss_r50_coco, atss_shapes).row("atss-alrp"),
        one_stage_family(alrp_paa_r50_coco, paa_shapes).row("paa-alrp"),
        RS_ATSS.row("atss-rs"),
        RS_PAA.row("paa-rs"),
    ]


def table_4() -> list[Row]:
    """Mask R-CNN."""
    return [MASK_RCNN.row("mask_rcnn"), RS_MASK_RCNN.row("rs")]


def table_9() -> list[Row]:
    """Components of RS ATSS: cells of Table A.11, after focal loss."""
    two = ConstantBalance(weight=2.0)
    return [
        FOCAL_ATSS.row("focal"),
        rs_atss_with(RankSort(weighting=NoWeights(), balancing=two)).row("rs"),
        rs_atss_with(RankSort(balancing=two)).row("rs-weights"),
        RS_ATSS.row("rs-weights-balance"),
    ]


def table_a11() -> list[Row]:
    """Instance weights and task balancing of RS ATSS."""
    return [
        rs_atss_with(RankSort(weighting=weighting, balancing=balancing)).row(f"{weights}-{balance}")
        for weights, weighting in WEIGHTINGS.items()
        for balance, balancing in BALANCINGS.items()
    ]


def table_a13() -> list[Row]:
    """Smoothing of weights by rank. The default does not smooth, nor does a width of 0: the two rows share their runs,
    though the paper's figures differ."""
    widths = {"0.00": 0.0, "0.50": 0.5, "1.00": 1.0, "1.50": 1.5, "2.00": 2.0, "default": 0.0}
    return [
        rs_atss_with(RankSort(weighting=RankingWeights(delta_loc=width))).row(name) for name, width in widths.items()
    ]


def table_a14() -> list[Row]:
    """Width of the step of RS Loss."""
    return [rs_atss_with(RankSort(delta=delta)).row(f"{delta:.2f}") for delta in (0.25, 0.4, 0.5, 0.6, 0.75, 1.0)]


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
        ATSS_STANDARD.row("atss-standard"),
        RS_ATSS.row("atss-rs"),
        PAA_STANDARD.row("paa-standard"),
        RS_PAA.row("paa-rs"),
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
    "2": table_2,
    "3": nothing_yet,
    "4": table_4,
    "5": nothing_yet,
    "6": nothing_yet,
    "7": nothing_yet,
    "8": nothing_yet,
    "9": table_9,
    "10": table_10,
    "A.11": table_a11,
    "A.12": table_a12,
    "A.13": table_a13,
    "A.14": table_a14,
    "A.15": nothing_yet,
    "A.16": nothing_yet,
    "A.17": table_10,
    "A.18": table_a18,
    "A.19": table_a19,
    "A.20": table_a20,
    "sorting": nothing_yet,
}
"""Table → its rows that can be trained. The names are those of ``paper_tables.yaml``."""
