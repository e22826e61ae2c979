"""Tables of ATSS and PAA: every loss of Table 2 and the ablations on ATSS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rankdet.recipes import Recipe
from rankdet.recipes.library.experiment import require
from rankdet.recipes.library.one_stage import (
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
from rankdet.recipes.schema.detectors import ATSS, PAA
from rankdet.recipes.schema.losses import (
    CenternessWeights,
    ConstantBalance,
    IoUWeights,
    MagnitudeBalance,
    NoWeights,
    RankingWeights,
    RankSortLoss,
    ScoreWeights,
    ValueBalance,
)
from rankdet.recipes.schema.part import Part

from ..experiments import COCO, SHAPES, Experiment
from .rows import Change, Family, Row


def as_in(full: Callable[[], Recipe]) -> Change:
    """Return a change to the loss, anchors, auxiliary head and cost of ``full``, in which the rows of Table 2
    differ."""

    def change(recipe: Recipe) -> Recipe:
        require(recipe, ATSS, PAA)
        source = full()
        fields = {"dense": {name: getattr(source.detector.dense, name) for name in ("anchor_scales", "auxiliary")}}
        if isinstance(source.detector, PAA):
            fields |= {name: getattr(source.detector, name) for name in ("cost_giou_weight", "added_variance")}
        return recipe.changed({"detector": fields}, losses=source.losses)

    return change


def one_stage_family(full: Callable[[], Recipe], small: Callable[[], Recipe]) -> Family:
    """Return the family of a row of Table 2: its recipe on COCO, and its differences on the small recipe."""
    return Family({COCO: Experiment(full), SHAPES: Experiment(small, as_in(full))})


ATSS_STANDARD = Family.of(shapes=atss_shapes, coco=atss_r50_coco)
PAA_STANDARD = Family.of(shapes=paa_shapes, coco=paa_r50_coco)
RS_ATSS = Family.of(shapes=rs_atss_shapes, coco=rs_atss_r50_coco)
RS_PAA = Family.of(shapes=rs_paa_shapes, coco=rs_paa_r50_coco)
FOCAL_ATSS = one_stage_family(focal_atss_r50_coco, atss_shapes)
WEIGHTINGS: dict[str, Part] = {
    "none": NoWeights(),
    "centerness": CenternessWeights(),
    "score": ScoreWeights(),
    "iou": IoUWeights(),
    "ranking": RankingWeights(),
}
BALANCINGS: dict[str, Part] = {
    "constant_1": ConstantBalance(weight=1.0),
    "constant_2": ConstantBalance(weight=2.0),
    "constant_3": ConstantBalance(weight=3.0),
    "value": ValueBalance(),
    "magnitude": MagnitudeBalance(),
}


def rs_atss_with(**fields: Any) -> Family:
    """Return RS ATSS with another form of the loss, or the recipe itself for its own form."""
    loss = RankSortLoss(**fields)
    if loss == RankSortLoss():
        return RS_ATSS
    return RS_ATSS.changed(lambda recipe: recipe.changed(losses={"dense": loss}))


def table_2() -> list[Row]:
    """Return the rows of Table 2: losses on ATSS and PAA."""
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


def table_9() -> list[Row]:
    """Return the rows of Table 9: components of RS ATSS, which are cells of Table A.11, after focal loss."""
    two = ConstantBalance(weight=2.0)
    return [
        FOCAL_ATSS.row("focal"),
        rs_atss_with(tasks={"weighting": NoWeights(), "balancing": two}).row("rs"),
        rs_atss_with(tasks={"balancing": two}).row("rs-weights"),
        RS_ATSS.row("rs-weights-balance"),
    ]


def table_a11() -> list[Row]:
    """Return the rows of Table A.11: instance weights and task balancing of RS ATSS."""
    return [
        rs_atss_with(tasks={"weighting": weighting, "balancing": balancing}).row(f"{weights}-{balance}")
        for weights, weighting in WEIGHTINGS.items()
        for balance, balancing in BALANCINGS.items()
    ]


def table_a13() -> list[Row]:
    """Return the rows of Table A.13: smoothing of weights by rank.

    The default and a width of 0 do not smooth. The two rows share their runs, although the paper's figures differ.
    """
    widths = {"0.00": 0.0, "0.50": 0.5, "1.00": 1.0, "1.50": 1.5, "2.00": 2.0, "default": 0.0}
    return [
        rs_atss_with(tasks={"weighting": RankingWeights(delta_loc=width)}).row(name) for name, width in widths.items()
    ]


def table_a14() -> list[Row]:
    """Return the rows of Table A.14: width of the step of RS Loss."""
    return [rs_atss_with(delta=delta).row(f"{delta:.2f}") for delta in (0.25, 0.4, 0.5, 0.6, 0.75, 1.0)]
