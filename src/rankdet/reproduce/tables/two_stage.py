"""Tables of the paper on Faster, Mask and Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from rankdet.recipes import Recipe
from rankdet.recipes.library.bccd import faster_rcnn_lite0_bccd, rs_faster_rcnn_lite0_bccd
from rankdet.recipes.library.cascade_rcnn import (
    cascade_rcnn_r50_coco,
    cascade_rcnn_shapes,
    rs_cascade_rcnn_r50_coco,
    rs_cascade_rcnn_shapes,
)
from rankdet.recipes.library.coco import (
    WITH_ALRP,
    WITH_GIOU,
    WITH_L1,
    alrp_faster_rcnn_r50_coco,
    augmented,
    faster_rcnn_giou_r50_coco,
    faster_rcnn_r50_coco,
    focal_faster_rcnn_r50_coco,
    heavy_alrp_faster_rcnn_r50_coco,
    heavy_rs_faster_rcnn_r50_coco,
    rs_faster_rcnn_r50_coco,
    with_focal,
)
from rankdet.recipes.library.lvis import (
    faster_rcnn_long_tail_shapes,
    mask_rcnn_long_tail_shapes,
    mask_rcnn_r50_lvis,
    rs_faster_rcnn_long_tail_shapes,
    rs_mask_rcnn_long_tail_shapes,
    rs_mask_rcnn_r50_lvis,
)
from rankdet.recipes.library.mask_rcnn import (
    mask_rcnn_lite0_nuclei,
    mask_rcnn_r50_coco,
    mask_rcnn_shapes,
    rs_mask_rcnn_lite0_nuclei,
    rs_mask_rcnn_r50_coco,
    rs_mask_rcnn_shapes,
)
from rankdet.recipes.library.plus import (
    faster_rcnn_plus_r50_coco,
    rs_faster_rcnn_plus_r50_coco,
    rs_faster_rcnn_plus_r101_dcn_3x_coco,
    rs_faster_rcnn_r101_dcn_3x_coco,
    rs_mask_rcnn_plus_r50_coco,
    rs_mask_rcnn_plus_r101_3x_coco,
    rs_mask_rcnn_plus_r101_dcn_3x_coco,
    rs_mask_rcnn_plus_x101_dcn_3x_coco,
    rs_mask_rcnn_r101_3x_coco,
    with_carafe,
)
from rankdet.recipes.library.ranking import stages_of
from rankdet.recipes.library.shapes import faster_rcnn_shapes, rs_faster_rcnn_shapes

from ..experiments import COCO, SHAPES, Experiment
from .rows import Change, Family, Row


def changed_by(changes: Mapping[str, Any]) -> Change:
    """Return a change to these fields."""
    return lambda recipe: recipe.changed(changes)


def with_l1_and_carafe(recipe: Recipe) -> Recipe:
    """Change to L1 in both stages and a pyramid with CARAFE, as in ``faster_rcnn_plus_r50_coco``."""
    return with_carafe(recipe.changed(WITH_L1))


def with_heavy_training(recipe: Recipe) -> Recipe:
    """Change to the augmentation of ``heavy_rs_faster_rcnn_r50_coco`` and three times the iterations, on ``shapes``."""
    schedule = {"iterations": 3 * recipe.schedule.iterations, "milestones": (0.75, 0.95)}
    return recipe.changed({"data": augmented(128, (127.5, 127.5, 127.5)), "schedule": schedule})


def with_focal_from_low_scores(recipe: Recipe) -> Recipe:
    """Change to focal loss as in ``focal_faster_rcnn_r50_coco``, for a short training.

    Scores start at 0.01, and not all of them pass the usual threshold of 0.05 in so few iterations.
    """
    threshold = min(0.01, recipe.detector.testing.score_threshold)
    return with_focal(recipe).changed({"detector.testing.score_threshold": threshold})


def with_samplers_of(standard: Callable[[], Recipe], drawn: Collection[str]) -> Change:
    """Return a change of samplers: heads in ``drawn`` sample as in ``standard``, all others take all candidates.

    It fits any loss and number of stages, and raises ValueError for a head that does not exist.
    """

    def change(recipe: Recipe) -> Recipe:
        heads, source = ["rpn", *stages_of(recipe)], standard().detector
        unknown = set(drawn) - set(heads)
        if unknown:
            raise ValueError(f"recipe {recipe.name} has no heads {sorted(unknown)}; it has {sorted(heads)}")
        samplers = {head: getattr(source, head).sampler if head in drawn else None for head in heads}
        return recipe.changed({f"detector.{head}.sampler": sampler for head, sampler in samplers.items()})

    return change


def sampled(family: Family, standard: Family, drawn: Collection[str]) -> Family:
    """Return a family with the samplers of ``standard`` in the heads ``drawn``, and without in the others."""
    return family.changed_at(lambda scale: with_samplers_of(standard.experiments[scale].base, drawn))


FASTER_RCNN = Family.of(
    shapes=faster_rcnn_shapes,
    long_tailed_shapes=faster_rcnn_long_tail_shapes,
    bccd=faster_rcnn_lite0_bccd,
    coco=faster_rcnn_r50_coco,
)
RS_FASTER_RCNN = Family.of(
    shapes=rs_faster_rcnn_shapes,
    long_tailed_shapes=rs_faster_rcnn_long_tail_shapes,
    bccd=rs_faster_rcnn_lite0_bccd,
    coco=rs_faster_rcnn_r50_coco,
)
LONG_TAILED_MASK_RCNN = Family.of(long_tailed_shapes=mask_rcnn_long_tail_shapes, coco=mask_rcnn_r50_lvis)
LONG_TAILED_RS_MASK_RCNN = Family.of(long_tailed_shapes=rs_mask_rcnn_long_tail_shapes, coco=rs_mask_rcnn_r50_lvis)
GIOU_FASTER_RCNN = Family(
    {**FASTER_RCNN.changed(changed_by(WITH_GIOU)).experiments, COCO: Experiment(faster_rcnn_giou_r50_coco)},
)
FOCAL_FASTER_RCNN = Family(
    {
        **FASTER_RCNN.changed(with_focal_from_low_scores).experiments,
        COCO: Experiment(focal_faster_rcnn_r50_coco),
    },
)
ALRP_FASTER_RCNN = Family(
    {**RS_FASTER_RCNN.changed(changed_by(WITH_ALRP)).experiments, COCO: Experiment(alrp_faster_rcnn_r50_coco)},
)
MASK_RCNN = Family.of(shapes=mask_rcnn_shapes, nuclei=mask_rcnn_lite0_nuclei, coco=mask_rcnn_r50_coco)
RS_MASK_RCNN = Family.of(shapes=rs_mask_rcnn_shapes, nuclei=rs_mask_rcnn_lite0_nuclei, coco=rs_mask_rcnn_r50_coco)
CASCADE_RCNN = Family.of(shapes=cascade_rcnn_shapes, coco=cascade_rcnn_r50_coco)
RS_CASCADE_RCNN = Family.of(shapes=rs_cascade_rcnn_shapes, coco=rs_cascade_rcnn_r50_coco)

SAMPLERS = {"random-random": ("rpn", "rcnn"), "none-random": ("rcnn",), "none-none": ()}
"""For each row of Tables 10, A.17 and A.18 the heads that sample their candidates."""

CARAFE_FASTER_RCNN = Family(
    {**FASTER_RCNN.changed(with_l1_and_carafe).experiments, COCO: Experiment(faster_rcnn_plus_r50_coco)},
)
RS_FASTER_RCNN_PLUS = Family(
    {**RS_FASTER_RCNN.changed(with_carafe).experiments, COCO: Experiment(rs_faster_rcnn_plus_r50_coco)},
)
RS_MASK_RCNN_PLUS = Family(
    {**RS_MASK_RCNN.changed(with_carafe).experiments, COCO: Experiment(rs_mask_rcnn_plus_r50_coco)},
)
# The larger networks have no small form.
RS_FASTER_RCNN_DCN = Family.of(coco=rs_faster_rcnn_r101_dcn_3x_coco)
RS_FASTER_RCNN_PLUS_DCN = Family.of(coco=rs_faster_rcnn_plus_r101_dcn_3x_coco)
RS_MASK_RCNN_R101 = Family.of(coco=rs_mask_rcnn_r101_3x_coco)
RS_MASK_RCNN_PLUS_R101 = Family.of(coco=rs_mask_rcnn_plus_r101_3x_coco)
RS_MASK_RCNN_PLUS_DCN = Family.of(coco=rs_mask_rcnn_plus_r101_dcn_3x_coco)
RS_MASK_RCNN_PLUS_X101_DCN = Family.of(coco=rs_mask_rcnn_plus_x101_dcn_3x_coco)


def heavy(family: Family, full: Callable[[], Recipe]) -> Family:
    """Return a family in heavy training, on ``shapes`` and by its recipe on COCO."""
    return Family({SHAPES: family.changed(with_heavy_training).experiments[SHAPES], COCO: Experiment(full)})


def sampler_rows(family: Family, prefix: str = "") -> list[Row]:
    """Return rows of Faster R-CNN with each choice of samplers."""
    return [sampled(family, FASTER_RCNN, drawn).row(f"{prefix}{name}") for name, drawn in SAMPLERS.items()]


def table_1() -> list[Row]:
    """Return the rows of Table 1: Faster R-CNN."""
    return [
        FASTER_RCNN.row("fpn"),
        ALRP_FASTER_RCNN.row("alrp"),
        GIOU_FASTER_RCNN.row("giou"),
        CARAFE_FASTER_RCNN.row("carafe_fpn"),
        RS_FASTER_RCNN.row("rs"),
        RS_FASTER_RCNN_PLUS.row("rs_plus"),
    ]


def table_3() -> list[Row]:
    """Return the rows of Table 3: the strongest detectors, by their boxes."""
    return [
        RS_FASTER_RCNN_DCN.row("rs_rcnn"),
        RS_FASTER_RCNN_PLUS_DCN.row("rs_rcnn_plus"),
        RS_MASK_RCNN_PLUS_DCN.row("rs_mask_rcnn_plus"),
        RS_MASK_RCNN_PLUS_X101_DCN.row("rs_mask_rcnn_plus_x101"),
    ]


def table_4() -> list[Row]:
    """Return the rows of Table 4: Mask R-CNN."""
    return [MASK_RCNN.row("mask_rcnn"), RS_MASK_RCNN.row("rs")]


def table_5() -> list[Row]:
    """Return the rows of Table 5: Mask R-CNN on LVIS."""
    return [LONG_TAILED_MASK_RCNN.row("rfs"), LONG_TAILED_RS_MASK_RCNN.row("rs")]


def table_8() -> list[Row]:
    """Return the rows of Table 8: the strongest detectors, by their masks."""
    return [
        RS_MASK_RCNN_R101.row("rs_mask_rcnn"),
        RS_MASK_RCNN_PLUS_R101.row("rs_mask_rcnn_plus"),
        RS_MASK_RCNN_PLUS_DCN.row("rs_mask_rcnn_plus-dcn"),
        RS_MASK_RCNN_PLUS_X101_DCN.row("rs_mask_rcnn_plus_x101-dcn"),
    ]


def table_10() -> list[Row]:
    """Return the rows of Table 10: samplers of RS Faster R-CNN, and RS Mask R-CNN on LVIS."""
    return [*table_a17(), LONG_TAILED_RS_MASK_RCNN.row("lvis-none-none", is_of_masks=True)]


def table_a17() -> list[Row]:
    """Return the rows of Table A.17: samplers of RS Faster R-CNN."""
    return sampler_rows(RS_FASTER_RCNN)


def table_a12() -> list[Row]:
    """Return the rows of Table A.12: aLRP Loss and RS Loss in heavy and in standard training."""
    return [
        heavy(ALRP_FASTER_RCNN, heavy_alrp_faster_rcnn_r50_coco).row("alrp-heavy"),
        ALRP_FASTER_RCNN.row("alrp-standard"),
        heavy(RS_FASTER_RCNN, heavy_rs_faster_rcnn_r50_coco).row("rs-heavy"),
        RS_FASTER_RCNN.row("rs-standard"),
    ]


def table_a15() -> list[Row]:
    """Return the rows of Table A.15: Cascade R-CNN."""
    return [CASCADE_RCNN.row("cascade_rcnn"), RS_CASCADE_RCNN.row("rs")]


def table_a18() -> list[Row]:
    """Return the rows of Table A.18: samplers under three losses; small networks learn the long-tailed set."""
    return [
        *sampler_rows(GIOU_FASTER_RCNN.without(SHAPES), "ce-"),
        *sampler_rows(FOCAL_FASTER_RCNN.without(SHAPES), "focal-"),
        *sampler_rows(RS_FASTER_RCNN.without(SHAPES), "rs-"),
    ]


def table_a20() -> list[Row]:
    """Return the rows of Table A.20: all forms of RS Faster and RS Mask R-CNN, by their boxes and their masks."""
    return [
        RS_FASTER_RCNN.row("box-faster_rcnn-r_50"),
        RS_MASK_RCNN.row("box-mask_rcnn-r_50"),
        RS_FASTER_RCNN_PLUS.row("box-faster_rcnn_plus-r_50"),
        RS_MASK_RCNN_PLUS.row("box-mask_rcnn_plus-r_50"),
        RS_MASK_RCNN_R101.row("box-mask_rcnn-r_101"),
        RS_MASK_RCNN_PLUS_R101.row("box-mask_rcnn_plus-r_101"),
        RS_FASTER_RCNN_DCN.row("box-faster_rcnn-r_101_dcn"),
        RS_FASTER_RCNN_PLUS_DCN.row("box-faster_rcnn_plus-r_101_dcn"),
        RS_MASK_RCNN_PLUS_DCN.row("box-mask_rcnn_plus-r_101_dcn"),
        RS_MASK_RCNN.row("mask-mask_rcnn-r_50", is_of_masks=True),
        RS_MASK_RCNN_PLUS.row("mask-mask_rcnn_plus-r_50", is_of_masks=True),
        RS_MASK_RCNN_R101.row("mask-mask_rcnn-r_101", is_of_masks=True),
        RS_MASK_RCNN_PLUS_R101.row("mask-mask_rcnn_plus-r_101", is_of_masks=True),
        RS_MASK_RCNN_PLUS_DCN.row("mask-mask_rcnn_plus-r_101_dcn", is_of_masks=True),
    ]
