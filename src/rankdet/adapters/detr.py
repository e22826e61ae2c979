"""Rank & Sort Loss in the criterion that DETR repositories share.

The original DETR, Deformable DETR, DINO, RT-DETR, D-FINE, DEIM, LW-DETR and RF-DETR have one protocol. A criterion
matches the queries of each decoder layer with objects, and asks itself for ``get_loss(name, outputs, targets, indices,
num_boxes)``. :class:`RankSortLabels`, in front of such a criterion, answers where the name is that of a classification:
for all layers of a batch at once, by one call of the loss.

Shapes: B images, Q queries, C classes, P matched queries of all images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rankdet.losses import (
    Pools,
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
STATISTICS = ("ranking", "sorting")
"""Terms that have no gradient."""
IN_PIXELS = 2.0
"""No value of a box that is relative to its image is as large; of a box in pixels one is, unless it is a dot."""
SLACK = 0.1
"""By what part of its sides boxes may leave an image: few annotations are exact."""


@dataclass(frozen=True)
class Layer:
    """Predictions of the queries of one decoder layer, and what they are matched with.

    Attributes
    ----------
    logits
        (B, Q, C), of a sigmoid per class.
    boxes
        (B, Q, 4) predicted boxes (center x, center y, width, height), relative to the image.
    index
        Image, query and class of each matched query, (P,) int64 each, in any order.
    objects
        (P, 4) boxes of their objects, in the same form and order.
    """

    logits: Tensor
    boxes: Tensor
    index: Index
    objects: Tensor

    @property
    def matched(self) -> Tensor:
        """(P, 4) boxes of the matched queries."""
        image, query, _ = self.index
        return self.boxes[image, query]


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
        """Return ranking and sorting of one layer, without w; parameters are those of a :class:`Layer`.

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
        (values,) = self.of_layers([Layer(logits, boxes, index, objects)])
        return values

    def of_layers(self, layers: Sequence[Layer]) -> list[RankSortValues]:
        """Return what a call returns of each layer, by one call of the loss: each layer is a pool.

        Layers may have different numbers of queries, as those of denoising.

        Examples
        --------
        >>> one = Layer(torch.zeros(1, 3, 2), torch.full((1, 3, 4), 0.5), (torch.tensor([0]),) * 3, torch.ones(1, 4))
        >>> [round(float(ranking), 3) for ranking, _ in RankSort().of_layers([one, one])]
        [0.833, 0.833]
        """
        matched = torch.cat([layer.matched for layer in layers])
        iou = box_overlap(corners(matched), corners(torch.cat([layer.objects for layer in layers]))).iou
        places, first = [], 0
        for layer in layers:
            places.append(_flat(layer.index, layer.logits.shape, first))
            first += layer.logits.numel()
        numbers = [torch.full((1,) * layer.logits.ndim, number) for number, layer in enumerate(layers)]
        ranking, sorting = rank_sort_loss_at(
            [layer.logits for layer in layers],
            torch.cat(places),
            iou.detach(),
            self.delta,
            pools=Pools(numbers, len(layers)) if len(layers) > 1 else None,
            sync=self.sync,
        )
        return [RankSortValues(*each) for each in zip(ranking.reshape(-1), sorting.reshape(-1), strict=True)]

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


class _Factor(Tensor):
    """A 1 in the place of a term, or what a criterion has made of it: the weight of the term."""


class _Asked(NamedTuple):
    """A layer whose classification was asked for: the name of its term, and the loss of the layer."""

    name: str
    rank_sort: RankSort
    layer: Layer

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of its terms."""
        balanced = ("loss_bbox", "loss_giou") if self.rank_sort.boxes == "balanced" else ()
        return self.name, *STATISTICS, *balanced


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

    Within ``forward`` a layer is answered by ones, which the criterion multiplies by the weights of their terms. What
    it returns is multiplied by the values of all layers at the end. Many small operations are so done once instead of
    for each layer, which is what a GPU or a run of several processes waits for. A criterion that does something else
    with its terms keeps its own ``forward``, which asks layer by layer: ``forward = Criterion.forward``.

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
    _waiting: list[_Asked] | None = None

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return what the criterion returns, the terms of all layers by their names.

        Raises
        ------
        TypeError
            When that is no dict with one term, or none, for each layer that was asked for.
        """
        waiting: list[_Asked] = []
        self._waiting = waiting
        try:
            terms: dict[str, Tensor] = super().forward(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._waiting = None
        answers = list(self._answers(waiting))
        factors = [key for key in terms if isinstance(terms[key], _Factor)] if isinstance(terms, dict) else []
        for part in dict.fromkeys(part for asked in waiting for part in asked.parts):
            keys = [key for key in factors if key.startswith(part)]
            if not keys and part in STATISTICS:
                continue
            if len(keys) != len(answers):
                raise TypeError(
                    f"{type(self).__name__}: forward asked for the classification of {len(answers)} layers and "
                    f"returned {len(keys)} terms {part!r}. Give this class the forward of the criterion itself, "
                    "forward = Criterion.forward: then it asks layer by layer"
                )
            for key, answer in zip(keys, answers, strict=True):
                terms[key] = terms[key].as_subclass(Tensor) * answer[part]
        return terms

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
            layer = self._layer(outputs, targets, self.positives(targets, indices))
            asked = _Asked(CLASSIFICATIONS[loss], self.rank_sort, layer)
            if self._waiting is None:
                (answer,) = self._answers([asked])
                return answer
            self._waiting.append(asked)
            dtype = torch.promote_types(layer.logits.dtype, torch.float32)
            return {part: layer.logits.new_ones((), dtype=dtype).as_subclass(_Factor) for part in asked.parts}
        if loss == "boxes" and self.rank_sort.boxes == "balanced":
            return {}  # They came with the classification, whose value they have.
        terms: dict[str, Tensor] = super().get_loss(  # type: ignore[misc]
            loss, outputs, targets, indices, num_boxes, **kwargs
        )
        return terms

    def positives(self, targets: Targets, indices: Indices) -> Indices:
        """Return the matched pairs that are positives; a criterion that matches fillers as well leaves these out."""
        return indices

    def _layer(self, outputs: Mapping[str, Tensor], targets: Targets, indices: Indices) -> Layer:
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
        return Layer(logits, boxes, index, objects)

    def _answers(self, asked: Sequence[_Asked]) -> Iterator[dict[str, Tensor]]:
        """The terms of each layer; layers with one loss are ranked by one call."""
        found: dict[int, RankSortValues] = {}
        for rank_sort in dict.fromkeys(each.rank_sort for each in asked):
            rows = [row for row, each in enumerate(asked) if each.rank_sort == rank_sort]
            found |= zip(rows, rank_sort.of_layers([asked[row].layer for row in rows]), strict=True)
        for row, (name, rank_sort, layer) in enumerate(asked):
            ranking, sorting = found[row]
            classification = rank_sort.weight * (ranking + sorting)
            terms = {name: classification, "ranking": ranking.detach(), "sorting": sorting.detach()}
            if rank_sort.boxes == "balanced":
                value = self.weight_dict[name] * classification
                errors = rank_sort.localization(layer.boxes, layer.index, layer.objects)
                for term, error in zip(("loss_bbox", "loss_giou"), errors, strict=True):
                    terms[term] = value_balance(value, self.weight_dict[term] * error) * error
            yield terms


def _flat(index: Index, shape: torch.Size, first: int) -> Tensor:
    """(P,) places of logits among those of all layers, of which those of this one begin at ``first``; −1 if outside."""
    places, is_inside = torch.zeros_like(index[0]), torch.ones_like(index[0], dtype=torch.bool)
    for part, size in zip(index, shape, strict=True):
        places = places * size + part
        is_inside = is_inside & (part >= 0) & (part < size)
    return torch.where(is_inside, places + first, -1)


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
