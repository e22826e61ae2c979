"""YOLACT (Bolya et al., ICCV 2019, arXiv:1904.02689), for standard and ranking losses.

Legend: B images, M anchors of an image, P positives, P' of them that get a mask, Q prototypes, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import clip_boxes_to_image

from rankdet.backbones import FPN, Backbone
from rankdet.detectors.detection import DetectionSettings
from rankdet.heads import (
    BoxCoder,
    CenteredAnchors,
    InstanceHead,
    InstanceOutputs,
    PrototypeNetwork,
    SemanticHead,
    assemble_masks,
    best_anchors,
    canvas_scores,
    fast_nms,
    resize_masks,
)
from rankdet.label_assignment import MaxIoUAssigner, PyramidAnchors, assign_by_overlap
from rankdet.structures import Batch, Candidates, Detection, Images, Matched, Target


class _Features(NamedTuple):
    """What a batch becomes before anything is decided.

    canvas: (height, width) in pixels of the largest image. finest: the finest map. anchors: of an image. outputs: of
    the head. prototypes: (B, Q, h, w).
    """

    canvas: tuple[int, int]
    finest: Tensor
    anchors: PyramidAnchors
    outputs: InstanceOutputs
    prototypes: Tensor


class YOLACT(nn.Module):
    """Backbone, pyramid, one head, prototypes of masks. The head of the losses is ``"dense"``.

    The form is a matter of values: softmax, a semantic head and at most 100 masks per image make the standard form;
    sigmoid, no semantic head and masks of all positives make the form of Rank & Sort Loss (Oksuz et al., ICCV 2021,
    arXiv:2107.11669, section 5.2). Neither looks at ``self.training``; only a backbone with unfrozen batch
    normalization does. All parts and settings are public attributes and may be replaced.

    Parameters
    ----------
    backbone, fpn
        Images → maps → pyramid.
    head
        Reads all levels of the pyramid.
    prototypes
        Reads the finest level, and makes as many prototypes as the head coefficients.
    anchors
        One side for each level of the pyramid.
    coder
        Deltas ↔ boxes.
    semantic
        From the finest level to a map of each class, an auxiliary output for training alone; None: none.
    assigner
        Says which anchors are positives; None: IoU ½ and 0.4, and every object claims the first of its best anchors.
    masks_per_image
        Most positives of an image that get a mask in training; more are drawn from uniformly. None: all.
    detection
        What :meth:`detect` returns, by Fast NMS.
    test_per_level
        Anchors of each level that :meth:`detect` decodes.
    test_per_class
        Boxes of each class that Fast NMS compares.

    Notes
    -----
    What a batch adds to its largest image is cut off: cells divide the image itself (550 pixels into 69, 35, 18, 9
    and 5 cells), so that images should be resized to one size.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        fpn: FPN,
        head: InstanceHead,
        prototypes: PrototypeNetwork,
        anchors: CenteredAnchors,
        coder: BoxCoder,
        semantic: SemanticHead | None = None,
        assigner: MaxIoUAssigner | None = None,
        masks_per_image: int | None = None,
        detection: DetectionSettings | None = None,
        test_per_level: int = 1000,
        test_per_class: int = 200,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.prototypes = prototypes
        self.anchors = anchors
        self.coder = coder
        self.semantic = semantic
        self.assigner = assigner or MaxIoUAssigner(0.5, 0.4, low_quality_iou=0.0, claim_ties=False)
        self.masks_per_image = masks_per_image
        self.detection = detection or DetectionSettings()
        self.test_per_level = test_per_level
        self.test_per_class = test_per_class

    @property
    def num_classes(self) -> int:
        """C."""
        return self.head.num_classes

    def forward(self, batch: Batch) -> list[Candidates]:
        """Candidates of the head: one pool over the images of the batch, their levels and anchors, with masks.

        Raises
        ------
        ValueError
            When an image has objects but no masks.
        """
        features = self._features(batch.images)
        num_anchors, num_images = len(features.anchors.boxes), len(batch.targets)
        with torch.no_grad():
            assignment = assign_by_overlap(self.assigner, features.anchors, batch.targets, self.num_classes)
        is_positive = (assignment.labels >= 0) & (assignment.labels < self.num_classes)
        # The one time that the host waits: with the numbers of all images, nothing else has to be asked for.
        counts: list[int] = is_positive.view(num_images, num_anchors).sum(dim=1).tolist()
        positives = torch.nonzero_static(is_positive, size=sum(counts)).squeeze(1)
        matched = assignment.matched[positives]
        anchors = features.anchors.boxes[positives % num_anchors]
        objects = torch.cat([target.boxes for target in batch.targets])[matched]
        deltas = features.outputs.deltas.flatten(0, 1)[positives].float()
        masks, semantic = self._target_masks(features, batch.targets)
        return [
            Candidates(
                head="dense",
                logits=features.outputs.logits.flatten(0, 1),
                labels=assignment.labels,
                num_classes=self.num_classes,
                boxes=Matched(self.coder.decode(deltas, anchors), objects),
                deltas=Matched(deltas, self.coder.encode(objects, anchors)),
                masks=self._masks(features, positives, objects, masks, matched, counts),
                auxiliary=None if semantic is None else {"semantic": semantic},
                box_shares=_shares(objects.split(counts), batch.images.sizes),
                per_image=(num_anchors,) * num_images,
            )
        ]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Detections of each image in its own pixels, without padding, each with its mask."""
        features = self._features(images)
        scores = self.head.scores(features.outputs.logits)
        rows, is_valid = best_anchors(scores.amax(dim=2), features.anchors, self.test_per_level)
        scores = scores.gather(1, rows[..., None].expand(-1, -1, scores.shape[2]))
        if is_valid is not None:
            scores = scores * is_valid[..., None]
        deltas = features.outputs.deltas.gather(1, rows[..., None].expand(-1, -1, 4))
        boxes = self.coder.decode(deltas, features.anchors.boxes[rows])
        coefficients = [own[kept] for own, kept in zip(features.outputs.coefficients, rows, strict=True)]
        clipped = [clip_boxes_to_image(own, size) for own, size in zip(boxes, images.sizes, strict=True)]
        per_image = zip(clipped, scores, coefficients, features.prototypes, strict=True)
        return [self._select(*image, features.canvas) for image in per_image]

    def _select(
        self, boxes: Tensor, scores: Tensor, coefficients: Tensor, prototypes: Tensor, canvas: tuple[int, int]
    ) -> Detection:
        """The detections of an image among boxes (K, 4) with scores (K, C) and coefficients (K, Q)."""
        rows, found_scores, labels = fast_nms(
            boxes,
            scores,
            threshold=self.detection.score_threshold,
            iou=self.detection.nms_iou,
            limit=self.detection.per_image,
            per_class=self.test_per_class,
        )
        logits = assemble_masks(prototypes, coefficients[rows], boxes[rows], canvas)
        return Detection(boxes[rows], found_scores, labels, canvas_scores(logits, canvas))

    def _features(self, images: Images) -> _Features:
        height, width = (max(sides) for sides in zip(*images.sizes, strict=True))
        maps = self.fpn(self.backbone(Images(images.pixels[..., :height, :width], images.sizes)))
        map_sizes = tuple((features.shape[-2], features.shape[-1]) for features in maps)
        anchors = self.anchors.anchors(map_sizes, (height, width), maps[0].device)
        valid = [self.anchors.valid(anchors, (height, width), size) for size in images.sizes]
        return _Features(
            (height, width),
            maps[0],
            PyramidAnchors(anchors, self.anchors.num_per_level(map_sizes), valid),
            self.head(maps),
            self.prototypes(maps[0]),
        )

    def _target_masks(self, features: _Features, targets: Sequence[Target]) -> tuple[Tensor, Matched | None]:
        """(G, h, w) bool, the masks of the objects of all images; and what the semantic head says and shall say."""
        size = (features.prototypes.shape[2], features.prototypes.shape[3])
        said = None if self.semantic is None else self.semantic(features.finest)
        sizes = [size] if said is None else [size, (said.shape[2], said.shape[3])]
        masks = [_resized(target, features.canvas, sizes, features.finest.device) for target in targets]
        shown = torch.cat([own[0] for own in masks])
        if said is None:
            return shown, None
        classes = torch.zeros_like(said, dtype=torch.float32)
        for image, own, target in zip(classes, masks, targets, strict=True):
            image.index_add_(0, target.labels, own[1].to(image.dtype))
        return shown, Matched(said, classes > 0)

    def _masks(
        self,
        features: _Features,
        positives: Tensor,
        objects: Tensor,
        target_masks: Tensor,
        matched: Tensor,
        counts: Sequence[int],
    ) -> Matched:
        """(P', h, w) mask logits, cropped to the boxes (P, 4) of the objects, and what they shall be."""
        logits, rows, first = [], [], 0
        for image, drawn in enumerate(self._draw(counts)):
            own = drawn.to(positives.device, non_blocking=True) + first
            coefficients = features.outputs.coefficients[image][positives[own] % len(features.anchors.boxes)]
            logits.append(assemble_masks(features.prototypes[image], coefficients, objects[own], features.canvas))
            rows.append(own)
            first += counts[image]
        all_rows = torch.cat(rows)
        target = target_masks[matched[all_rows]]
        return Matched(torch.cat(logits), target, None if len(all_rows) == first else all_rows)

    def _draw(self, counts: Sequence[int]) -> list[Tensor]:
        """For each image which of its positives get a mask, ascending; drawn on the host, which knows how many."""
        most = self.masks_per_image
        return [
            torch.arange(count) if most is None or count <= most else torch.randperm(count)[:most].sort().values
            for count in counts
        ]


def _resized(
    target: Target, canvas: tuple[int, int], sizes: Sequence[tuple[int, int]], device: torch.device
) -> list[Tensor]:
    """The masks (G, rows, columns) of an image in each of the sizes."""
    if target.masks is not None:
        return resize_masks(target.masks, canvas, sizes)
    if len(target.boxes):
        raise ValueError(f"an image has {len(target.boxes)} objects but no masks, which YOLACT learns from")
    return [torch.zeros(0, *size, dtype=torch.bool, device=device) for size in sizes]


def _shares(objects: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(P,) the part of its image that each box of an object covers, from the boxes (p, 4) of each image."""
    return torch.cat(
        [
            (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) / (height * width)
            for boxes, (height, width) in zip(objects, image_sizes, strict=True)
        ]
    )
