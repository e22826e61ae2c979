"""Head of one-stage detectors: feature maps → logits and boxes of every anchor, and Candidates.

Legend: B images, L levels, A anchors per cell, M anchors of an image, P positives, K boxes of an image, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from rankdet.heads.anchors import AnchorGenerator
from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.decoding import best_anchors, boxes_at, matched_boxes
from rankdet.label_assignment import PyramidAnchors, positive_rows
from rankdet.ranges import Count, CountOrZero, NotEmpty, Positive, Stds, checked
from rankdet.structures import Assignment, Candidates, Matched, Target

PRIOR = 0.01
"""Score of every anchor and class before training, as for focal loss."""

Score = Callable[[Tensor, Tensor | None], Tensor]
"""Class logits (…) and auxiliary logits of the same anchors, or None → scores in [0, 1], which rise with the logit."""
Quality = Callable[[Tensor, Matched], Tensor]
"""Anchors (P, 4) and the boxes predicted for them beside their objects → what the auxiliary head learns, (P,)."""


@checked
class DenseHead(nn.Module):
    """A tower of convolutions for classes and one for boxes, shared by all levels: RetinaNet's with normalization.

    Each tower is ``num_convolutions`` times a 3x3 convolution without bias, group normalization and ReLU. A 3x3
    convolution then makes C logits for each of A = ``num_per_cell`` anchors, another makes four deltas, which are
    multiplied by one learned number per level. An auxiliary one, behind the tower of the boxes, makes one more logit
    per anchor. All weights start normal with standard deviation 0.01; the bias of the classifier makes every score
    0.01. Channels that are no multiple of ``groups`` raise ValueError.
    """

    def __init__(
        self,
        in_channels: Count,
        num_classes: Count,
        *,
        num_per_cell: Count,
        num_levels: Count,
        auxiliary: bool,
        num_convolutions: CountOrZero = 4,
        groups: Count = 32,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classification_tower = tower(in_channels, in_channels, num_convolutions, groups)
        self.regression_tower = tower(in_channels, in_channels, num_convolutions, groups)
        self.classifier = nn.Conv2d(in_channels, num_per_cell * num_classes, 3, padding=1)
        self.regressor = nn.Conv2d(in_channels, num_per_cell * 4, 3, padding=1)
        self.auxiliary = nn.Conv2d(in_channels, num_per_cell, 3, padding=1) if auxiliary else None
        self.scales = nn.Parameter(torch.ones(num_levels))
        start_normal(self)
        nn.init.constant_(self.classifier.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return logits (B, M, C), deltas (B, M, 4), auxiliary logits (B, M) or None, in the order of the anchors."""
        logits, deltas, auxiliary = [], [], []
        for features, scale in zip(maps, self.scales, strict=True):
            logits.append(self.classifier(self.classification_tower(features)))
            regressed = self.regression_tower(features)
            deltas.append(self.regressor(regressed) * scale)
            if self.auxiliary is not None:
                auxiliary.append(self.auxiliary(regressed))
        return (
            by_anchor(logits, self.num_classes),
            by_anchor(deltas, 4),
            by_anchor(auxiliary, 1).squeeze(2) if auxiliary else None,
        )


class DenseOutputs(NamedTuple):
    """Logits (B, M, C), deltas (B, M, 4) and auxiliary logits (B, M) or None of the network for every anchor."""

    logits: Tensor
    deltas: Tensor
    auxiliary: Tensor | None
    anchors: PyramidAnchors


@checked
class DenseStage(nn.Module):
    """The head with its anchors and box coding. All parts are public and may be replaced.

    Parameters
    ----------
    in_channels, strides, num_classes
        Channels of every level of the pyramid and of the towers, strides of the pyramid, and C.
    anchor_scales
        Sides of the square anchors of a cell in strides of their level: one of 8 in standard forms, 4, 4 · 2^(1/3) and
        4 · 2^(2/3) in those of ranking losses.
    auxiliary
        Whether there is an auxiliary head: centerness in ATSS, IoU in PAA. Ranking losses need none.
    convolutions
        3x3 convolutions of each of the two towers.
    groups
        Groups of the normalization of the towers; the channels of the pyramid are a multiple of it.
    delta_stds
        Divisors of the encoded boxes.
    """

    def __init__(
        self,
        in_channels: Count,
        strides: tuple[Count, ...],
        num_classes: Count,
        *,
        anchor_scales: Annotated[tuple[Positive, ...], NotEmpty()],
        auxiliary: bool,
        convolutions: CountOrZero = 4,
        groups: Count = 32,
        delta_stds: Stds = (0.1, 0.1, 0.2, 0.2),
    ) -> None:
        super().__init__()
        self.head = DenseHead(
            in_channels,
            num_classes,
            num_per_cell=len(anchor_scales),
            num_levels=len(strides),
            auxiliary=auxiliary,
            num_convolutions=convolutions,
            groups=groups,
        )
        self.anchors = AnchorGenerator(strides, anchor_scales, (1.0,))
        self.coder = BoxCoder(delta_stds)

    def forward(self, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> DenseOutputs:
        """Return predictions for every anchor of L maps (B, channels, H, W); sizes are (height, width) in pixels."""
        logits, deltas, auxiliary = self.head(maps)
        return DenseOutputs(logits, deltas, auxiliary, self.anchors.pyramid(maps, image_sizes))

    @torch.no_grad()
    def boxes(self, outputs: DenseOutputs) -> Tensor:
        """Return decoded boxes (B, M, 4) of all anchors, detached, not clipped."""
        return self.coder.decode(outputs.deltas, outputs.anchors.boxes)

    def candidates(
        self,
        outputs: DenseOutputs,
        assignment: Assignment,
        targets: Sequence[Target],
        *,
        auxiliary: str,
        quality: Quality,
    ) -> Candidates:
        """Return one pool of all anchors: by image, level, cell.

        The assignment has labels (B · M,) and matched objects, counted through all images. ``auxiliary`` names the
        auxiliary output, where the head has one; ``quality`` is what it learns of a positive, without gradient.
        """
        rows = positive_rows(assignment.labels, self.head.num_classes)
        anchors = outputs.anchors.of_rows(rows)
        objects = torch.cat([target.boxes for target in targets])[assignment.matched[rows]]
        boxes, deltas = matched_boxes(outputs.deltas.flatten(0, 1)[rows], anchors, objects, self.coder)
        pairs = None
        if outputs.auxiliary is not None:
            with torch.no_grad():
                learned = quality(anchors, boxes)
            pairs = {auxiliary: Matched(outputs.auxiliary.flatten()[rows], learned)}
        return Candidates(
            head="dense",
            logits=outputs.logits.flatten(0, 1),
            labels=assignment.labels,
            num_classes=self.head.num_classes,
            boxes=boxes,
            deltas=deltas,
            limited=self.coder.limited(deltas.predicted),
            auxiliary=pairs,
            centerness=centerness(anchors, objects),
            per_image=(len(outputs.anchors.boxes),) * len(targets),
            rows=rows,
        )

    @torch.no_grad()
    def best_boxes(
        self, outputs: DenseOutputs, image_sizes: Sequence[tuple[int, int]], *, per_level: int, score: Score
    ) -> list[tuple[Tensor, Tensor]]:
        """Return boxes (K, 4), clipped to the image, and scores (K, C) of each image; in the padding scores are 0.

        They are those of at most ``per_level`` anchors of each level, whose best class scores highest. Sizes of images
        are (height, width) in pixels.
        """
        logits, auxiliary, anchors = outputs.logits, outputs.auxiliary, outputs.anchors
        rows, is_valid = best_anchors(score(logits.amax(dim=2), auxiliary), anchors, per_level)
        scores = score(
            logits.gather(1, rows[..., None].expand(-1, -1, logits.shape[2])),
            None if auxiliary is None else auxiliary.gather(1, rows)[..., None],
        )
        if is_valid is not None:
            scores = scores * is_valid[..., None]
        boxes = boxes_at(rows, outputs.deltas, anchors, self.coder)
        return [
            (clip_boxes_to_image(image_boxes, size), image_scores)
            for image_boxes, image_scores, size in zip(boxes, scores, image_sizes, strict=True)
        ]


def centerness(anchors: Tensor, objects: Tensor) -> Tensor:
    r"""Return how central anchors (P, 4) lie in their objects (P, 4), (P,) in [0, 1]; 0 outside of them.

    .. math:: \sqrt{\frac{\min(l, r)}{\max(l, r)} \cdot \frac{\min(t, b)}{\max(t, b)}}

    with the distances from the center of the anchor to the left, right, top and bottom side of the object (Tian et al.,
    "FCOS", ICCV 2019, eq. 3).

    Examples
    --------
    >>> centerness(torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[0.0, 0.0, 10.0, 4.0]]))
    tensor([0.5000])
    """
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    before, after = centers - objects[:, :2], objects[:, 2:] - centers
    ratios = torch.minimum(before, after).clamp(min=0) / torch.maximum(before, after).clamp(min=1e-6)
    return ratios.prod(dim=1).sqrt()


def tower(in_channels: int, channels: int, num_convolutions: int, groups: int) -> nn.Sequential:
    """Return ``num_convolutions`` times a 3x3 convolution without bias, group normalization and ReLU.

    Raises ValueError when ``channels`` is no multiple of ``groups``.
    """
    if num_convolutions and channels % groups:
        raise ValueError(f"channels = {channels} is no multiple of groups = {groups}")
    layers: list[nn.Module] = []
    for index in range(num_convolutions):
        layers.append(nn.Conv2d(channels if index else in_channels, channels, 3, padding=1, bias=False))
        layers += [nn.GroupNorm(groups, channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def start_normal(module: nn.Module) -> None:
    """Fill weights of convolutions and linear layers with normal numbers of deviation 0.01, and their biases with 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def by_anchor(maps: Sequence[Tensor], length: int) -> Tensor:
    """Return values (B, M, length) of L maps (B, A · length, H, W).

    They are copied once: these are the largest tensors of the detector.
    """
    cells = torch.cat([values.flatten(2).transpose(1, 2) for values in maps], dim=1)
    return cells.view(cells.shape[0], -1, length)
