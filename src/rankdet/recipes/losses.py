"""The losses of a recipe, one per head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from .config import Config

if TYPE_CHECKING:
    from rankdet import losses


class L1(Config):
    """Absolute error of the encoded boxes."""

    type: Literal["l1"] = "l1"
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.L1:
        """The box loss itself."""
        from rankdet import losses

        return losses.L1(weight=self.weight)


class SmoothL1(Config):
    """Absolute error of the encoded boxes, quadratic below ``beta``."""

    type: Literal["smooth_l1"] = "smooth_l1"
    beta: PositiveFloat
    """Error, in units of the encoding, below which the loss is quadratic."""
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.SmoothL1:
        """The box loss itself."""
        from rankdet import losses

        return losses.SmoothL1(beta=self.beta, weight=self.weight)


class GIoU(Config):
    """1 − GIoU of the decoded boxes."""

    type: Literal["giou"] = "giou"
    weight: NonNegativeFloat = 1.0
    """Factor of the term."""

    def build(self) -> losses.GIoU:
        """The box loss itself."""
        from rankdet import losses

        return losses.GIoU(weight=self.weight)


BoxLoss = Annotated[L1 | SmoothL1 | GIoU, Field(discriminator="type")]


class RankSort(Config):
    """Rank & Sort Loss with score-weighted GIoU and value-based balancing: no weights to tune."""

    type: Literal["rank_sort"] = "rank_sort"
    delta: NonNegativeFloat = 0.5
    """Half width of the smoothed step, in logits."""
    zero_quality_is_negative: bool = False
    """The letter of the paper: a positive whose box does not touch its object counts as a negative."""

    def build(self) -> losses.RankSortLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.RankSortLoss(self.delta, zero_quality_is_negative=self.zero_quality_is_negative)


class SigmoidCrossEntropy(Config):
    """Binary cross-entropy and a box loss, both over the number of sampled candidates (the standard RPN)."""

    type: Literal["sigmoid_cross_entropy"] = "sigmoid_cross_entropy"
    box_loss: BoxLoss
    """The loss of the boxes of positives."""

    def build(self) -> losses.SigmoidCrossEntropyLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.SigmoidCrossEntropyLoss(box_loss=self.box_loss.build())


class SoftmaxCrossEntropy(Config):
    """Cross-entropy with a background class and a box loss, both over the number of sampled RoIs (standard R-CNN)."""

    type: Literal["softmax_cross_entropy"] = "softmax_cross_entropy"
    box_loss: BoxLoss
    """The loss of the boxes of positives."""

    def build(self) -> losses.SoftmaxCrossEntropyLoss:
        """The loss itself."""
        from rankdet import losses

        return losses.SoftmaxCrossEntropyLoss(box_loss=self.box_loss.build())


Loss = Annotated[RankSort | SigmoidCrossEntropy | SoftmaxCrossEntropy, Field(discriminator="type")]
