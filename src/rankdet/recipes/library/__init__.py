"""Every experiment by name, a file per detector, data set or variation."""

from collections.abc import Callable

from rankdet.recipes.schema.recipe import Recipe

from . import bccd, cascade_rcnn, coco, lvis, mask_rcnn, one_stage, plus, shapes, solov2, yolact

RECIPES: dict[str, Callable[[], Recipe]] = {
    name: value
    for module in (shapes, bccd, coco, mask_rcnn, cascade_rcnn, lvis, plus, one_stage, solov2, yolact)
    for name, value in vars(module).items()
    if getattr(value, "__module__", None) == module.__name__ and hasattr(value, "__wrapped__")
}
"""Built-in recipes: name → function that returns the recipe; the first line of its docstring describes it."""
