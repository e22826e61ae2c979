"""Rank & Sort Loss in the detectors of torchvision: Faster and Mask R-CNN, RetinaNet, FCOS, SSD and SSDlite.

    model = fasterrcnn_resnet50_fpn(weights="DEFAULT")
    use_rank_sort(model)

:func:`use_rank_sort` changes the classes of the parts that compute losses, in place. Weights, state dict, matching and
detection stay torchvision's. :func:`calibrate` makes its thresholds fit, and :func:`plain` is for deployment.

Legend: B images, A anchors of an image, M candidates of all images, P positives among them, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss, project_masks_on_boxes
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.ssd import SSD
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from rankdet.adapters.calibration import Calibration, Matches, evaluating, find_calibration, logits_of, match, rescale
from rankdet.losses import RankSortLoss, Sync, from_background_zero
from rankdet.ranges import Count, NonNegative, checked
from rankdet.structures import IGNORED, Candidates, Matched

Boxes = Literal["balanced", "theirs"]
Masks = Literal["theirs", "dice"]
Targets = Sequence[Mapping[str, Tensor]]
"""Objects of each image: boxes (n, 4), labels (n,) int64, for a Mask R-CNN masks (n, H, W)."""
Model = TypeVar("Model", bound=nn.Module)

CERTAIN = 100.0
"""A logit whose sigmoid is 1 in float32."""
FAINT = 40.0
"""How far below the background's logit those of classes are put, so that a softmax lets them not compete."""


def use_rank_sort(
    model: Model,
    delta: float = 0.5,
    boxes: Boxes = "balanced",
    masks: Masks = "theirs",
    sync: Sync = False,
    *,
    masks_per_image: int = 128,
) -> Model:
    r"""Make a detector of torchvision learn by Rank & Sort Loss; it returns the same model.

    Its heads then return :math:`L_R + L_S` (K. Oksuz et al., "Rank & Sort Loss for Object Detection and Instance
    Segmentation", ICCV 2021, arXiv:2107.11669) as their classification, over all anchors or proposals of a batch.
    Nothing is sampled, and each class has a sigmoid of its own. Where classes share a softmax with the background
    (R-CNN, SSD), the logit of the background is subtracted from theirs and stays 0 from then on. Detectors that have
    learned before therefore begin with the log-odds of a class against the background.

    Parameters
    ----------
    model
        A detector of torchvision with weights or without, before it is compiled or wrapped. A head for another number
        of classes is put in before.
    delta
        δ, half the width of the soft step, in logits.
    boxes
        ``"balanced"``: 1 − GIoU, weighted by scores, with the value of the classification, as published. ``"theirs"``:
        the model's own term, in an R-CNN over its own samples.
    masks
        ``"theirs"``: cross-entropy. ``"dice"``: 1 − Dice coefficient, weighted and balanced like the boxes.
    sync
        Rank the candidates of all processes in one pool.
    masks_per_image
        Most positives of an image that get a mask in a step, drawn uniformly: a bound on memory.

    Raises
    ------
    TypeError
        When it is no detector of torchvision, or a part that computes losses or logits is of an unknown class.
    ValueError
        When the model has keypoints, or an argument is out of range.

    Notes
    -----
    The names of the terms stay. With balanced boxes both terms of a head have one value, which says nothing of boxes.
    FCOS loses its centerness, which is frozen at 1, in loss and scores.

    A ranking fixes differences of scores, not scores. Therefore detections are kept at any score (``score_thresh`` is
    0) until :func:`calibrate` makes the usual threshold fit.

    A state dict has buffers ``rankdet_use_rank_sort``, so that torch refuses it for a model without the loss, and that
    of a model without it here. Weights from elsewhere are loaded before, and :func:`plain` gives weights for elsewhere.

    Examples
    --------
    >>> from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_fpn
    >>> model = fasterrcnn_mobilenet_v3_large_fpn(weights=None, weights_backbone=None, num_classes=3, min_size=64)
    >>> model = use_rank_sort(model).train()
    >>> target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([2])}
    >>> sorted(model([torch.rand(3, 64, 64)], [target]))
    ['loss_box_reg', 'loss_classifier', 'loss_objectness', 'loss_rpn_box_reg']
    """
    parts, classifiers = _parts(model), _classifiers(model)
    for part in parts:
        part.rank_sort = HeadLoss(delta, boxes, masks, sync, masks_per_image=masks_per_image).to(_device(part))
        part.__class__ = RANKING.get(type(part), type(part))
    for classifier in classifiers:
        classifier.subtract_background()
    if isinstance(model, FCOS):
        centerness = model.head.regression_head.bbox_ctrness.requires_grad_(False)
        nn.init.zeros_(centerness.weight)
        nn.init.constant_(centerness.bias, CERTAIN)
    scored = _scored(model)
    scored.usual_score_thresh = scored.score_thresh or getattr(scored, "usual_score_thresh", 0.0)
    scored.score_thresh = 0.0
    return model


@torch.no_grad()
def calibrate(
    model: nn.Module,
    loader: Iterable[tuple[Sequence[Tensor], Targets]],
    threshold: float | None = None,
    tolerance: float = 0.005,
) -> Calibration:
    """Store a scale and a shift of the logits in the classifier, so that a threshold fits: :func:`find_calibration`.

    The order of the detections stays. ``score_thresh`` is the threshold from then on. Another training starts with
    :func:`use_rank_sort`, as the first did.

    Parameters
    ----------
    model
        A model that has learned after :func:`use_rank_sort`.
    loader
        Validation images and their objects, as the model takes them, without crowd regions.
    threshold
        The threshold of the scores; None: the one of the model before :func:`use_rank_sort`.
    tolerance
        AP50 that the detections below the threshold may be worth.

    Returns
    -------
    Calibration
        What was found. Its ``best_threshold`` is for those who want few false boxes.

    Raises
    ------
    InputError
        When no detection hits an object, the threshold is not between 0 and 1, or scores have lost their order.
    TypeError
        When it is no model of :func:`use_rank_sort`.
    """
    if not all(type(part) in RANKING.values() for part in _parts(model)):
        raise TypeError("calibrate takes a model of use_rank_sort")
    scored = _scored(model)
    usual = (scored.score_thresh or scored.usual_score_thresh) if threshold is None else threshold
    # The score of FCOS is the square root of a probability, beside a centerness of 1.
    power = 2 if isinstance(model, FCOS) else 1
    with evaluating(model), _at_any_score(scored):
        found = find_calibration(_matches(model, loader, power), usual**power, tolerance)
    for weight, bias, is_background in _classifiers(model):
        rescale(weight, bias, found, ~is_background)
    scored.score_thresh = usual
    return found._replace(threshold=usual, best_threshold=found.best_threshold ** (1 / power))


@torch.no_grad()
def plain(model: Model) -> Model:
    r"""Return a copy of a model of :func:`use_rank_sort` that is an ordinary one of torchvision, with its detections.

    The copy needs rankdet no more: to be scripted, exported or pickled, or to have its state dict loaded elsewhere. Its
    ``score_thresh`` is no part of a state dict. It is for detection; a further training begins with the model itself.

    RetinaNet, FCOS and detectors of one class have the same scores s as before. Where several classes share a softmax,
    that would let them compete. They are put far below the background therefore, and ``score_thresh`` with them. A
    score is then

    .. math:: \frac{e^{s - 40}}{1 + \sum_k e^{s_k - 40}} \approx e^{s - 40}

    in the same order, and ``(scores.log() + 40).sigmoid()`` are the scores of before.

    Raises
    ------
    TypeError
        When it is no detector of torchvision.

    Examples
    --------
    >>> from torchvision.models.detection import ssdlite320_mobilenet_v3_large
    >>> model = use_rank_sort(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3))
    >>> type(model).__name__, type(plain(model)).__name__
    ('RankSortSSD', 'SSD')
    """
    model = deepcopy(model)
    scored, theirs = _scored(model), {ours: theirs for theirs, ours in RANKING.items()}
    for part in _parts(model):
        if type(part) not in theirs:
            return model
        part.__class__ = theirs[type(part)]
        del part.rank_sort
    del scored.usual_score_thresh
    classifiers = _classifiers(model)
    for weight, bias, is_background in classifiers:
        weight[is_background], bias[is_background] = 0, 0
    if max(classifier.columns for classifier in classifiers) > 2:
        for _, bias, is_background in classifiers:
            bias.sub_(FAINT * ~is_background)
        scored.score_thresh *= math.exp(-FAINT) / (1 - scored.score_thresh)
    return model


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
            _, localization = super().compute_loss(objectness, pred_bbox_deltas, labels, regression_targets)
        return classification, localization


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
            localization = self._their_boxes(logits, deltas, labels, regression_targets)
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

    def _their_boxes(
        self, logits: Tensor, deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> Tensor:
        """The term of the boxes by torchvision's loss, over the samples of its sampler."""
        positives, negatives = self.fg_bg_sampler(labels)
        is_drawn = (torch.cat(positives) | torch.cat(negatives)).bool()
        drawn_labels, drawn_targets = torch.cat(labels)[is_drawn], torch.cat(regression_targets)[is_drawn]
        _, term = fastrcnn_loss(logits[is_drawn], deltas[is_drawn], [drawn_labels], [drawn_targets])
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

    def compute_loss(
        self, targets: Targets, head_outputs: dict[str, Tensor], anchors: list[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the terms of classes and boxes."""
        logits = head_outputs["cls_logits"].flatten(0, 1)
        candidates = _dense(logits, 0, self.box_coder.decode, targets, head_outputs, anchors, matched_idxs)
        classification, localization, _ = self.rank_sort(candidates)
        if self.rank_sort.boxes == "theirs":
            localization = super().compute_loss(targets, head_outputs, anchors, matched_idxs)["bbox_regression"]
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
            localization = super().compute_loss(targets, head_outputs, anchors, matched_idxs)["bbox_regression"]
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


def _matched_masks(drawn: Drawn, bitmaps: Sequence[Tensor]) -> Matched:
    """Mask logits of the class of each box, and the masks of their objects, cut by the boxes: (P', S, S)."""
    own = drawn.logits[torch.arange(len(drawn.labels), device=drawn.labels.device), drawn.labels]
    size = own.shape[-1]
    cut = zip(bitmaps, drawn.boxes, drawn.objects, strict=True)
    return Matched(own, torch.cat([project_masks_on_boxes(*each, size) for each in cut]), drawn.rows)


def _parts(model: nn.Module) -> list[nn.Module]:
    """The parts of a detector that compute losses; raises TypeError or ValueError where they are not known here."""
    if isinstance(model, GeneralizedRCNN):
        parts = [model.rpn, model.roi_heads]
    elif isinstance(model, RetinaNet | FCOS):
        parts = [model.head]
    elif isinstance(model, SSD):
        parts = [model]
    else:
        raise TypeError(
            "use_rank_sort takes a Faster or Mask R-CNN, RetinaNet, FCOS or SSD of torchvision, before it is compiled "
            f"or wrapped; got {type(model).__name__}"
        )
    for part in parts:
        if type(part) not in {*RANKING, *RANKING.values()}:
            raise TypeError(f"use_rank_sort: {type(part).__name__} has a loss of its own, which it does not know")
    if isinstance(model, GeneralizedRCNN) and model.roi_heads.has_keypoint():
        raise ValueError("use_rank_sort: keypoints are learned by a loss of their own, which it does not replace")
    return parts


def _matches(model: nn.Module, loader: Iterable[tuple[Sequence[Tensor], Targets]], power: int) -> Iterator[Matches]:
    """Detections at any score beside objects, image by image; logits are those of ``score ** power``."""
    device = _device(model)
    for images, targets in loader:
        for found, target in zip(model([image.to(device) for image in images]), targets, strict=True):
            boxes, labels = found["boxes"].cpu(), found["labels"].cpu()
            logits = logits_of(found["scores"].cpu(), power)
            yield match(boxes, logits, labels, target["boxes"].cpu(), target["labels"].cpu())


@contextmanager
def _at_any_score(scored: Any) -> Iterator[None]:
    """Detections are kept at any score within the context."""
    threshold = scored.score_thresh
    scored.score_thresh = 0.0
    try:
        yield
    finally:
        scored.score_thresh = threshold


class Classifier(NamedTuple):
    """The last layer of a classifier: (O, …) weight and (O,) bias of its logits, and which are of the background."""

    weight: Tensor
    bias: Tensor
    is_background: Tensor

    @property
    def columns(self) -> int:
        """Logits of an anchor or proposal, the background's first; 1 where there is no background."""
        number = int(self.is_background.sum())
        return len(self.bias) // number if number else 1

    def subtract_background(self) -> None:
        """Make the background's logits 0, and lower those of the classes by as much."""
        if self.columns > 1:
            for values in (self.weight, self.bias):
                values -= values[self.is_background].repeat_interleave(self.columns, dim=0)


def _classifiers(model: Any) -> list[Classifier]:
    """The classifiers of a detector, where levels do not share one that of each; raises TypeError for unknown ones."""
    if isinstance(model, GeneralizedRCNN):
        layers: list[Any] = [getattr(model.roi_heads.box_predictor, "cls_score", None)]
    elif isinstance(model, RetinaNet | FCOS):
        layers = [model.head.classification_head.cls_logits]
    else:
        levels = model.head.classification_head.module_list
        layers = [level[-1] if isinstance(level, nn.Sequential) else level for level in levels]
    classifiers = []
    for layer in layers:
        if not isinstance(layer, nn.Linear | nn.Conv2d) or layer.bias is None:
            raise TypeError(f"use_rank_sort knows no classifier that ends with {layer}")
        outputs = torch.arange(len(layer.bias), device=layer.bias.device)
        if isinstance(model, SSD):
            outputs %= model.head.classification_head.num_columns
        has_background = not isinstance(model, RetinaNet | FCOS)
        classifiers.append(Classifier(layer.weight.detach(), layer.bias.detach(), (outputs == 0) & has_background))
    return classifiers


def _scored(model: nn.Module) -> Any:
    """The part with the threshold of the scores."""
    return model.roi_heads if isinstance(model, GeneralizedRCNN) else model


def _device(part: nn.Module) -> torch.device:
    return next(part.parameters()).device
