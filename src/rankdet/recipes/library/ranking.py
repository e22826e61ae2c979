"""From a standard recipe to the one of Rank & Sort Loss: what the method changes, and nothing else."""

from rankdet.recipes.schema.detectors import CascadeRCNN, FasterRCNN, MaskRCNN
from rankdet.recipes.schema.losses import RankSortLoss, SigmoidCrossEntropyLoss, SmoothL1Loss, SoftmaxCrossEntropyLoss
from rankdet.recipes.schema.recipe import Recipe

from .experiment import require

STANDARD_LOSSES = {
    "rpn": SigmoidCrossEntropyLoss(box_loss=SmoothL1Loss(beta=1 / 9)),
    "rcnn": SoftmaxCrossEntropyLoss(box_loss=SmoothL1Loss(beta=1.0)),
}
"""The losses of standard Faster R-CNN."""


def stages_of(recipe: Recipe) -> list[str]:
    """The stages behind the RPN of a recipe of Faster, Mask or Cascade R-CNN; raises TypeError for any other one."""
    require(recipe, FasterRCNN, MaskRCNN, CascadeRCNN)
    return [head for head in recipe.detector.heads if head != "rpn"]


def ranking_form(standard: Recipe) -> Recipe:
    """Return ``standard`` without samplers and background logit, with Rank & Sort Loss in all heads.

    The RPN and all stages code boxes with the stds of the first stage, and the one weight that is set by hand is that
    of the RPN, 0.2 (Oksuz et al., ICCV 2021, arXiv:2107.11669, section 5). Budget and learning rate stay.
    """
    stages = stages_of(standard)
    form = {"sampler": None, "delta_stds": getattr(standard.detector, stages[0]).delta_stds}
    detector = {"rpn": form} | dict.fromkeys(stages, form | {"softmax": False})
    losses = dict.fromkeys(["rpn", *stages], RankSortLoss())
    return standard.changed({"detector": detector}, losses=losses, head_weights={"rpn": 0.2})
