"""From a standard recipe to the one of Rank & Sort Loss: what the method changes, and nothing else."""

from .detectors import FasterRCNN, MaskRCNN
from .losses import RankSort
from .recipe import Recipe


def faster_rcnn_of(recipe: Recipe) -> FasterRCNN | MaskRCNN:
    """The detector of a recipe of Faster R-CNN, with masks or without; raises TypeError where it is another one."""
    if not isinstance(recipe.detector, FasterRCNN | MaskRCNN):
        raise TypeError(
            f"recipe {recipe.name} has a detector of type {recipe.detector.type}, not faster_rcnn or mask_rcnn"
        )
    return recipe.detector


def ranking_form(standard: Recipe, name: str) -> Recipe:
    """The recipe ``name``: ``standard`` without samplers and background logit, with Rank & Sort Loss in both heads.

    The RPN codes boxes with the stds of the R-CNN, and the one weight that is set by hand is that of the RPN, 0.2
    (Oksuz et al., ICCV 2021, arXiv:2107.11669, section 5). Budget and learning rate stay.
    """
    detector = faster_rcnn_of(standard)
    rcnn = detector.rcnn.model_copy(update={"softmax": False, "sampler": None})
    rpn = detector.rpn.model_copy(update={"delta_stds": rcnn.delta_stds, "sampler": None})
    return standard.model_copy(
        update={
            "name": name,
            "detector": detector.model_copy(update={"rpn": rpn, "rcnn": rcnn}),
            "losses": {"rpn": RankSort(), "rcnn": RankSort()},
            "head_weights": {"rpn": 0.2},
        }
    )
