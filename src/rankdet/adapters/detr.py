"""Rank & Sort Loss in the criterion that DETR repositories share.

The original DETR, Deformable DETR, DINO, RT-DETR, D-FINE, DEIM, LW-DETR and RF-DETR have one protocol. A criterion
matches the queries of each decoder layer with objects, and asks itself for ``get_loss(name, outputs, targets, indices,
num_boxes)``. :class:`RankSortLabels`, in front of such a criterion, answers where the name is that of a classification.

Shapes: B images, Q queries, C classes, P matched queries of all images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses import (
    Processes,
    RankSortValues,
    Sync,
    box_overlap,
    from_pairs,
    rank_sort_loss_at,
    value_balance,
)
from rankdet.losses.processes import with_value
from rankdet.losses.weighting import usable_sum
from rankdet.ranges import NonNegative, Positive, checked

Boxes = Literal["theirs", "balanced"]
Index = tuple[Tensor, Tensor, Tensor]
"""Image, query and class of each matched query, (P,) int64 each, in any order."""
Indices = Sequence[tuple[Tensor, Tensor]]
"""For each image the queries that are matched and the object of each, two int64 tensors of one length."""
Targets = Sequence[Mapping[str, Tensor]]

CLASSIFICATIONS = {"labels": "loss_ce", "vfl": "loss_vfl", "mal": "loss_mal", "focal": "loss_focal", "bce": "loss_bce"}
"""Names of classifications in ``get_loss``, and of the term that each returns."""
IN_PIXELS = 2.0
"""No value of a box that is relative to its image is as large; of a box in pixels one is, unless it is a dot."""
SLACK = 0.1
"""By what part of its sides boxes may leave an image: few annotations are exact."""


@checked
@dataclass(frozen=True)
class RankSort:
    r"""Rank & Sort Loss of the queries of one decoder layer, those of all images in one pool.

    A matched query is a positive of its object's class, even where its box has IoU 0 with the object. Its quality is
    that IoU, detached. All other logits are negatives. A layer gets, in place of its classification,

    .. math:: w (L_R + L_S), \qquad L_R, L_S \in [0, 1)

    (K. Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", ICCV 2021, arXiv:2107.11669).
    Balanced boxes have two terms, the L1 distance and 1 − GIoU. Each is a mean over the matched queries of the layer,
    multiplied by

    .. math:: \lambda_t = c w (L_R + L_S) / L_t

    so that both have the value of the classification, where c is the weight that the criterion gives it (F. Yavuz et
    al., "Bucketed Ranking-based Losses for Efficient Training of Object Detectors", ECCV 2024, arXiv:2407.14204; the
    code of BRS-DETR). Weights of box terms have no effect.

    Parameters
    ----------
    delta
        δ, half the width of the soft step, in logits.
    weight
        w, a factor beside the weight that the criterion gives its classification.
    boxes
        ``"theirs"``: the criterion's own box losses. ``"balanced"``: those above in their place.
    sync
        Rank the queries of all processes in one pool.

    Raises
    ------
    ValueError
        When δ is negative, w is not positive, or ``boxes`` is neither of the two.
    """

    delta: NonNegative = 0.5
    weight: Positive = 1.0
    boxes: Boxes = "theirs"
    sync: Sync = False

    def __post_init__(self) -> None:
        if self.boxes not in ("theirs", "balanced"):
            raise ValueError(f"RankSort: boxes must be 'theirs' or 'balanced', got {self.boxes!r}")

    def __call__(self, logits: Tensor, boxes: Tensor, index: Index, objects: Tensor) -> RankSortValues:
        """Return ranking and sorting of one layer, without w.

        Parameters
        ----------
        logits
            (B, Q, C), of a sigmoid per class.
        boxes
            (B, Q, 4) predicted boxes (center x, center y, width, height), relative to the image.
        index
            Image, query and class of each matched query, (P,) int64 each, in any order.
        objects
            (P, 4) boxes of their objects, in the same form and order.

        Examples
        --------
        One image, three queries, two classes. The second query is matched with an object of class 1:

        >>> logits = torch.tensor([[[0.0, -2.0], [-3.0, 1.0], [2.0, -1.0]]], requires_grad=True)
        >>> boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]]])
        >>> index = (torch.tensor([0]), torch.tensor([1]), torch.tensor([1]))
        >>> ranking, sorting = RankSort()(logits, boxes, index, torch.tensor([[0.3, 0.3, 0.2, 0.1]]))
        >>> print(f"{ranking:.3f} {sorting:.3f}")
        0.667 0.000
        """
        image, query, _ = index
        iou = box_overlap(corners(boxes[image, query]), corners(objects)).iou
        return rank_sort_loss_at(logits, index, iou.detach(), self.delta, sync=self.sync)

    def localization(self, boxes: Tensor, index: Index, objects: Tensor) -> tuple[Tensor, Tensor]:
        """L1 distance of relative boxes and 1 − GIoU, each the mean over the matched queries of one layer, without λ.

        Parameters are those of a call.

        Examples
        --------
        >>> index = (torch.tensor([0]), torch.tensor([0]), torch.tensor([1]))
        >>> boxes, objects = torch.tensor([[[0.3, 0.3, 0.2, 0.2]]]), torch.tensor([[0.3, 0.3, 0.2, 0.1]])
        >>> RankSort().localization(boxes, index, objects)
        (tensor(0.1000), tensor(0.5000))
        """
        image, query, _ = index
        matched = boxes[image, query]
        distance = (_precise(matched) - _precise(objects)).abs().sum(dim=1)
        giou = box_overlap(corners(matched), corners(objects)).giou
        totals = torch.stack([distance.sum(), (1 - giou).sum()])
        *means, divisor = Processes(self.sync).mean(functional.pad(totals, (0, 1), value=len(objects)))
        l1, one_minus_giou = with_value(totals, torch.stack(means)) / usable_sum(divisor)
        return l1, one_minus_giou


class RankSortLabels:
    """Mixin in front of a DETR criterion, which puts Rank & Sort Loss in the place of its classification.

    Matching, auxiliary layers, denoising queries, masks: all else stays the criterion's. Each layer is a pool of its
    own, and so are the denoising queries of a layer. Groups of queries (``group_detr``) are one pool.

    Attributes
    ----------
    rank_sort
        The loss of a layer; a subclass or an instance sets another one.
    logits_name, labels_name
        Keys of the logits in outputs and of the classes in targets. Those of the boxes are ``pred_boxes`` and
        ``boxes``.

    Notes
    -----
    The dict of a layer has w (ranking + sorting) by the criterion's own name (``loss_ce``, ``loss_vfl``, …), and beside
    it the detached ``ranking`` and ``sorting``. Criteria that keep only what has a weight drop these two.

    Boxes of objects are looked at in the first batch that has any, which waits for the device once. Those of
    transformers' models are looked at in each batch, for it makes a criterion anew; its matching waits anyway.

    Examples
    --------
    >>> class Criterion(torch.nn.Module):  # stands for the criterion of a repository
    ...     num_classes = 2
    >>> class RankSortCriterion(RankSortLabels, Criterion):
    ...     rank_sort = RankSort(delta=0.4)
    >>> outputs = {"pred_logits": torch.zeros(1, 3, 2), "pred_boxes": torch.full((1, 3, 4), 0.5)}
    >>> targets = [{"labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.5, 0.25]])}]
    >>> indices = [(torch.tensor([2]), torch.tensor([0]))]
    >>> RankSortCriterion().get_loss("labels", outputs, targets, indices, num_boxes=1.0)["loss_ce"]
    tensor(0.8333)
    """

    rank_sort: RankSort = RankSort()
    logits_name: str = "pred_logits"
    labels_name: str = "labels"
    weight_dict: Mapping[str, float]
    _has_seen_boxes: bool = False

    def get_loss(
        self,
        loss: str,
        outputs: Mapping[str, Tensor],
        targets: Targets,
        indices: Indices,
        num_boxes: Any,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Return the terms of one loss of one layer; ``kwargs`` are what a repository passes to its own losses.

        Raises
        ------
        ValueError
            When the logits have a column for "no object", so that the classes share a softmax. When boxes of objects
            are in pixels, or (x1, y1, x2, y2).
        """
        if loss in CLASSIFICATIONS:
            return self._classified(CLASSIFICATIONS[loss], outputs, targets, self.positives(targets, indices))
        if loss == "boxes" and self.rank_sort.boxes == "balanced":
            return {}  # They came with the classification, whose value they have.
        terms: dict[str, Tensor] = super().get_loss(  # type: ignore[misc]
            loss, outputs, targets, indices, num_boxes, **kwargs
        )
        return terms

    def positives(self, targets: Targets, indices: Indices) -> Indices:
        """Return the matched pairs that are positives; a criterion that matches fillers as well leaves these out."""
        return indices

    def _classified(
        self, name: str, outputs: Mapping[str, Tensor], targets: Targets, indices: Indices
    ) -> dict[str, Tensor]:
        logits, boxes = outputs[self.logits_name], outputs["pred_boxes"]
        if logits.shape[-1] - 1 == getattr(self, "num_classes", None):
            raise ValueError(
                f"{type(self).__name__}: logits have a column for 'no object' beside {logits.shape[-1] - 1} classes. "
                "They share a softmax, and Rank & Sort Loss needs a sigmoid per class"
            )
        index = from_pairs(indices, [target[self.labels_name].long() for target in targets])
        objects = torch.cat([target["boxes"][rows] for target, (_, rows) in zip(targets, indices, strict=True)])
        if not self._has_seen_boxes and len(objects):
            _check_objects(objects, index[0], targets)
            self._has_seen_boxes = True
        ranking, sorting = self.rank_sort(logits, boxes, index, objects)
        classification = self.rank_sort.weight * (ranking + sorting)
        terms = {name: classification, "ranking": ranking.detach(), "sorting": sorting.detach()}
        if self.rank_sort.boxes == "balanced":
            value = self.weight_dict[name] * classification
            errors = self.rank_sort.localization(boxes, index, objects)
            for term, error in zip(("loss_bbox", "loss_giou"), errors, strict=True):
                terms[term] = value_balance(value, self.weight_dict[term] * error) * error
        return terms


def _check_objects(boxes: Tensor, image: Tensor, targets: Targets) -> None:
    """Raise ValueError unless (P, 4) boxes of objects can be centers and sizes, relative to (P,) images.

    Single corners between 0 and 1 may also be a center and a size. They are told by all boxes together: the second
    corner of each is beyond the first, and as centers and sizes some would leave the image.
    """
    found = boxes.detach().float().cpu()
    x1, y1, x2, y2 = found.unbind(1)
    are_corners = bool(((x1 < x2) & (y1 < y2)).all())
    in_pixels = (found > IN_PIXELS).any(dim=1)
    leaves = (corners(found).sub(0.5).abs() > 0.5 + SLACK).any(dim=1)
    wrong = in_pixels if bool(in_pixels.any()) else leaves & are_corners
    if not bool(wrong.any()):
        return
    row = int(wrong.nonzero()[0])
    number = int(image[row])
    given = targets[number].get("image_id")
    name = "" if given is None else f", image_id {given.item() if isinstance(given, Tensor) else given}"
    values = ", ".join(f"{value:.4g}" for value in found[row].tolist())
    meant = "in pixels" if in_pixels[row] else "of corners (x1, y1, x2, y2)"
    raise ValueError(
        f"'boxes' of image {number} of the batch{name}: ({values}) looks like a box {meant}. Boxes of objects are "
        "(center x, center y, width, height), relative to the image, between 0 and 1"
    )


def _precise(boxes: Tensor) -> Tensor:
    """In float32 or better: an IoU of bfloat16 has two digits."""
    return boxes.to(torch.promote_types(boxes.dtype, torch.float32))


def corners(boxes: Tensor) -> Tensor:
    """Return the boxes (x1, y1, x2, y2) of (…, 4) boxes with center and size, in float32 or better."""
    center, half = _precise(boxes).split(2, dim=-1)
    half = half / 2
    return torch.cat([center - half, center + half], dim=-1)
