"""Standard Mask R-CNN is that of mmdetection 3.3.0."""

from __future__ import annotations

import pytest
import torch

from rankdet.recipes import RECIPES
from rankdet.structures import Batch

from . import two_stage
from .comparing import assert_equal, assert_same_detections, assert_same_rows
from .mmdetection import Both, check_losses, prepare
from .scenes import NUM_CLASSES, SCENES, WITH_OBJECTS, make_scene

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = {
    "loss_rpn_cls": "rpn/classification",
    "loss_rpn_bbox": "rpn/localization",
    "loss_cls": "rcnn/classification",
    "loss_bbox": "rcnn/localization",
    "loss_mask": "rcnn/mask",
}


@pytest.fixture(scope="module")
def both() -> Both:
    detector = RECIPES["mask_rcnn_r50_coco"]().detector
    here = {
        "rcnn": detector.rcnn.model_copy(update={"channels": 128}),
        "mask": detector.mask.model_copy(update={"channels": 32}),
    }
    there = {
        "roi_head.bbox_head.in_channels": 64,
        "roi_head.bbox_head.fc_out_channels": 128,
        "roi_head.bbox_head.num_classes": NUM_CLASSES,
        "roi_head.mask_roi_extractor.out_channels": 64,
        "roi_head.mask_head.in_channels": 64,
        "roi_head.mask_head.conv_out_channels": 32,
        "roi_head.mask_head.num_classes": NUM_CLASSES,
        # Masks end with the image, not with the batch.
        "data_preprocessor.pad_mask": False,
    }
    outputs = {
        "roi_head.bbox_head.fc_cls": (0.0, 3.0),
        "roi_head.bbox_head.fc_reg": (0.0, 1.0),
        "roi_head.mask_head.conv_logits": (0.0, 3.0),
    }
    return two_stage.build("mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", "mask_rcnn_r50_coco", here, there, outputs)


@pytest.fixture(params=SCENES)
def batch(request: pytest.FixtureRequest) -> Batch:
    return make_scene(request.param)


@pytest.mark.parametrize("is_sampled", [True, False])
def test_rois_their_labels_and_outputs_are_the_same(
    both: Both, batch: Batch, is_sampled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_sampled:
        two_stage.without_samplers(both, monkeypatch)
    two_stage.check_second_stage(both, batch)


@pytest.mark.parametrize("scene", WITH_OBJECTS)
def test_masks_of_rois_and_their_targets_are_the_same(both: Both, scene: str) -> None:
    batch = make_scene(scene)
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        maps, rois = two_stage.rois_here(both, batch)
        predicted, targets, _ = both.here.mask.matched(maps, rois, batch.targets)
        drawn = two_stage.rois_there(both.there, inputs)
        positives = [
            torch.cat([torch.full((len(each.pos_inds), 1), float(i)), each.pos_priors], dim=1)
            for i, each in enumerate(drawn)
        ]
        levels = both.there.extract_feat(inputs.pixels)
        masks = both.there.roi_head._mask_forward(levels, torch.cat(positives))["mask_preds"]
        expected = both.there.roi_head.mask_head.get_targets(drawn, inputs.objects, both.there.train_cfg.rcnn)
    rows_here = [
        two_stage.rows_of(image, own.boxes[: own.num_positives], own.labels[: own.num_positives])
        for image, own in enumerate(rois)
    ]
    labels = torch.cat([each.pos_gt_labels for each in drawn])
    rows_there = [two_stage.rows_of(image, each.pos_priors, each.pos_gt_labels) for image, each in enumerate(drawn)]
    places = assert_same_rows(torch.cat(rows_here), torch.cat(rows_there), "positive RoIs", tolerance=0.01)
    assert_equal(predicted[places], masks[torch.arange(len(labels)), labels], "mask logits")
    assert torch.equal(targets[places].float(), expected)
    assert 0.2 < float(expected.mean()) < 0.95


@pytest.mark.parametrize("scene", WITH_OBJECTS)
def test_masks_that_end_with_the_batch_differ_at_the_border_of_the_image_alone(both: Both, scene: str) -> None:
    batch = make_scene(scene)
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        drawn = two_stage.rois_there(both.there, inputs)
    whole = both.there.roi_head.mask_head.get_targets(drawn, inputs.objects, both.there.train_cfg.rcnn)
    for objects in inputs.objects:
        objects.masks = objects.masks.pad(inputs.pixels.shape[-2:])
    padded = both.there.roi_head.mask_head.get_targets(drawn, inputs.objects, both.there.train_cfg.rcnn)
    sizes = torch.tensor([(width, height) for height, width in batch.images.sizes])
    corners = torch.cat([each.pos_priors[:, 2:] - size for each, size in zip(drawn, sizes, strict=True)])
    is_at_border = (corners > -1).any(dim=1)
    assert torch.equal(whole[~is_at_border], padded[~is_at_border])
    assert float((whole != padded).float().mean()) < 0.01


@pytest.mark.parametrize("scene", WITH_OBJECTS)
def test_loss_terms_and_their_gradients_are_the_same(both: Both, scene: str) -> None:
    check_losses(both, make_scene(scene), NAMES)


@pytest.mark.parametrize("scene", ["one without objects", "none with objects"])
def test_loss_terms_are_the_same_but_for_images_without_positives(both: Both, scene: str) -> None:
    two_stage.check_losses_without_positives(both, make_scene(scene), NAMES)


def test_detections_and_their_masks_are_the_same(both: Both, batch: Batch) -> None:
    found = both.here.detect(batch.images)
    inputs = prepare(both.there, batch, training=False)
    with torch.no_grad():
        expected = both.there.predict(inputs.pixels, inputs.samples, rescale=False)
    for own, sample, size in zip(found, expected, batch.images.sizes, strict=True):
        other = sample.pred_instances
        places = assert_same_detections(own, other.bboxes, other.scores, other.labels)
        masks = own.masks.bitmaps(size)[places]
        assert len(own.scores) >= 20
        assert float((masks != other.masks).float().mean()) < 1e-5
        assert int(masks.sum()) > 1000
