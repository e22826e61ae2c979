"""Detectors of torchvision that learn by Rank & Sort Loss: made, calibrated, and made plain again.

Legend: A anchors or proposals of an image, C classes, O outputs of a classifier.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.ssd import SSD

from rankdet.adapters.calibration import (
    Calibration,
    Matches,
    evaluating,
    find_calibration,
    logits_of,
    match,
    rescale,
)
from rankdet.losses import Sync

from .heads import CERTAIN, RANKING, Boxes, HeadLoss, Masks, Targets

Model = TypeVar("Model", bound=nn.Module)


def use_rank_sort(
    model: Model,
    delta: float = 0.5,
    boxes: Boxes = "balanced",
    masks: Masks = "theirs",
    sync: Sync = False,
    *,
    masks_per_image: int = 128,
    proposals_per_image: int = 1000,
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
        A detector of torchvision with weights or without, before it is compiled or wrapped. A part with a loss of its
        own that is put in later (an RPN, RoI heads, the head of a RetinaNet) needs another call: training raises
        RuntimeError before it. Layers, such as a predictor of other classes, may be put in at any time.
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
    proposals_per_image
        Most proposals of an image that an R-CNN learns from, beside the objects themselves; 1000 as published.

    Raises
    ------
    TypeError
        When it is no detector of torchvision, or a part that computes losses or logits is of an unknown class.
    ValueError
        When the model has keypoints, or an argument is out of range.

    Notes
    -----
    The names of the terms stay. With balanced boxes both terms of a head have one value, which says nothing of boxes.
    FCOS loses its centerness, which is frozen, and 1 in the scores.

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
        part.rank_sort = HeadLoss(
            delta, boxes, masks, sync, masks_per_image=masks_per_image, proposals_per_image=proposals_per_image
        ).to(_device(part))
        part.__class__ = RANKING.get(type(part), type(part))
    for classifier in classifiers:
        classifier.subtract_background()
    if isinstance(model, FCOS):
        model.head.regression_head.bbox_ctrness.requires_grad_(False)
    scored, detector = _scored(model), cast(Any, model)
    scored.usual_score_thresh = scored.score_thresh or getattr(scored, "usual_score_thresh", 0.0)
    scored.score_thresh = 0.0
    if not hasattr(model, "rank_sort_check"):
        detector.rank_sort_check = model.register_forward_pre_hook(_before_forward)
    return model


@torch.no_grad()
def calibrate(
    model: nn.Module,
    loader: Iterable[tuple[Sequence[Tensor], Targets]],
    threshold: float | None = None,
    tolerance: float = 0.005,
) -> Calibration:
    """Store a scale and a shift of the logits in the classifier, so that a threshold fits: :func:`find_calibration`.

    The order of the detections stays. ``score_thresh`` is the threshold from then on, though not of models that load
    the state dict: those of :func:`use_rank_sort` keep detections at any score, and those of torchvision, which load
    that of :func:`plain`, have torchvision's default. Another training starts with :func:`use_rank_sort`, as the first
    did.

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
    _parts(model)
    if not hasattr(model, "rank_sort_check"):
        raise TypeError("calibrate takes a model of use_rank_sort")
    _check_parts(model)
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
def plain(model: Model, lowered_by: float = 0.0) -> Model:
    r"""Return a copy of a model of :func:`use_rank_sort` that is an ordinary one of torchvision.

    The copy needs rankdet no more: to be scripted, exported or pickled, or to have its state dict loaded elsewhere.
    After :func:`calibrate` it fits the ``score_thresh`` that torchvision gives to any model by default, which is no
    part of a state dict. It is for detection; a further training begins with the model itself.

    RetinaNet, FCOS and detectors of one class detect what they did before. Where several classes share a softmax with
    the background (R-CNN, SSD) they compete again. With the logits :math:`s_k` of before, :math:`\lambda` being
    ``lowered_by``, a score is

    .. math:: \frac{e^{s - \lambda}}{1 + \sum_k e^{s_k - \lambda}}

    With 0 it is a probability, and σ(s) where no other class is likely. Detections change places where several classes
    are, which changes AP a little after :func:`calibrate`, and more before it.

    Parameters
    ----------
    model
        A model of :func:`use_rank_sort`; another one is copied.
    lowered_by
        λ, how far classes that share a softmax are put below the background. With 40 they have the exact order and AP
        of before, and ``score_thresh`` of the copy is lowered with them. Scores are then no probabilities, other models
        that load the weights need this threshold, and half precision does not hold them.

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
    _parts(model)
    model = deepcopy(model)
    if not hasattr(model, "rank_sort_check"):
        return model
    scored, theirs = _scored(model), {ours: theirs for theirs, ours in RANKING.items()}
    for part in _check_parts(model):
        part.__class__ = theirs[type(part)]
        del part.rank_sort
    cast(RemovableHandle, model.rank_sort_check).remove()
    del model.rank_sort_check, scored.usual_score_thresh
    if isinstance(model, FCOS):
        centerness = model.head.regression_head.bbox_ctrness
        nn.init.zeros_(centerness.weight)
        nn.init.constant_(centerness.bias, CERTAIN)
    classifiers = _classifiers(model)
    for weight, bias, is_background in classifiers:
        weight[is_background], bias[is_background] = 0, 0
    if max(classifier.columns for classifier in classifiers) > 2:
        for _, bias, is_background in classifiers:
            bias.sub_(lowered_by * ~is_background)
        usual = scored.score_thresh
        scored.score_thresh = usual / (usual + (1 - usual) * math.exp(lowered_by))
    return model


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


def _check_parts(model: nn.Module) -> list[nn.Module]:
    """The parts that compute losses; raises RuntimeError where one was replaced after :func:`use_rank_sort`."""
    parts = _parts(model)
    for part in parts:
        if type(part) not in RANKING.values():
            raise RuntimeError(
                f"a {type(part).__name__} was put in after use_rank_sort, and would learn by torchvision's loss: "
                "call use_rank_sort again, with the same options"
            )
    return parts


def _before_forward(model: nn.Module, _: object) -> None:
    """A hook: nobody learns by another loss without a word."""
    if model.training:
        _check_parts(model)


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
