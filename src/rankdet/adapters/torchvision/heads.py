"""The parts of torchvision's detectors that compute losses, learning by Rank & Sort Loss.

Each is torchvision's own class with another loss, so that a part changes by its class alone.

Legend: B images, A anchors of an image, M candidates of all images, P positives among them, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from rankdet.losses import RankSortLoss, Sync, from_background_zero
from rankdet.ranges import Count, NonNegative, checked
from rankdet.structures import IGNORED, Candidates, Matched

Boxes = Literal["balanced", "theirs"]
Masks = Literal["theirs", "dice"]
Targets = Sequence[Mapping[str, Tensor]]
"""Objects of each image: boxes (n, 4), labels (n,) int64, for a Mask R-CNN masks (n, H, W)."""

CERTAIN = 100.0
"""A logit whose sigmoid is 1 in float32."""


@checked
class HeadLoss(nn.Module):
    """Rank & Sort Loss of one head, and which terms it leaves to torchvision; see :func:`use_rank_sort`.

    Attributes
    ----------
    rankdet_use_rank_sort
        A buffer whose name torch reports where a model without the loss is to load it, or the reverse.
    """

    rankdet_use_rank_sort: Tensor

    def __init__(
        self,
        delta: NonNegative = 0.5,
        boxes: Boxes = "balanced",
        masks: Masks = "theirs",
        sync: Sync = False,
        *,
        masks_per_image: Count = 128,
        proposals_per_image: Count = 1000,
    ) -> None:
        super().__init__()
        if boxes not in get_args(Boxes):
            raise ValueError(f"boxes must be 'balanced' or 'theirs', got {boxes!r}")
        if masks not in get_args(Masks):
            raise ValueError(f"masks must be 'theirs' or 'dice', got {masks!r}")
        self.loss = RankSortLoss(delta, sync=sync)
        self.boxes = boxes
        self.masks = masks
        self.masks_per_image = masks_per_image
        self.proposals_per_image = proposals_per_image
        self.register_buffer("rankdet_use_rank_sort", torch.ones(()))

    def forward(self, candidates: Candidates) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return ranking + sorting, and the balanced terms of boxes and masks."""
        terms = self.loss(candidates).terms
        return terms["ranking"] + terms["sorting"], terms["localization"], terms.get("mask")


class RankSortRPN(RegionProposalNetwork):
    """The region proposal network of torchvision, learning by Rank & Sort Loss."""

    rank_sort: HeadLoss

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the terms of objectness and boxes; labels are 1, 0 for background, −1 for ignored."""
        marks = torch.cat(labels)
        rows = (marks > 0).nonzero().squeeze(1)
        boxes = on_unit_anchor(self.box_coder, pred_bbox_deltas[rows], torch.cat(regression_targets)[rows])
        classes = from_background_zero(marks, 1)
        candidates = Candidates("rpn", objectness.reshape(-1, 1), classes, 1, boxes=boxes, rows=rows)
        classification, localization, _ = self.rank_sort(candidates)
        if self.rank_sort.boxes == "theirs":
            _, localization = super().compute_loss(objectness.detach(), pred_bbox_deltas, labels, regression_targets)
        return classification, localization

    def post_nms_top_n(self) -> int:
        """Return how many proposals of an image are kept; in training no more than :func:`use_rank_sort` allows."""
        number = super().post_nms_top_n()
        return min(number, self.rank_sort.proposals_per_image) if self.training else number


class Drawn(NamedTuple):
    """Positives of an R-CNN that get a mask: P' in all images together, S cells per side of a mask.

    logits
        (P', C + 1, S, S) of a mask for each class, of the background first.
    boxes, objects
        For each image (p, 4) proposals, and (p,) the objects that they are matched with.
    labels
        (P',) class of each.
    rows
        (P',) which of the positives of all images they are.
    """

    logits: Tensor
    boxes: list[Tensor]
    objects: list[Tensor]
    labels: Tensor
    rows: Tensor


class RankSortRoIHeads(RoIHeads):
    """The heads of boxes and masks of torchvision's R-CNNs, learning by Rank & Sort Loss."""

    rank_sort: HeadLoss

    def subsample(self, labels: list[Tensor]) -> list[Tensor]:
        """Return the rows of all proposals of each image that are not ignored."""
        return [(image_labels >= 0).nonzero().squeeze(1) for image_labels in labels]

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Return detections, or in training the terms of classes, boxes and masks."""
        if not self.training or targets is None:
            return super().forward(features, proposals, image_shapes, targets)
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        logits, deltas = self.box_predictor(self.box_head(self.box_roi_pool(features, proposals, image_shapes)))
        num_classes = logits.shape[1] - 1  # the first logit is that of the background, which stays 0
        check_labels(targets, range(1, num_classes + 1))

        terms: dict[str, Tensor] = {}
        masks = None
        if self.has_mask():
            drawn = self._draw(features, image_shapes, proposals, matched, labels)
            bitmaps = [target["masks"] for target in targets]
            if self.rank_sort.masks == "theirs":
                classes = [target["labels"] for target in targets]
                terms["loss_mask"] = maskrcnn_loss(drawn.logits, drawn.boxes, bitmaps, classes, drawn.objects)
            else:
                masks = _matched_masks(drawn, bitmaps)
        all_labels = torch.cat(labels)
        rows = (all_labels > 0).nonzero().squeeze(1)
        own_deltas = deltas.reshape(len(all_labels), -1, 4)[rows, all_labels[rows]]
        candidates = Candidates(
            head="rcnn",
            logits=logits[:, 1:],
            labels=from_background_zero(all_labels, num_classes),
            num_classes=num_classes,
            boxes=on_unit_anchor(self.box_coder, own_deltas, torch.cat(regression_targets)[rows]),
            masks=masks,
            rows=rows,
        )
        classification, localization, mask = self.rank_sort(candidates)
        if self.rank_sort.boxes == "theirs":
            localization = self._their_boxes(deltas, labels, regression_targets)
        if mask is not None:
            terms["loss_mask"] = mask
        return [], {"loss_classifier": classification, "loss_box_reg": localization, **terms}

    def postprocess_detections(
        self, class_logits: Tensor, box_regression: Tensor, proposals: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return boxes, scores and labels of the detections of each image, after suppression within each class."""
        sizes = [len(boxes) for boxes in proposals]
        scores = class_logits[:, 1:].float().sigmoid()
        boxes = self.box_coder.decode(box_regression, proposals)[:, 1:]
        found = [
            self._detect(*each) for each in zip(boxes.split(sizes), scores.split(sizes), image_shapes, strict=True)
        ]
        return [each[0] for each in found], [each[1] for each in found], [each[2] for each in found]

    def _detect(self, boxes: Tensor, scores: Tensor, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Detections of an image, from a box (A, C, 4) and a score (A, C) for each proposal and class."""
        rows, columns = (scores > self.score_thresh).nonzero().unbind(1)
        boxes, scores, labels = clip_boxes_to_image(boxes[rows, columns], shape), scores[rows, columns], columns + 1
        large = remove_small_boxes(boxes, min_size=1e-2)
        kept = large[batched_nms(boxes[large], scores[large], labels[large], self.nms_thresh)]
        kept = kept[: self.detections_per_img]
        return boxes[kept], scores[kept], labels[kept]

    def _draw(
        self,
        features: dict[str, Tensor],
        image_shapes: list[tuple[int, int]],
        proposals: list[Tensor],
        matched: list[Tensor],
        labels: list[Tensor],
    ) -> Drawn:
        """Masks of the positives, or of so many of each image as are allowed, drawn uniformly."""
        most, start = self.rank_sort.masks_per_image, 0
        boxes, objects, classes, rows = [], [], [], []
        for image_boxes, image_objects, image_labels in zip(proposals, matched, labels, strict=True):
            positives = (image_labels > 0).nonzero().squeeze(1)
            numbers = torch.arange(len(positives), device=positives.device)
            if len(positives) > most:
                numbers = torch.randperm(len(positives), device=positives.device)[:most].sort().values
            boxes.append(image_boxes[positives[numbers]])
            objects.append(image_objects[positives[numbers]])
            classes.append(image_labels[positives[numbers]])
            rows.append(numbers + start)
            start += len(positives)
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
        return Drawn(logits, boxes, objects, torch.cat(classes), torch.cat(rows))

    def _their_boxes(self, deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]) -> Tensor:
        """The term of the boxes by torchvision's loss, over the samples of its sampler.

        The deltas (M, 4 · (C + 1)) that belong to a sample's label go to it as those of the only class.
        """
        positives, negatives = self.fg_bg_sampler(labels)
        drawn = (torch.cat(positives) | torch.cat(negatives)).nonzero().squeeze(1)
        drawn_labels = torch.cat(labels)[drawn]
        own = deltas.reshape(len(deltas), -1, 4)[drawn, drawn_labels]
        is_positive = (drawn_labels > 0).long()
        _, term = fastrcnn_loss(
            own.new_zeros(len(own), 2), own.repeat(1, 2), [is_positive], [torch.cat(regression_targets)[drawn]]
        )
        return term


class RankSortRetinaNetHead(RetinaNetHead):
    """The head of torchvision's RetinaNet, learning by Rank & Sort Loss."""

    rank_sort: HeadLoss

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the terms of classes and boxes."""
        logits = head_outputs["cls_logits"].flatten(0, 1)
        decode = self.regression_head.box_coder.decode_single
        candidates = _dense(logits, 0, decode, targets, head_outputs, anchors, matched_idxs)
        classification, localization, _ = self.rank_sort(candidates)
        if self.rank_sort.boxes == "theirs":
            localization = self.regression_head.compute_loss(targets, head_outputs, anchors, matched_idxs)
        return {"classification": classification, "bbox_regression": localization}


class RankSortFCOSHead(FCOSHead):
    """The head of torchvision's FCOS, learning by Rank & Sort Loss, without centerness."""

    rank_sort: HeadLoss

    def forward(self, x: list[Tensor]) -> dict[str, Tensor]:
        """Return the outputs for maps of all levels, with a centerness of 1."""
        outputs = super().forward(x)
        return {**outputs, "bbox_ctrness": torch.full_like(outputs["bbox_ctrness"], CERTAIN)}

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the terms of classes and boxes."""
        logits = head_outputs["cls_logits"].flatten(0, 1)
        candidates = _dense(logits, 0, self.box_coder.decode, targets, head_outputs, anchors, matched_idxs)
        classification, localization, _ = self.rank_sort(candidates)
        if self.rank_sort.boxes == "theirs":
            positives = _positives_alone(candidates, head_outputs, anchors)
            localization = super().compute_loss(*positives)["bbox_regression"]
        return {"classification": classification, "bbox_regression": localization}


class RankSortSSD(SSD):
    """torchvision's SSD and SSDlite, learning by Rank & Sort Loss, without hard negative mining."""

    rank_sort: HeadLoss

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the terms of classes and boxes."""
        logits = head_outputs["cls_logits"].flatten(0, 1)[:, 1:]
        candidates = _dense(logits, 1, self.box_coder.decode_single, targets, head_outputs, anchors, matched_idxs)
        classification, localization, _ = self.rank_sort(candidates)
        if self.rank_sort.boxes == "theirs":
            positives = _positives_alone(candidates, head_outputs, anchors)
            localization = super().compute_loss(*positives)["bbox_regression"]
        return {"bbox_regression": localization, "classification": classification}

    def postprocess_detections(
        self, head_outputs: dict[str, Tensor], image_anchors: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Return the detections of each image, after suppression within each class."""
        scores = head_outputs["cls_logits"][..., 1:].float().sigmoid()
        images = zip(head_outputs["bbox_regression"], scores, image_anchors, image_shapes, strict=True)
        return [self._detect(*each) for each in images]

    def _detect(self, deltas: Tensor, scores: Tensor, anchors: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Detections of an image: the best anchors of each class above the threshold, suppressed."""
        scores, places = scores.topk(min(self.topk_candidates, len(scores)), dim=0)
        ranks, columns = (scores > self.score_thresh).nonzero().unbind(1)
        boxes = clip_boxes_to_image(self.box_coder.decode_single(deltas, anchors), shape)[places[ranks, columns]]
        scores, labels = scores[ranks, columns], columns + 1
        kept = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        return {"boxes": boxes[kept], "scores": scores[kept], "labels": labels[kept]}


RANKING: dict[type[nn.Module], type[nn.Module]] = {
    RegionProposalNetwork: RankSortRPN,
    RoIHeads: RankSortRoIHeads,
    RetinaNetHead: RankSortRetinaNetHead,
    FCOSHead: RankSortFCOSHead,
    SSD: RankSortSSD,
}
"""The parts of torchvision that compute losses, and ours in their place."""


def on_unit_anchor(coder: BoxCoder, predicted: Tensor, targets: Tensor) -> Matched:
    """Return encoded boxes and their objects (P, 4) as boxes of a common anchor (0, 0, 1, 1), in float32 or better.

    IoU and GIoU do not change when both boxes are moved together, or when an axis has another unit. A box that is
    encoded relative to its anchor is moved by the anchor's center and measured by its sides. The IoUs are therefore
    those of the boxes in pixels, and nobody needs to know the anchors.

    Examples
    --------
    >>> from rankdet.losses import box_overlap
    >>> anchors = torch.tensor([[20.0, 40.0, 52.0, 56.0]])
    >>> coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    >>> objects, deltas = torch.tensor([[16.0, 42.0, 50.0, 60.0]]), torch.tensor([[1.0, -2.0, 0.5, 1.0]])
    >>> pairs = on_unit_anchor(coder, deltas, coder.encode_single(objects, anchors))
    >>> box_overlap(pairs.predicted, pairs.target).iou, box_overlap(coder.decode_single(deltas, anchors), objects).iou
    (tensor([0.3789]), tensor([0.3789]))
    """
    dtype = torch.promote_types(predicted.dtype, torch.float32)
    anchors = predicted.new_tensor([0, 0, 1, 1], dtype=dtype).expand(len(predicted), 4)
    return Matched(coder.decode_single(predicted.to(dtype), anchors), coder.decode_single(targets.to(dtype), anchors))


def check_labels(targets: Targets, classes: range) -> None:
    """Raise ValueError where an object has none of these classes; torchvision would learn it as background, or fail.

    Examples
    --------
    >>> check_labels([{"labels": torch.tensor([1, 0])}], range(1, 4))
    Traceback (most recent call last):
    ValueError: image 0 has an object of class 0, but classes are 1 … 3, and 0 is the background
    """
    labels = torch.cat([target["labels"] for target in targets])
    if not bool(((labels < classes.start) | (labels >= classes.stop)).any()):
        return
    for number, target in enumerate(targets):
        for label in target["labels"].tolist():
            if label not in classes:
                background = ", and 0 is the background" if classes.start else ""
                raise ValueError(
                    f"image {number} has an object of class {label}, but classes are {classes.start} … "
                    f"{classes.stop - 1}{background}"
                )


def _dense(
    logits: Tensor,
    first: int,
    decode: Callable[[Tensor, Tensor], Tensor],
    targets: Targets,
    head_outputs: Mapping[str, Tensor],
    anchors: Sequence[Tensor],
    matched_idxs: Sequence[Tensor],
) -> Candidates:
    """The anchors of all images.

    ``logits`` are (B · A, C), and ``first`` is the label of the first class. ``matched_idxs`` (A,) of each image are
    the object of an anchor, −1 for background, −2 for ignored.
    """
    num_classes = logits.shape[1]
    check_labels(targets, range(first, first + num_classes))
    matched = torch.cat(list(matched_idxs))
    rows = (matched >= 0).nonzero().squeeze(1)
    starts = torch.tensor([0, *(len(target["labels"]) for target in targets[:-1])]).cumsum(0).tolist()
    objects = torch.cat([each + start for each, start in zip(matched_idxs, starts, strict=True)])[rows]
    labels = torch.where(matched == Matcher.BETWEEN_THRESHOLDS, IGNORED, num_classes)
    labels[rows] = torch.cat([target["labels"] for target in targets])[objects] - first
    deltas = head_outputs["bbox_regression"].flatten(0, 1)[rows]
    boxes = decode(deltas.to(torch.promote_types(deltas.dtype, torch.float32)), torch.cat(list(anchors))[rows])
    target_boxes = torch.cat([target["boxes"] for target in targets])[objects]
    return Candidates("dense", logits, labels, num_classes, boxes=Matched(boxes, target_boxes), rows=rows)


def _positives_alone(
    candidates: Candidates, head_outputs: Mapping[str, Tensor], anchors: Sequence[Tensor]
) -> tuple[Targets, dict[str, Tensor], list[Tensor], list[Tensor]]:
    """The arguments of a dense head's loss for its positives as one image of one class.

    A term of the boxes that is a mean over all positives stays, and no logit of a class costs anything.
    """
    assert candidates.rows is not None
    assert candidates.boxes is not None
    rows, objects = candidates.rows, candidates.boxes.target
    outputs = {name: values.flatten(0, 1)[rows].unsqueeze(0) for name, values in head_outputs.items()}
    outputs["cls_logits"] = outputs["cls_logits"].new_zeros(1, len(rows), 1)
    places = torch.arange(len(rows), device=rows.device)
    return [{"boxes": objects, "labels": torch.zeros_like(places)}], outputs, [torch.cat(list(anchors))[rows]], [places]


def _matched_masks(drawn: Drawn, bitmaps: Sequence[Tensor]) -> Matched:
    """Mask logits of the class of each box, and the masks of their objects, cut by the boxes: (P', S, S)."""
    own = drawn.logits[torch.arange(len(drawn.labels), device=drawn.labels.device), drawn.labels]
    size = own.shape[-1]
    cut = zip(bitmaps, drawn.boxes, drawn.objects, strict=True)
    return Matched(own, torch.cat([project_masks_on_boxes(*each, size) for each in cut]), drawn.rows)
