"""Rank & Sort Loss in the detectors of torchvision: Faster and Mask R-CNN, RetinaNet, FCOS, SSD and SSDlite.

    model = fasterrcnn_resnet50_fpn(weights="DEFAULT")
    use_rank_sort(model)

:func:`use_rank_sort` changes the classes of the parts that compute losses, in place. Weights, state dict, matching and
detection stay torchvision's. :func:`calibrate` makes its thresholds fit, and :func:`plain` is for deployment.
"""

from .heads import check_labels, on_unit_anchor
from .models import calibrate, plain, use_rank_sort

__all__ = ["calibrate", "check_labels", "on_unit_anchor", "plain", "use_rank_sort"]
