"""Rank & Sort Loss in mmdetection 3: Faster R-CNN, RetinaNet, ATSS, and DETRs from Deformable DETR to DINO.

A config gets the names that are registered here by

    custom_imports = dict(imports=["rankdet.adapters.mmdet"])

A DETR needs ``loss_cls=dict(_delete_=True, type="RankSortLoss", use_sigmoid=True)`` alone. Other heads rank all levels
in one pool, and boxes are part of their loss. They have classes of their own beside the same ``loss_cls``:
``RankSortRPNHead``, ``RankSortRetinaHead``, ``RankSortATSSHead`` and ``RankSortShared2FCBBoxHead``.

Legend: N candidates of a level or of a batch, P positives, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import ATSSHead, RetinaHead, RPNHead
from mmdet.models.detectors import BaseDetector
from mmdet.models.losses import QualityFocalLoss
from mmdet.models.roi_heads.bbox_heads import Shared2FCBBoxHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor, nn

from rankdet import losses
from rankdet.adapters.calibration import Calibration, Matches, evaluating, find_calibration, logits_of, match, rescale
from rankdet.losses import Sync, from_background_last, rank_sort_loss_of_labels
from rankdet.ranges import NonNegative, Positive, checked
from rankdet.structures import Candidates, Matched, is_class

CERTAIN = 100.0
"""A logit whose sigmoid is 1 in float32."""
NEEDED = "{} needs loss_cls=dict(_delete_=True, type='RankSortLoss', use_sigmoid=True)"
USUAL = 0.05
"""``score_thr`` of mmdetection's configurations."""
SHOWN = 0.3
"""Score from which mmdetection draws detections (``pred_score_thr``): the threshold of detectors that drop none."""


@MODELS.register_module()
@checked
class RankSortLoss(QualityFocalLoss):
    r"""Rank & Sort Loss, as the ``loss_cls`` of a head.

    .. math:: w (L_R + L_S + \lambda L_{box})

    (K. Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021, arXiv:2107.11669).
    In a DETR it has no part in the boxes, whose losses stay, and each decoder layer is a pool of its own.

    Parameters
    ----------
    delta
        δ, half the width of the soft step, in logits.
    loss_weight
        w.
    sync
        Rank the candidates of all processes in one pool.
    use_sigmoid
        True, which heads look for in the config.

    Raises
    ------
    ValueError
        When a number is out of range, or ``use_sigmoid`` is not true.

    Notes
    -----
    It is a ``QualityFocalLoss`` because mmdetection's DETR heads give the IoU of a query to nothing else. As a
    ``loss_cls`` of an R-CNN it asks for C logits in place of C + 1, each with a sigmoid.
    """

    custom_cls_channels = custom_activation = custom_accuracy = True

    def __init__(
        self, delta: NonNegative = 0.5, loss_weight: Positive = 1.0, sync: Sync = False, use_sigmoid: bool = True
    ) -> None:
        nn.Module.__init__(self)  # its base's numbers mean nothing here
        if not use_sigmoid:
            raise ValueError("RankSortLoss has a sigmoid per class: use_sigmoid must be True")
        self.use_sigmoid = True
        self.loss_weight = loss_weight
        self.of_candidates = losses.RankSortLoss(delta, sync=sync)

    def forward(
        self,
        pred: Tensor,
        target: tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Return w (ranking + sorting) of the queries of one decoder layer.

        Parameters
        ----------
        pred
            (N, C) logits.
        target
            (N,) labels, C for background, and (N,) IoU of the box with its object.
        weight
            (N,) of the labels; 0 is ignored, anything else counts as 1.
        avg_factor, reduction_override
            Without a meaning: a ranking is normalized by itself.

        Raises
        ------
        TypeError
            When there is no IoU, as in a head that is no DETR's.
        """
        if not isinstance(target, tuple):
            raise TypeError(
                "RankSortLoss gets no IoU from this head: use RankSortRPNHead, RankSortRetinaHead, RankSortATSSHead or "
                "RankSortShared2FCBBoxHead, or a DETR with a sigmoid per class"
            )
        labels, quality = target
        if weight is not None:
            labels = from_background_last(labels, weight)
        quality = quality[is_class(labels, pred.shape[1])].detach()
        core = self.of_candidates
        ranking, sorting = rank_sort_loss_of_labels(pred, labels, quality, core.delta, sync=core.sync)
        return self.loss_weight * (ranking + sorting)

    def get_cls_channels(self, num_classes: int) -> int:
        """Return the number of logits of an R-CNN: C, without a background."""
        return num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Return scores (N, C + 1) of an R-CNN: sigmoids, and a background of 0, the column that is dropped later."""
        return nn.functional.pad(cls_score.sigmoid(), (0, 1))

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return no accuracy: it would be one of a softmax."""
        return {}


class Level(NamedTuple):
    """Candidates of one level in all images.

    (N, C) logits, (N,) labels with C for background and −1 for ignored, (P, 4) boxes of the positives and of their
    objects.
    """

    logits: Tensor
    labels: Tensor
    boxes: Tensor
    objects: Tensor


class AllLevels:
    """Mixin in front of a dense head: its loss of a level returns the level, so that one loss can rank all of them."""

    loss_cls: RankSortLoss
    num_classes: int
    cls_out_channels: int

    def loss_by_feat(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the terms of classes and boxes over all levels; the arguments are those of the head."""
        found = super().loss_by_feat(*args, **kwargs)  # type: ignore[misc]
        if not isinstance(self.loss_cls, RankSortLoss) or self.cls_out_channels != self.num_classes:
            raise TypeError(NEEDED.format(type(self).__name__))
        prefix = "rpn_" if "loss_rpn_cls" in found else ""
        return _terms(self.loss_cls, prefix, found[f"loss_{prefix}cls"])


@MODELS.register_module()
class RankSortRetinaHead(AllLevels, RetinaHead):
    """The head of RetinaNet, with a :class:`RankSortLoss`."""

    def loss_by_feat_single(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        anchors: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        avg_factor: float,
    ) -> tuple[Level, Tensor]:
        """Return a level, and a zero in place of the loss of its boxes."""
        return _of_anchors(self, cls_score, bbox_pred, anchors, labels, label_weights, bbox_targets)


@MODELS.register_module()
class RankSortRPNHead(AllLevels, RPNHead):
    """The region proposal network, with a :class:`RankSortLoss`."""

    loss_by_feat_single = RankSortRetinaHead.loss_by_feat_single


@MODELS.register_module()
class RankSortATSSHead(AllLevels, ATSSHead):
    """The head of ATSS without centerness, with a :class:`RankSortLoss`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.atss_centerness.requires_grad_(False)

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, deltas, and a centerness of 1 for each anchor of a level."""
        logits, deltas, centerness = super().forward_single(x, scale)
        return logits, deltas, torch.full_like(centerness, CERTAIN)

    def loss_by_feat_single(
        self,
        anchors: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        centerness: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        avg_factor: float,
    ) -> tuple[Level, Tensor, Tensor, Tensor]:
        """Return a level, and zeros in place of the losses of boxes and centerness and of their normalizer."""
        level, zero = _of_anchors(
            self, cls_score, bbox_pred, anchors, labels, label_weights, bbox_targets, is_decoded=True
        )
        return level, zero, zero, zero


@MODELS.register_module()
class RankSortShared2FCBBoxHead(Shared2FCBBoxHead):
    """The box head of Faster R-CNN, with a :class:`RankSortLoss`."""

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        reduction_override: str | None = None,
    ) -> dict[str, Tensor]:
        """Return the terms of classes and boxes; ``rois`` are (N, 5), image and box."""
        if not isinstance(self.loss_cls, RankSortLoss):
            raise TypeError(NEEDED.format(type(self).__name__))
        rows = is_class(labels, self.num_classes).nonzero().squeeze(1)
        columns = torch.zeros_like(labels[rows]) if self.reg_class_agnostic else labels[rows]
        deltas = bbox_pred.reshape(len(labels), -1, self.bbox_coder.encode_size)[rows, columns]
        boxes = _decode(self, rois[rows, 1:], deltas)
        objects = bbox_targets[rows] if self.reg_decoded_bbox else _decode(self, rois[rows, 1:], bbox_targets[rows])
        level = Level(cls_score, from_background_last(labels, label_weights), boxes, objects)
        return _terms(self.loss_cls, "", [level])


@torch.no_grad()
def calibrate(
    model: BaseDetector, loader: Iterable[Any], threshold: float | None = None, tolerance: float = 0.005
) -> Calibration:
    """Store a scale and a shift of the logits in the classifier, so that a threshold fits: :func:`find_calibration`.

    The order of the detections stays, and ``score_thr`` of the test configuration is the threshold from then on. The
    weights are those of the config as before: save the checkpoint again.

    Parameters
    ----------
    model
        A detector that has learned by the losses of this module, such as ``runner.model``.
    loader
        Validation images with annotations: ``runner.val_dataloader``. Boxes of both are in pixels of the file.
    threshold
        The threshold of the scores; None: the one of mmdetection's configs, 0.05, or for detectors that drop nothing
        (DETR) the 0.3 from which detections are drawn.
    tolerance
        AP50 that the detections below the threshold may be worth.

    Raises
    ------
    InputError
        When no detection hits an object, the threshold is not between 0 and 1, or scores have lost their order.
    TypeError
        When the classifier is of an unknown form.
    """
    layers, settings = _classifiers(model), (model.roi_head if hasattr(model, "roi_head") else model.bbox_head).test_cfg
    drops = "score_thr" in settings
    usual = (settings.get("score_thr") or USUAL if drops else SHOWN) if threshold is None else threshold
    with evaluating(model), _at_any_score(settings):
        found = find_calibration(_matches(model, loader), usual, tolerance)
    for layer in layers:
        rescale(layer.weight, layer.bias, found)
    if drops:
        settings.score_thr = usual
    return found


def _of_anchors(
    head: Any,
    cls_score: Tensor,
    bbox_pred: Tensor,
    anchors: Tensor,
    labels: Tensor,
    label_weights: Tensor,
    bbox_targets: Tensor,
    *,
    is_decoded: bool = False,
) -> tuple[Level, Tensor]:
    """A level of a dense head, and a zero.

    (B, A · C, H, W) logits and (B, A · 4, H, W) deltas; the other tensors have (B, H · W · A) in front.
    """
    classes = from_background_last(labels.reshape(-1), label_weights.reshape(-1))
    rows = is_class(classes, head.num_classes).nonzero().squeeze(1)
    logits, deltas = (values.permute(0, 2, 3, 1).reshape(len(classes), -1) for values in (cls_score, bbox_pred))
    own, targets = anchors.reshape(-1, anchors.shape[-1])[rows], bbox_targets.reshape(-1, bbox_targets.shape[-1])[rows]
    objects = targets if is_decoded or head.reg_decoded_bbox else _decode(head, own, targets)
    return Level(logits, classes, _decode(head, own, deltas[rows]), objects), cls_score.new_zeros(())


def _decode(head: Any, anchors: Tensor, deltas: Tensor) -> Tensor:
    """(P, 4) boxes (x1, y1, x2, y2) in float32."""
    return get_box_tensor(head.bbox_coder.decode(anchors, deltas.float()))


def _terms(loss: RankSortLoss, prefix: str, levels: list[Level]) -> dict[str, Tensor]:
    """The terms of a head by mmdetection's names, and what is only logged, whose names have no "loss" in them."""
    logits, labels, boxes, objects = (torch.cat(list(values)) for values in zip(*levels, strict=True))
    candidates = Candidates(prefix or "box", logits, labels, logits.shape[1], boxes=Matched(boxes, objects))
    terms, stats = loss.of_candidates(candidates)
    return {
        f"loss_{prefix}cls": loss.loss_weight * (terms["ranking"] + terms["sorting"]),
        f"loss_{prefix}bbox": loss.loss_weight * terms["localization"],
        **{f"{prefix}{name}": value.float() for name, value in stats.items()},
    }


def _classifiers(model: Any) -> list[Any]:
    """The last layers of the classifiers, each once: of a DETR those of its decoder layers and of its encoder."""
    head = model.roi_head.bbox_head if hasattr(model, "roi_head") else model.bbox_head
    for name in ("fc_cls", "retina_cls", "atss_cls", "cls_branches"):
        if hasattr(head, name):
            part = getattr(head, name)
            layers = list(part) if isinstance(part, nn.ModuleList) else [part]
            return list(dict.fromkeys(layers))
    raise TypeError(f"calibrate knows no classifier of a {type(head).__name__}")


def _matches(model: Any, loader: Iterable[Any]) -> Iterator[Matches]:
    """Detections beside objects, image by image."""
    for batch in loader:
        for sample in model.test_step(batch):
            found, truth = sample.pred_instances.cpu(), sample.gt_instances.cpu()
            boxes, objects = get_box_tensor(found.bboxes), get_box_tensor(truth.bboxes)
            yield match(boxes, logits_of(found.scores), found.labels, objects, truth.labels)


@contextmanager
def _at_any_score(settings: Any) -> Iterator[None]:
    """Detections are kept at any score within the context."""
    threshold = settings.get("score_thr")
    if threshold is not None:
        settings.score_thr = 0.0
    try:
        yield
    finally:
        if threshold is not None:
            settings.score_thr = threshold
