"""One stage of an R-CNN: proposals → labels, class logits and boxes.

Legend: B images, K RoIs of all images, P positives, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from rankdet.heads.box_coding import BoxCoder
from rankdet.heads.box_head import BoxHead
from rankdet.heads.decoding import matched_boxes
from rankdet.heads.roi_pooling import RoIPooling
from rankdet.label_assignment import Assigner, Sampler
from rankdet.structures import Assignment, Candidates, Target


class RoIs(NamedTuple):
    """What a stage learns from in one image: positives first, then background.

    boxes
        (K, 4) xyxy in pixels.
    labels
        (K,) int64: classes of the positives, then C.
    matched
        (K,) int64: index of the object of a positive.
    num_positives
        P, known to the host: what is done with the positives alone need not wait for the device.
    num_objects
        How many of them are boxes of objects, appended to the proposals: the last of the positives.
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor
    num_positives: int
    num_objects: int

    def of_proposals(self, values: Tensor) -> Tensor:
        """Of (K, …) values, one for each RoI, those of proposals: all but those of appended objects."""
        return torch.cat([values[: self.num_positives - self.num_objects], values[self.num_positives :]])


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
        """(K, C) or (K, C + 1) logits and (K, C, 4) or class-agnostic (K, 1, 4) deltas for the boxes (k, 4) of each
        image."""
        outputs: tuple[Tensor, Tensor] = self.head(self.pooling(maps, boxes))
        return outputs

    @torch.no_grad()
    def choose(self, proposals: Tensor, target: Target) -> RoIs:
        """The RoIs of one image and their labels; ignored ones are dropped.

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
        counts = torch.stack([(kind < 1).sum(), (kind < 2).sum(), (kind[len(proposals) :] < 1).sum()])
        num_positives, num_used, num_objects = counts.tolist()
        rows = kind.argsort(stable=True)[:num_used]
        return RoIs(boxes[rows], assignment.labels[rows], assignment.matched[rows], num_positives, num_objects)

    def candidates(self, outputs: tuple[Tensor, Tensor], rois: Sequence[RoIs], targets: Sequence[Target]) -> Candidates:
        """One pool of the RoIs of all images, with the outputs of the stage for their boxes.

        Regressed boxes are those of the object's class, or of all classes, decoded from the RoI, which is detached and
        not clipped.
        """
        logits, deltas = outputs
        positive_rois = torch.cat([image_rois.boxes[: image_rois.num_positives] for image_rois in rois])
        classes = torch.cat([image_rois.labels[: image_rois.num_positives] for image_rois in rois])
        objects = torch.cat(
            [
                target.boxes[image_rois.matched[: image_rois.num_positives]]
                for image_rois, target in zip(rois, targets, strict=True)
            ]
        )
        columns = torch.zeros_like(classes) if self.head.class_agnostic else classes
        rows = _positive_rows(rois)
        boxes, box_deltas = matched_boxes(deltas[rows, columns], positive_rois, objects, self.coder)
        return Candidates(
            head="rcnn",
            logits=logits,
            labels=torch.cat([image_rois.labels for image_rois in rois]),
            num_classes=self.head.num_classes,
            boxes=boxes,
            deltas=box_deltas,
            rows=rows,
        )

    def boxes(self, deltas: Tensor, rois: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """(k, C, 4) or class-agnostic (k, 1, 4) boxes of each image from its RoIs (k, 4), clipped to the image.

        deltas: of the RoIs of all images. image_sizes: (height, width) in pixels.
        """
        images = zip(deltas.split([len(image_rois) for image_rois in rois]), rois, image_sizes, strict=True)
        return [
            clip_boxes_to_image(self.coder.decode(image_deltas, image_rois[:, None]), size)
            for image_deltas, image_rois, size in images
        ]


def _positive_rows(rois: Sequence[RoIs]) -> Tensor:
    """(P,) int64: where the positives stand in the pool of all images."""
    rows, start = [], 0
    for image_rois in rois:
        rows.append(torch.arange(start, start + image_rois.num_positives, device=image_rois.boxes.device))
        start += len(image_rois.boxes)
    return torch.cat(rows)
