"""What is compared alike in ATSS and PAA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from rankdet.structures import Batch

from .comparing import assert_equal, assert_same_detections
from .mmdetection import (
    NOTHING,
    Both,
    build_here,
    build_there,
    by_anchor,
    mask_padding,
    prepare,
    randomize,
    share_weights,
)
from .scenes import NUM_CLASSES, make_scene

BACKBONE = "resnet18.tv_in1k"


RANKING = {
    "bbox_head.anchor_generator.octave_base_scale": 4,
    "bbox_head.anchor_generator.scales_per_octave": 3,
}
"""What makes the network and the labels of the form of ranking losses, besides the missing auxiliary head."""
AUXILIARY = "bbox_head.atss_centerness"


def build(config: str, recipe: str, there: Mapping[str, Any] = NOTHING) -> Both:
    """A detector, thin, with the same random weights on both sides."""
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
    network = build_there(config, BACKBONE, changes | dict(there))
    outputs = {"bbox_head.atss_cls": (-3.0, 1.5), "bbox_head.atss_reg": (0.0, 1.0), AUXILIARY: (0.0, 1.5)}
    randomize(network, prepare(network, make_scene("different sizes")), outputs)
    both = build_here(recipe, BACKBONE, NUM_CLASSES, {"pyramid_channels": 64})._replace(there=network)
    if both.here.dense.head.auxiliary is not None:
        share_weights(both)
        return both
    auxiliary = network.get_submodule(AUXILIARY)
    with torch.no_grad():  # it always says 1
        auxiliary.weight.zero_()
        auxiliary.bias.fill_(100)
    share_weights(both, {f"{AUXILIARY}.weight": None, f"{AUXILIARY}.bias": None})
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
    if outputs.auxiliary is not None:
        assert_equal(outputs.auxiliary, by_anchor(auxiliary, 1)[..., 0], "auxiliary logits")
    sizes = [tuple(level.shape[-2:]) for level in logits]
    anchors, valid = both.there.bbox_head.get_anchors(sizes, inputs.metas, device="cpu")
    for own_valid, other, other_valid in zip(outputs.anchors.valid, anchors, valid, strict=True):
        assert_equal(outputs.anchors.boxes, torch.cat(other), "anchors", relative=1e-7)
        expected = torch.cat(other_valid).bool()
        assert torch.equal(torch.ones_like(expected) if own_valid is None else own_valid, expected)
    decoded = both.there.bbox_head.bbox_coder.decode(torch.cat(anchors[0]), outputs.deltas[0])
    assert_equal(both.here.dense.boxes(outputs)[0], decoded, "decoded boxes")


def check_detections(both: Both, batch: Batch) -> list[int]:
    """Boxes, scores and labels of each image; returns how many there are."""
    found = both.here.detect(batch.images)
    inputs = prepare(both.there, batch, training=False)
    with torch.no_grad():
        outputs = both.there.bbox_head(both.there.extract_feat(inputs.pixels))
        # Here no detection comes from the padding between images of different sizes.
        outputs = [mask_padding(both.there.bbox_head, levels, inputs.metas) for levels in outputs]
        expected = both.there.bbox_head.predict_by_feat(*outputs, batch_img_metas=inputs.metas)
    for own, other in zip(found, expected, strict=True):
        # A box without area has no voters, not even itself: there it is lost, here it stays.
        lost = other.bboxes.isnan().any(dim=1)
        sides = own.boxes[:, 2:] - own.boxes[:, :2]
        kept = own.select(sides.amin(dim=1) > 0) if lost.any() else own
        assert_same_detections(kept, other.bboxes[~lost], other.scores[~lost], other.labels[~lost])
    return [len(own.scores) for own in found]
