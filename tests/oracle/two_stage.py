"""What is compared alike in Faster, Mask and Cascade R-CNN.

Legend: B images, M anchors of an image, K RoIs of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rankdet.heads.box_stage import RoIs
from rankdet.structures import IGNORED, Assignment, Batch

from .comparing import assert_all_equal, assert_equal, assert_same_detections, assert_same_rows
from .mmdetection import (
    TASK_UTILS,
    Both,
    Inputs,
    RandomSampler,
    build_here,
    build_there,
    by_anchor,
    evaluate,
    mask_padding,
    prepare,
    randomize,
    share_weights,
    total,
)
from .scenes import NUM_CLASSES, make_scene

BACKBONE = "resnet18.tv_in1k"
THIN = {
    "neck.out_channels": 64,
    "rpn_head.in_channels": 64,
    "rpn_head.feat_channels": 64,
    "roi_head.bbox_roi_extractor.out_channels": 64,
    # Neither 2.x nor this package drops proposals without area.
    "train_cfg.rpn_proposal.min_bbox_size": -1,
    "test_cfg.rpn.min_bbox_size": -1,
}
OUTPUTS = {"rpn_head.rpn_cls": (-1.5, 1.0), "rpn_head.rpn_reg": (0.0, 0.3)}


@dataclass(frozen=True)
class FirstSampler:
    """Takes the first candidates of each kind, where the real sampler draws."""

    num: int
    positive_fraction: float

    def __call__(self, assignment: Assignment, num_classes: int) -> Assignment:
        labels = assignment.labels
        positives = torch.nonzero((labels >= 0) & (labels < num_classes)).squeeze(1)
        positives = positives[: int(self.num * self.positive_fraction)]
        negatives = torch.nonzero(labels == num_classes).squeeze(1)[: self.num - len(positives)]
        kept = torch.cat([positives, negatives])
        return assignment._replace(labels=torch.full_like(labels, IGNORED).scatter(0, kept, labels[kept]))


@TASK_UTILS.register_module()
class FirstSamplerThere(RandomSampler):
    """The same there, where the objects' own boxes stand before the proposals, not behind them."""

    def _sample_pos(self, assign_result: Any, num_expected: int, **unused: object) -> Tensor:
        return self._first(assign_result, assign_result.gt_inds > 0, num_expected)

    def _sample_neg(self, assign_result: Any, num_expected: int, **unused: object) -> Tensor:
        return self._first(assign_result, assign_result.gt_inds == 0, num_expected)

    def _first(self, assign_result: Any, is_wanted: Tensor, number: int) -> Tensor:
        own = assign_result.num_gts if self.add_gt_as_proposals else 0
        rows = torch.nonzero(is_wanted).squeeze(1)
        return torch.cat([rows[rows >= own], rows[rows < own]])[:number]


def build(
    config: str, recipe: str, here: Mapping[str, Any], there: Mapping[str, Any], outputs: Mapping[str, Any]
) -> Both:
    """A standard detector, thin, with the same random weights on both sides.

    No proposals come from the padding, and the first candidates are taken in place of drawn ones. The form of ranking
    losses, as far as it is known there: all candidates, and no background logit.
    """
    is_cascade, is_ranking = "cascade" in recipe, recipe.startswith("rs_")
    stages = [f"rcnn.{number}" for number in range(3)] if is_cascade else ["rcnn"]
    samplers: dict[str, Any] = {}
    for stage in ("rpn", *stages):
        samplers[f"train_cfg.{stage}.sampler.type"] = "FirstSamplerThere"
        if is_ranking:
            samplers |= {
                f"train_cfg.{stage}.sampler.num": 10**6,
                f"train_cfg.{stage}.sampler.pos_fraction": 1.0,
            }
    network = build_there(config, BACKBONE, THIN | samplers | dict(there))
    randomize(network, prepare(network, make_scene("different sizes")), OUTPUTS | dict(outputs))
    propose = network.rpn_head.predict_by_feat

    def propose_inside(logits: Sequence[Tensor], deltas: Sequence[Tensor], **settings: Any) -> Any:
        found = propose(mask_padding(network.rpn_head, logits, settings["batch_img_metas"]), deltas, **settings)
        return [proposals[proposals.scores > 0] for proposals in found]

    network.rpn_head.predict_by_feat = propose_inside
    both = build_here(recipe, BACKBONE, NUM_CLASSES, {"pyramid_channels": 64} | dict(here))._replace(there=network)
    share_weights(both, without_background(network) if is_ranking else {})
    for part in (both.here.rpn, *(both.here.stages if is_cascade else [both.here.rcnn])):
        if part.sampler is not None:
            part.sampler = FirstSampler(part.sampler.num, part.sampler.positive_fraction)
    return both


def without_background(there: nn.Module) -> dict[str, Tensor]:
    """The classifiers without their last row; detections there are scored by a sigmoid from now on."""
    rows = {name: tensor[:NUM_CLASSES] for name, tensor in there.state_dict().items() if ".fc_cls." in name}
    heads = there.roi_head.bbox_head
    last = heads[-1] if isinstance(heads, nn.ModuleList) else heads
    last.loss_cls.custom_cls_channels = True
    last.loss_cls.get_activation = lambda logits: nn.functional.pad(logits[:, :NUM_CLASSES].sigmoid(), (0, 1))
    return rows


def without_samplers(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one test, take all candidates."""
    for part in (both.here.rpn, both.here.rcnn):
        monkeypatch.setattr(part, "sampler", None)
    for sampler in (both.there.rpn_head.sampler, both.there.roi_head.bbox_sampler):
        monkeypatch.setattr(sampler, "num", 10**6)
        monkeypatch.setattr(sampler, "pos_fraction", 1.0)


def check_labels_of_anchors(both: Both, batch: Batch) -> None:
    """Labels and encoded objects of the anchors that are taken."""
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        outputs = both.here.rpn(both.here.fpn(both.here.backbone(batch.images)), batch.images.sizes)
        candidates = both.here.rpn.candidates(outputs, batch.images.sizes, batch.targets)
        labels, deltas = rpn_labels(both.there, inputs)
    assert torch.equal(candidates.labels, labels)
    assert_equal(candidates.deltas.target, deltas[labels == 0], "encoded objects")
    assert int((labels == 0).sum()) >= sum(len(target.labels) for target in batch.targets)


def check_first_stage(both: Both, batch: Batch) -> None:
    """Normalized pixels, pyramid, outputs and anchors of the RPN, and which of these lie in the padding."""
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        here, there = both.here.fpn(both.here.backbone(batch.images)), both.there.extract_feat(inputs.pixels)
        outputs = both.here.rpn(here, batch.images.sizes)
        logits, deltas = both.there.rpn_head(there)
    assert_equal(both.here.backbone.normalization(batch.images), inputs.pixels, "normalized pixels")
    for level, (own, other) in enumerate(zip(here, there, strict=True)):
        assert_equal(own, other, f"level {level} of the pyramid")
    assert_equal(outputs.logits, by_anchor(logits, 1)[..., 0], "logits of the RPN")
    assert_equal(outputs.deltas, by_anchor(deltas, 4), "deltas of the RPN")
    sizes = [tuple(level.shape[-2:]) for level in logits]
    anchors, valid = both.there.rpn_head.get_anchors(sizes, inputs.metas, device="cpu")
    for own_valid, other, other_valid in zip(outputs.anchors.valid, anchors, valid, strict=True):
        assert_equal(outputs.anchors.boxes, torch.cat(other), "anchors", relative=1e-6)
        expected = torch.cat(other_valid).bool()
        assert torch.equal(torch.ones_like(expected) if own_valid is None else own_valid, expected)


def check_proposals(both: Both, batch: Batch) -> None:
    """Proposals of training and of detection."""
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        outputs = both.here.rpn(both.here.fpn(both.here.backbone(batch.images)), batch.images.sizes)
        others = both.there.rpn_head(both.there.extract_feat(inputs.pixels))
        for settings, configuration in (
            (both.here.rpn.train_proposals, both.there.train_cfg.rpn_proposal),
            (both.here.rpn.test_proposals, both.there.test_cfg.rpn),
        ):
            found = both.here.rpn.proposals(outputs, batch.images.sizes, settings)
            expected = both.there.rpn_head.predict_by_feat(*others, batch_img_metas=inputs.metas, cfg=configuration)
            for own, other in zip(found, expected, strict=True):
                assert_same_rows(own, other.bboxes, "proposals", tolerance=0.01)
                assert len(own) >= 100


def rpn_labels(there: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """(B · M,) labels of anchors there, −1 where ignored or not drawn, and (B · M, 4) targets of the regression."""
    sizes = [tuple(level.shape[-2:]) for level in there.extract_feat(inputs.pixels)]
    anchors, valid = there.rpn_head.get_anchors(sizes, inputs.metas, device="cpu")
    objects = [
        objects.new(labels=torch.zeros_like(objects.labels), bboxes=objects.bboxes) for objects in inputs.objects
    ]
    found = there.rpn_head.get_targets(anchors, valid, objects, inputs.metas)
    labels, weights, deltas = (torch.cat(levels, dim=1).flatten(0, 1) for levels in found[:3])
    return labels.masked_fill(weights == 0, -1), deltas


def rois_there(there: nn.Module, inputs: Inputs) -> list[Any]:
    """What is drawn for the second stage of each image there."""
    levels = there.extract_feat(inputs.pixels)
    proposals = there.rpn_head.predict_by_feat(
        *there.rpn_head(levels), batch_img_metas=inputs.metas, cfg=there.train_cfg.rpn_proposal
    )
    drawn = []
    for found, objects in zip(proposals, inputs.objects, strict=True):
        found.priors = found.pop("bboxes")
        assigned = there.roi_head.bbox_assigner.assign(found, objects, None)
        drawn.append(there.roi_head.bbox_sampler.sample(assigned, found, objects))
    return drawn


def rows_of(image: int, boxes: Tensor, labels: Tensor) -> Tensor:
    """(K, 6) rows that differ much wherever images or labels do."""
    return torch.cat([torch.full_like(boxes[:, :1], 1e6 * image), boxes, 1e4 * labels[:, None].float()], dim=1)


def rows_here(rois: Sequence[RoIs]) -> Tensor:
    """Of RoIs here, (K, 6)."""
    return torch.cat([rows_of(image, own.boxes, own.labels) for image, own in enumerate(rois)])


def rows_there(drawn: Sequence[Any]) -> Tensor:
    """Of RoIs there, (K, 6); positives of an image, then background."""
    rows = []
    for image, each in enumerate(drawn):
        background = torch.full_like(each.neg_inds, NUM_CLASSES)
        rows.append(rows_of(image, each.priors, torch.cat([each.pos_gt_labels, background])))
    return torch.cat(rows)


def rois_here(both: Both, batch: Batch) -> tuple[list[Tensor], list[RoIs]]:
    """The pyramid, and what is taken for the second stage of each image."""
    maps = both.here.fpn(both.here.backbone(batch.images))
    outputs = both.here.rpn(maps, batch.images.sizes)
    proposals = both.here.rpn.proposals(outputs, batch.images.sizes, both.here.rpn.train_proposals)
    return maps, [both.here.rcnn.choose(*pair) for pair in zip(proposals, batch.targets, strict=True)]


def check_second_stage(both: Both, batch: Batch) -> None:
    """RoIs, their labels and objects, logits and deltas."""
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        maps, rois = rois_here(both, batch)
        logits, deltas = both.here.rcnn(maps, [own.boxes for own in rois])
        drawn = rois_there(both.there, inputs)
        pairs = torch.cat([torch.full((len(each.priors), 1), float(i)) for i, each in enumerate(drawn)])
        all_rois = torch.cat([pairs, torch.cat([each.priors for each in drawn])], dim=1)
        expected = both.there.roi_head._bbox_forward(both.there.extract_feat(inputs.pixels), all_rois)
    places = assert_same_rows(rows_here(rois), rows_there(drawn), "RoIs", tolerance=0.01)
    assert_equal(logits[places], expected["cls_score"][:, : logits.shape[1]], "class logits")
    assert_equal(deltas.flatten(1)[places], expected["bbox_pred"], "deltas")
    objects_here = torch.cat(
        [
            rows_of(image, target.boxes[own.matched[: own.num_positives]], own.labels[: own.num_positives])
            for image, (own, target) in enumerate(zip(rois, batch.targets, strict=True))
        ]
    )
    objects_there = torch.cat(
        [rows_of(image, each.pos_gt_bboxes, each.pos_gt_labels) for image, each in enumerate(drawn)]
    )
    positives_here = torch.cat([torch.arange(len(own.labels)) < own.num_positives for own in rois])
    positives_there = torch.cat([torch.arange(len(each.priors)) < len(each.pos_inds) for each in drawn])
    all_objects = torch.zeros(len(places), 6)
    all_objects[positives_here] = objects_here
    assert torch.equal(all_objects[places][positives_there], objects_there)


def check_detections(both: Both, batch: Batch, fewest: int = 20) -> None:
    """Boxes, scores and labels of each image."""
    found = both.here.detect(batch.images)
    inputs = prepare(both.there, batch, training=False)
    with torch.no_grad():
        expected = both.there.predict(inputs.pixels, inputs.samples, rescale=False)
    for own, sample in zip(found, expected, strict=True):
        other = sample.pred_instances
        assert_same_detections(own, other.bboxes, other.scores, other.labels)
        assert len(own.scores) >= fewest


def check_losses_without_positives(both: Both, batch: Batch, names: Mapping[str, str]) -> None:
    """Loss terms; there an image without positive anchors counts as one in the number that sums are divided by."""
    inputs = prepare(both.there, batch)
    with torch.no_grad():
        here, there = evaluate(both, batch), total(both.there.loss(inputs.pixels, inputs.samples))
        labels = both.here(batch)[0].labels.view(len(batch.targets), -1)
    factor = in_terms_there(torch.stack([(labels == 0).sum(dim=1), (labels == 1).sum(dim=1)]))
    expected = {names[name]: value * (factor if "rpn" in name else 1) for name, value in there.items()}
    assert factor > 1
    assert_all_equal(here, expected)


def in_terms_there(counts: Tensor) -> float:
    """By how much a mean over sampled candidates is larger here: there each kind counts as at least one per image."""
    return float(counts.clamp(min=1).sum() / counts.sum())
