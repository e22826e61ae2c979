"""One stage of an R-CNN: proposals → labels, class logits and boxes.

Legend: B images, K RoIs of all pictures, P positives, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.box_head import BoxHead
from rankdet.heads.roi_pooling import RoIPooling
from rankdet.label_assignment import Assigner, Sampler
from rankdet.structures import Assignment, Candidates, Matched, Target


class RoIs(NamedTuple):
    """What a stage learns from in one picture: positives first, then background.

    boxes
        (K, 4) xyxy in pixels.
    labels
        (K,) int64: classes of the positives, then C.
    matched
        (K,) int64: index of the object of a positive.
    num_positives
        P, known to the host: what is done with the positives alone need not wait for the device.
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor
    num_positives: int


class BoxStage(nn.Module):
    """Pooling and box head with their labels. All parts are public and may be replaced.

    The standard form samples RoIs and classifies by softmax; the form for ranking losses takes every RoI and
    classifies by sigmoid.

    Parameters
    ----------
    pooling
        Maps and boxes → features of a fixed size.
    head
        Pooled features → logits and deltas.
    coder
        Deltas ↔ boxes.
    assigner
        Labels RoIs by their overlap with objects.
    sampler
        Chooses RoIs for the loss; None takes all of them.
    """

    def __init__(
        self,
        *,
        pooling: RoIPooling,
        head: BoxHead,
        coder: BoxCoder,
        assigner: Assigner,
        sampler: Sampler | None = None,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.head = head
        self.coder = coder
        self.assigner = assigner
        self.sampler = sampler

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(K, C) or (K, C + 1) logits and (K, C, 4) deltas for the boxes (k, 4) of each picture."""
        outputs: tuple[Tensor, Tensor] = self.head(self.pooling(maps, boxes))
        return outputs

    @torch.no_grad()
    def choose(self, proposals: Tensor, target: Target) -> RoIs:
        """The RoIs of one picture and their labels; ignored ones are dropped.

        The objects' own boxes stand among the RoIs, each of them its own positive.
        """
        num_classes = self.head.num_classes
        labels, matched = self.assigner(proposals, target, num_classes)
        own = torch.arange(len(target.boxes), device=matched.device)
        boxes = torch.cat([proposals, target.boxes])
        assignment = Assignment(torch.cat([labels, target.labels]), torch.cat([matched, own]))
        if self.sampler is not None:
            assignment = self.sampler(assignment, num_classes)
        # 0 positive, 1 background, 2 ignored; one wait for the device.
        kind = (assignment.labels == num_classes).long().masked_fill(assignment.labels < 0, 2)
        num_positives, num_used = torch.stack([(kind < 1).sum(), (kind < 2).sum()]).tolist()
        rows = kind.argsort(stable=True)[:num_used]
        return RoIs(boxes[rows], assignment.labels[rows], assignment.matched[rows], num_positives)

    def candidates(self, maps: Sequence[Tensor], rois: Sequence[RoIs], targets: Sequence[Target]) -> Candidates:
        """One pool of the RoIs of all pictures.

        Regressed boxes are those of the object's class, decoded from the RoI, which is detached and not clipped.
        """
        logits, deltas = self(maps, [image_rois.boxes for image_rois in rois])
        positive_rois = torch.cat([image_rois.boxes[: image_rois.num_positives] for image_rois in rois])
        classes = torch.cat([image_rois.labels[: image_rois.num_positives] for image_rois in rois])
        objects = torch.cat(
            [
                target.boxes[image_rois.matched[: image_rois.num_positives]]
                for image_rois, target in zip(rois, targets, strict=True)
            ]
        )
        positive_deltas = deltas[_positive_rows(rois), classes].float()
        return Candidates(
            head="rcnn",
            logits=logits,
            labels=torch.cat([image_rois.labels for image_rois in rois]),
            num_classes=self.head.num_classes,
            boxes=Matched(self.coder.decode(positive_deltas, positive_rois), objects),
            deltas=Matched(positive_deltas, self.coder.encode(objects, positive_rois)),
        )


def _positive_rows(rois: Sequence[RoIs]) -> Tensor:
    """(P,) int64: where the positives stand in the pool of all pictures."""
    rows, start = [], 0
    for boxes, _, _, num_positives in rois:
        rows.append(torch.arange(start, start + num_positives, device=boxes.device))
        start += len(boxes)
    return torch.cat(rows)
