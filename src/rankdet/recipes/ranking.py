"""From a standard recipe to the one of Rank & Sort Loss: what the method changes, and nothing else."""

from .losses import RankSort
from .recipe import Recipe


def ranking_form(standard: Recipe, name: str) -> Recipe:
    """The recipe ``name``: ``standard`` without samplers and background logit, with Rank & Sort Loss in both heads.

    The RPN codes boxes with the stds of the R-CNN, and the one weight that is set by hand is that of the RPN, 0.2
    (Oksuz et al., ICCV 2021, arXiv:2107.11669, section 5). Budget and learning rate stay.
    """
    rcnn = standard.detector.rcnn.model_copy(update={"softmax": False, "sampler": None})
    rpn = standard.detector.rpn.model_copy(update={"delta_stds": rcnn.delta_stds, "sampler": None})
    return standard.model_copy(
        update={
            "name": name,
            "detector": standard.detector.model_copy(update={"rpn": rpn, "rcnn": rcnn}),
            "losses": {"rpn": RankSort(), "rcnn": RankSort()},
            "head_weights": {"rpn": 0.2},
        }
    )
