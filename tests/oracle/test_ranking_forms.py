"""Faster and Cascade R-CNN in the form of ranking losses, but for the losses, are those of mmdetection 3.3.0.

No sampler, no background logit, one coding of boxes in all stages.
"""

from __future__ import annotations

from typing import Any

import pytest

from rankdet.recipes import RECIPES
from rankdet.structures import Batch

from . import two_stage
from .mmdetection import Both
from .scenes import NUM_CLASSES, SCENES, make_scene

pytestmark = pytest.mark.filterwarnings("ignore")
STDS = [0.1, 0.1, 0.2, 0.2]


@pytest.fixture(scope="module")
def faster_rcnn() -> Both:
    rcnn = RECIPES["rs_faster_rcnn_r50_coco"]().detector.rcnn.model_copy(update={"channels": 128})
    there = {
        "rpn_head.bbox_coder.target_stds": STDS,
        "roi_head.bbox_head.in_channels": 64,
        "roi_head.bbox_head.fc_out_channels": 128,
        "roi_head.bbox_head.num_classes": NUM_CLASSES,
    }
    outputs = {
        "rpn_head.rpn_reg": (0.0, 1.0),
        "roi_head.bbox_head.fc_cls": (-2.0, 2.0),
        "roi_head.bbox_head.fc_reg": (0.0, 1.0),
    }
    config = "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
    return two_stage.build(config, "rs_faster_rcnn_r50_coco", {"rcnn": rcnn}, there, outputs)


@pytest.fixture(scope="module")
def cascade_rcnn() -> Both:
    detector = RECIPES["rs_cascade_rcnn_r50_coco"]().detector
    names = ("rcnn1", "rcnn2", "rcnn3")
    here = {name: getattr(detector, name).model_copy(update={"channels": 128}) for name in names}
    there: dict[str, Any] = {
        "rpn_head.bbox_coder.target_stds": STDS,
        # The published configuration, where the paper and the standard form have 2000.
        "train_cfg.rpn_proposal.max_per_img": 1000,
    }
    outputs: dict[str, tuple[float, float]] = {"rpn_head.rpn_reg": (0.0, 1.0)}
    for stage in range(3):
        head = f"roi_head.bbox_head.{stage}"
        there |= {
            f"{head}.bbox_coder.target_stds": STDS,
            f"{head}.in_channels": 64,
            f"{head}.fc_out_channels": 128,
            f"{head}.num_classes": NUM_CLASSES,
        }
        outputs |= {f"{head}.fc_cls": (-2.0, 3.0), f"{head}.fc_reg": (0.0, 0.7)}
    config = "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py"
    return two_stage.build(config, "rs_cascade_rcnn_r50_coco", here, there, outputs)


@pytest.fixture(params=["faster_rcnn", "cascade_rcnn"])
def both(request: pytest.FixtureRequest) -> Both:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=SCENES)
def batch(request: pytest.FixtureRequest) -> Batch:
    return make_scene(request.param)


def test_proposals_are_the_same(both: Both, batch: Batch) -> None:
    two_stage.check_proposals(both, batch)


def test_labels_of_anchors_are_the_same(both: Both, batch: Batch) -> None:
    two_stage.check_labels_of_anchors(both, batch)


def test_rois_their_labels_and_outputs_are_the_same(faster_rcnn: Both, batch: Batch) -> None:
    two_stage.check_second_stage(faster_rcnn, batch)


def test_detections_are_the_same(both: Both, batch: Batch) -> None:
    two_stage.check_detections(both, batch)
