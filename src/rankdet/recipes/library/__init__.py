"""Every experiment by name, a file per detector, data set or variation."""

from . import bccd, cascade_rcnn, coco, detr, lvis, mask_rcnn, one_stage, own_data, plus, shapes, solov2, yolact
from .experiment import Experiment

RECIPES: dict[str, Experiment] = {
    name: value
    for module in (own_data, shapes, bccd, coco, mask_rcnn, cascade_rcnn, lvis, plus, one_stage, solov2, yolact, detr)
    for name, value in vars(module).items()
    if isinstance(value, Experiment)
}
"""Built-in recipes: name → experiment, which returns the recipe when called; its docstring describes it."""
for _name, _experiment in RECIPES.items():
    _experiment.name = _name
