"""A loss and a detector of someone else, as a file that is not part of rankdet."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rankdet.backbones import FPN, Backbone
from rankdet.heads import DenseStage
from rankdet.label_assignment import ATSSAssigner
from rankdet.losses import FocalLoss, Tasks
from rankdet.losses.candidates import Positives
from rankdet.ranges import Count, Fraction, NonNegative
from rankdet.structures import Batch, Candidates, Detection, Images, LossOutput


class HalfWeights:
    """Every positive counts as much.

    Parameters
    ----------
    share
        Weight of each positive.
    """

    def __init__(self, share: Fraction = 0.5) -> None:
        self.share = share

    def __call__(self, candidates: Candidates, positives: Positives, ranking: object = None) -> Tensor:
        return torch.full_like(positives.rows, self.share, dtype=torch.float32)


class ScaledFocalLoss(nn.Module):
    """Focal loss times a factor.

    Parameters
    ----------
    factor
        Factor of the classification.
    tasks
        What is learned beside it.
    """

    def __init__(self, factor: NonNegative = 1.0, *, tasks: Tasks = Tasks(weighting=HalfWeights())) -> None:
        super().__init__()
        self.factor = factor
        self.focal = FocalLoss(tasks=tasks)

    def forward(self, candidates: Candidates) -> LossOutput:
        output = self.focal(candidates)
        return LossOutput({name: self.factor * value for name, value in output.terms.items()}, output.stats)


class Stem(nn.Module):
    """A backbone of one convolution, whose map has stride 8."""

    def __init__(self, width: Count = 16) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, width, 3, stride=8, padding=1)
        self.channels, self.strides = (width,), (8,)

    def forward(self, images: Images) -> list[Tensor]:
        return [self.convolution(images.pixels / 255)]


def linear(*, end: Fraction = 0.0) -> Callable[[int, int], float]:
    """Return a schedule that falls linearly from 1 to ``end``."""
    return lambda iteration, length: 1 - (1 - end) * iteration / length


class SmallDetector(nn.Module):
    """One dense stage behind a pyramid without coarser levels."""

    heads = {"dense": {"centerness": True, "per_image": True}}  # noqa: RUF012

    def __init__(self, backbone: Backbone, fpn: nn.Module, dense: DenseStage) -> None:
        super().__init__()
        self.backbone, self.fpn, self.dense = backbone, fpn, dense
        self.assigner = ATSSAssigner()

    @classmethod
    def build(
        cls,
        num_classes: int,
        *,
        backbone: Backbone,
        width: Count = 16,
        dense: Callable[..., DenseStage],
    ) -> SmallDetector:
        """Return the detector.

        Parameters
        ----------
        width
            Channels of the pyramid.
        dense
            The head.
        """
        fpn = FPN(backbone.channels, width, extra_levels=0)
        return cls(backbone, fpn, dense(width, backbone.strides, num_classes))

    def forward(self, batch: Batch) -> list[Candidates]:
        outputs = self.dense(self.fpn(self.backbone(batch.images)), batch.images.sizes)
        assignment = self.assigner(outputs.anchors, batch.targets, self.dense.head.num_classes)
        return [
            self.dense.candidates(
                outputs, assignment, batch.targets, auxiliary="none", quality=lambda anchors, boxes: anchors
            )
        ]

    def detect(self, images: Images) -> list[Detection]:
        outputs = self.dense(self.fpn(self.backbone(images)), images.sizes)
        found = self.dense.best_boxes(
            outputs, images.sizes, per_level=20, score=lambda logits, auxiliary: logits.float().sigmoid()
        )
        return [Detection(boxes, *scores.max(dim=1)) for boxes, scores in found]
