"""Tables of the paper on YOLACT: its heuristics in Table 6, the qualities in Table A.16."""

from __future__ import annotations

from typing import Any

from rankdet.recipes.library.yolact import (
    rs_yolact_lite0_nuclei,
    rs_yolact_r50_coco,
    rs_yolact_shapes,
    yolact_lite0_nuclei,
    yolact_r50_coco,
    yolact_shapes,
)
from rankdet.recipes.schema.losses import BinaryQuality, DiceQuality, IoUQuality, MeanQuality, RankSortLoss
from rankdet.recipes.schema.part import Part

from ..experiments import NUCLEI
from .rows import Change, Family, Row

YOLACT = Family.of(shapes=yolact_shapes, nuclei=yolact_lite0_nuclei, coco=yolact_r50_coco)
RS_YOLACT = Family.of(shapes=rs_yolact_shapes, nuclei=rs_yolact_lite0_nuclei, coco=rs_yolact_r50_coco)
QUALITIES: dict[str, Part] = {
    "binary": BinaryQuality(),
    "iou": IoUQuality(),
    "dice": DiceQuality(),
    "mean_iou_dice": MeanQuality(),
}


def without(*, hard_negatives: bool = False, size_normalization: bool = False, semantic: bool = False) -> Change:
    """Return a change that removes heuristics of the standard form.

    Without hard negatives the losses of classes and boxes are means over all anchors that are not ignored, as in the
    published code.
    """
    changes: dict[str, Any] = {}
    if hard_negatives:
        changes["losses.dense.hard_negatives"] = None
    if size_normalization:
        changes["losses.dense.mask_loss.over_box_size"] = False
    if semantic:
        changes |= {"losses.dense.auxiliary": (), "detector.semantic": False}
    return lambda recipe: recipe.changed(changes)


def sorted_by(quality: Part) -> Family:
    """Return RS YOLACT that sorts by another quality, or the recipe itself for its own.

    Nuclei have no such form: their recipe keeps the masks of some positives, and qualities by masks need those of all.
    """
    family, loss = RS_YOLACT.without(NUCLEI), RankSortLoss(quality=quality)
    if loss == RankSortLoss():
        return family
    return family.changed(lambda recipe: recipe.changed(losses={"dense": loss}))


def table_6() -> list[Row]:
    """Return the rows of Table 6: YOLACT without each of its heuristics, without all of them, and RS YOLACT."""
    return [
        YOLACT.row("yolact-ohem_size_norm_semseg"),
        YOLACT.changed(without(hard_negatives=True)).row("yolact-size_norm_semseg"),
        YOLACT.changed(without(size_normalization=True)).row("yolact-ohem_semseg"),
        YOLACT.changed(without(semantic=True)).row("yolact-ohem_size_norm"),
        YOLACT.changed(without(hard_negatives=True, size_normalization=True, semantic=True)).row("yolact-plain"),
        RS_YOLACT.row("rs"),
    ]


def table_a16() -> list[Row]:
    """Return the rows of Table A.16: RS YOLACT, sorted by each quality."""
    return [sorted_by(quality).row(name) for name, quality in QUALITIES.items()]
