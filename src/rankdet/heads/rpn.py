"""Region proposal network (Ren et al., NeurIPS 2015, arXiv:1506.01497): feature maps → proposals, and Candidates.

Legend: B images, L levels, A anchors per cell, M anchors of an image, K proposals of an image, P positives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.ops import clip_boxes_to_image

from rankdet.heads.anchors import AnchorGenerator, MapSizes
from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.nms import grouped_nms
from rankdet.label_assignment import Assigner, Sampler
from rankdet.structures import IGNORED, Candidates, Matched, Target


@dataclass(frozen=True)
class ProposalSettings:
    """Which anchors become proposals.

    Parameters
    ----------
    per_level
        The best of each level that are decoded.
    nms_iou
        Threshold of the suppression inside each level.
    per_image
        The best of all levels that remain.
    """

    per_level: int = 1000
    nms_iou: float = 0.7
    per_image: int = 1000


class RPNHead(nn.Module):
    """One 3x3 convolution, then an objectness logit and four deltas per anchor; shared by all levels.

    Parameters
    ----------
    in_channels
        Channels of every map.
    num_per_cell
        A.
    channels
        Channels of the 3x3 convolution; as ``in_channels`` where None.
    prior
        What the scores start at; ranking losses ask for 0.5, the bias 0.
    """

    def __init__(
        self, in_channels: int, num_per_cell: int = 3, *, channels: int | None = None, prior: float = 0.5
    ) -> None:
        super().__init__()
        channels = channels or in_channels
        self.convolution = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.classifier = nn.Conv2d(channels, num_per_cell, 1)
        self.regressor = nn.Conv2d(channels, num_per_cell * 4, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)
        nn.init.constant_(self.classifier.bias, math.log(prior / (1 - prior)))  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(B, M) logits and (B, M, 4) deltas in the order of the anchors."""
        logits, deltas = [], []
        for features in maps:
            hidden = relu(self.convolution(features))
            logits.append(self.classifier(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.regressor(hidden).permute(0, 2, 3, 1).reshape(len(hidden), -1, 4))
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


class RPNOutputs(NamedTuple):
    """What the network says of every anchor.

    logits: (B, M). deltas: (B, M, 4). anchors: (M, 4). num_per_level: L numbers that add up to M. valid: for each
    image (M,) bool, or None where all of its anchors are valid.
    """

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    num_per_level: list[int]
    valid: list[Tensor | None]


class RegionProposalNetwork(nn.Module):
    """The head with its anchors, its labels and its choice of proposals. All parts are public and may be replaced.

    The standard form samples anchors and codes boxes with stds 1; the form for ranking losses has no sampler and stds
    (0.1, 0.1, 0.2, 0.2).

    Parameters
    ----------
    head
        Maps → logits and deltas.
    anchors
        Of the same strides as the maps, with as many anchors per cell as the head has outputs.
    coder
        Deltas ↔ boxes.
    assigner
        Says which anchors are positives: class 0 of C = 1.
    sampler
        Chooses anchors for the loss; None takes all of them.
    allowed_border
        Pixels by which an anchor may reach beyond its image; those that reach further are ignored by the loss, and
        make proposals as before. None: any number.
    """

    def __init__(
        self,
        *,
        head: RPNHead,
        anchors: AnchorGenerator,
        coder: BoxCoder,
        assigner: Assigner,
        sampler: Sampler | None = None,
        allowed_border: float | None = None,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.coder = coder
        self.assigner = assigner
        self.sampler = sampler
        self.allowed_border = allowed_border

    def forward(self, maps: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> RPNOutputs:
        """Outputs for every anchor of L maps (B, channels, H, W); sizes are (height, width) in pixels."""
        logits, deltas = self.head(maps)
        map_sizes: MapSizes = tuple((features.shape[-2], features.shape[-1]) for features in maps)
        return RPNOutputs(
            logits,
            deltas,
            self.anchors.anchors(map_sizes, logits.device),
            self.anchors.num_per_level(map_sizes),
            [self.anchors.valid(map_sizes, size, logits.device) for size in image_sizes],
        )

    @torch.no_grad()
    def proposals(
        self, outputs: RPNOutputs, image_sizes: Sequence[tuple[int, int]], settings: ProposalSettings
    ) -> list[Tensor]:
        """(K, 4) boxes per image, best first, clipped to the image, detached; none comes from the padding."""
        scores = torch.stack(
            [
                logits if valid is None else logits.masked_fill(~valid, -torch.inf)
                for logits, valid in zip(outputs.logits.float(), outputs.valid, strict=True)
            ]
        )
        chosen, levels, start = [], [], 0
        for level, count in enumerate(outputs.num_per_level):
            best = scores[:, start : start + count].topk(min(settings.per_level, count), dim=1).indices + start
            chosen.append(best)
            levels.append(torch.full_like(best[0], level))
            start += count
        rows, level_of_row = torch.cat(chosen, dim=1), torch.cat(levels)
        boxes = self.coder.decode(outputs.deltas.gather(1, rows[..., None].expand(-1, -1, 4)), outputs.anchors[rows])
        proposals = []
        for found, found_scores, valid, size in zip(
            boxes, scores.gather(1, rows), outputs.valid, image_sizes, strict=True
        ):
            found_levels = level_of_row
            if valid is not None:
                # One wait for the device, where a mask as index would be one for each of the three.
                keep = torch.nonzero(found_scores > -torch.inf).squeeze(1)
                found, found_scores, found_levels = found[keep], found_scores[keep], found_levels[keep]
            found = clip_boxes_to_image(found, size)
            best = grouped_nms(found, found_scores, found_levels, iou=settings.nms_iou, limit=settings.per_image)
            proposals.append(found[best])
        return proposals

    def candidates(
        self, outputs: RPNOutputs, image_sizes: Sequence[tuple[int, int]], targets: Sequence[Target]
    ) -> Candidates:
        """One pool of all anchors: by image, level, cell. Object is 0, background 1; padding is ignored, and so is
        what reaches beyond the image by more than the allowed border."""
        labels, matched, first_object = [], [], 0
        with torch.no_grad():
            usable = [self._usable(*pair, outputs.anchors) for pair in zip(outputs.valid, image_sizes, strict=True)]
            for target, valid in zip(targets, usable, strict=True):
                objects = replace(target, labels=torch.zeros_like(target.labels), masks=None)
                # Ignored anchors must not win an object: as points at the corner they overlap nothing.
                anchors = outputs.anchors if valid is None else outputs.anchors * valid[:, None]
                assignment = self.assigner(anchors, objects, 1)
                if valid is not None:
                    assignment = assignment._replace(labels=assignment.labels.masked_fill(~valid, IGNORED))
                if self.sampler is not None:
                    assignment = self.sampler(assignment, 1)
                labels.append(assignment.labels)
                matched.append(assignment.matched + first_object)
                first_object += len(target.labels)
        all_labels = torch.cat(labels)
        positives = torch.nonzero(all_labels == 0).squeeze(1)
        anchors = outputs.anchors[positives % len(outputs.anchors)]
        objects_of_positives = torch.cat([target.boxes for target in targets])[torch.cat(matched)[positives]]
        deltas = outputs.deltas.flatten(0, 1)[positives].float()
        return Candidates(
            head="rpn",
            logits=outputs.logits.reshape(-1, 1),
            labels=all_labels,
            num_classes=1,
            boxes=Matched(self.coder.decode(deltas, anchors), objects_of_positives),
            deltas=Matched(deltas, self.coder.encode(objects_of_positives, anchors)),
        )

    def _usable(self, valid: Tensor | None, size: tuple[int, int], anchors: Tensor) -> Tensor | None:
        """(M,) bool: the anchors of an image of ``size`` (height, width) that the loss may see; None: all of them.

        As published, an anchor that ends where the allowed border ends is beyond it on the right and at the bottom, but
        not on the left and at the top.
        """
        if self.allowed_border is None:
            return valid
        (height, width), border = size, self.allowed_border
        left, top, right, bottom = anchors.unbind(dim=1)
        is_inside = (left >= -border) & (top >= -border) & (right < width + border) & (bottom < height + border)
        return is_inside if valid is None else is_inside & valid
