"""Standard ATSS is that of mmdetection 3.3.0."""

from __future__ import annotations

import pytest
import torch

from rankdet.structures import Batch

from .dense import RANKING, build, check_detections, check_outputs
from .mmdetection import Both, check_losses, prepare
from .scenes import NUM_CLASSES, SCENES, make_scene

pytestmark = pytest.mark.filterwarnings("ignore")


CONFIG = "atss/atss_r50_fpn_1x_coco.py"
NAMES = {"loss_cls": "dense/classification", "loss_bbox": "dense/localization", "loss_centerness": "dense/centerness"}


@pytest.fixture(scope="module")
def standard() -> Both:
    return build(CONFIG, "atss_r50_coco")


@pytest.fixture(scope="module")
def ranking() -> Both:
    return build(CONFIG, "rs_atss_r50_coco", RANKING)


@pytest.fixture(params=["standard", "ranking"])
def both(request: pytest.FixtureRequest) -> Both:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=[*SCENES, "crowded"])
def batch(request: pytest.FixtureRequest) -> Batch:
    return make_scene(request.param)


def test_pixels_pyramid_outputs_anchors_and_boxes_are_the_same(both: Both, batch: Batch) -> None:
    check_outputs(both, batch)


def test_labels_are_the_same(both: Both, batch: Batch) -> None:
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        (candidates,) = both.here(batch)
        sizes = [tuple(level.shape[-2:]) for level in both.there.extract_feat(inputs.pixels)]
    anchors, valid = both.there.bbox_head.get_anchors(sizes, inputs.metas, device="cpu")
    targets = both.there.bbox_head.get_targets(anchors, valid, inputs.objects, inputs.metas)
    labels, weights, boxes = (torch.cat(levels, dim=1).flatten(0, 1) for levels in targets[1:4])
    labels = labels.masked_fill(weights == 0, -1)
    is_positive = (labels >= 0) & (labels < NUM_CLASSES)
    assert torch.equal(candidates.labels, labels)
    assert torch.equal(candidates.boxes.target, boxes[is_positive])
    assert int(is_positive.sum()) >= 8 * any(len(target.labels) for target in batch.targets)


@pytest.mark.parametrize("scene", SCENES)
def test_loss_terms_and_their_gradients_are_the_same(standard: Both, scene: str) -> None:
    check_losses(standard, make_scene(scene), NAMES)


def test_detections_are_the_same(both: Both, batch: Batch) -> None:
    assert min(check_detections(both, batch)) >= 20
