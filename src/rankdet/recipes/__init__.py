"""Every experiment by name, and the model of a recipe. Importing this imports neither torch nor torchvision."""

from collections.abc import Callable

from .bccd import faster_rcnn_lite0_bccd, rs_faster_rcnn_lite0_bccd
from .coco import (
    faster_rcnn_giou_r50_coco,
    faster_rcnn_l1_r50_coco,
    faster_rcnn_r50_coco,
    rs_faster_rcnn_r50_coco,
)
from .loading import dump, load_recipe, validated
from .mask_rcnn import (
    mask_rcnn_lite0_nuclei,
    mask_rcnn_r50_coco,
    mask_rcnn_shapes,
    rs_mask_rcnn_lite0_nuclei,
    rs_mask_rcnn_r50_coco,
    rs_mask_rcnn_shapes,
)
from .one_stage import (
    alrp_atss_r50_coco,
    alrp_paa_r50_coco,
    ap_atss_r50_coco,
    ap_centerness_atss_r50_coco,
    ap_iou_paa_r50_coco,
    ap_paa_r50_coco,
    atss_r50_coco,
    atss_shapes,
    focal_atss_r50_coco,
    focal_paa_r50_coco,
    paa_r50_coco,
    paa_shapes,
    qfl_atss_r50_coco,
    qfl_paa_r50_coco,
    rs_atss_r50_coco,
    rs_atss_shapes,
    rs_paa_r50_coco,
    rs_paa_shapes,
)
from .recipe import Recipe
from .shapes import faster_rcnn_shapes, rs_faster_rcnn_shapes
from .solov2 import (
    rs_solov2_light_r34_coco,
    rs_solov2_lite0_nuclei,
    rs_solov2_r101_coco,
    rs_solov2_shapes,
    solov2_light_r34_coco,
    solov2_lite0_nuclei,
    solov2_r101_coco,
    solov2_shapes,
)

RECIPES: dict[str, Callable[[], Recipe]] = {
    "faster_rcnn_shapes": faster_rcnn_shapes,
    "rs_faster_rcnn_shapes": rs_faster_rcnn_shapes,
    "faster_rcnn_lite0_bccd": faster_rcnn_lite0_bccd,
    "rs_faster_rcnn_lite0_bccd": rs_faster_rcnn_lite0_bccd,
    "faster_rcnn_r50_coco": faster_rcnn_r50_coco,
    "faster_rcnn_l1_r50_coco": faster_rcnn_l1_r50_coco,
    "faster_rcnn_giou_r50_coco": faster_rcnn_giou_r50_coco,
    "rs_faster_rcnn_r50_coco": rs_faster_rcnn_r50_coco,
    "mask_rcnn_shapes": mask_rcnn_shapes,
    "rs_mask_rcnn_shapes": rs_mask_rcnn_shapes,
    "mask_rcnn_lite0_nuclei": mask_rcnn_lite0_nuclei,
    "rs_mask_rcnn_lite0_nuclei": rs_mask_rcnn_lite0_nuclei,
    "mask_rcnn_r50_coco": mask_rcnn_r50_coco,
    "rs_mask_rcnn_r50_coco": rs_mask_rcnn_r50_coco,
    "atss_shapes": atss_shapes,
    "rs_atss_shapes": rs_atss_shapes,
    "paa_shapes": paa_shapes,
    "rs_paa_shapes": rs_paa_shapes,
    "atss_r50_coco": atss_r50_coco,
    "focal_atss_r50_coco": focal_atss_r50_coco,
    "ap_atss_r50_coco": ap_atss_r50_coco,
    "ap_centerness_atss_r50_coco": ap_centerness_atss_r50_coco,
    "qfl_atss_r50_coco": qfl_atss_r50_coco,
    "alrp_atss_r50_coco": alrp_atss_r50_coco,
    "rs_atss_r50_coco": rs_atss_r50_coco,
    "paa_r50_coco": paa_r50_coco,
    "focal_paa_r50_coco": focal_paa_r50_coco,
    "ap_paa_r50_coco": ap_paa_r50_coco,
    "ap_iou_paa_r50_coco": ap_iou_paa_r50_coco,
    "qfl_paa_r50_coco": qfl_paa_r50_coco,
    "alrp_paa_r50_coco": alrp_paa_r50_coco,
    "rs_paa_r50_coco": rs_paa_r50_coco,
    "solov2_shapes": solov2_shapes,
    "rs_solov2_shapes": rs_solov2_shapes,
    "solov2_lite0_nuclei": solov2_lite0_nuclei,
    "rs_solov2_lite0_nuclei": rs_solov2_lite0_nuclei,
    "solov2_light_r34_coco": solov2_light_r34_coco,
    "rs_solov2_light_r34_coco": rs_solov2_light_r34_coco,
    "solov2_r101_coco": solov2_r101_coco,
    "rs_solov2_r101_coco": rs_solov2_r101_coco,
}
"""Built-in recipes: name → function that returns the recipe; the first line of its docstring describes it."""

__all__ = ["RECIPES", "Recipe", "dump", "load_recipe", "validated"]
