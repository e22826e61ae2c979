"""Every experiment by name, and the model of a recipe. Importing this imports neither torch nor torchvision."""

from collections.abc import Callable

from .bccd import faster_rcnn_lite0_bccd, rs_faster_rcnn_lite0_bccd
from .cascade_rcnn import (
    cascade_rcnn_r50_coco,
    cascade_rcnn_shapes,
    rs_cascade_rcnn_r50_coco,
    rs_cascade_rcnn_shapes,
)
from .coco import (
    alrp_faster_rcnn_r50_coco,
    faster_rcnn_giou_r50_coco,
    faster_rcnn_l1_r50_coco,
    faster_rcnn_r50_coco,
    focal_faster_rcnn_r50_coco,
    heavy_alrp_faster_rcnn_r50_coco,
    heavy_rs_faster_rcnn_r50_coco,
    rs_faster_rcnn_r50_coco,
)
from .loading import dump, load_recipe, validated
from .lvis import (
    mask_rcnn_long_tail_shapes,
    mask_rcnn_r50_lvis,
    rs_mask_rcnn_long_tail_shapes,
    rs_mask_rcnn_r50_lvis,
)
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
from .plus import (
    faster_rcnn_plus_r50_coco,
    rs_faster_rcnn_plus_r50_coco,
    rs_faster_rcnn_plus_r101_dcn_3x_coco,
    rs_faster_rcnn_r101_dcn_3x_coco,
    rs_mask_rcnn_plus_r50_coco,
    rs_mask_rcnn_plus_r101_3x_coco,
    rs_mask_rcnn_plus_r101_dcn_3x_coco,
    rs_mask_rcnn_plus_x101_dcn_3x_coco,
    rs_mask_rcnn_r101_3x_coco,
)
from .recipe import Recipe
from .shapes import faster_rcnn_shapes, rs_faster_rcnn_shapes
from .yolact import (
    rs_yolact_lite0_nuclei,
    rs_yolact_r50_coco,
    rs_yolact_shapes,
    yolact_lite0_nuclei,
    yolact_r50_coco,
    yolact_shapes,
)

RECIPES: dict[str, Callable[[], Recipe]] = {
    "faster_rcnn_shapes": faster_rcnn_shapes,
    "rs_faster_rcnn_shapes": rs_faster_rcnn_shapes,
    "faster_rcnn_lite0_bccd": faster_rcnn_lite0_bccd,
    "rs_faster_rcnn_lite0_bccd": rs_faster_rcnn_lite0_bccd,
    "faster_rcnn_r50_coco": faster_rcnn_r50_coco,
    "faster_rcnn_l1_r50_coco": faster_rcnn_l1_r50_coco,
    "faster_rcnn_giou_r50_coco": faster_rcnn_giou_r50_coco,
    "focal_faster_rcnn_r50_coco": focal_faster_rcnn_r50_coco,
    "alrp_faster_rcnn_r50_coco": alrp_faster_rcnn_r50_coco,
    "rs_faster_rcnn_r50_coco": rs_faster_rcnn_r50_coco,
    "heavy_alrp_faster_rcnn_r50_coco": heavy_alrp_faster_rcnn_r50_coco,
    "heavy_rs_faster_rcnn_r50_coco": heavy_rs_faster_rcnn_r50_coco,
    "mask_rcnn_shapes": mask_rcnn_shapes,
    "rs_mask_rcnn_shapes": rs_mask_rcnn_shapes,
    "mask_rcnn_lite0_nuclei": mask_rcnn_lite0_nuclei,
    "rs_mask_rcnn_lite0_nuclei": rs_mask_rcnn_lite0_nuclei,
    "mask_rcnn_r50_coco": mask_rcnn_r50_coco,
    "rs_mask_rcnn_r50_coco": rs_mask_rcnn_r50_coco,
    "cascade_rcnn_shapes": cascade_rcnn_shapes,
    "rs_cascade_rcnn_shapes": rs_cascade_rcnn_shapes,
    "cascade_rcnn_r50_coco": cascade_rcnn_r50_coco,
    "rs_cascade_rcnn_r50_coco": rs_cascade_rcnn_r50_coco,
    "mask_rcnn_long_tail_shapes": mask_rcnn_long_tail_shapes,
    "rs_mask_rcnn_long_tail_shapes": rs_mask_rcnn_long_tail_shapes,
    "mask_rcnn_r50_lvis": mask_rcnn_r50_lvis,
    "rs_mask_rcnn_r50_lvis": rs_mask_rcnn_r50_lvis,
    "faster_rcnn_plus_r50_coco": faster_rcnn_plus_r50_coco,
    "rs_faster_rcnn_plus_r50_coco": rs_faster_rcnn_plus_r50_coco,
    "rs_faster_rcnn_r101_dcn_3x_coco": rs_faster_rcnn_r101_dcn_3x_coco,
    "rs_faster_rcnn_plus_r101_dcn_3x_coco": rs_faster_rcnn_plus_r101_dcn_3x_coco,
    "rs_mask_rcnn_plus_r50_coco": rs_mask_rcnn_plus_r50_coco,
    "rs_mask_rcnn_r101_3x_coco": rs_mask_rcnn_r101_3x_coco,
    "rs_mask_rcnn_plus_r101_3x_coco": rs_mask_rcnn_plus_r101_3x_coco,
    "rs_mask_rcnn_plus_r101_dcn_3x_coco": rs_mask_rcnn_plus_r101_dcn_3x_coco,
    "rs_mask_rcnn_plus_x101_dcn_3x_coco": rs_mask_rcnn_plus_x101_dcn_3x_coco,
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
    "yolact_shapes": yolact_shapes,
    "rs_yolact_shapes": rs_yolact_shapes,
    "yolact_lite0_nuclei": yolact_lite0_nuclei,
    "rs_yolact_lite0_nuclei": rs_yolact_lite0_nuclei,
    "yolact_r50_coco": yolact_r50_coco,
    "rs_yolact_r50_coco": rs_yolact_r50_coco,
}
"""Built-in recipes: name → function that returns the recipe; the first line of its docstring describes it."""

__all__ = ["RECIPES", "Recipe", "dump", "load_recipe", "validated"]
