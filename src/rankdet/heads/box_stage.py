"""One stage of an R-CNN: proposals → labels, class logits and boxes.

Legend: B images, K RoIs of all pictures, P positives, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.box_head import BoxHead
from rankdet.heads.roi_pooling import RoIPooling
from rankdet.label_assignment import Assigner, Sampler
from rankdet.structures import Assignment, Candidates, Matched, Target


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
    def choose(self, proposals: Tensor, target: Target) -> tuple[Tensor, Assignment]:
        """The RoIs of one picture and their labels: positives first, then background; ignored ones are dropped.

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
        rows = kind.argsort(stable=True)[: int((kind < 2).sum())]
        return boxes[rows], Assignment(assignment.labels[rows], assignment.matched[rows])

    def candidates(self, maps: Sequence[Tensor], proposals: Sequence[Tensor], targets: Sequence[Target]) -> Candidates:
        """One pool of the RoIs of all pictures.

        Regressed boxes are those of the object's class, decoded from the RoI, which is detached and not clipped.
        """
        rois, labels, matched, first_object = [], [], [], 0
        for image_proposals, target in zip(proposals, targets, strict=True):
            boxes, assignment = self.choose(image_proposals, target)
            rois.append(boxes)
            labels.append(assignment.labels)
            matched.append(assignment.matched + first_object)
            first_object += len(target.boxes)
        logits, deltas = self(maps, rois)
        all_labels = torch.cat(labels)
        positives = torch.nonzero(all_labels < self.head.num_classes).squeeze(1)
        positive_rois = torch.cat(rois)[positives]
        objects = torch.cat([target.boxes for target in targets])[torch.cat(matched)[positives]]
        positive_deltas = deltas[positives, all_labels[positives]].float()
        return Candidates(
            head="rcnn",
            logits=logits,
            labels=all_labels,
            num_classes=self.head.num_classes,
            boxes=Matched(self.coder.decode(positive_deltas, positive_rois), objects),
            deltas=Matched(positive_deltas, self.coder.encode(objects, positive_rois)),
        )
