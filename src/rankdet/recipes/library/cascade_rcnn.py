"""Cascade R-CNN on COCO with ResNet-50 (table A.15 of the RS Loss paper), and on ``shapes``."""

from rankdet.recipes.schema.detectors import CascadeRCNN, FasterRCNN
from rankdet.recipes.schema.recipe import Recipe

from .coco import faster_rcnn_r50_coco
from .experiment import Experiment, require
from .ranking import ranking_form
from .shapes import FEWER_PROPOSALS, faster_rcnn_shapes

STAGES = {
    "rcnn1": {"positive_iou": 0.5, "delta_stds": (0.1, 0.1, 0.2, 0.2)},
    "rcnn2": {"positive_iou": 0.6, "delta_stds": (0.05, 0.05, 0.1, 0.1)},
    "rcnn3": {"positive_iou": 0.7, "delta_stds": (0.033, 0.033, 0.067, 0.067)},
}
"""What tells the stages apart: boxes are better from one to the next, and what is left to regress is smaller."""


def cascade_form(boxes: Recipe) -> Recipe:
    """Return ``boxes``, a recipe of standard Faster R-CNN, with its second stage three times in a row.

    As in the published configurations the losses of the stages count 1, 1/2 and 1/4, and the RPN ignores anchors that
    cross the border of the image.
    """
    require(boxes, FasterRCNN)
    fields = boxes.detector.model_dump(exclude={"type", "rcnn"})
    rcnn = boxes.detector.rcnn.model_dump()
    fields["rpn"] |= {"allowed_border": 0.0}
    return boxes.changed(
        detector=CascadeRCNN(**fields, **{stage: rcnn | own for stage, own in STAGES.items()}),
        losses={"rpn": boxes.losses["rpn"]} | dict.fromkeys(STAGES, boxes.losses["rcnn"]),
        head_weights=boxes.head_weights | {"rcnn2": 0.5, "rcnn3": 0.25},
    )


TRAIN_PROPOSALS = "detector.rpn.train_proposals.per_image"
cascade_rcnn_r50_coco = Experiment(faster_rcnn_r50_coco, cascade_form, {TRAIN_PROPOSALS: 2000}).described(
    "Standard Cascade R-CNN with smooth L1 (40.3 AP)."
)
# The paper speaks of 2000 proposals in training, the configuration published with the trained weights has 1000.
rs_cascade_rcnn_r50_coco = Experiment(
    cascade_rcnn_r50_coco, ranking_form, {TRAIN_PROPOSALS: 1000, "optimizer.lr": 0.012}
).described("RS Cascade R-CNN (41.3 AP): no samplers, no background logit, stages alike, one hand-set weight.")
cascade_rcnn_shapes = Experiment(faster_rcnn_shapes, cascade_form).described("Standard Cascade R-CNN on ``shapes``.")
rs_cascade_rcnn_shapes = Experiment(cascade_rcnn_shapes, ranking_form, FEWER_PROPOSALS).described(
    "RS Cascade R-CNN on ``shapes``: the same network, budget and learning rate."
)
