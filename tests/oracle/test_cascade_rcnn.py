"""Standard Cascade R-CNN is that of mmdetection 3.3.0."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rankdet.recipes import RECIPES
from rankdet.structures import Batch

from . import two_stage
from .comparing import assert_equal, assert_same_rows
from .mmdetection import Both, check_losses, prepare
from .scenes import NUM_CLASSES, SCENES, WITH_OBJECTS, make_scene

pytestmark = pytest.mark.filterwarnings("ignore")
STAGES = range(3)
NAMES = {"loss_rpn_cls": "rpn/classification", "loss_rpn_bbox": "rpn/localization"}
for stage in STAGES:
    NAMES |= {
        f"s{stage}.loss_cls": f"rcnn{stage + 1}/classification",
        f"s{stage}.loss_bbox": f"rcnn{stage + 1}/localization",
    }


@pytest.fixture(scope="module")
def both() -> Both:
    detector = RECIPES["cascade_rcnn_r50_coco"]().detector
    here = {name: getattr(detector, name).model_copy(update={"channels": 128}) for name in ("rcnn1", "rcnn2", "rcnn3")}
    there: dict[str, Any] = {}
    outputs: dict[str, tuple[float, float]] = {}
    for stage in STAGES:
        head = f"roi_head.bbox_head.{stage}"
        there |= {f"{head}.in_channels": 64, f"{head}.fc_out_channels": 128, f"{head}.num_classes": NUM_CLASSES}
        outputs |= {f"{head}.fc_cls": (0.0, 3.0), f"{head}.fc_reg": (0.0, 0.7)}
    return two_stage.build(
        "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py", "cascade_rcnn_r50_coco", here, there, outputs
    )


@pytest.fixture(params=SCENES)
def batch(request: pytest.FixtureRequest) -> Batch:
    return make_scene(request.param)


def test_proposals_are_the_same(both: Both, batch: Batch) -> None:
    two_stage.check_proposals(both, batch)


@pytest.mark.parametrize("is_sampled", [True, False])
def test_labels_of_anchors_inside_of_the_image_are_the_same(
    both: Both, batch: Batch, is_sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_sampled:
        monkeypatch.setattr(both.here.rpn, "sampler", None)
        monkeypatch.setattr(both.there.rpn_head.sampler, "num", 10**6)
        monkeypatch.setattr(both.there.rpn_head.sampler, "pos_fraction", 1.0)
    two_stage.check_labels_of_anchors(both, batch)


@pytest.mark.parametrize("is_sampled", [True, False])
def test_rois_labels_and_outputs_of_every_stage_are_the_same(
    both: Both, batch: Batch, is_sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    roi_head = both.there.roi_head
    if not is_sampled:
        for own, other in zip(both.here.stages, roi_head.bbox_sampler, strict=True):
            monkeypatch.setattr(own, "sampler", None)
            monkeypatch.setattr(other, "num", 10**6)
            monkeypatch.setattr(other, "pos_fraction", 1.0)
    inputs = prepare(both.there, batch)
    found: list[tuple[Any, Tensor, Tensor]] = []
    drawn: list[tuple[Any, dict[str, Any]]] = []

    def watch(choose: Any, forward: Any) -> tuple[Any, Any]:
        """Remember RoIs and outputs of a stage here."""
        rois: list[Any] = []

        def chosen(*arguments: Any) -> Any:
            rois.append(choose(*arguments))
            return rois[-1]

        def outputs(*arguments: Any) -> tuple[Tensor, Tensor]:
            logits, deltas = forward(*arguments)
            found.append((list(rois), logits, deltas))
            return logits, deltas

        return chosen, outputs

    for own in both.here.stages:
        chosen, outputs = watch(own.choose, own.forward)
        monkeypatch.setattr(own, "choose", chosen)
        monkeypatch.setattr(own, "forward", outputs)
    bbox_loss = roi_head.bbox_loss

    def watched(stage: int, levels: Any, sampled: Any) -> Any:
        drawn.append((sampled, bbox_loss(stage, levels, sampled)))
        return drawn[-1][1]

    monkeypatch.setattr(roi_head, "bbox_loss", watched)
    with torch.no_grad():
        both.here(batch)
        both.there.loss(inputs.pixels, inputs.samples)
    assert len(found) == len(drawn) == len(STAGES)
    for (rois, logits, deltas), (sampled, results) in zip(found, drawn, strict=True):
        rows = two_stage.rows_here(rois), two_stage.rows_there(sampled)
        places = assert_same_rows(*rows, "RoIs", tolerance=0.01)
        assert_equal(logits[places], results["cls_score"], "class logits")
        assert_equal(deltas.flatten(1)[places], results["bbox_pred"], "deltas")


@pytest.mark.parametrize("scene", WITH_OBJECTS)
def test_loss_terms_and_their_gradients_are_the_same(both: Both, scene: str) -> None:
    check_losses(both, make_scene(scene), NAMES)


@pytest.mark.parametrize("scene", ["one without objects", "none with objects"])
def test_loss_terms_are_the_same_but_for_images_without_positives(both: Both, scene: str) -> None:
    two_stage.check_losses_without_positives(both, make_scene(scene), NAMES)


def test_detections_are_the_same(both: Both, batch: Batch) -> None:
    two_stage.check_detections(both, batch)
