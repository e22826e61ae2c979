"""Tables of the paper on YOLACT: its heuristics in Table 6, the qualities in Table A.16."""

from __future__ import annotations

from rankdet.recipes import Recipe
from rankdet.recipes.library.yolact import (
    rs_yolact_lite0_nuclei,
    rs_yolact_r50_coco,
    rs_yolact_shapes,
    yolact_lite0_nuclei,
    yolact_of,
    yolact_r50_coco,
    yolact_shapes,
)
from rankdet.recipes.schema.losses import (
    BinaryLabel,
    DiceLabel,
    IoULabel,
    Label,
    MaskCrossEntropy,
    MeanLabel,
    RankSort,
    SoftmaxCrossEntropy,
)

from ..experiments import NUCLEI
from .rows import Change, Family, Row

YOLACT = Family.of(shapes=yolact_shapes, nuclei=yolact_lite0_nuclei, coco=yolact_r50_coco)
RS_YOLACT = Family.of(shapes=rs_yolact_shapes, nuclei=rs_yolact_lite0_nuclei, coco=rs_yolact_r50_coco)
LABELS: dict[str, Label] = {
    "binary": BinaryLabel(),
    "iou": IoULabel(),
    "dice": DiceLabel(),
    "mean_iou_dice": MeanLabel(),
}


def without(*, hard_negatives: bool = False, size_normalization: bool = False, semantic: bool = False) -> Change:
    """Return a change that removes heuristics of the standard form.

    Without hard negatives the losses of classes and boxes are means over all anchors that are not ignored, as in the
    published code.
    """

    def change(recipe: Recipe) -> Recipe:
        detector, loss = yolact_of(recipe), recipe.losses["dense"]
        if not isinstance(loss, SoftmaxCrossEntropy) or not isinstance(loss.mask_loss, MaskCrossEntropy):
            raise TypeError(f"recipe {recipe.name!r} does not have the losses of the standard YOLACT")
        if hard_negatives:
            loss = loss.model_copy(update={"hard_negatives": None})
        if size_normalization:
            loss = loss.model_copy(update={"mask_loss": MaskCrossEntropy(weight=loss.mask_loss.weight)})
        if semantic:
            loss = loss.model_copy(update={"auxiliary": ()})
            detector = detector.model_copy(update={"semantic": False})
        return recipe.model_copy(update={"detector": detector, "losses": {"dense": loss}})

    return change


def sorted_by(label: Label) -> Family:
    """Return RS YOLACT that sorts by another quality, or the recipe itself for its own.

    Nuclei have no such form: their recipe keeps the masks of some positives, and qualities by masks need those of all.
    """
    family, loss = RS_YOLACT.without(NUCLEI), RankSort(label=label)
    if loss == RankSort():
        return family
    return family.changed(lambda recipe: recipe.model_copy(update={"losses": {"dense": loss}}))


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
    """Return the rows of Table A.16: qualities by which RS YOLACT sorts its positives."""
    return [sorted_by(label).row(name) for name, label in LABELS.items()]
