"""Small detectors on the procedural set ``shapes``: minutes on a laptop's CPU, from scratch."""

from typing import Any

from rankdet.recipes.schema.data import Data
from rankdet.recipes.schema.detectors import FasterRCNN, Tiny
from rankdet.recipes.schema.optimization import AdamW, StepSchedule
from rankdet.recipes.schema.recipe import Evaluation, Recipe, Runtime

from .experiment import Experiment
from .ranking import STANDARD_LOSSES, ranking_form

PROPOSALS = {"per_level": 400, "per_image": 100}
ON_SHAPES: dict[str, Any] = {
    "data": Data(batch_size=8, workers=0, keep_empty=True),
    "optimizer": AdamW(lr=3e-3, reference_batch=8),
    "schedule": StepSchedule(iterations=450, milestones=(0.7, 0.92), warmup_iterations=50, warmup_factor=0.02),
    "evaluation": Evaluation(batch_size=10),
    "runtime": Runtime(log_interval=20),
}
"""What all recipes on ``shapes`` have in common."""


@Experiment
def faster_rcnn_shapes() -> Recipe:
    """Standard Faster R-CNN on ``shapes``."""
    return Recipe(
        detector=FasterRCNN(
            backbone=Tiny(),
            pyramid_channels=64,
            extra_levels=0,
            rpn={
                "anchor_scale": 4.0,
                "sampler": {"num": 64, "positive_fraction": 0.5},
                "train_proposals": PROPOSALS,
                "test_proposals": PROPOSALS,
            },
            rcnn={
                "softmax": True,
                "channels": 256,
                "sampler": {"num": 128, "positive_fraction": 0.25},
                # Anchors of the finest level have 16 pixels. With the usual 56, every object of a small image would be
                # pooled from the finest level.
                "finest_scale": 16.0,
                "sampling_ratio": 1,  # RoIs are small, and RoIAlign is a third of an iteration on a CPU
            },
        ),
        losses=STANDARD_LOSSES,
        **ON_SHAPES,
    )


FEWER_PROPOSALS = {"detector.rpn.train_proposals.per_image": 50}
"""Without a sampler the R-CNN sees all proposals: half as many make its iteration as long as the standard one's."""
rs_faster_rcnn_shapes = Experiment(faster_rcnn_shapes, ranking_form, FEWER_PROPOSALS).described(
    "RS Faster R-CNN on ``shapes``: the same network, budget and learning rate."
)
