"""Tables of Faster and Mask R-CNN."""

from __future__ import annotations

from collections.abc import Callable

from rankdet.recipes import Recipe
from rankdet.recipes.bccd import faster_rcnn_lite0_bccd, rs_faster_rcnn_lite0_bccd
from rankdet.recipes.coco import faster_rcnn_giou_r50_coco, faster_rcnn_r50_coco, rs_faster_rcnn_r50_coco
from rankdet.recipes.losses import (
    L1,
    GIoU,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
)
from rankdet.recipes.mask_rcnn import (
    mask_rcnn_r50_coco,
    mask_rcnn_shapes,
    rs_mask_rcnn_r50_coco,
    rs_mask_rcnn_shapes,
)
from rankdet.recipes.plus import (
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
from rankdet.recipes.ranking import faster_rcnn_of
from rankdet.recipes.shapes import faster_rcnn_shapes, rs_faster_rcnn_shapes

from ..experiments import COCO, Experiment
from .rows import Change, Family, Row


def with_giou(recipe: Recipe) -> Recipe:
    """L1 in the RPN and ten times GIoU in the R-CNN, as in ``faster_rcnn_giou_r50_coco``."""
    losses = {"rpn": SigmoidCrossEntropy(box_loss=L1()), "rcnn": SoftmaxCrossEntropy(box_loss=GIoU(weight=10.0))}
    return recipe.model_copy(update={"losses": losses})


def with_l1_and_carafe(recipe: Recipe) -> Recipe:
    """L1 in both stages and a pyramid with CARAFE, as in ``faster_rcnn_plus_r50_coco``."""
    losses = {"rpn": SigmoidCrossEntropy(box_loss=L1()), "rcnn": SoftmaxCrossEntropy(box_loss=L1())}
    return with_carafe(recipe).model_copy(update={"losses": losses})


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


def sampled(family: Family, *, rpn: bool, rcnn: bool) -> Family:
    """A Faster R-CNN with the samplers of the standard one in the RPN, the R-CNN, both or neither."""
    return family.changed_at(
        lambda scale: with_samplers_of(FASTER_RCNN.experiments[scale].base, rpn=rpn, rcnn=rcnn),
    )


def table_1() -> list[Row]:
    """Faster R-CNN."""
    return [
        FASTER_RCNN.row("fpn"),
        GIOU_FASTER_RCNN.row("giou"),
        CARAFE_FASTER_RCNN.row("carafe_fpn"),
        RS_FASTER_RCNN.row("rs"),
        RS_FASTER_RCNN_PLUS.row("rs_plus"),
    ]


def table_3() -> list[Row]:
    """The strongest detectors, by their boxes."""
    return [
        RS_FASTER_RCNN_DCN.row("rs_rcnn"),
        RS_FASTER_RCNN_PLUS_DCN.row("rs_rcnn_plus"),
        RS_MASK_RCNN_PLUS_DCN.row("rs_mask_rcnn_plus"),
        RS_MASK_RCNN_PLUS_X101_DCN.row("rs_mask_rcnn_plus_x101"),
    ]


def table_4() -> list[Row]:
    """Mask R-CNN."""
    return [MASK_RCNN.row("mask_rcnn"), RS_MASK_RCNN.row("rs")]


def table_8() -> list[Row]:
    """The strongest detectors, by their masks."""
    return [
        RS_MASK_RCNN_R101.row("rs_mask_rcnn"),
        RS_MASK_RCNN_PLUS_R101.row("rs_mask_rcnn_plus"),
        RS_MASK_RCNN_PLUS_DCN.row("rs_mask_rcnn_plus-dcn"),
        RS_MASK_RCNN_PLUS_X101_DCN.row("rs_mask_rcnn_plus_x101-dcn"),
    ]


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


def table_a20() -> list[Row]:
    """All forms of RS Faster and RS Mask R-CNN, by their boxes and by their masks."""
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
