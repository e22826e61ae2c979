"""Standard Faster R-CNN is that of mmdetection 3.3.0."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rankdet.recipes import RECIPES
from rankdet.structures import Batch

from . import two_stage
from .comparing import assert_all_equal
from .mmdetection import Both, evaluate, gradients, prepare, total
from .scenes import SCENES, WITH_OBJECTS, make_scene

pytestmark = pytest.mark.filterwarnings("ignore")
L1 = "faster_rcnn_l1_r50_coco"
FORMS = {
    L1: {},
    "faster_rcnn_r50_coco": {
        "rpn_head.loss_bbox": {"type": "SmoothL1Loss", "beta": 1 / 9, "loss_weight": 1.0},
        "roi_head.bbox_head.loss_bbox": {"type": "SmoothL1Loss", "beta": 1.0, "loss_weight": 1.0},
    },
    "faster_rcnn_giou_r50_coco": {
        "roi_head.bbox_head.reg_decoded_bbox": True,
        "roi_head.bbox_head.loss_bbox": {"type": "GIoULoss", "loss_weight": 10.0},
    },
}
"""Recipes here and what makes the same of mmdetection's L1 configuration."""


def build(recipe: str) -> Both:
    rcnn = RECIPES[recipe]().detector.rcnn.model_copy(update={"channels": 128})
    return two_stage.build(
        "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        recipe,
        {"rcnn": rcnn},
        FORMS[recipe]
        | {
            "roi_head.bbox_head.in_channels": 64,
            "roi_head.bbox_head.fc_out_channels": 128,
            "roi_head.bbox_head.num_classes": two_stage.NUM_CLASSES,
        },
        {"roi_head.bbox_head.fc_cls": (0.0, 3.0), "roi_head.bbox_head.fc_reg": (0.0, 1.0)},
    )


@pytest.fixture(scope="module")
def forms() -> dict[str, Both]:
    return {recipe: build(recipe) for recipe in FORMS}


@pytest.fixture(scope="module")
def both(forms: dict[str, Both]) -> Both:
    return forms[L1]


@pytest.fixture(params=SCENES)
def batch(request: pytest.FixtureRequest) -> Batch:
    return make_scene(request.param)


def test_pixels_pyramid_outputs_and_anchors_are_the_same(both: Both, batch: Batch) -> None:
    two_stage.check_first_stage(both, batch)


def test_proposals_are_the_same(both: Both, batch: Batch) -> None:
    two_stage.check_proposals(both, batch)


@pytest.mark.parametrize("is_sampled", [True, False])
def test_labels_of_anchors_are_the_same(
    both: Both, batch: Batch, is_sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_sampled:
        two_stage.without_samplers(both, monkeypatch)
    two_stage.check_labels_of_anchors(both, batch)


@pytest.mark.parametrize("is_sampled", [True, False])
def test_rois_their_labels_and_outputs_are_the_same(
    both: Both, batch: Batch, is_sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_sampled:
        two_stage.without_samplers(both, monkeypatch)
    two_stage.check_second_stage(both, batch)


@pytest.mark.parametrize(
    ("recipe", "scene"),
    [(L1, scene) for scene in WITH_OBJECTS] + [(recipe, "different sizes") for recipe in FORMS if recipe != L1],
)
def test_loss_terms_and_their_gradients_are_the_same(recipe: str, scene: str, forms: dict[str, Both]) -> None:
    both, batch = forms[recipe], make_scene(scene)
    inputs = prepare(both.there, batch)
    here, there = evaluate(both, batch), total(both.there.loss(inputs.pixels, inputs.samples))
    assert_all_equal(here, renamed(there))
    assert_all_equal(*gradients(both, sum(here.values()), sum(there.values())))


@pytest.mark.parametrize("scene", ["one without objects", "none with objects"])
def test_loss_terms_are_the_same_but_for_images_without_positives(both: Both, scene: str) -> None:
    batch = make_scene(scene)
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        here, there = evaluate(both, batch), renamed(total(both.there.loss(inputs.pixels, inputs.samples)))
        labels = both.here(batch)[0].labels.view(len(batch.targets), -1)
    # There an image without positive anchors counts as one in the number that sums are divided by.
    factor = two_stage.in_terms_there(torch.stack([(labels == 0).sum(dim=1), (labels == 1).sum(dim=1)]))
    assert factor > 1
    there["rpn/classification"] *= factor
    there["rpn/localization"] *= factor
    assert_all_equal(here, there)


def renamed(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Loss terms under their names here."""
    names = {
        "loss_rpn_cls": "rpn/classification",
        "loss_rpn_bbox": "rpn/localization",
        "loss_cls": "rcnn/classification",
        "loss_bbox": "rcnn/localization",
    }
    return {names[name]: value for name, value in terms.items()}


def test_detections_are_the_same(both: Both, batch: Batch) -> None:
    two_stage.check_detections(both, batch)
