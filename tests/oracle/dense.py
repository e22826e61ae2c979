"""What is compared alike in ATSS and PAA."""

from __future__ import annotations

import torch

from rankdet.structures import Batch

from .comparing import assert_equal, assert_same_detections
from .mmdetection import Both, build_here, build_there, by_anchor, mask_padding, prepare, randomize, share_weights
from .scenes import NUM_CLASSES, make_scene

BACKBONE = "resnet18.tv_in1k"


def build(config: str, recipe: str) -> Both:
    """A standard detector, thin, with the same random weights on both sides."""
    changes = {
        "neck.out_channels": 64,
        "bbox_head.in_channels": 64,
        "bbox_head.feat_channels": 64,
        "bbox_head.num_classes": NUM_CLASSES,
        # Where 2.x cut by the score of an anchor's best class times centerness, 3.x cuts by that of a class alone, and
        # only 3.x drops boxes without area: nothing is cut before suppression on either side.
        "test_cfg.nms_pre": 100_000,
        "test_cfg.min_bbox_size": -1,
    }
    there = build_there(config, BACKBONE, changes)
    outputs = {
        "bbox_head.atss_cls": (-3.0, 1.5),
        "bbox_head.atss_reg": (0.0, 1.0),
        "bbox_head.atss_centerness": (0.0, 1.5),
    }
    randomize(there, prepare(there, make_scene("different sizes")), outputs)
    both = build_here(recipe, BACKBONE, NUM_CLASSES, {"pyramid_channels": 64})._replace(there=there)
    share_weights(both)
    return both


def check_outputs(both: Both, batch: Batch) -> None:
    """Normalized pixels, pyramid, outputs, anchors, and which of these lie in the padding."""
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        here, there = both.here.fpn(both.here.backbone(batch.images)), both.there.extract_feat(inputs.pixels)
        outputs = both.here.dense(here, batch.images.sizes)
        logits, deltas, auxiliary = both.there.bbox_head(there)
    assert_equal(both.here.backbone.normalization(batch.images), inputs.pixels, "normalized pixels")
    for level, (own, other) in enumerate(zip(here, there, strict=True)):
        assert_equal(own, other, f"level {level} of the pyramid")
    assert_equal(outputs.logits, by_anchor(logits, NUM_CLASSES), "class logits")
    assert_equal(outputs.deltas, by_anchor(deltas, 4), "deltas")
    assert_equal(outputs.auxiliary, by_anchor(auxiliary, 1)[..., 0], "auxiliary logits")
    sizes = [tuple(level.shape[-2:]) for level in logits]
    anchors, valid = both.there.bbox_head.get_anchors(sizes, inputs.metas, device="cpu")
    for own_valid, other, other_valid in zip(outputs.anchors.valid, anchors, valid, strict=True):
        assert torch.equal(outputs.anchors.boxes, torch.cat(other))
        expected = torch.cat(other_valid).bool()
        assert torch.equal(torch.ones_like(expected) if own_valid is None else own_valid, expected)
        # Decoded boxes of all anchors.
    decoded = both.there.bbox_head.bbox_coder.decode(torch.cat(anchors[0]), outputs.deltas[0])
    assert_equal(both.here.dense.boxes(outputs)[0], decoded, "decoded boxes")


def check_detections(both: Both, batch: Batch) -> list[int]:
    """Boxes, scores and labels of each picture; returns how many there are."""
    found = both.here.detect(batch.images)
    inputs = prepare(both.there, batch, training=False)
    with torch.no_grad():
        outputs = both.there.bbox_head(both.there.extract_feat(inputs.pixels))
        # Here no detection comes from the padding between pictures of different sizes.
        outputs = [mask_padding(both.there.bbox_head, levels, inputs.metas) for levels in outputs]
        expected = both.there.bbox_head.predict_by_feat(*outputs, batch_img_metas=inputs.metas)
    for own, other in zip(found, expected, strict=True):
        # A box without area has no voters, not even itself: there it is lost, here it stays.
        lost = other.bboxes.isnan().any(dim=1)
        sides = own.boxes[:, 2:] - own.boxes[:, :2]
        kept = own.select(sides.amin(dim=1) > 0) if lost.any() else own
        assert_same_detections(kept, other.bboxes[~lost], other.scores[~lost], other.labels[~lost])
    return [len(own.scores) for own in found]
