"""From a standard recipe to the one of Rank & Sort Loss: what the method changes, and nothing else."""

from rankdet.recipes.schema.detectors import CascadeRCNN, FasterRCNN, MaskRCNN
from rankdet.recipes.schema.losses import RankSort
from rankdet.recipes.schema.recipe import Recipe


def two_stage_of(recipe: Recipe) -> FasterRCNN | MaskRCNN | CascadeRCNN:
    """The detector of a recipe of Faster, Mask or Cascade R-CNN; raises TypeError where it is another one."""
    if not isinstance(recipe.detector, FasterRCNN | MaskRCNN | CascadeRCNN):
        raise TypeError(f"recipe {recipe.name} has a detector of type {recipe.detector.type}, which is no R-CNN")
    return recipe.detector


def with_proposals(recipe: Recipe, per_image: int) -> Recipe:
    """The recipe with another number of proposals per image in training."""
    detector = two_stage_of(recipe)
    proposals = detector.rpn.train_proposals.model_copy(update={"per_image": per_image})
    rpn = detector.rpn.model_copy(update={"train_proposals": proposals})
    return recipe.model_copy(update={"detector": detector.model_copy(update={"rpn": rpn})})


def ranking_form(standard: Recipe, name: str) -> Recipe:
    """The recipe ``name``: ``standard`` without samplers and background logit, with Rank & Sort Loss in all heads.

    The RPN and all stages code boxes with the stds of the first stage, and the one weight that is set by hand is that
    of the RPN, 0.2 (Oksuz et al., ICCV 2021, arXiv:2107.11669, section 5). Budget and learning rate stay.
    """
    detector = two_stage_of(standard)
    stds = next(iter(detector.stages.values())).delta_stds
    form = {"softmax": False, "sampler": None, "delta_stds": stds}
    parts = {name: stage.model_copy(update=form) for name, stage in detector.stages.items()}
    rpn = detector.rpn.model_copy(update={"delta_stds": stds, "sampler": None})
    return standard.model_copy(
        update={
            "name": name,
            "detector": detector.model_copy(update={"rpn": rpn, **parts}),
            "losses": {head: RankSort() for head in detector.heads},
            "head_weights": {"rpn": 0.2},
        }
    )
