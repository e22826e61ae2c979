"""SOLOv2 (Wang et al., NeurIPS 2020, arXiv:2003.10152), for standard and ranking losses.

Legend: M cells of an image, C classes, K masks that compete, D channels of the mask features, h, w their height and
width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rankdet.backbones import FPN, Backbone, pyramid_strides
from rankdet.heads import GridOutputs, GridStage, MaskFeatureSettings, canvas_scores, mask_iou, matrix_nms
from rankdet.ranges import Count, CountOrZero, Fraction, Positive, checked
from rankdet.structures import Batch, Candidates, Detection, Images

CHUNK = 1 << 22
"""Most pixels of masks in one piece, as float32: 16 MiB, a few times."""


@checked
@dataclass(frozen=True)
class MaskDetectionSettings:
    """Which masks become detections.

    Parameters
    ----------
    score_threshold
        Pairs of cell and class up to this score are dropped. Scores of a ranking loss are higher: 0.2 is faster, and
        the published code of Rank & Sort Loss has it.
    num_candidates
        Masks of an image that compete with each other: those of the highest scores.
    sigma
        How fast the score of a mask falls with its overlap with a better one of its class.
    least_score
        Masks below this score are dropped after that.
    per_image
        Most detections of an image: the best of all classes that remain.
    """

    score_threshold: Fraction = 0.1
    num_candidates: Count = 500
    sigma: Positive = 2.0
    least_score: Fraction = 0.05
    per_image: Count = 100


@checked
class SOLOv2(nn.Module):
    """Backbone, pyramid, one stage of grids: a mask for every cell, no boxes. The head of the losses is ``"grid"``.

    Standard forms and ranking forms differ in values. An assigner that lets a cell learn several masks makes the
    standard form. One mask per cell makes the form of Rank & Sort Loss (Oksuz et al., ICCV 2021, arXiv:2107.11669),
    whose quality is the Dice coefficient of that mask. All parts and settings are public attributes and may be
    replaced.

    Parameters
    ----------
    num_classes
        Number of classes C.
    backbone
        Network from images to feature maps, all of which are used: strides 4, 8, 16 and 32 of a large network.
    pyramid_channels
        Channels of the feature pyramid.
    extra_levels
        Coarser levels behind the backbone's (P6).
    grids
        Head, from channels, strides, classes and ``mask_features``: ``functools.partial(GridStage, ...)``.
    mask_features
        What masks are made of.
    testing
        From scores and masks to detections.

    Notes
    -----
    Detection makes masks a few at a time, so that memory is bounded. It keeps areas and mean scores of all cells that
    score; one bit per pixel and the overlaps of those that compete; and the scores of the pixels of detections.

    Differs from published code in two ways. Masks go from the size of the features to that of the file in one step of
    linear interpolation, not by way of the size of the network's input. A mask that lies in the padding alone is no
    detection.
    """

    def __init__(
        self,
        num_classes: Count,
        *,
        backbone: Backbone,
        pyramid_channels: Count = 256,
        extra_levels: CountOrZero = 1,
        grids: Callable[..., GridStage],
        mask_features: MaskFeatureSettings = MaskFeatureSettings(),
        testing: MaskDetectionSettings = MaskDetectionSettings(),
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.fpn = FPN(backbone.channels, pyramid_channels, extra_levels=extra_levels)
        strides = pyramid_strides(backbone.strides, extra_levels)
        self.grid = grids(pyramid_channels, strides, num_classes, mask_features)
        self.detection = testing

    def forward(self, batch: Batch) -> list[Candidates]:
        """Return candidates of the grids: one pool over the images of the batch, their levels and cells; no boxes.

        Raises ValueError when an image has objects but no masks.
        """
        return [self.grid.candidates(self._outputs(batch.images), batch.targets, batch.images.sizes)]

    @torch.no_grad()
    def detect(self, images: Images) -> list[Detection]:
        """Return detections of each image in its own pixels, without padding. Boxes are those around the masks."""
        outputs = self._outputs(images)
        peaks = self.grid.peaks(outputs)
        with torch.autocast(peaks.device.type, enabled=False):
            return [
                self._detect(scores, kernels.float(), features.float(), size)
                for scores, kernels, features, size in zip(
                    peaks, outputs.kernels, outputs.features, images.sizes, strict=True
                )
            ]

    def _outputs(self, images: Images) -> GridOutputs:
        outputs: GridOutputs = self.grid(self.fpn(self.backbone(images)))
        return outputs

    def _detect(self, peaks: Tensor, kernels: Tensor, features: Tensor, size: tuple[int, int]) -> Detection:
        """Return the detections of one image from its scores (M, C), kernels (M, D) and features (D, h, w)."""
        settings = self.detection
        # Pairs of cell and class that score.
        cells, labels = torch.nonzero(peaks > settings.score_threshold, as_tuple=True)
        scores = peaks[cells, labels]

        # Their scores times the mean score inside of the mask; 0 for a mask that has no more pixels than the stride of
        # its level. The best of these compete. Several classes may score in one cell: its mask is made once.
        distinct, which = cells.unique(return_inverse=True)
        area, mean = mask_statistics(features, kernels[distinct])
        scores = (scores * mean[which]).where(area[which] > self.grid.cell_strides[cells], 0)
        best = scores.argsort(descending=True, stable=True)[: settings.num_candidates]
        best = best[scores[best] > 0]
        cells, labels, scores = cells[best], labels[best], scores[best]

        # Matrix NMS: better masks lower the scores of those that they overlap.
        distinct, which = cells.unique(return_inverse=True)
        iou = mask_iou(binary_masks(features, kernels[distinct]))
        scores = scores * matrix_nms(iou[which[:, None], which], labels, settings.sigma)
        best = scores.argsort(descending=True, stable=True)[: settings.per_image]
        best = best[scores[best] >= settings.least_score]

        # The masks of those that remain, and boxes around their pixels.
        logits = torch.empty(len(best), *features.shape[1:], device=features.device)
        for part, values in _logits(features, kernels[cells[best]]):
            logits[part] = values
        stride = self.grid.strides[0]
        masks = canvas_scores(logits, (stride * logits.shape[1], stride * logits.shape[2]))
        boxes = mask_boxes(masks.scores[:, 1:-1, 1:-1], stride, size)
        detection = Detection(boxes, scores[best], labels[best], masks)
        return detection.select((boxes[:, 2:] > boxes[:, :2]).all(dim=1))


def mask_statistics(features: Tensor, kernels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the number of pixels that score over ½ in the mask of each kernel (K, D), and their mean score; (K,) each.

    Examples
    --------
    >>> features = torch.tensor([[[0.0, 100.0, -1.0]]])
    >>> mask_statistics(features, torch.tensor([[1.0], [-1.0], [0.0]]))
    (tensor([1, 1, 0]), tensor([1.0000, 0.7311, 0.0000]))
    """
    area = torch.zeros(len(kernels), dtype=torch.int64, device=kernels.device)
    total = torch.zeros(len(kernels), device=kernels.device)
    for part, logits in _logits(features, kernels):
        inside = logits > 0
        area[part] = inside.flatten(1).sum(dim=1)
        total[part] = logits.sigmoid_().mul_(inside).flatten(1).sum(dim=1)
    return area, total / area.clamp(min=1)


def binary_masks(features: Tensor, kernels: Tensor) -> Tensor:
    """Return the pixels that score over ½ in the mask of each kernel (K, D), (K, h, w) bool."""
    masks = torch.empty(len(kernels), *features.shape[1:], dtype=torch.bool, device=features.device)
    for part, logits in _logits(features, kernels):
        torch.gt(logits, 0, out=masks[part])
    return masks


def mask_boxes(scores: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Return boxes (D, 4) around the pixels of masks that score at least ½; zeros where there is none.

    Scores (D, h, w) are of cells of ``stride`` pixels; ``size`` is that of the image, (height, width) in pixels.

    Examples
    --------
    >>> mask_boxes(torch.tensor([[[0.0, 0.9, 0.9], [0.0, 0.9, 0.0]]]), 2, (4, 5))
    tensor([[2., 0., 5., 4.]])
    """
    boxes = scores.new_zeros(len(scores), 4)
    step = max(1, CHUNK // max(1, stride * stride * scores[:1].numel()))
    for part in (slice(start, start + step) for start in range(0, len(scores), step)):
        pixels = interpolate(scores[part, None], scale_factor=stride, mode="bilinear", align_corners=False)
        inside = pixels[:, 0, : size[0], : size[1]] >= 0.5
        for axis, across in ((0, 1), (1, 2)):  # x, y
            is_hit = inside.any(dim=across).byte()
            length = is_hit.shape[1]
            is_any = is_hit.amax(dim=1).bool()
            boxes[part, axis] = is_hit.argmax(dim=1).float()
            boxes[part, axis + 2] = (length - is_hit.flip(1).argmax(dim=1)).where(is_any, 0).float()
    return boxes


def _logits(features: Tensor, kernels: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield slices of the kernels (K, D) with the logits (k, h, w) of their masks, each in memory of its own."""
    pixels = features.flatten(1)
    step = max(1, CHUNK // max(1, pixels.shape[1]))
    for start in range(0, len(kernels), step):
        part = slice(start, start + step)
        yield part, (kernels[part] @ pixels).unflatten(1, features.shape[1:])
