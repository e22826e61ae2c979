"""Small detectors on the procedural set ``shapes``: minutes on a laptop's CPU, from scratch."""

from rankdet.recipes.schema.data import Data
from rankdet.recipes.schema.detectors import RCNN, RPN, FasterRCNN, Proposals, Sampler, Tiny
from rankdet.recipes.schema.losses import SigmoidCrossEntropy, SmoothL1, SoftmaxCrossEntropy
from rankdet.recipes.schema.optimization import AdamW, StepSchedule
from rankdet.recipes.schema.recipe import Evaluation, Recipe, Runtime

from .ranking import ranking_form, with_proposals


def faster_rcnn_shapes() -> Recipe:
    """Standard Faster R-CNN on ``shapes``."""
    proposals = Proposals(per_level=400, per_image=100)
    return Recipe(
        name="faster_rcnn_shapes",
        detector=FasterRCNN(
            backbone=Tiny(),
            pyramid_channels=64,
            extra_levels=0,
            rpn=RPN(
                anchor_scale=4.0,
                sampler=Sampler(num=64, positive_fraction=0.5),
                train_proposals=proposals,
                test_proposals=proposals,
            ),
            # Anchors of the finest level have 16 pixels. With the usual 56, every object of a small image would be
            # pooled from the finest level.
            rcnn=RCNN(
                softmax=True,
                channels=256,
                sampler=Sampler(num=128, positive_fraction=0.25),
                finest_scale=16.0,
                sampling_ratio=1,  # RoIs are small, and RoIAlign is a third of an iteration on a CPU
            ),
        ),
        losses={
            "rpn": SigmoidCrossEntropy(box_loss=SmoothL1(beta=1 / 9)),
            "rcnn": SoftmaxCrossEntropy(box_loss=SmoothL1(beta=1.0)),
        },
        data=Data(batch_size=8, workers=0, keep_empty=True),
        optimizer=AdamW(lr=3e-3, reference_batch=8),
        schedule=StepSchedule(iterations=450, milestones=(0.7, 0.92), warmup_iterations=50, warmup_factor=0.02),
        evaluation=Evaluation(batch_size=10),
        runtime=Runtime(log_interval=20),
    )


def rs_faster_rcnn_shapes() -> Recipe:
    """RS Faster R-CNN on ``shapes``: the same network, budget and learning rate."""
    return fewer_proposals(ranking_form(faster_rcnn_shapes(), "rs_faster_rcnn_shapes"))


def fewer_proposals(recipe: Recipe) -> Recipe:
    """Without a sampler the R-CNN sees all proposals: half as many make its iteration as long as the standard one's."""
    return with_proposals(recipe, 50)
