"""Tables of the paper on SOLOv2."""

from __future__ import annotations

from rankdet.recipes.library.solov2 import (
    rs_solov2_light_r34_coco,
    rs_solov2_lite0_nuclei,
    rs_solov2_r101_coco,
    rs_solov2_shapes,
    solov2_light_r34_coco,
    solov2_lite0_nuclei,
    solov2_r101_coco,
    solov2_shapes,
)

from .rows import Family, Row

SOLOV2_LIGHT = Family.of(shapes=solov2_shapes, nuclei=solov2_lite0_nuclei, coco=solov2_light_r34_coco)
RS_SOLOV2_LIGHT = Family.of(shapes=rs_solov2_shapes, nuclei=rs_solov2_lite0_nuclei, coco=rs_solov2_light_r34_coco)
SOLOV2 = Family.of(coco=solov2_r101_coco)
RS_SOLOV2 = Family.of(coco=rs_solov2_r101_coco)


def table_7() -> list[Row]:
    """Return the rows of Table 7: SOLOv2, whose small forms represent the light one."""
    return [
        SOLOV2_LIGHT.row("solov2_light"),
        RS_SOLOV2_LIGHT.row("rs_solov2_light"),
        SOLOV2.row("solov2"),
        RS_SOLOV2.row("rs_solov2"),
    ]
