"""Region proposal network (Ren et al., NeurIPS 2015, arXiv:1506.01497): feature maps → proposals, and Candidates.

Legend: B images, L levels, A anchors per cell, M anchors of an image, K proposals of an image, P positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.ops import clip_boxes_to_image

from rankdet.heads.anchors import AnchorGenerator
from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.decoding import best_anchors, boxes_at, matched_boxes
from rankdet.heads.nms import grouped_nms
from rankdet.label_assignment import (
    Assigner,
    MaxIoUAssigner,
    PyramidAnchors,
    RandomSampler,
    Sampler,
    assign_by_overlap,
    positive_rows,
)
from rankdet.ranges import (
    Count,
    CountOrZero,
    Fraction,
    NonNegative,
    NotEmpty,
    OpenFraction,
    Positive,
    Stds,
    checked,
)
from rankdet.structures import Batch, Candidates, Target


@checked
@dataclass(frozen=True)
class ProposalSettings:
    """Which anchors become proposals.

    Parameters
    ----------
    per_level
        Best boxes of each level that enter non-maximum suppression.
    nms_iou
        IoU above which the lower-scored of two boxes of a level is dropped.
    per_image
        Best proposals of an image that remain. With 0 an R-CNN learns from the objects' own boxes alone.
    """

    per_level: Count = 1000
    nms_iou: Fraction = 0.7
    per_image: CountOrZero = 1000


@checked
class RPNHead(nn.Module):
    """One 3x3 convolution, then an objectness logit and four deltas per anchor; shared by all levels."""

    def __init__(self, in_channels: Count, num_per_cell: Count = 3, *, prior: OpenFraction = 0.5) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.classifier = nn.Conv2d(in_channels, num_per_cell, 1)
        self.regressor = nn.Conv2d(in_channels, num_per_cell * 4, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)
        nn.init.constant_(self.classifier.bias, math.log(prior / (1 - prior)))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return (B, M) logits and (B, M, 4) deltas in the order of the anchors."""
        logits, deltas = [], []
        for features in maps:
            hidden = relu(self.convolution(features))
            logits.append(self.classifier(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.regressor(hidden).permute(0, 2, 3, 1).reshape(hidden.shape[0], -1, 4))
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


class RPNOutputs(NamedTuple):
    """Logits (B, M) of objectness and deltas (B, M, 4) of the network for every anchor."""

    logits: Tensor
    deltas: Tensor
    anchors: PyramidAnchors


@checked
class RegionProposalNetwork(nn.Module):
    """The head with its anchors, its labels and its choice of proposals. All parts are public and may be replaced.

    The standard form samples anchors and codes boxes with stds 1. The form for ranking losses has no sampler and stds
    (0.1, 0.1, 0.2, 0.2).

    Parameters
    ----------
    in_channels, strides
        Channels of every level of the pyramid, and its strides.
    anchor_scale
        Side of the anchors in strides of their level.
    anchor_ratios
        Height over width of the anchors.
    delta_stds
        Divisors of the encoded boxes.
    positive_iou
        Anchors of at least this IoU are positives.
    negative_iou
        Anchors below this IoU are negatives; between the two they are ignored. An object without an anchor of
        ``positive_iou`` takes its best ones from this IoU on.
    sampler
        Choice of anchors for the loss; None: all of them.
    allowed_border
        Anchors that reach beyond their image by more pixels than this are ignored by the loss, and make proposals all
        the same; None: none is.
    prior
        What scores start at: 0.5 is a bias of 0, which ranking losses ask for, 0.01 that of focal loss.
    train_proposals
        Proposals in training.
    test_proposals
        Proposals in detection.
    """

    assigner: Assigner
    sampler: Sampler | None

    def __init__(
        self,
        in_channels: Count,
        strides: tuple[Count, ...],
        *,
        anchor_scale: Positive = 8.0,
        anchor_ratios: Annotated[tuple[Positive, ...], NotEmpty()] = (0.5, 1.0, 2.0),
        delta_stds: Stds = (1.0, 1.0, 1.0, 1.0),
        positive_iou: Fraction = 0.7,
        negative_iou: Fraction = 0.3,
        sampler: RandomSampler | None = None,
        allowed_border: NonNegative | None = None,
        prior: OpenFraction = 0.5,
        train_proposals: ProposalSettings = ProposalSettings(per_level=2000),
        test_proposals: ProposalSettings = ProposalSettings(),
    ) -> None:
        super().__init__()
        self.head = RPNHead(in_channels, len(anchor_ratios), prior=prior)
        self.anchors = AnchorGenerator(strides, (anchor_scale,), anchor_ratios)
        self.coder = BoxCoder(delta_stds)
        self.assigner = MaxIoUAssigner(positive_iou, negative_iou, low_quality_iou=negative_iou)
        self.sampler = sampler
        self.allowed_border = allowed_border
        self.train_proposals = train_proposals
        self.test_proposals = test_proposals

    def forward(self, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> RPNOutputs:
        """Return predictions for every anchor of L maps (B, channels, H, W); sizes are (height, width) in pixels."""
        logits, deltas = self.head(maps)
        return RPNOutputs(logits, deltas, self.anchors.pyramid(maps, image_sizes))

    def learn(self, maps: Sequence[Tensor], batch: Batch) -> tuple[Candidates, list[Tensor]]:
        """Return the candidates of a batch, and the proposals (K, 4) of each image for the stages that follow."""
        outputs, sizes = self(maps, batch.images.sizes), batch.images.sizes
        proposals = self.proposals(outputs, sizes, self.train_proposals)
        return self.candidates(outputs, sizes, batch.targets), proposals

    def propose(self, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return the proposals (K, 4) of each image in detection."""
        return self.proposals(self(maps, image_sizes), image_sizes, self.test_proposals)

    @torch.no_grad()
    def proposals(
        self, outputs: RPNOutputs, image_sizes: Sequence[tuple[int, int]], settings: ProposalSettings
    ) -> list[Tensor]:
        """Return (K, 4) boxes per image, best first, clipped to the image, detached; none comes from the padding."""
        logits, deltas, anchors = outputs.logits.float(), outputs.deltas, outputs.anchors
        # The best anchors of each level become boxes …
        rows, is_valid = best_anchors(logits, anchors, settings.per_level)
        boxes, scores, levels = boxes_at(rows, deltas, anchors, self.coder), logits.gather(1, rows), anchors.levels()
        proposals = []
        for image, size in enumerate(image_sizes):
            image_boxes, image_scores, image_levels = boxes[image], scores[image], levels[rows[image]]
            if is_valid is not None and anchors.valid[image] is not None:
                # One wait for the device, where a mask as index would be one for each of the three.
                inside = torch.nonzero(is_valid[image]).squeeze(1)
                image_boxes, image_scores, image_levels = (
                    image_boxes[inside],
                    image_scores[inside],
                    image_levels[inside],
                )
            # … which compete inside of their level; the best of all levels remain.
            image_boxes = clip_boxes_to_image(image_boxes, size)
            kept = grouped_nms(image_boxes, image_scores, image_levels, iou=settings.nms_iou, limit=settings.per_image)
            proposals.append(image_boxes[kept])
        return proposals

    def candidates(
        self, outputs: RPNOutputs, image_sizes: Sequence[tuple[int, int]], targets: Sequence[Target]
    ) -> Candidates:
        """Return one pool of all anchors: by image, level, cell.

        Objects are class 0, background is 1. Anchors in the padding are ignored, as are those that reach beyond the
        image by more than the allowed border.
        """
        with torch.no_grad():
            usable = outputs.anchors._replace(
                valid=[
                    self.usable(valid, size, outputs.anchors.boxes)
                    for valid, size in zip(outputs.anchors.valid, image_sizes, strict=True)
                ]
            )
            objects = [replace(target, labels=torch.zeros_like(target.labels), masks=None) for target in targets]
            labels, matched = assign_by_overlap(self.assigner, usable, objects, 1, self.sampler)
        rows = positive_rows(labels, 1)
        boxes, deltas = matched_boxes(
            outputs.deltas.flatten(0, 1)[rows],
            outputs.anchors.of_rows(rows),
            torch.cat([target.boxes for target in targets])[matched[rows]],
            self.coder,
        )
        return Candidates(
            head="rpn",
            logits=outputs.logits.reshape(-1, 1),
            labels=labels,
            num_classes=1,
            boxes=boxes,
            deltas=deltas,
            limited=self.coder.limited(deltas.predicted),
            rows=rows,
        )

    def usable(self, valid: Tensor | None, size: tuple[int, int], anchors: Tensor) -> Tensor | None:
        """Return which anchors of an image (height, width) the loss may see, (M,) bool; None: all of them.

        As published, an anchor that ends where the allowed border ends is beyond it on the right and at the bottom, but
        not on the left and at the top.
        """
        if self.allowed_border is None:
            return valid
        (height, width), border = size, self.allowed_border
        left, top, right, bottom = anchors.unbind(dim=1)
        is_inside = (left >= -border) & (top >= -border) & (right < width + border) & (bottom < height + border)
        return is_inside if valid is None else is_inside & valid
