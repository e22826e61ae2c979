"""Standard PAA is that of mmdetection 3.3.0."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from rankdet.structures import Batch

from .comparing import assert_equal
from .dense import RANKING, build, check_detections, check_outputs
from .mmdetection import Both, check_losses, paa_head, prepare
from .scenes import NUM_CLASSES, SCENES, make_scene

pytestmark = pytest.mark.filterwarnings("ignore")


CONFIG = "paa/paa_r50_fpn_1x_coco.py"
NAMES = {"loss_cls": "dense/classification", "loss_bbox": "dense/localization", "loss_iou": "dense/iou"}


@pytest.fixture(scope="module")
def standard() -> Both:
    return build(CONFIG, "paa_r50_coco")


@pytest.fixture(scope="module")
def ranking() -> Both:
    return build(CONFIG, "rs_paa_r50_coco", RANKING | {"bbox_head.loss_bbox.loss_weight": 1.0})


@pytest.fixture(params=[*SCENES, "crowded"])
def batch(request: pytest.FixtureRequest) -> Batch:
    return make_scene(request.param)


def test_pixels_pyramid_outputs_anchors_and_boxes_are_the_same(standard: Both, batch: Batch) -> None:
    check_outputs(standard, batch)


@pytest.mark.parametrize("form", ["standard", "ranking"])
def test_costs_and_labels_are_the_same(
    form: str, batch: Batch, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = request.getfixturevalue(form)
    mixture = partial(paa_head.skm.GaussianMixture, reg_covar=both.here.assigner.added_variance)
    monkeypatch.setattr(paa_head, "skm", SimpleNamespace(GaussianMixture=mixture))
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        outputs = both.here.dense(both.here.fpn(both.here.backbone(batch.images)), batch.images.sizes)
        (candidates,) = both.here(batch)
    calls: list[tuple[Tensor, ...]] = []
    costs: list[Tensor] = []
    handle = both.there.bbox_head.loss_cls.register_forward_pre_hook(lambda module, arguments: calls.append(arguments))
    reassign = both.there.bbox_head.paa_reassign

    def watched(*arguments: Tensor) -> tuple[Tensor, ...]:
        costs.append(arguments[0])
        return reassign(*arguments)

    both.there.bbox_head.paa_reassign = watched
    try:
        both.there.loss(inputs.pixels, inputs.samples)
    finally:
        handle.remove()
        both.there.bbox_head.paa_reassign = reassign
    first, _, _ = both.here.assigner.pooled(
        outputs.anchors, batch.targets, NUM_CLASSES, outputs.logits, both.here.dense.boxes(outputs)
    )
    rows = torch.nonzero((first.labels >= 0) & (first.labels < NUM_CLASSES)).squeeze(1)
    objects = torch.cat([target.boxes for target in batch.targets])[first.matched[rows]]
    boxes = both.here.dense.boxes(outputs).flatten(0, 1)[rows]
    own = both.here.assigner.costs(outputs.logits.flatten(0, 1)[rows], first.labels[rows], boxes, objects)
    assert_equal(own, torch.cat(costs), "costs of candidates")
    _, labels, weights = calls[-1]
    labels = labels.masked_fill(weights == 0, -1)
    is_positive = (labels >= 0) & (labels < NUM_CLASSES)
    assert torch.equal(candidates.labels, labels)
    assert int(is_positive.sum()) >= 8 * any(len(target.labels) for target in batch.targets)


@pytest.mark.parametrize("scene", SCENES)
def test_loss_terms_and_their_gradients_are_the_same(standard: Both, scene: str) -> None:
    check_losses(standard, make_scene(scene), NAMES)


def test_detections_are_the_same(standard: Both, batch: Batch) -> None:
    assert min(check_detections(standard, batch)) >= 20


def test_the_best_anchors_of_each_level_are_the_same(standard: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard.here, "test_per_level", 37)
    monkeypatch.setitem(standard.there.bbox_head.test_cfg, "nms_pre", 37)
    check_detections(standard, make_scene("different sizes"))
