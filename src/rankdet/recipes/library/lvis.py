"""Mask R-CNN on LVIS v1 (table 5 of the RS Loss paper), and small R-CNNs on the long-tailed ``shapes``.

``--data`` is the folder of COCO with ``annotations/lvis_v1_train.json`` and ``lvis_v1_val.json``, or what ``rankdet
make-shapes --long-tailed`` makes. No loss knows of the federated annotation: to it every class that an image is not
annotated with is a negative. The evaluation does.
"""

from rankdet.recipes.schema.recipe import Recipe

from .experiment import experiment
from .mask_rcnn import mask_rcnn_r50_coco, mask_rcnn_shapes
from .plus import SHORT_SIDES
from .ranking import ranking_form
from .shapes import faster_rcnn_shapes, fewer_proposals


@experiment
def mask_rcnn_r50_lvis() -> Recipe:
    """Standard Mask R-CNN on LVIS v1 with repeat factor sampling (21.7 mask AP, 22.5 box AP).

    Rare, common and frequent classes: 9.6, 21.0 and 27.8 mask AP.
    """
    return mask_rcnn_r50_coco().changed(
        {
            "detector.testing": {"score_threshold": 1e-4, "per_image": 300},
            "data": {"format": "lvis", "repeat_threshold": 1e-3, "resize": {"shorts": SHORT_SIDES}},
        }
    )


@experiment
def rs_mask_rcnn_r50_lvis() -> Recipe:
    """RS Mask R-CNN on LVIS v1 with repeat factor sampling (25.2 mask AP, 25.9 box AP).

    Rare, common and frequent classes: 16.8, 24.3 and 29.9 mask AP. The published configuration keeps scores from 0.6
    on, which is faster (``detector.testing.score_threshold=0.6``); the paper says that it used the default, 0.0001.
    """
    return ranking_form(mask_rcnn_r50_lvis()).changed({"detector.mask.budget": 200, "optimizer.lr": 0.012})


@experiment
def faster_rcnn_long_tail_shapes() -> Recipe:
    """Standard Faster R-CNN on the long-tailed ``shapes`` with repeat factor sampling."""
    return _on_long_tail(faster_rcnn_shapes())


@experiment
def rs_faster_rcnn_long_tail_shapes() -> Recipe:
    """RS Faster R-CNN on the long-tailed ``shapes``: the same network, budget and learning rate."""
    return fewer_proposals(ranking_form(faster_rcnn_long_tail_shapes()))


@experiment
def mask_rcnn_long_tail_shapes() -> Recipe:
    """Standard Mask R-CNN on the long-tailed ``shapes`` with repeat factor sampling."""
    return _on_long_tail(mask_rcnn_shapes())


@experiment
def rs_mask_rcnn_long_tail_shapes() -> Recipe:
    """RS Mask R-CNN on the long-tailed ``shapes``: the same network, budget and learning rate."""
    return fewer_proposals(ranking_form(mask_rcnn_long_tail_shapes()))


def _on_long_tail(base: Recipe) -> Recipe:
    return base.changed(
        {
            "detector.testing.score_threshold": 1e-4,
            # As in LVIS: classes in fewer than 100 training images, of 600, are repeated.
            "data": {"format": "lvis", "repeat_threshold": 1 / 6},
            "schedule.iterations": 900,
        }
    )
