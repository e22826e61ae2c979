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
from rankdet.label_assignment import Assigner, MaxIoUAssigner, RandomSampler, Sampler
from rankdet.ranges import Count, CountOrZero, Fraction, OpenFraction, Positive, Stds, checked
from rankdet.structures import Assignment, Candidates, Target


class RoIs(NamedTuple):
    """The regions of one image that a stage learns from: positives first, then background.

    Boxes are (K, 4) xyxy in pixels. Labels (K,) are classes of the positives, then C; ``matched`` (K,) is the object of
    a positive. The host knows ``num_positives``, so that steps for positives alone need not wait for the device. The
    last ``num_objects`` of the positives are boxes of objects, appended to the proposals: sorting by kind keeps the
    order of the rows.
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor
    num_positives: int
    num_objects: int

    def of_proposals(self, values: Tensor) -> Tensor:
        """Return those of values (K, …), one for each RoI, that belong to proposals, not to appended objects."""
        return torch.cat([values[: self.num_positives - self.num_objects], values[self.num_positives :]])


@checked
class BoxStage(nn.Module):
    """Pooling and box head with their labels. All parts are public and may be replaced.

    The standard form samples RoIs and classifies by softmax; the form for ranking losses takes every RoI and
    classifies by sigmoid.

    Parameters
    ----------
    in_channels, strides
        Channels of every level of the pyramid, and the strides of those that are read.
    num_classes, class_agnostic
        C, and whether there is one box for all classes.
    softmax
        Whether classes compete with each other and a background logit (softmax). Otherwise each is for itself (sigmoid)
        and there is no background logit.
    channels
        Width of the two fully connected layers.
    delta_stds
        Divisors of the encoded boxes.
    positive_iou
        RoIs of at least this IoU are positives, the others negatives.
    low_quality_iou
        From this IoU on an object also claims its best RoIs if they overlap another object more; None: it does not.
    sampler
        Choice of RoIs for the loss; None: all of them.
    finest_scale
        RoIs with a side (square root of the area, pixels) below twice this are read from the finest level.
    sampling_ratio
        Points per cell and direction of RoIAlign; 0 takes as many as suit the size of the RoI.
    half_pixel_shift
        Whether RoIAlign takes the value of a cell to be at its center. False is for weights of torchvision and of
        mmdetection 1.x, which learned without.
    prior
        What scores of a sigmoid start at: 0.5 is a bias of 0, 0.01 that of focal loss.
    """

    assigner: Assigner
    sampler: Sampler | None

    def __init__(
        self,
        in_channels: Count,
        strides: tuple[Count, ...],
        num_classes: Count,
        class_agnostic: bool = False,
        *,
        softmax: bool,
        channels: Count = 1024,
        delta_stds: Stds = (0.1, 0.1, 0.2, 0.2),
        positive_iou: Fraction = 0.5,
        low_quality_iou: Fraction | None = None,
        sampler: RandomSampler | None = None,
        finest_scale: Positive = 56.0,
        sampling_ratio: CountOrZero = 0,
        half_pixel_shift: bool = True,
        prior: OpenFraction = 0.5,
    ) -> None:
        super().__init__()
        self.pooling = RoIPooling(
            strides, finest_scale=finest_scale, sampling_ratio=sampling_ratio, half_pixel_shift=half_pixel_shift
        )
        self.head = BoxHead(
            in_channels, num_classes, softmax=softmax, channels=channels, class_agnostic=class_agnostic, prior=prior
        )
        self.coder = BoxCoder(delta_stds)
        self.assigner = MaxIoUAssigner(positive_iou, positive_iou, low_quality_iou=low_quality_iou)
        self.sampler = sampler

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits and deltas for the boxes (k, 4) of each image.

        Logits are (K, C), or (K, C + 1) with softmax; deltas (K, C, 4), or (K, 1, 4) where they are class-agnostic.
        """
        outputs: tuple[Tensor, Tensor] = self.head(self.pooling(maps, boxes))
        return outputs

    @torch.no_grad()
    def choose(self, proposals: Tensor, target: Target) -> RoIs:
        """Return the RoIs of one image and their labels, without ignored ones.

        The objects' own boxes are among the RoIs, each a positive of its own.
        """
        num_classes = self.head.num_classes
        # Label the proposals, append the objects, sample.
        labels, matched = self.assigner(proposals, target, num_classes)
        own = torch.arange(len(target.boxes), device=matched.device)
        boxes = torch.cat([proposals, target.boxes])
        assignment = Assignment(torch.cat([labels, target.labels]), torch.cat([matched, own]))
        if self.sampler is not None:
            assignment = self.sampler(assignment, num_classes)
        # Sort by kind: 0 positive, 1 background, 2 ignored. The host waits for the device once.
        kind = (assignment.labels == num_classes).long().masked_fill(assignment.labels < 0, 2)
        counts = torch.stack([(kind < 1).sum(), (kind < 2).sum(), (kind[len(proposals) :] < 1).sum()])
        num_positives, num_used, num_objects = counts.tolist()
        rows = kind.argsort(stable=True)[:num_used]
        return RoIs(boxes[rows], assignment.labels[rows], assignment.matched[rows], num_positives, num_objects)

    def candidates(self, outputs: tuple[Tensor, Tensor], rois: Sequence[RoIs], targets: Sequence[Target]) -> Candidates:
        """Return one pool of the RoIs of all images, from the outputs of the stage for their boxes.

        Regressed boxes are those of the object's class, or the one of all classes. They are decoded from the RoI, which
        is detached, and not clipped.
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
            limited=self.coder.limited(box_deltas.predicted),
            rows=rows,
        )

    def boxes(self, deltas: Tensor, rois: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Return boxes (k, C, 4), or class-agnostic (k, 1, 4), of each image, clipped to its (height, width) in pixels.

        Deltas (K, C, 4) or (K, 1, 4) are predicted for the RoIs of all images, (k, 4) each.
        """
        images = zip(deltas.split([len(image_rois) for image_rois in rois]), rois, image_sizes, strict=True)
        return [
            clip_boxes_to_image(self.coder.decode(image_deltas, image_rois[:, None]), size)
            for image_deltas, image_rois, size in images
        ]


def _positive_rows(rois: Sequence[RoIs]) -> Tensor:
    """Return the rows (P,) of positives in the pool of all images."""
    rows, start = [], 0
    for image_rois in rois:
        rows.append(torch.arange(start, start + image_rois.num_positives, device=image_rois.boxes.device))
        start += len(image_rois.boxes)
    return torch.cat(rows)
