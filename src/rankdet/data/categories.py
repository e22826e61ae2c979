"""The old place of `rankdet.coco.category_difference`."""

from rankdet.coco import category_difference

__all__ = ["category_difference"]
